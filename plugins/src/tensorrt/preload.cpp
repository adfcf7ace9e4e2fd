// A library that does nothing but load the plugins, for programs that can only open a library: trtexec --staticPlugins,
// DeepStream, Triton, LD_PRELOAD. The plugin library itself registers nothing when it is opened, because TensorRT
// registers it then.
#include <NvInferRuntime.h>
#include <NvInferVersion.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>

namespace
{

void complain(std::string const& what)
{
    std::fprintf(stderr, "trtdeploy plugins: %s\n", what.c_str());
}

__attribute__((constructor)) void loadPlugins() noexcept
{
    try
    {
        Dl_info self{};
        if (dladdr(reinterpret_cast<void const*>(&loadPlugins), &self) == 0 || self.dli_fname == nullptr)
        {
            complain("the place of the preload library is unknown.");
            return;
        }
        std::string const path{self.dli_fname};
        std::string const plugins = path.substr(0, path.find_last_of('/') + 1) + TRTDEPLOY_PLUGIN_LIBRARY;
        std::string const host = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
        void* const nvinfer = dlopen(host.c_str(), RTLD_LAZY);
        using GetRegistry = nvinfer1::IPluginRegistry* (*)();
        auto const getRegistry
            = reinterpret_cast<GetRegistry>(dlsym(nvinfer != nullptr ? nvinfer : RTLD_DEFAULT, "getPluginRegistry"));
        nvinfer1::IPluginRegistry* const registry = getRegistry != nullptr ? getRegistry() : nullptr;
        if (registry == nullptr)
        {
            complain(host + " cannot be opened: the plugins are not registered.");
        }
        else if (registry->loadLibrary(plugins.c_str()) == nullptr)
        {
            complain("TensorRT did not load " + plugins + ".");
        }
    }
    catch (std::exception const& error)
    {
        complain(error.what());
    }
}

} // namespace
