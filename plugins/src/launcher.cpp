#include "trtdeploy/launcher.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace trtdeploy
{

namespace
{

constexpr size_t kMaxPrepared = 32;
constexpr size_t kMaxLog = 4096;

uint64_t contextKey(Driver const& driver)
{
    CUcontext context = nullptr;
    driver.check(driver.ctxGetCurrent(&context), "Asking for the current CUDA context failed");
    if (context == nullptr)
    {
        throw Error("No CUDA context is current in the thread that launches a kernel.");
    }
    if (driver.ctxGetId == nullptr)
    {
        return reinterpret_cast<uintptr_t>(context);
    }
    unsigned long long id = 0; // never used twice in a process, while the address of a context can be
    driver.check(driver.ctxGetId(context, &id), "Asking for the CUDA context's number failed");
    return id;
}

CUfunction compile(Driver const& driver, std::string const& entry, std::string const& ptx)
{
    std::array<char, kMaxLog> log{};
    std::array<CUjit_option, 2> options{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    std::array<void*, 2> values{log.data(), reinterpret_cast<void*>(log.size())};
    CUmodule module = nullptr;
    CUresult const result = driver.moduleLoadDataEx(
        &module, ptx.c_str(), static_cast<unsigned int>(options.size()), options.data(), values.data());
    log.back() = '\0';
    driver.check(result, ("Kernel '" + entry + "' cannot be loaded. The driver's log: " + log.data() + " ").c_str());
    CUfunction kernel = nullptr;
    driver.check(driver.moduleGetFunction(&kernel, module, entry.c_str()),
        ("The PTX of kernel '" + entry + "' does not contain it").c_str());
    return kernel;
}

} // namespace

CUfunction loadKernel(Driver const& driver, Launch const& launch, uint32_t capability)
{
    static std::mutex mutex;
    static auto& kernels
        = *new std::map<std::tuple<uint64_t, std::string, std::string>, CUfunction>; // outlives every user
    Ptx const* const ptx = launch.ptxFor(capability);
    if (ptx == nullptr)
    {
        throw Error(
            "Kernel '" + launch.entry + "' has no PTX for compute capability " + std::to_string(capability) + ".");
    }
    std::lock_guard<std::mutex> const lock{mutex};
    auto& kernel = kernels[{contextKey(driver), launch.entry, ptx->text}];
    if (kernel == nullptr)
    {
        kernel = compile(driver, launch.entry, ptx->text);
    }
    return kernel;
}

Launcher::Prepared const& Launcher::find(
    Node const& node, Driver const& driver, std::vector<TensorFormat> const& formats, Shapes const& inputs)
{
    auto const known = std::find_if(mPrepared.rbegin(), mPrepared.rend(),
        [&](Prepared const& prepared) { return prepared.formats == formats && prepared.inputs == inputs; });
    if (known != mPrepared.rend())
    {
        return *known;
    }
    checkFormats(node.definition(), formats);
    auto const capability = driver.currentCapability();
    if (!capability)
    {
        throw Error("No CUDA context is current in the thread that runs " + node.definition().opType + ".");
    }
    auto plan = node.plan(*formats[0].dataType, imageLayout(node.definition(), formats), inputs, *capability);
    Prepared prepared{formats, inputs, std::move(plan)};
    if (prepared.plan.launch != nullptr)
    {
        prepared.kernel = loadKernel(driver, *prepared.plan.launch, *capability);
    }
    if (mPrepared.size() == kMaxPrepared)
    {
        mPrepared.erase(mPrepared.begin());
    }
    mPrepared.push_back(std::move(prepared));
    return mPrepared.back();
}

void Launcher::prepare(
    Node const& node, Driver const& driver, std::vector<TensorFormat> const& formats, Shapes const& inputs)
{
    find(node, driver, formats, inputs);
}

void Launcher::launch(Node const& node, Driver const& driver, std::vector<TensorFormat> const& formats,
    Shapes const& inputs, void const* const* inputPointers, void* const* outputPointers, CUstream stream)
{
    auto const& prepared = find(node, driver, formats, inputs);
    auto const& plan = prepared.plan;
    if (plan.launch == nullptr)
    {
        return;
    }
    // The kernel's parameters: pointers of the inputs, integers, pointers of the outputs. The driver takes their
    // addresses.
    std::vector<void*> parameters;
    parameters.reserve(node.definition().tensors() + plan.arguments.size());
    for (size_t i = 0; i < node.definition().inputs.size(); ++i)
    {
        parameters.push_back(const_cast<void const**>(inputPointers + i));
    }
    for (auto const& argument : plan.arguments)
    {
        parameters.push_back(const_cast<int32_t*>(&argument));
    }
    for (size_t i = 0; i < node.definition().outputs.size(); ++i)
    {
        parameters.push_back(const_cast<void**>(outputPointers + i));
    }
    driver.check(driver.launchKernel(prepared.kernel, plan.grid[0], plan.grid[1], plan.grid[2], plan.launch->block, 1,
                     1, plan.launch->sharedBytes, stream, parameters.data(), nullptr),
        ("Kernel '" + plan.launch->entry + "' cannot be launched").c_str());
}

} // namespace trtdeploy
