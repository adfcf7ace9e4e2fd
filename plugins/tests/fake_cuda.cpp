#include "fake_cuda.h"

#include <cuda.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

// The first names of the functions: what a program finds with dlsym.
#undef cuCtxGetDevice
#undef cuLaunchKernel

namespace
{

struct Function
{
    std::string name;
    std::vector<bool> isPointer; // of each parameter
    unsigned int threads{0};     // of a block, as the PTX requires it
};

struct Driver
{
    std::mutex mutex;
    std::map<std::string, int> settings{{"capability", 87}, {"context", 1}};
    std::vector<std::unique_ptr<std::string>> modules;
    std::vector<std::unique_ptr<Function>> functions;
    std::ostringstream log;
    std::string taken;
};

Driver& driver()
{
    static Driver instance;
    return instance;
}

unsigned int numberAfter(std::string const& text, std::string const& what)
{
    auto const found = text.find(what);
    return found == std::string::npos ? 0 : static_cast<unsigned int>(std::stoul(text.substr(found + what.size())));
}

// Reads the parameters in `.entry name( .param .u64 ..., .param .u32 ... )`.
std::vector<bool> parameterKinds(std::string const& ptx, size_t entry)
{
    std::istringstream parameters{ptx.substr(entry, ptx.find(')', entry) - entry)};
    std::vector<bool> kinds;
    for (std::string word; parameters >> word;)
    {
        if (word == ".u64" || word == ".u32")
        {
            kinds.push_back(word == ".u64");
        }
    }
    return kinds;
}

CUresult failure(char const* setting)
{
    return static_cast<CUresult>(driver().settings[setting]);
}

} // namespace

extern "C"
{

    void fakeCudaSet(char const* name, int value)
    {
        std::lock_guard<std::mutex> const lock{driver().mutex};
        driver().settings[name] = value;
    }

    char const* fakeCudaTakeLog()
    {
        auto& fake = driver();
        std::lock_guard<std::mutex> const lock{fake.mutex};
        fake.taken = fake.log.str();
        fake.log.str("");
        return fake.taken.c_str();
    }

    CUresult cuCtxGetCurrent(CUcontext* context)
    {
        std::lock_guard<std::mutex> const lock{driver().mutex};
        // Every context lives at one address: only their numbers tell them apart, as after a context was destroyed and
        // made again.
        *context = driver().settings["context"] == 0 ? nullptr : reinterpret_cast<CUcontext>(&driver());
        return CUDA_SUCCESS;
    }

    CUresult cuCtxGetId(CUcontext /*context*/, unsigned long long* id)
    {
        std::lock_guard<std::mutex> const lock{driver().mutex};
        *id = static_cast<unsigned long long>(driver().settings["context"]);
        return CUDA_SUCCESS;
    }

    CUresult cuCtxGetDevice(CUdevice* device)
    {
        *device = 0;
        return CUDA_SUCCESS;
    }

    CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice /*device*/)
    {
        std::lock_guard<std::mutex> const lock{driver().mutex};
        int const capability = driver().settings["capability"];
        *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? capability / 10 : capability % 10;
        return CUDA_SUCCESS;
    }

    CUresult cuModuleLoadDataEx(
        CUmodule* module, void const* image, unsigned int count, CUjit_option* options, void** values)
    {
        std::this_thread::sleep_for(std::chrono::milliseconds{1}); // compiling takes a while: threads can meet here
        auto& fake = driver();
        std::lock_guard<std::mutex> const lock{fake.mutex};
        std::string const ptx{static_cast<char const*>(image)};
        auto const target = numberAfter(ptx, ".target sm_");
        CUresult result = failure("fail_load");
        if (result == CUDA_SUCCESS && (target == 0 || static_cast<int>(target) > fake.settings["capability"]))
        {
            result = CUDA_ERROR_INVALID_PTX;
        }
        if (result != CUDA_SUCCESS)
        {
            if (count == 2 && options[0] == CU_JIT_ERROR_LOG_BUFFER && options[1] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            {
                std::snprintf(static_cast<char*>(values[0]), reinterpret_cast<size_t>(values[1]), "line 1: fake log");
            }
            return result;
        }
        fake.modules.push_back(std::make_unique<std::string>(ptx));
        *module = reinterpret_cast<CUmodule>(fake.modules.back().get());
        fake.log << "load sm_" << target << "\n";
        return CUDA_SUCCESS;
    }

    CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, char const* name)
    {
        auto& fake = driver();
        std::lock_guard<std::mutex> const lock{fake.mutex};
        std::string const& ptx = *reinterpret_cast<std::string const*>(module);
        auto const entry = ptx.find(std::string{".entry "} + name + "(");
        if (entry == std::string::npos)
        {
            return CUDA_ERROR_NOT_FOUND;
        }
        fake.functions.push_back(
            std::make_unique<Function>(Function{name, parameterKinds(ptx, entry), numberAfter(ptx, ".reqntid ")}));
        *function = reinterpret_cast<CUfunction>(fake.functions.back().get());
        return CUDA_SUCCESS;
    }

    CUresult cuLaunchKernel(CUfunction function, unsigned int gridX, unsigned int gridY, unsigned int gridZ,
        unsigned int blockX, unsigned int blockY, unsigned int blockZ, unsigned int sharedBytes, CUstream stream,
        void** parameters, void** extra)
    {
        auto& fake = driver();
        std::lock_guard<std::mutex> const lock{fake.mutex};
        auto const& kernel = *reinterpret_cast<Function const*>(function);
        if (failure("fail_launch") != CUDA_SUCCESS)
        {
            return failure("fail_launch");
        }
        if (extra != nullptr || blockX != kernel.threads || blockY != 1 || blockZ != 1)
        {
            return CUDA_ERROR_INVALID_VALUE;
        }
        fake.log << "launch " << kernel.name << " grid=" << gridX << "x" << gridY << "x" << gridZ << " block=" << blockX
                 << " shared=" << sharedBytes << " stream=" << reinterpret_cast<uintptr_t>(stream) << " parameters=";
        for (size_t i = 0; i < kernel.isPointer.size(); ++i)
        {
            fake.log << (i > 0 ? "," : "");
            if (kernel.isPointer[i])
            {
                fake.log << "p" << *static_cast<uint64_t const*>(parameters[i]);
            }
            else
            {
                fake.log << *static_cast<int32_t const*>(parameters[i]);
            }
        }
        fake.log << "\n";
        return CUDA_SUCCESS;
    }

    CUresult cuGetErrorString(CUresult /*error*/, char const** text)
    {
        *text = "a fake error";
        return CUDA_SUCCESS;
    }

} // extern "C"
