#include "trtdeploy/codec.h"

#include "trtdeploy/bytes.h"

namespace trtdeploy
{

namespace
{

constexpr uint32_t kMaxName = 1023; // TensorRT's limit
constexpr uint32_t kMaxItems = 256;
constexpr uint32_t kMaxProgram = 4096;
constexpr uint32_t kMaxAxes = 8; // TensorRT's limit
constexpr uint32_t kMaxPtx = 1U << 24;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxSharedBytes = 48 * 1024; // more would need an attribute of the function

template <typename Enum>
Enum readEnum(ByteReader& reader, Enum last, char const* what)
{
    uint8_t const value = reader.readByte();
    if (value > static_cast<uint8_t>(last))
    {
        throw Error(std::string{what} + ": unknown number " + std::to_string(value) + ".");
    }
    return static_cast<Enum>(value);
}

std::string readName(ByteReader& reader, char const* what)
{
    std::string name{reader.readBytes(kMaxName, what)};
    if (name.empty() || name.find('\0') != std::string::npos)
    {
        throw Error(std::string{what} + ": empty, or with a zero byte.");
    }
    return name;
}

bool readFlag(ByteReader& reader)
{
    enum class Flag : uint8_t
    {
        kFalse,
        kTrue
    };
    return readEnum(reader, Flag::kTrue, "Flag") == Flag::kTrue;
}

// Reads programs and checks what they refer to.
class ProgramReader
{
public:
    ProgramReader(ByteReader& reader, Definition const& definition)
        : mReader{reader}
        , mDefinition{definition}
    {
    }

    Program readProgram()
    {
        Program program(mReader.readCount(kMaxProgram, "Length of an expression"));
        for (auto& instruction : program)
        {
            instruction.op = readEnum(mReader, kLastOp, "Operation of an expression");
            if (!isBinary(instruction.op))
            {
                instruction.a = mReader.readInt64();
                instruction.b = mReader.readInt64();
                checkLeaf(instruction);
            }
        }
        checkProgram(program);
        return program;
    }

    std::vector<Program> readPrograms(char const* what, uint32_t limit = kMaxItems)
    {
        std::vector<Program> programs(mReader.readCount(limit, what));
        for (auto& program : programs)
        {
            program = readProgram();
        }
        return programs;
    }

private:
    void checkLeaf(Instruction const& leaf) const
    {
        auto const below = [](int64_t value, size_t limit)
        {
            return value >= 0 && static_cast<uint64_t>(value) < limit;
        };
        auto const& inputs = mDefinition.inputs;
        auto const& attributes = mDefinition.attributes;
        if (leaf.op == Op::kSize
            && !(below(leaf.a, inputs.size()) && below(leaf.b, inputs[static_cast<size_t>(leaf.a)].rank)))
        {
            throw Error("An expression refers to a size that no input has.");
        }
        if (leaf.op == Op::kAttribute
            && !(below(leaf.a, attributes.size()) && below(leaf.b, attributes[static_cast<size_t>(leaf.a)].length)))
        {
            throw Error("An expression refers to an attribute that is not there.");
        }
    }

    ByteReader& mReader;
    Definition const& mDefinition;
};

std::vector<Ptx> readPtx(ByteReader& reader, std::string const& entry)
{
    std::vector<Ptx> texts(reader.readCount(kMaxItems, "Number of PTX texts"));
    for (auto& ptx : texts)
    {
        ptx.capability = reader.readUint32();
        ptx.text = std::string{reader.readBytes(kMaxPtx, "Length of a PTX text")};
        // The driver takes a string that ends with a zero byte.
        if (ptx.text.empty() || ptx.text.find('\0') != std::string::npos)
        {
            throw Error("Kernel '" + entry + "' has an empty PTX text, or one with a zero byte.");
        }
    }
    if (texts.empty())
    {
        throw Error("Kernel '" + entry + "' has no PTX text.");
    }
    return texts;
}

Launch readLaunch(ByteReader& reader, ProgramReader& programs)
{
    Launch launch;
    launch.entry = readName(reader, "Name of a kernel");
    launch.dataType = readEnum(reader, DataType::kFloat16, "Data type");
    launch.layout = readEnum(reader, Layout::kHwc8, "Layout");
    launch.conditions = programs.readPrograms("Number of conditions");
    for (auto& extent : launch.grid)
    {
        extent = programs.readProgram();
    }
    launch.arguments = programs.readPrograms("Number of arguments");
    launch.block = reader.readUint32();
    launch.sharedBytes = reader.readCount(kMaxSharedBytes, "Shared memory of a kernel");
    launch.ptx = readPtx(reader, launch.entry);
    if (launch.block == 0 || launch.block > kMaxThreads)
    {
        throw Error("Kernel '" + launch.entry + "' has blocks of " + std::to_string(launch.block)
                    + " threads, expected 1 to " + std::to_string(kMaxThreads) + ".");
    }
    return launch;
}

void readTensors(ByteReader& reader, ProgramReader& programs, Definition& definition)
{
    definition.inputs.resize(reader.readCount(kMaxItems, "Number of inputs"));
    for (auto& input : definition.inputs)
    {
        input.name = readName(reader, "Name of an input");
        input.rank = reader.readCount(kMaxAxes, "Rank of an input");
        input.image = readFlag(reader);
    }
    definition.attributes.resize(reader.readCount(kMaxItems, "Number of attributes"));
    for (auto& attribute : definition.attributes)
    {
        attribute.name = readName(reader, "Name of an attribute");
        attribute.kind = readEnum(reader, AttributeKind::kInts, "Kind of an attribute");
        attribute.length = reader.readCount(kMaxItems, "Length of an attribute");
    }
    definition.outputs.resize(reader.readCount(kMaxItems, "Number of outputs"));
    for (auto& output : definition.outputs)
    {
        output.name = readName(reader, "Name of an output");
        output.dims = programs.readPrograms("Rank of an output", kMaxAxes);
        output.image = readFlag(reader);
    }
}

class DefinitionWriter
{
public:
    void write(Definition const& definition)
    {
        mBytes.writeBytes(definition.opType);
        writeTensors(definition);
        writePrograms(definition.conditions);
        mBytes.writeUint32(static_cast<uint32_t>(definition.launches.size()));
        for (auto const& launch : definition.launches)
        {
            writeLaunch(launch);
        }
    }

