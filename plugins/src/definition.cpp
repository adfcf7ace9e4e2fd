#include "trtdeploy/definition.h"

#include <algorithm>

namespace trtdeploy
{

char const* nameOf(DataType dataType)
{
    return dataType == DataType::kFloat16 ? "float16" : "float32";
}

char const* nameOf(Layout layout)
{
    return layout == Layout::kHwc8 ? "hwc8" : "linear";
}

Ptx const* Launch::ptxFor(uint32_t capability) const
{
    Ptx const* best = nullptr;
    for (auto const& candidate : ptx)
    {
        if (candidate.capability <= capability && (best == nullptr || candidate.capability > best->capability))
        {
            best = &candidate;
        }
    }
    return best;
}

Definition trim(Definition const& definition, std::optional<uint32_t> capability, std::set<DataType> const& dataTypes)
{
    Definition trimmed = definition;
    auto& launches = trimmed.launches;
    if (!dataTypes.empty())
    {
        launches.erase(std::remove_if(launches.begin(), launches.end(),
                           [&](Launch const& launch) { return dataTypes.count(launch.dataType) == 0; }),
            launches.end());
    }
    for (auto& launch : launches)
    {
        Ptx const* const best = capability ? launch.ptxFor(*capability) : nullptr;
        if (best != nullptr)
        {
            launch.ptx = {Ptx{*best}};
        }
    }
    return trimmed;
}

} // namespace trtdeploy
