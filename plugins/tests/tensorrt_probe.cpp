// Questions to the plugin library, asked as TensorRT's parser, builder and runtime ask them. See probe.h.
//   tensorrt_probe load LIBRARY    the registry loads the library
//   tensorrt_probe open LIBRARY    the library is only opened, as the preload library is
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "fake_cuda.h"
#include "probe.h"
#include "stub_nvinfer.h"

using namespace nvinfer1;
using probe::Words;

extern "C" IPluginRegistry* getPluginRegistry() noexcept;

namespace
{

std::unique_ptr<IPluginV3> gPlugin; // that the next questions are about

// A size as TensorRT sees it: a number, or something unknown that is written as table.json writes it.
class Size final : public IDimensionExpr, private apiv::VDimensionExpr
{
public:
    Size(std::string text, bool isNumber)
        : mText{std::move(text)}
        , mIsNumber{isNumber}
    {
        mImpl = this;
    }
    ~Size() noexcept override = default;

    bool isConstant() const override
    {
        return mIsNumber;
    }
    int64_t getConstantValue() const override
    {
        return mIsNumber ? std::stoll(mText) : INT64_MIN;
    }
    bool isSizeTensor() const override
    {
        return false;
    }
    std::string const& text() const
    {
        return mText;
    }

private:
    std::string mText;
    bool mIsNumber;
};

int64_t compute(DimensionOperation op, int64_t a, int64_t b)
{
    switch (op)
    {
    case DimensionOperation::kSUM: return a + b;
    case DimensionOperation::kPROD: return a * b;
    case DimensionOperation::kMAX: return a > b ? a : b;
    case DimensionOperation::kMIN: return a < b ? a : b;
    case DimensionOperation::kSUB: return a - b;
    case DimensionOperation::kEQUAL: return a == b ? 1 : 0;
    case DimensionOperation::kLESS: return a < b ? 1 : 0;
    case DimensionOperation::kFLOOR_DIV: return a / b;
    case DimensionOperation::kCEIL_DIV: return (a + b - 1) / b;
    }
    return INT64_MIN;
}

char const* symbol(DimensionOperation op)
{
    switch (op)
    {
    case DimensionOperation::kSUM: return "+";
    case DimensionOperation::kPROD: return "*";
    case DimensionOperation::kMAX: return "max";
    case DimensionOperation::kMIN: return "min";
    case DimensionOperation::kSUB: return "-";
    case DimensionOperation::kEQUAL: return "==";
    case DimensionOperation::kLESS: return "<";
    case DimensionOperation::kFLOOR_DIV: return "//";
    case DimensionOperation::kCEIL_DIV: return "cdiv";
    }
    return "?";
}

class Sizes final : public IExprBuilder, private apiv::VExprBuilder
{
public:
    Sizes()
    {
        mImpl = this;
    }
    ~Sizes() noexcept override = default;

    IDimensionExpr const* constant(int64_t value) override
    {
        return keep(std::to_string(value), true);
    }
    IDimensionExpr const* operation(DimensionOperation op, IDimensionExpr const& a, IDimensionExpr const& b) override
    {
        if (a.isConstant() && b.isConstant())
        {
            return constant(compute(op, a.getConstantValue(), b.getConstantValue()));
        }
        auto const text = [](IDimensionExpr const& size)
        {
            return static_cast<Size const&>(size).text();
        };
        return keep("[\"" + std::string{symbol(op)} + "\"," + text(a) + "," + text(b) + "]", false);
    }
    IDimensionExpr const* declareSizeTensor(
        int32_t /*outputIndex*/, IDimensionExpr const& /*opt*/, IDimensionExpr const& /*upper*/) override
    {
        return nullptr;
    }
    IDimensionExpr const* unknown(size_t operand, size_t axis)
    {
        return keep("[\"dim\"," + std::to_string(operand) + "," + std::to_string(axis) + "]", false);
    }

private:
    IDimensionExpr const* keep(std::string text, bool isNumber)
    {
        mSizes.push_back(std::make_unique<Size>(std::move(text), isNumber));
        return mSizes.back().get();
    }

    std::vector<std::unique_ptr<Size>> mSizes;
};

template <typename Capability>
Capability& capability(PluginCapabilityType type)
{
    return *static_cast<Capability*>(gPlugin->getCapabilityInterface(type));
}

IPluginV3OneBuild& build()
{
    return capability<IPluginV3OneBuild>(PluginCapabilityType::kBUILD);
}

IPluginV3OneRuntime& runtime()
{
    return capability<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME);
}

DataType dataTypeOf(std::string const& name)
{
    return name == "float32" ? DataType::kFLOAT : name == "float16" ? DataType::kHALF : DataType::kINT8;
}

TensorFormat formatOf(std::string const& name)
{
    return name == "linear" ? TensorFormat::kLINEAR : name == "hwc8" ? TensorFormat::kHWC8 : TensorFormat::kCHW32;
}

