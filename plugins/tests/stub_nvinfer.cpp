#include "stub_nvinfer.h"

#include <NvInferRuntime.h>
#include <NvInferVersion.h>
#include <dlfcn.h>

#include <string>
#include <vector>

using namespace nvinfer1;

namespace
{

class Logger final : public ILogger
{
public:
    void log(Severity severity, AsciiChar const* message) noexcept override
    {
        lines += std::to_string(static_cast<int>(severity)) + " " + message + "\n";
    }

    std::string lines;
};

class LoggerFinder final : public ILoggerFinder
{
public:
    ~LoggerFinder() override = default;

    ILogger* findLogger() override
    {
        return &logger;
    }

    Logger logger;
};

LoggerFinder gFinder;

std::string nameOf(IPluginCreatorInterface const& creator)
{
    auto const& v3 = dynamic_cast<IPluginCreatorV3One const&>(creator);
    return std::string{v3.getPluginNamespace()} + "::" + v3.getPluginName() + "/" + v3.getPluginVersion();
}

class Registry final : public IPluginRegistry
{
public:
    ~Registry() noexcept override = default;

#if NV_TENSORRT_MAJOR == 10
    bool registerCreator(IPluginCreator& /*creator*/, AsciiChar const* /*pluginNamespace*/) noexcept override
    {
        return false;
    }
    IPluginCreator* const* getPluginCreatorList(int32_t* count) const noexcept override
    {
        *count = 0;
        return nullptr;
    }
    IPluginCreator* getPluginCreator(
        AsciiChar const* /*name*/, AsciiChar const* /*version*/, AsciiChar const* /*pluginNamespace*/) noexcept override
    {
        return nullptr;
    }
    bool deregisterCreator(IPluginCreator const& /*creator*/) noexcept override
    {
        return false;
    }
#endif
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 13
    IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* count) noexcept
    {
        return getAllCreators(count);
    }
#endif
    void setErrorRecorder(IErrorRecorder* /*recorder*/) noexcept override {}
    IErrorRecorder* getErrorRecorder() const noexcept override
    {
        return nullptr;
    }
    bool isParentSearchEnabled() const override
    {
        return false;
    }
    void setParentSearchEnabled(bool /*enabled*/) override {}

    PluginLibraryHandle loadLibrary(AsciiChar const* path) noexcept override
    {
        void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr)
        {
            gFinder.logger.log(ILogger::Severity::kERROR, dlerror());
            return nullptr;
        }
        using SetLoggerFinder = void (*)(ILoggerFinder*);
        using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
        reinterpret_cast<SetLoggerFinder>(dlsym(library, "setLoggerFinder"))(&gFinder);
        int32_t count = -1;
        auto* const* creators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"))(count);
        for (int32_t i = 0; i < count; ++i)
        {
            registerCreator(*creators[i], "");
        }
        return library;
    }
    void deregisterLibrary(PluginLibraryHandle /*handle*/) noexcept override {}

    bool registerCreator(IPluginCreatorInterface& creator, AsciiChar const* /*pluginNamespace*/) noexcept override
    {
        mCreators.push_back(&creator);
        return true;
    }
    IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept override
    {
        *count = static_cast<int32_t>(mCreators.size());
        return mCreators.data();
    }
    IPluginCreatorInterface* getCreator(
        AsciiChar const* name, AsciiChar const* version, AsciiChar const* pluginNamespace) noexcept override
    {
        std::string const wanted = std::string{pluginNamespace} + "::" + name + "/" + version;
        for (auto* const creator : mCreators)
        {
            if (nameOf(*creator) == wanted)
            {
                return creator;
            }
        }
        return nullptr;
    }
    bool deregisterCreator(IPluginCreatorInterface const& /*creator*/) noexcept override
    {
        return false;
    }
    IPluginResource* acquirePluginResource(AsciiChar const* /*key*/, IPluginResource* /*resource*/) noexcept override
    {
        return nullptr;
    }
    int32_t releasePluginResource(AsciiChar const* /*key*/) noexcept override
    {
        return 0;
    }

private:
    std::vector<IPluginCreatorInterface*> mCreators;
};

} // namespace

extern "C" IPluginRegistry* getPluginRegistry() noexcept
{
    static Registry registry;
    return &registry;
}

extern "C" char const* stubTakeLog()
{
    static std::string taken;
    taken = std::move(gFinder.logger.lines);
    gFinder.logger.lines.clear();
    return taken.c_str();
}
