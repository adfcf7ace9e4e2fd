#include "trtdeploy/driver.h"

#include <dlfcn.h>

#include <string>

#include "trtdeploy/error.h"

namespace trtdeploy
{

namespace
{

template <typename Function>
void find(void* library, char const* name, Function& function)
{
    void* const symbol = dlsym(library, name);
    if (symbol == nullptr)
    {
        throw Error(std::string{"libcuda.so.1 has no function "} + name + ". Update the NVIDIA driver.");
    }
    function = reinterpret_cast<Function>(symbol);
}

Driver openDriver()
{
    // It stays open for the life of the process, as TensorRT's own does.
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
    {
        char const* const reason = dlerror();
        throw Error(std::string{"The CUDA driver cannot be opened: "} + (reason != nullptr ? reason : "no reason given")
                    + ". Install the NVIDIA driver.");
    }
    Driver driver;
    find(library, "cuCtxGetCurrent", driver.ctxGetCurrent);
    find(library, "cuCtxGetDevice", driver.ctxGetDevice);
    find(library, "cuDeviceGetAttribute", driver.deviceGetAttribute);
    find(library, "cuModuleLoadDataEx", driver.moduleLoadDataEx);
    find(library, "cuModuleGetFunction", driver.moduleGetFunction);
    find(library, "cuLaunchKernel", driver.launchKernel);
    find(library, "cuGetErrorString", driver.getErrorString);
    driver.ctxGetId = reinterpret_cast<decltype(driver.ctxGetId)>(dlsym(library, "cuCtxGetId"));
    return driver;
}

} // namespace

void Driver::check(CUresult result, char const* what) const
{
    if (result == CUDA_SUCCESS)
    {
        return;
    }
    char const* text = nullptr;
    if (getErrorString(result, &text) != CUDA_SUCCESS || text == nullptr)
    {
        text = "unknown error";
    }
    throw Error(std::string{what} + ": CUDA error " + std::to_string(static_cast<int>(result)) + " (" + text + ").");
}

std::optional<uint32_t> Driver::currentCapability() const
{
    CUcontext context = nullptr;
    check(ctxGetCurrent(&context), "Asking for the current CUDA context failed");
    if (context == nullptr)
    {
        return std::nullopt;
    }
    CUdevice device{};
    int major = 0;
    int minor = 0;
    check(ctxGetDevice(&device), "Asking for the current CUDA device failed");
    check(deviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
        "Asking for the compute capability failed");
    check(deviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device),
        "Asking for the compute capability failed");
    return static_cast<uint32_t>(10 * major + minor);
}

Driver const& systemDriver()
{
    static Driver const driver = openDriver(); // tried again by the next call if it throws
    return driver;
}

} // namespace trtdeploy
