// Launching of a node's kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "trtdeploy/driver.h"
#include "trtdeploy/formats.h"
#include "trtdeploy/node.h"

namespace trtdeploy
{

// Returns the kernel of a launch in the current CUDA context. Each PTX text is compiled once a context, whatever number
// of nodes, plugins and engines use it, and stays loaded until the context goes: a CUDA graph may hold the kernel
// longer than the plugin lives. What stays is bounded by the number of different kernels. Thread-safe.
CUfunction loadKernel(Driver const& driver, Launch const& launch, uint32_t capability);

// Launches kernels of one node. Plans and kernels are kept for the shapes used last. One thread at a time, one CUDA
// context.
class Launcher
{
public:
    // Makes the launch for these tensors ready, so that `launch` has nothing to compile. Throws Error if there is none.
    void prepare(
        Node const& node, Driver const& driver, std::vector<TensorFormat> const& formats, Shapes const& inputs);

    // Prepares where necessary, then launches. Throws Error.
    void launch(Node const& node, Driver const& driver, std::vector<TensorFormat> const& formats, Shapes const& inputs,
        void const* const* inputPointers, void* const* outputPointers, CUstream stream);

private:
    struct Prepared
    {
        std::vector<TensorFormat> formats;
        Shapes inputs;
        Plan plan;
        CUfunction kernel{nullptr};
    };

    Prepared const& find(
        Node const& node, Driver const& driver, std::vector<TensorFormat> const& formats, Shapes const& inputs);

    std::vector<Prepared> mPrepared; // the newest last
};

} // namespace trtdeploy
