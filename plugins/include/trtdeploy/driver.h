// The part of the CUDA driver API that the plugins need. The driver is opened at run time: nothing is linked to CUDA.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <optional>

namespace trtdeploy
{

// Functions by their first names, whose parameters never changed; `cuda.h` renames some of them.
struct Driver
{
    CUresult (*ctxGetCurrent)(CUcontext*){nullptr};
    CUresult (*ctxGetDevice)(CUdevice*){nullptr};
    CUresult (*ctxGetId)(CUcontext, unsigned long long*){nullptr}; // null before CUDA 12
    CUresult (*deviceGetAttribute)(int*, CUdevice_attribute, CUdevice){nullptr};
    CUresult (*moduleLoadDataEx)(CUmodule*, void const*, unsigned int, CUjit_option*, void**){nullptr};
    CUresult (*moduleGetFunction)(CUfunction*, CUmodule, char const*){nullptr};
    CUresult (*launchKernel)(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
        unsigned int, unsigned int, CUstream, void**, void**){nullptr};
    CUresult (*getErrorString)(CUresult, char const**){nullptr};

    // Throws Error with the driver's text unless `result` is success; `what` begins the message.
    void check(CUresult result, char const* what) const;

    // Returns the compute capability of the current context's device, such as 87; nothing if no context is current.
    std::optional<uint32_t> currentCapability() const;
};

// Opens libcuda.so.1, once. Throws Error where there is none.
Driver const& systemDriver();

} // namespace trtdeploy