Dims dimsOf(std::vector<int64_t> const& sizes)
{
    Dims dims{};
    dims.nbDims = static_cast<int32_t>(sizes.size());
    for (size_t axis = 0; axis < sizes.size(); ++axis)
    {
        dims.d[axis] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(sizes[axis]);
    }
    return dims;
}

// Descriptions of all tensors: `float16:hwc8,float16:linear`. Shapes are of the inputs.
std::vector<DynamicPluginTensorDesc> describe(std::string const& formats)
{
    std::vector<DynamicPluginTensorDesc> descs;
    for (auto const& word : probe::split(formats, ','))
    {
        auto const parts = probe::split(word, ':');
        DynamicPluginTensorDesc desc{};
        desc.desc.type = dataTypeOf(parts.at(0));
        desc.desc.format = formatOf(parts.at(1));
        descs.push_back(desc);
    }
    return descs;
}

std::string creators(Words const&)
{
    int32_t count = 0;
    auto* const* all = getPluginRegistry()->getAllCreators(&count);
    std::string text = std::to_string(count);
    for (int32_t i = 0; i < count; ++i)
    {
        auto& creator = dynamic_cast<IPluginCreatorV3One&>(*all[i]);
        text += std::string{" "} + creator.getPluginNamespace() + "::" + creator.getPluginName() + "/"
                + creator.getPluginVersion() + "(";
        auto const& fields = *creator.getFieldNames();
        for (int32_t k = 0; k < fields.nbFields; ++k)
        {
            text += std::string{fields.fields[k].name} + ":" + std::to_string(static_cast<int>(fields.fields[k].type))
                    + ":" + std::to_string(fields.fields[k].length);
        }
        text += ")";
    }
    return text;
}

IPluginCreatorV3One& creatorOf(std::string const& name)
{
    auto* const creator = getPluginRegistry()->getCreator(name.c_str(), "1", "trtdeploy");
    if (creator == nullptr)
    {
        throw std::runtime_error("the registry has no creator " + name);
    }
    return dynamic_cast<IPluginCreatorV3One&>(*creator);
}

std::string created(IPluginV3* plugin)
{
    gPlugin.reset(plugin);
    return plugin != nullptr ? "ok" : "null";
}

// create OP_TYPE name=TYPE:HEX ...: TYPE is the number of a PluginFieldType, HEX the bytes of 32-bit numbers (64 for
// INT64).
std::string create(Words const& words)
{
    std::vector<std::string> names;
    std::vector<std::string> data;
    std::vector<int32_t> types;
    for (size_t i = 1; i < words.size(); ++i)
    {
        auto const parts = probe::split(words[i], '=');
        auto const value = probe::split(parts.at(1), ':');
        names.push_back(parts[0]);
        types.push_back(std::stoi(value.at(0)));
        data.push_back(probe::fromHex(value.at(1)));
    }
    std::vector<PluginField> fields;
    for (size_t i = 0; i < names.size(); ++i)
    {
        auto const type = static_cast<PluginFieldType>(types[i]);
        size_t const width = type == PluginFieldType::kCHAR ? 1 : type == PluginFieldType::kINT64 ? 8 : 4;
        fields.emplace_back(names[i].c_str(), data[i].data(), type, static_cast<int32_t>(data[i].size() / width));
    }
    PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    return created(creatorOf(words.at(0)).createPlugin("layer", &collection, TensorRTPhase::kBUILD));
}

std::string identity(Words const&)
{
    auto& core = capability<IPluginV3OneCore>(PluginCapabilityType::kCORE);
    return std::string{core.getPluginNamespace()} + "::" + core.getPluginName() + "/" + core.getPluginVersion() + " "
           + std::to_string(build().getNbOutputs()) + " " + build().getTimingCacheID();
}

std::string types(Words const& words)
{
    std::vector<DataType> in;
    for (auto const& name : probe::split(words.at(0), ','))
    {
        in.push_back(dataTypeOf(name));
    }
    std::vector<DataType> out(static_cast<size_t>(build().getNbOutputs()));
    int32_t const code = build().getOutputDataTypes(
        out.data(), static_cast<int32_t>(out.size()), in.data(), static_cast<int32_t>(in.size()));
    std::string text = std::to_string(code);
    for (auto const type : out)
    {
        text += " " + std::to_string(static_cast<int>(type));
    }
    return text;
}

// shapes 1x3x-1x-1,...: -1 is unknown.
std::string shapes(Words const& words)
{
    Sizes sizes;
    std::vector<DimsExprs> in;
    for (auto const& shape : probe::lists(words.at(0), ',', 'x'))
    {
        DimsExprs dims{};
        dims.nbDims = static_cast<int32_t>(shape.size());
        for (size_t axis = 0; axis < shape.size(); ++axis)
        {
            dims.d[axis] = shape[axis] < 0 ? sizes.unknown(in.size(), axis) : sizes.constant(shape[axis]);
        }
        in.push_back(dims);
    }
    std::vector<DimsExprs> out(static_cast<size_t>(build().getNbOutputs()));
    int32_t const code = build().getOutputShapes(
        in.data(), static_cast<int32_t>(in.size()), nullptr, 0, out.data(), static_cast<int32_t>(out.size()), sizes);
    std::string text = std::to_string(code) + " [";
    for (size_t i = 0; code == 0 && i < out.size(); ++i)
    {
        text += i > 0 ? ",[" : "[";
        for (int32_t axis = 0; axis < out[i].nbDims; ++axis)
        {
            text += (axis > 0 ? "," : "") + static_cast<Size const&>(*out[i].d[axis]).text();
        }
        text += "]";
    }
    return text + "]";
}

