#include "trtdeploy/formats.h"

#include <algorithm>

#include "trtdeploy/error.h"

namespace trtdeploy
{

namespace
{

bool hasLaunch(Definition const& definition, DataType dataType, std::optional<Layout> layout)
{
    return std::any_of(definition.launches.begin(), definition.launches.end(),
        [&](Launch const& launch) { return launch.dataType == dataType && (!layout || launch.layout == *layout); });
}

} // namespace

bool supportsFormat(Definition const& definition, size_t position, std::vector<TensorFormat> const& formats)
{
    if (position >= definition.tensors() || position >= formats.size())
    {
        return false;
    }
    auto const& [dataType, layout] = formats[position];
    if (!dataType || !layout || dataType != formats[0].dataType)
    {
        return false;
    }
    if (!definition.isImage(position))
    {
        return *layout == Layout::kLinear && hasLaunch(definition, *dataType, std::nullopt);
    }
    for (size_t earlier = 0; earlier < position; ++earlier)
    {
        if (definition.isImage(earlier))
        {
            return layout == formats[earlier].layout;
        }
    }
    return hasLaunch(definition, *dataType, layout);
}

void checkFormats(Definition const& definition, std::vector<TensorFormat> const& formats)
{
    for (size_t tensor = 0; tensor < definition.tensors(); ++tensor)
    {
        if (!supportsFormat(definition, tensor, formats))
        {
            throw Error(definition.opType + " was given tensors of types or in formats that it did not agree to.");
        }
    }
}

Layout imageLayout(Definition const& definition, std::vector<TensorFormat> const& formats)
{
    for (size_t tensor = 0; tensor < definition.tensors(); ++tensor)
    {
        if (definition.isImage(tensor))
        {
            return formats.at(tensor).layout.value();
        }
    }
    return Layout::kLinear;
}

} // namespace trtdeploy
