#include "plugin.h"

#include <algorithm>
#include <limits>

#include "host.h"

namespace trtdeploy
{

namespace
{

using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

constexpr int32_t kSuccess = 0;
constexpr int32_t kFailure = 1;
constexpr uint32_t kAnyCapability = std::numeric_limits<uint32_t>::max();

std::optional<DataType> dataTypeOf(nvinfer1::DataType type)
{
    switch (type)
    {
    case nvinfer1::DataType::kFLOAT: return DataType::kFloat32;
    case nvinfer1::DataType::kHALF: return DataType::kFloat16;
    default: return std::nullopt;
    }
}

std::optional<Layout> layoutOf(nvinfer1::TensorFormat format)
{
    switch (format)
    {
    case nvinfer1::TensorFormat::kLINEAR: return Layout::kLinear;
    case nvinfer1::TensorFormat::kHWC8: return Layout::kHwc8;
    default: return std::nullopt;
    }
}

TensorFormat formatOf(nvinfer1::PluginTensorDesc const& desc)
{
    return {dataTypeOf(desc.type), layoutOf(desc.format)};
}

TensorFormat formatOf(nvinfer1::DynamicPluginTensorDesc const& desc)
{
    return formatOf(desc.desc);
}

template <typename Desc>
std::vector<TensorFormat> formatsOf(Desc const* in, size_t inputs, Desc const* out, size_t outputs)
{
    std::vector<TensorFormat> formats;
    std::transform(in, in + inputs, std::back_inserter(formats), [](Desc const& desc) { return formatOf(desc); });
    std::transform(out, out + outputs, std::back_inserter(formats), [](Desc const& desc) { return formatOf(desc); });
    return formats;
}

// Returns the shapes that `dims` finds in each description.
template <typename Desc, typename Dims>
Shapes shapesOf(Desc const* in, size_t inputs, Dims dims)
{
    Shapes shapes;
    for (size_t i = 0; i < inputs; ++i)
    {
        auto const& sizes = dims(in[i]);
        shapes.emplace_back(sizes.d, sizes.d + std::clamp<int64_t>(sizes.nbDims, 0, nvinfer1::Dims::MAX_DIMS));
    }
    return shapes;
}

Shapes shapesOf(nvinfer1::PluginTensorDesc const* in, size_t inputs)
{
    return shapesOf(in, inputs, [](auto const& desc) -> auto const& { return desc.dims; });
}

DimensionOperation dimensionOperation(Op op)
{
    switch (op)
    {
    case Op::kAdd: return DimensionOperation::kSUM;
    case Op::kSubtract: return DimensionOperation::kSUB;
    case Op::kMultiply: return DimensionOperation::kPROD;
    case Op::kFloorDivide: return DimensionOperation::kFLOOR_DIV;
    case Op::kCeilDivide: return DimensionOperation::kCEIL_DIV;
    case Op::kMaximum: return DimensionOperation::kMAX;
    case Op::kMinimum: return DimensionOperation::kMIN;
    case Op::kEqual: return DimensionOperation::kEQUAL;
    case Op::kLess: return DimensionOperation::kLESS;
    default: throw Error("An expression uses a leaf as a binary operation.");
    }
}

// Arithmetic on TensorRT's symbolic sizes, for `evaluate`.
class SymbolicSizes
{
public:
    SymbolicSizes(nvinfer1::DimsExprs const* inputs, nvinfer1::IExprBuilder& builder)
        : mInputs{inputs}
        , mBuilder{builder}
    {
    }

    IDimensionExpr const* constant(int64_t value) const
    {
        return checked(mBuilder.constant(value));
    }

    IDimensionExpr const* size(size_t operand, size_t axis) const
    {
        return checked(mInputs[operand].d[axis]);
    }

    IDimensionExpr const* binary(Op op, IDimensionExpr const* a, IDimensionExpr const* b) const
    {
        return checked(mBuilder.operation(dimensionOperation(op), *a, *b));
    }

private:
    static IDimensionExpr const* checked(IDimensionExpr const* expression)
    {
        if (expression == nullptr)
        {
            throw Error("TensorRT could not make an expression for a size.");
        }
        return expression;
    }

