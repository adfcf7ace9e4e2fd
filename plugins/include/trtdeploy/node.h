// A node of a network: an operation with the values of its attributes, and everything that is computed from its sizes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "trtdeploy/definition.h"

namespace trtdeploy
{

// What cuLaunchKernel is called with, but for the pointers. Without a launch there is nothing to compute: the outputs
// are empty.
struct Plan
{
    Launch const* launch{nullptr};
    std::array<uint32_t, 3> grid{};
    std::vector<int32_t> arguments;
};

// Immutable, so that every clone of a plugin shares one.
class Node
{
public:
    // Throws Error unless the attributes are those of the definition.
    Node(Definition definition, Attributes attributes);

    // Returns what an engine carries: the attributes and the definition with its PTX, trimmed (see `trim`). An engine
    // therefore runs the kernels that it was built and checked with, whatever a newer library holds, and no library
    // keeps old kernels.
    std::string serialise(std::optional<uint32_t> capability, std::set<DataType> const& dataTypes) const;

    // Throws Error if the bytes are damaged, from another format, or not whole.
    static std::shared_ptr<Node const> deserialise(std::string_view state);

    Definition const& definition() const
    {
        return mDefinition;
    }

    Attributes const& attributes() const
    {
        return mAttributes;
    }

    // The name and the attributes, for messages and for the timing cache: `TrtdeploySimAMGate(epsilon=[953267991])
    // 0123...`.
    std::string const& description() const
    {
        return mDescription;
    }

    // Throws Error unless there are as many shapes as inputs, each of its rank, and no size is negative.
    void checkShapes(Shapes const& inputs) const;

    Shapes outputShapes(Shapes const& inputs) const;

    // Chooses the first launch whose conditions hold and that has PTX for the device. Throws Error if there is none, or
    // a grid or an argument is out of range.
    Plan plan(DataType dataType, Layout layout, Shapes const& inputs, uint32_t capability) const;

private:
    bool holds(std::vector<Program> const& conditions, Shapes const& inputs) const;
    Launch const& choose(DataType dataType, Layout layout, Shapes const& inputs, uint32_t capability) const;

    Definition mDefinition;
    Attributes mAttributes;
    std::string mDescription;
};

// Returns `1x3x8x8, 1x3x1x1`.
std::string describe(Shapes const& shapes);

} // namespace trtdeploy
