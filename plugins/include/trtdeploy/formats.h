// Which data types and layouts a plugin takes.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "trtdeploy/definition.h"

namespace trtdeploy
{

// Empty where TensorRT offers something that no kernel takes.
struct TensorFormat
{
    std::optional<DataType> dataType;
    std::optional<Layout> layout;

    bool operator==(TensorFormat const& other) const
    {
        return dataType == other.dataType && layout == other.layout;
    }
};

// Returns whether tensor `position` (inputs first, then outputs) may have the format at `formats[position]`, given
// those before it. All tensors have one data type; images share one layout, others are linear; a launch must exist for
// both.
bool supportsFormat(Definition const& definition, size_t position, std::vector<TensorFormat> const& formats);

// Throws Error unless every tensor's format is supported.
void checkFormats(Definition const& definition, std::vector<TensorFormat> const& formats);

// Returns the layout of the images, linear where there are none. `formats` are supported ones, of all tensors.
Layout imageLayout(Definition const& definition, std::vector<TensorFormat> const& formats);

} // namespace trtdeploy