    nvinfer1::DimsExprs const* mInputs;
    nvinfer1::IExprBuilder& mBuilder;
};

} // namespace

Plugin::Plugin(std::shared_ptr<Node const> node, std::set<DataType> dataTypes)
    : mNode{std::move(node)}
    , mDataTypes{std::move(dataTypes)}
{
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept
{
    // The clone prepares its launches itself: it may run in another CUDA context.
    return guarded<nvinfer1::IPluginV3*>(nullptr, [&] { return new Plugin{mNode, mDataTypes}; });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext* /*context*/) noexcept
{
    return clone();
}

nvinfer1::AsciiChar const* Plugin::getPluginName() const noexcept
{
    return mNode->definition().opType.c_str();
}

nvinfer1::AsciiChar const* Plugin::getPluginVersion() const noexcept
{
    return kVersion;
}

nvinfer1::AsciiChar const* Plugin::getPluginNamespace() const noexcept
{
    return kNamespace;
}

int32_t Plugin::getNbOutputs() const noexcept
{
    return static_cast<int32_t>(mNode->definition().outputs.size());
}

char const* Plugin::getTimingCacheID() noexcept
{
    return mNode->description().c_str();
}

char const* Plugin::getMetadataString() noexcept
{
    return mNode->description().c_str();
}

void Plugin::checkCounts(int32_t nbInputs, int32_t nbOutputs) const
{
    auto const& definition = mNode->definition();
    if (nbInputs < 0 || static_cast<size_t>(nbInputs) != definition.inputs.size() || nbOutputs != getNbOutputs())
    {
        throw Error(definition.opType + " has " + std::to_string(definition.inputs.size()) + " inputs and "
                    + std::to_string(definition.outputs.size()) + " outputs, got " + std::to_string(nbInputs) + " and "
                    + std::to_string(nbOutputs) + ".");
    }
}

int32_t Plugin::getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
    nvinfer1::DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    return guarded(kFailure,
        [&]
        {
            checkCounts(nbInputs, nbOutputs);
            for (int32_t i = 1; i < nbInputs; ++i)
            {
                if (inputTypes[i] != inputTypes[0])
                {
                    throw Error(mNode->definition().opType + ": input '"
                                + mNode->definition().inputs[static_cast<size_t>(i)].name
                                + "' has another data type than input '" + mNode->definition().inputs[0].name
                                + "'. All inputs must have one.");
                }
            }
            std::fill(outputTypes, outputTypes + nbOutputs, inputTypes[0]);
            return kSuccess;
        });
}

int32_t Plugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
    nvinfer1::DimsExprs const* /*shapeInputs*/, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
    nvinfer1::IExprBuilder& exprBuilder) noexcept
{
    return guarded(kFailure,
        [&]
        {
            auto const& definition = mNode->definition();
            checkCounts(nbInputs + nbShapeInputs, nbOutputs);
            for (size_t i = 0; i < definition.inputs.size(); ++i)
            {
                if (inputs[i].nbDims != static_cast<int32_t>(definition.inputs[i].rank))
                {
                    throw Error(definition.opType + ": input '" + definition.inputs[i].name + "' has "
                                + std::to_string(inputs[i].nbDims) + " axes, expected "
                                + std::to_string(definition.inputs[i].rank) + ".");
                }
            }
            SymbolicSizes sizes{inputs, exprBuilder};
            for (auto const& condition : definition.conditions)
            {
                auto const* const holds = evaluate(condition, sizes, mNode->attributes());
                if (holds->isConstant() && holds->getConstantValue() != 1)
                {
                    throw Error(definition.opType
                                + " does not support the sizes of its inputs. Build with --attention native.");
                }
            }
            for (size_t i = 0; i < definition.outputs.size(); ++i)
            {
                auto const& dims = definition.outputs[i].dims;
                outputs[i].nbDims = static_cast<int32_t>(dims.size());
                for (size_t axis = 0; axis < dims.size(); ++axis)
                {
                    outputs[i].d[axis] = evaluate(dims[axis], sizes, mNode->attributes());
                }
            }
            return kSuccess;
        });
}

bool Plugin::supportsFormatCombination(
    int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    return guarded(false,
        [&]
        {
            checkCounts(nbInputs, nbOutputs);
            // What stands behind `pos` is not valid.
            auto const known = static_cast<size_t>(std::clamp<int32_t>(pos + 1, 0, nbInputs + nbOutputs));
            return pos >= 0
                   && supportsFormat(mNode->definition(), static_cast<size_t>(pos), formatsOf(inOut, known, inOut, 0));
        });
}

int32_t Plugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
    nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept
{
    return guarded(kFailure,
        [&]
        {
            checkCounts(nbInputs, nbOutputs);
            auto const inputs = static_cast<size_t>(nbInputs);
            auto const formats = formatsOf(in, inputs, out, static_cast<size_t>(nbOutputs));
            checkFormats(mNode->definition(), formats);
            auto const layout = imageLayout(mNode->definition(), formats);
            // Every shape of the profile needs a kernel. Finding out now is better than at run time; the ends stand for
            // the rest.
            uint32_t const capability = systemDriver().currentCapability().value_or(kAnyCapability);
            using Desc = nvinfer1::DynamicPluginTensorDesc;
            for (auto const end : {&Desc::min, &Desc::opt, &Desc::max})
            {
                auto const shapes = shapesOf(in, inputs, [&](Desc const& desc) -> auto const& { return desc.*end; });
                mNode->plan(*formats[0].dataType, layout, shapes, capability);
            }
            mDataTypes.insert(*formats[0].dataType);
            return kSuccess;
        });
}

int32_t Plugin::onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
    nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept
{
    return guarded(kFailure,
        [&]
        {
            checkCounts(nbInputs, nbOutputs);
            if (systemDriver().currentCapability())
            {
                auto const inputs = static_cast<size_t>(nbInputs);
                mLauncher.prepare(*mNode, systemDriver(), formatsOf(in, inputs, out, static_cast<size_t>(nbOutputs)),
                    shapesOf(in, inputs));
            }
            return kSuccess;
        });
}

int32_t Plugin::enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
    void const* const* inputs, void* const* outputs, void* /*workspace*/, cudaStream_t stream) noexcept
{
    return guarded(kFailure,
        [&]
        {
            auto const& definition = mNode->definition();
            mLauncher.launch(*mNode, systemDriver(),
                formatsOf(inputDesc, definition.inputs.size(), outputDesc, definition.outputs.size()),
                shapesOf(inputDesc, definition.inputs.size()), inputs, outputs, stream);
            return kSuccess;
        });
}

nvinfer1::PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept
{
    return guarded<nvinfer1::PluginFieldCollection const*>(nullptr,
        [&]
        {
            mState = mNode->serialise(systemDriver().currentCapability(), mDataTypes);
            if (mState.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
            {
                throw Error(mNode->definition().opType + " has more data than an engine's field can hold.");
            }
            mField = nvinfer1::PluginField{
                kStateField, mState.data(), nvinfer1::PluginFieldType::kUNKNOWN, static_cast<int32_t>(mState.size())};
            mFields = nvinfer1::PluginFieldCollection{1, &mField};
            return &mFields;
        });
}

} // namespace trtdeploy
