// The operations that this library was built with. The bytes are in a source that generate_table.py writes.
#pragma once

#include <cstddef>
#include <string_view>

namespace trtdeploy
{

// Definitions, as `readDefinition` takes them.
extern std::string_view const kTable[];
extern size_t const kTableSize;

} // namespace trtdeploy
