#include "host.h"

#include <NvInferVersion.h>
#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cstdio>

namespace trtdeploy
{

namespace
{

constexpr int kFirstMajor = 10; // the first with IPluginV3
constexpr int kLastMajor = NV_TENSORRT_MAJOR + 3;

std::atomic<nvinfer1::ILoggerFinder*> gFinder{nullptr};

bool isLoaded(int major) noexcept
{
    for (char const* const library : {"libnvinfer", "libnvinfer_lean", "libnvinfer_dispatch"})
    {
        std::array<char, 64> name{};
        std::snprintf(name.data(), name.size(), "%s.so.%d", library, major);
        if (void* const handle = dlopen(name.data(), RTLD_LAZY | RTLD_NOLOAD))
        {
            dlclose(handle);
            return true;
        }
    }
    return false;
}

} // namespace

bool hostHasOurMajorVersion() noexcept
{
    if (isLoaded(NV_TENSORRT_MAJOR))
    {
        return true;
    }
    for (int major = kFirstMajor; major <= kLastMajor; ++major)
    {
        if (isLoaded(major))
        {
            std::fprintf(stderr,
                "trtdeploy plugins: this library was built for TensorRT %d, but TensorRT %d is loaded. Build plugins/ "
                "with the "
                "headers of TensorRT %d.\n",
                NV_TENSORRT_MAJOR, major, major);
            return false;
        }
    }
    return true; // TensorRT is linked statically: nothing tells its version
}

void setLogger(nvinfer1::ILoggerFinder* finder) noexcept
{
    gFinder = finder;
}

void log(nvinfer1::ILogger::Severity severity, char const* message) noexcept
{
    std::array<char, 2048> line{};
    std::snprintf(line.data(), line.size(), "trtdeploy plugins: %s", message);
    try
    {
        nvinfer1::ILoggerFinder* const finder = gFinder;
        nvinfer1::ILogger* const logger = finder != nullptr ? finder->findLogger() : nullptr;
        if (logger != nullptr)
        {
            logger->log(severity, line.data());
            return;
        }
    }
    catch (...) // the message must not be lost to a logger that throws
    {
    }
    std::fprintf(stderr, "%s\n", line.data());
}

} // namespace trtdeploy
