#include "creator.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "host.h"
#include "plugin.h"

namespace trtdeploy
{

namespace
{

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

template <typename Number>
std::vector<int64_t> numbersOf(PluginField const& field)
{
    std::vector<Number> values(static_cast<size_t>(std::max(field.length, 0)));
    if (!values.empty() && field.data != nullptr)
    {
        std::memcpy(values.data(), field.data, values.size() * sizeof(Number)); // it may not be aligned
    }
    return {values.begin(), values.end()};
}

std::vector<int64_t> valuesOf(PluginField const& field, Attribute const& attribute)
{
    if (field.length > 0 && field.data == nullptr)
    {
        throw Error("attribute '" + attribute.name + "' has no data.");
    }
    if (attribute.kind == AttributeKind::kFloats && field.type == PluginFieldType::kFLOAT32)
    {
        return numbersOf<int32_t>(field); // a float is held as its bits
    }
    if (attribute.kind == AttributeKind::kInts && field.type == PluginFieldType::kINT32)
    {
        return numbersOf<int32_t>(field);
    }
    if (attribute.kind == AttributeKind::kInts && field.type == PluginFieldType::kINT64)
    {
        return numbersOf<int64_t>(field);
    }
    throw Error("attribute '" + attribute.name + "' has field type " + std::to_string(static_cast<int>(field.type))
                + ", expected " + (attribute.kind == AttributeKind::kFloats ? "FLOAT32" : "INT32 or INT64") + ".");
}

PluginField const* find(PluginFieldCollection const& fields, std::string_view name)
{
    auto const* const end = fields.fields + std::max(fields.nbFields, 0);
    auto const* const found = std::find_if(
        fields.fields, end, [&](PluginField const& field) { return field.name != nullptr && name == field.name; });
    return found != end ? found : nullptr;
}

} // namespace

Creator::Creator(Definition definition)
    : mDefinition{std::move(definition)}
{
    // The parser hands over the attributes of these names. Others, such as plugin_namespace, are the parser's own.
    for (auto const& attribute : mDefinition.attributes)
    {
        auto const type
            = attribute.kind == AttributeKind::kFloats ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
        mFieldNames.emplace_back(attribute.name.c_str(), nullptr, type, static_cast<int32_t>(attribute.length));
    }
    mFields = PluginFieldCollection{static_cast<int32_t>(mFieldNames.size()), mFieldNames.data()};
}

nvinfer1::IPluginV3* Creator::createPlugin(
    nvinfer1::AsciiChar const* name, PluginFieldCollection const* fc, nvinfer1::TensorRTPhase phase) noexcept
{
    return guarded<nvinfer1::IPluginV3*>(nullptr,
        [&]() -> nvinfer1::IPluginV3*
        {
            PluginFieldCollection const fields = fc != nullptr ? *fc : PluginFieldCollection{0, nullptr};
            try
            {
                return new Plugin{phase == nvinfer1::TensorRTPhase::kBUILD ? buildNode(fields) : engineNode(fields)};
            }
            catch (Error const& error)
            {
                throw Error(mDefinition.opType + ", layer '" + (name != nullptr ? name : "") + "': " + error.what());
            }
        });
}

std::shared_ptr<Node const> Creator::buildNode(PluginFieldCollection const& fields) const
{
    Attributes attributes;
    for (auto const& attribute : mDefinition.attributes)
    {
        PluginField const* const field = find(fields, attribute.name);
        if (field == nullptr)
        {
            throw Error("attribute '" + attribute.name + "' is missing.");
        }
        attributes.push_back(valuesOf(*field, attribute));
    }
    return std::make_shared<Node const>(mDefinition, std::move(attributes));
}

std::shared_ptr<Node const> Creator::engineNode(PluginFieldCollection const& fields) const
{
    PluginField const* const field = find(fields, kStateField);
    if (field == nullptr || field->data == nullptr || field->length < 0)
    {
        throw Error("the engine has no data for this plugin. It was built with another plugin of the same name.");
    }
    auto node = Node::deserialise({static_cast<char const*>(field->data), static_cast<size_t>(field->length)});
    if (node->definition().opType != mDefinition.opType)
    {
        throw Error("the engine's data of this plugin are those of " + node->definition().opType + ".");
    }
    return node;
}

PluginFieldCollection const* Creator::getFieldNames() noexcept
{
    return &mFields;
}

nvinfer1::AsciiChar const* Creator::getPluginName() const noexcept
{
    return mDefinition.opType.c_str();
}

nvinfer1::AsciiChar const* Creator::getPluginVersion() const noexcept
{
    return kVersion;
}

nvinfer1::AsciiChar const* Creator::getPluginNamespace() const noexcept
{
    return kNamespace;
}

} // namespace trtdeploy
