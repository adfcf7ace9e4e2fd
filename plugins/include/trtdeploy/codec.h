// Definitions as bytes: in the library, where generate_table.py writes them, and in engines.
#pragma once

#include <string>
#include <string_view>

#include "trtdeploy/definition.h"

namespace trtdeploy
{

std::string writeDefinition(Definition const& definition);

// Throws Error if the bytes are not a whole definition, anything in it is out of range, or it refers to a size or an
// attribute that is not there.
Definition readDefinition(std::string_view bytes);

} // namespace trtdeploy
