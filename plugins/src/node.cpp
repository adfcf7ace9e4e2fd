#include "trtdeploy/node.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "trtdeploy/bytes.h"
#include "trtdeploy/codec.h"

namespace trtdeploy
{

namespace
{

constexpr std::string_view kMagic = "TRTDNODE";
constexpr uint32_t kFormat = 1;
constexpr uint32_t kMaxDefinition = 1U << 28;
constexpr uint32_t kMaxValues = 1024;
constexpr std::array<int64_t, 3> kMaxGrid{std::numeric_limits<int32_t>::max(), 65535, 65535};

std::string describeNode(Definition const& definition, Attributes const& attributes)
{
    std::string text = definition.opType + "(";
    for (size_t i = 0; i < attributes.size(); ++i)
    {
        text += (i > 0 ? ", " : "") + definition.attributes[i].name + "=[";
        for (size_t k = 0; k < attributes[i].size(); ++k)
        {
            text += (k > 0 ? "," : "") + std::to_string(attributes[i][k]);
        }
        text += "]";
    }
    std::array<char, 24> digest{};
    std::snprintf(digest.data(), digest.size(), ") %016llx",
        static_cast<unsigned long long>(checksum(writeDefinition(definition))));
    return text + digest.data();
}

void checkAttributes(Definition const& definition, Attributes const& attributes)
{
    if (attributes.size() != definition.attributes.size())
    {
        throw Error(definition.opType + " has " + std::to_string(definition.attributes.size()) + " attributes, got "
                    + std::to_string(attributes.size()) + ".");
    }
    for (size_t i = 0; i < attributes.size(); ++i)
    {
        auto const& expected = definition.attributes[i];
        if (attributes[i].size() != expected.length)
        {
            throw Error(definition.opType + ": attribute '" + expected.name + "' has "
                        + std::to_string(attributes[i].size()) + " numbers, expected " + std::to_string(expected.length)
                        + ".");
        }
    }
}

bool isEmpty(Shape const& shape)
{
    return std::find(shape.begin(), shape.end(), 0) != shape.end();
}

} // namespace

Node::Node(Definition definition, Attributes attributes)
    : mDefinition{std::move(definition)}
    , mAttributes{std::move(attributes)}
{
    checkAttributes(mDefinition, mAttributes);
    mDescription = describeNode(mDefinition, mAttributes);
}

std::string Node::serialise(std::optional<uint32_t> capability, std::set<DataType> const& dataTypes) const
{
    ByteWriter payload;
    payload.writeBytes(writeDefinition(trim(mDefinition, capability, dataTypes)));
    payload.writeUint32(static_cast<uint32_t>(mAttributes.size()));
    for (auto const& values : mAttributes)
    {
        payload.writeUint32(static_cast<uint32_t>(values.size()));
        for (int64_t const value : values)
        {
            payload.writeInt64(value);
        }
    }
    ByteWriter state;
    state.append(kMagic);
    state.writeUint32(kFormat);
    state.writeUint64(checksum(payload.bytes()));
    state.append(payload.bytes());
    return state.bytes();
}

std::shared_ptr<Node const> Node::deserialise(std::string_view state)
{
    constexpr size_t kHead = kMagic.size() + sizeof(uint32_t) + sizeof(uint64_t);
    if (state.size() < kHead || state.substr(0, kMagic.size()) != kMagic)
    {
        throw Error("The engine's data of this plugin do not begin as trtdeploy writes them. Build the engine again.");
    }
    ByteReader head{state.substr(kMagic.size(), kHead - kMagic.size())};
    uint32_t const format = head.readUint32();
    if (format != kFormat)
    {
        throw Error("The engine's data of this plugin have format " + std::to_string(format)
                    + ", this library reads format " + std::to_string(kFormat)
                    + ". Build the engine again, or use the library that it was built with.");
    }
    std::string_view const payload = state.substr(kHead);
    if (head.readUint64() != checksum(payload))
    {
        throw Error("The engine's data of this plugin are damaged (the checksum is wrong). Build the engine again.");
    }
    ByteReader reader{payload};
    auto definition = readDefinition(reader.readBytes(kMaxDefinition, "Length of a definition"));
    Attributes attributes(reader.readCount(kMaxValues, "Number of attributes"));
    for (auto& values : attributes)
    {
        values.resize(reader.readCount(kMaxValues, "Length of an attribute"));
        for (auto& value : values)
        {
            value = reader.readInt64();
        }
    }
    reader.finish();
    return std::make_shared<Node const>(std::move(definition), std::move(attributes));
}

void Node::checkShapes(Shapes const& inputs) const
{
    if (inputs.size() != mDefinition.inputs.size())
    {
        throw Error(mDefinition.opType + " takes " + std::to_string(mDefinition.inputs.size()) + " inputs, got "
                    + std::to_string(inputs.size()) + ".");
    }
    for (size_t i = 0; i < inputs.size(); ++i)
    {
        auto const& operand = mDefinition.inputs[i];
        if (inputs[i].size() != operand.rank)
        {
            throw Error(mDefinition.opType + ": input '" + operand.name + "' has " + std::to_string(inputs[i].size())
                        + " axes, expected " + std::to_string(operand.rank) + ".");
        }
        if (std::any_of(inputs[i].begin(), inputs[i].end(), [](int64_t size) { return size < 0; }))
        {
            throw Error(mDefinition.opType + ": input '" + operand.name + "' has an unknown size ("
                        + describe({inputs[i]}) + ").");
        }
    }
}

Shapes Node::outputShapes(Shapes const& inputs) const
{
    Shapes shapes;
    for (auto const& output : mDefinition.outputs)
    {
        Shape shape;
        for (auto const& size : output.dims)
        {
            shape.push_back(evaluateNumber(size, inputs, mAttributes));
        }
        shapes.push_back(std::move(shape));
    }
    return shapes;
}

bool Node::holds(std::vector<Program> const& conditions, Shapes const& inputs) const
{
    return std::all_of(conditions.begin(), conditions.end(),
        [&](Program const& condition) { return evaluateNumber(condition, inputs, mAttributes) == 1; });
}

Launch const& Node::choose(DataType dataType, Layout layout, Shapes const& inputs, uint32_t capability) const
{
    uint32_t needed = 0; // a launch fits but for the device
    for (auto const& launch : mDefinition.launches)
    {
        if (launch.dataType == dataType && launch.layout == layout && holds(launch.conditions, inputs))
        {
            if (launch.ptxFor(capability) != nullptr)
            {
                return launch;
            }
            needed = launch.ptx.front().capability;
        }
    }
    std::string const what = mDefinition.opType + " with " + nameOf(dataType) + " tensors in " + nameOf(layout)
                             + " layout, shapes " + describe(inputs);
    if (needed > 0)
    {
        throw Error(what + ", needs compute capability " + std::to_string(needed / 10) + "."
                    + std::to_string(needed % 10) + " or newer; this device has " + std::to_string(capability / 10)
                    + "." + std::to_string(capability % 10) + ". Build with --attention native.");
    }
    throw Error("There is no kernel for " + what + ". Build with --attention native.");
}

Plan Node::plan(DataType dataType, Layout layout, Shapes const& inputs, uint32_t capability) const
{
    checkShapes(inputs);
    if (!holds(mDefinition.conditions, inputs))
    {
        throw Error(
            mDefinition.opType + " does not support shapes " + describe(inputs) + ". Build with --attention native.");
    }
    auto const outputs = outputShapes(inputs);
    if (std::all_of(outputs.begin(), outputs.end(), isEmpty))
    {
        return {};
    }
    Plan plan;
    plan.launch = &choose(dataType, layout, inputs, capability);
    for (size_t axis = 0; axis < plan.grid.size(); ++axis)
    {
        int64_t const extent = evaluateNumber(plan.launch->grid[axis], inputs, mAttributes);
        if (extent < 1 || extent > kMaxGrid[axis])
        {
            throw Error("Kernel '" + plan.launch->entry + "' for shapes " + describe(inputs) + " has a grid of "
                        + std::to_string(extent) + " blocks along axis " + std::to_string(axis) + ", expected 1 to "
                        + std::to_string(kMaxGrid[axis]) + ".");
        }
        plan.grid[axis] = static_cast<uint32_t>(extent);
    }
    for (auto const& argument : plan.launch->arguments)
    {
        int64_t const value = evaluateNumber(argument, inputs, mAttributes);
        if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
        {
            throw Error("Kernel '" + plan.launch->entry + "' for shapes " + describe(inputs) + " has the argument "
                        + std::to_string(value) + ", which is no 32-bit integer.");
        }
        plan.arguments.push_back(static_cast<int32_t>(value));
    }
    return plan;
}

std::string describe(Shapes const& shapes)
{
    std::string text;
    for (size_t i = 0; i < shapes.size(); ++i)
    {
        text += i > 0 ? ", " : "";
        for (size_t axis = 0; axis < shapes[i].size(); ++axis)
        {
            text += (axis > 0 ? "x" : "") + std::to_string(shapes[i][axis]);
        }
    }
    return text;
}

} // namespace trtdeploy