    std::string const& bytes() const
    {
        return mBytes.bytes();
    }

private:
    void writeTensors(Definition const& definition)
    {
        mBytes.writeUint32(static_cast<uint32_t>(definition.inputs.size()));
        for (auto const& input : definition.inputs)
        {
            mBytes.writeBytes(input.name);
            mBytes.writeUint32(input.rank);
            mBytes.writeByte(input.image ? 1 : 0);
        }
        mBytes.writeUint32(static_cast<uint32_t>(definition.attributes.size()));
        for (auto const& attribute : definition.attributes)
        {
            mBytes.writeBytes(attribute.name);
            mBytes.writeByte(static_cast<uint8_t>(attribute.kind));
            mBytes.writeUint32(attribute.length);
        }
        mBytes.writeUint32(static_cast<uint32_t>(definition.outputs.size()));
        for (auto const& output : definition.outputs)
        {
            mBytes.writeBytes(output.name);
            writePrograms(output.dims);
            mBytes.writeByte(output.image ? 1 : 0);
        }
    }

    void writeLaunch(Launch const& launch)
    {
        mBytes.writeBytes(launch.entry);
        mBytes.writeByte(static_cast<uint8_t>(launch.dataType));
        mBytes.writeByte(static_cast<uint8_t>(launch.layout));
        writePrograms(launch.conditions);
        for (auto const& extent : launch.grid)
        {
            writeProgram(extent);
        }
        writePrograms(launch.arguments);
        mBytes.writeUint32(launch.block);
        mBytes.writeUint32(launch.sharedBytes);
        mBytes.writeUint32(static_cast<uint32_t>(launch.ptx.size()));
        for (auto const& ptx : launch.ptx)
        {
            mBytes.writeUint32(ptx.capability);
            mBytes.writeBytes(ptx.text);
        }
    }

    void writePrograms(std::vector<Program> const& programs)
    {
        mBytes.writeUint32(static_cast<uint32_t>(programs.size()));
        for (auto const& program : programs)
        {
            writeProgram(program);
        }
    }

    void writeProgram(Program const& program)
    {
        mBytes.writeUint32(static_cast<uint32_t>(program.size()));
        for (auto const& instruction : program)
        {
            mBytes.writeByte(static_cast<uint8_t>(instruction.op));
            if (!isBinary(instruction.op))
            {
                mBytes.writeInt64(instruction.a);
                mBytes.writeInt64(instruction.b);
            }
        }
    }

    ByteWriter mBytes;
};

} // namespace

std::string writeDefinition(Definition const& definition)
{
    DefinitionWriter writer;
    writer.write(definition);
    return writer.bytes();
}

Definition readDefinition(std::string_view bytes)
{
    ByteReader reader{bytes};
    Definition definition;
    ProgramReader programs{reader, definition};
    definition.opType = readName(reader, "Name of an operation");
    readTensors(reader, programs, definition);
    definition.conditions = programs.readPrograms("Number of conditions");
    definition.launches.resize(reader.readCount(kMaxItems, "Number of launches"));
    for (auto& launch : definition.launches)
    {
        launch = readLaunch(reader, programs);
    }
    reader.finish();
    if (definition.inputs.empty() || definition.outputs.empty() || definition.launches.empty())
    {
        throw Error("Operation '" + definition.opType + "' lacks inputs, outputs or launches.");
    }
    return definition;
}

} // namespace trtdeploy