std::string format(Words const& words)
{
    auto descs = describe(words.at(1));
    auto const outputs = build().getNbOutputs();
    auto const inputs = std::stoi(words.at(2)) - outputs;
    descs.resize(static_cast<size_t>(inputs + outputs));
    return build().supportsFormatCombination(std::stoi(words.at(0)), descs.data(), inputs, outputs) ? "yes" : "no";
}

// configure FORMATS MIN OPT MAX
std::string configure(Words const& words)
{
    auto descs = describe(words.at(0));
    auto const inputs = static_cast<int32_t>(descs.size()) - build().getNbOutputs();
    for (size_t i = 0; i < static_cast<size_t>(inputs); ++i)
    {
        descs[i].min = dimsOf(probe::lists(words.at(1), ',', 'x').at(i));
        descs[i].opt = dimsOf(probe::lists(words.at(2), ',', 'x').at(i));
        descs[i].max = dimsOf(probe::lists(words.at(3), ',', 'x').at(i));
    }
    return std::to_string(build().configurePlugin(descs.data(), inputs, descs.data() + inputs, build().getNbOutputs()));
}

std::string copy(Words const&)
{
    return created(gPlugin->clone());
}

std::string attach(Words const&)
{
    return created(runtime().attachToContext(nullptr));
}

// engine OP_TYPE: what the plugin wants stored is copied and given to the creator, as when an engine is loaded.
std::string engine(Words const& words)
{
    auto const* const stored = runtime().getFieldsToSerialize();
    if (stored == nullptr || stored->nbFields != 1)
    {
        return "null";
    }
    auto const field = stored->fields[0];
    std::string const name{field.name};
    std::string const bytes{static_cast<char const*>(field.data), static_cast<size_t>(field.length)};
    gPlugin.reset();
    PluginField const copy{name.c_str(), bytes.data(), field.type, field.length};
    PluginFieldCollection const collection{1, &copy};
    return created(creatorOf(words.at(0)).createPlugin("layer", &collection, TensorRTPhase::kRUNTIME)) + " "
           + std::to_string(bytes.size());
}

// run FORMATS SHAPES
std::string run(Words const& words)
{
    std::vector<PluginTensorDesc> descs;
    for (auto const& desc : describe(words.at(0)))
    {
        descs.push_back(desc.desc);
    }
    auto const given = probe::lists(words.at(1), ',', 'x');
    std::vector<void const*> inputs;
    for (size_t i = 0; i < given.size(); ++i)
    {
        descs.at(i).dims = dimsOf(given[i]);
        inputs.push_back(reinterpret_cast<void const*>(1000 + i));
    }
    std::vector<void*> outputs;
    for (size_t i = 0; i + given.size() < descs.size(); ++i)
    {
        outputs.push_back(reinterpret_cast<void*>(2000 + i));
    }
    auto const* const outputDescs = descs.data() + given.size();
    int32_t const changed = runtime().onShapeChange(
        descs.data(), static_cast<int32_t>(given.size()), outputDescs, static_cast<int32_t>(outputs.size()));
    std::string const prepared = fakeCudaTakeLog();
    int32_t const code = runtime().enqueue(
        descs.data(), outputDescs, inputs.data(), outputs.data(), nullptr, reinterpret_cast<cudaStream_t>(7));
    return std::to_string(changed) + " " + std::to_string(code) + " prepared: " + prepared
           + "enqueued: " + fakeCudaTakeLog();
}

std::string takeLog(Words const&)
{
    return stubTakeLog();
}

std::string fake(Words const& words)
{
    fakeCudaSet(words.at(0).c_str(), std::stoi(words.at(1)));
    return "ok";
}

} // namespace

int main(int argc, char** argv)
{
    if (argc != 3)
    {
        return 2;
    }
    bool const loads = std::strcmp(argv[1], "load") == 0;
    if ((loads ? getPluginRegistry()->loadLibrary(argv[2]) : dlopen(argv[2], RTLD_NOW)) == nullptr)
    {
        std::fprintf(stderr, "%s\n", loads ? stubTakeLog() : dlerror());
        return 1;
    }
    int const code = probe::serve({{"creators", creators}, {"create", create}, {"identity", identity}, {"types", types},
        {"shapes", shapes}, {"format", format}, {"configure", configure}, {"clone", copy}, {"attach", attach},
        {"engine", engine}, {"run", run}, {"log", takeLog}, {"fake", fake}});
    gPlugin.reset();
    return code;
}
