// Questions to the part of the plugins without TensorRT, with a fake driver. See probe.h.
#include <cuda.h>

#include <atomic>
#include <memory>
#include <thread>

#include "fake_cuda.h"
#include "probe.h"
#include "trtdeploy/bytes.h"
#include "trtdeploy/codec.h"
#include "trtdeploy/launcher.h"
#include "trtdeploy/node.h"
#include "trtdeploy/table.h"

#undef cuCtxGetDevice
#undef cuLaunchKernel
extern "C" CUresult cuCtxGetDevice(CUdevice*);
extern "C" CUresult cuLaunchKernel(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
    unsigned int, unsigned int, CUstream, void**, void**);

namespace
{

using namespace trtdeploy;
using probe::Words;

Definition gDefinition; // that the next questions are about

Driver const kFakeDriver{cuCtxGetCurrent, cuCtxGetDevice, cuCtxGetId, cuDeviceGetAttribute, cuModuleLoadDataEx,
    cuModuleGetFunction, cuLaunchKernel, cuGetErrorString};

DataType dataTypeOf(std::string const& name)
{
    return name == "float16" ? DataType::kFloat16 : DataType::kFloat32;
}

Layout layoutOf(std::string const& name)
{
    return name == "hwc8" ? Layout::kHwc8 : Layout::kLinear;
}

Shapes shapesOf(std::string const& text)
{
    return probe::lists(text, ',', 'x');
}

Node nodeOf(std::string const& attributes)
{
    return Node{gDefinition, probe::lists(attributes, ';', ',')};
}

std::string joined(Words const& words)
{
    std::string text;
    for (auto const& word : words)
    {
        text += (text.empty() ? "" : " ") + word;
    }
    return text;
}

std::string table(Words const&)
{
    Words names;
    for (size_t i = 0; i < kTableSize; ++i)
    {
        auto const definition = readDefinition(kTable[i]);
        names.push_back(definition.opType + ":" + (writeDefinition(definition) == kTable[i] ? "same" : "differs"));
    }
    return joined(names);
}

std::string operation(Words const& words)
{
    for (size_t i = 0; i < kTableSize; ++i)
    {
        if (auto definition = readDefinition(kTable[i]); definition.opType == words.at(0))
        {
            gDefinition = std::move(definition);
            return "ok";
        }
    }
    return "not there";
}

std::string define(Words const& words)
{
    gDefinition = readDefinition(probe::fromHex(words.at(0)));
    return writeDefinition(gDefinition) == probe::fromHex(words.at(0)) ? "ok" : "written differently";
}

std::string outputs(Words const& words)
{
    return describe(nodeOf(words.at(1)).outputShapes(shapesOf(words.at(0))));
}

std::string plan(Words const& words)
{
    auto const node = nodeOf(words.at(4));
    auto const found = node.plan(dataTypeOf(words.at(0)), layoutOf(words.at(1)), shapesOf(words.at(3)),
        static_cast<uint32_t>(std::stoul(words.at(2))));
    if (found.launch == nullptr)
    {
        return "empty";
    }
    Words text{found.launch->entry};
    for (auto const extent : found.grid)
    {
        text.push_back(std::to_string(extent));
    }
    text.push_back(std::to_string(found.launch->block));
    text.push_back(std::to_string(found.launch->sharedBytes));
    for (auto const argument : found.arguments)
    {
        text.push_back(std::to_string(argument));
    }
    return joined(text);
}

std::vector<TensorFormat> formatsOf(std::string const& text)
{
    std::vector<TensorFormat> formats;
    for (auto const& word : probe::split(text, ','))
    {
        auto const parts = probe::split(word, ':');
        TensorFormat format;
        if (parts.at(0) != "other")
        {
            format.dataType = dataTypeOf(parts[0]);
        }
        if (parts.at(1) != "other")
        {
            format.layout = layoutOf(parts[1]);
        }
        formats.push_back(format);
    }
    return formats;
}

std::string format(Words const& words)
{
    return supportsFormat(gDefinition, std::stoul(words.at(0)), formatsOf(words.at(1))) ? "yes" : "no";
}

std::string state(Words const& words)
{
    std::optional<uint32_t> capability;
    if (words.at(0) != "-")
    {
        capability = static_cast<uint32_t>(std::stoul(words[0]));
    }
    std::set<DataType> dataTypes;
    for (auto const& name : probe::split(words.at(1), ','))
    {
        if (name != "-")
        {
            dataTypes.insert(dataTypeOf(name));
        }
    }
    return probe::toHex(nodeOf(words.at(2)).serialise(capability, dataTypes));
}

std::string read(Words const& words)
{
    auto const node = Node::deserialise(probe::fromHex(words.at(0)));
    Words text{node->definition().opType};
    for (auto const& values : node->attributes())
    {
        for (auto const value : values)
        {
            text.push_back(std::to_string(value));
        }
    }
    for (auto const& launch : node->definition().launches)
    {
        text.push_back(launch.entry);
        for (auto const& ptx : launch.ptx)
        {
            text.push_back(std::to_string(ptx.capability) + ":" + std::to_string(ptx.text.size()));
        }
    }
    return joined(text);
}

// Reads damaged data; whatever is accepted must then compute or throw, and nothing else.
bool survives(std::string const& bytes, Shapes const& shapes)
{
    std::vector<char> const exact{bytes.begin(), bytes.end()}; // a string has a byte behind its end that may be read
    try
    {
        auto const node = Node::deserialise({exact.data(), exact.size()});
        for (auto const dataType : {DataType::kFloat32, DataType::kFloat16})
        {
            try
            {
                node->plan(dataType, Layout::kLinear, shapes, 90);
            }
            catch (Error const&)
            {
            }
        }
        return true;
    }
    catch (Error const&)
    {
        return false;
    }
}

std::string withChecksum(std::string bytes)
{
    constexpr size_t kHead = 20; // magic, format, checksum
    ByteWriter sum;
    sum.writeUint64(checksum(std::string_view{bytes}.substr(kHead)));
    return bytes.replace(kHead - sum.bytes().size(), sum.bytes().size(), sum.bytes());
}

// damage SHAPES ATTRIBUTES: cuts the state at every length and changes every byte to every power of two and to its
// opposite.
std::string damage(Words const& words)
{
    auto const shapes = shapesOf(words.at(0));
    std::string const whole = nodeOf(words.at(1)).serialise(std::nullopt, {});
    size_t truncated = 0;
    size_t corrupted = 0;
    size_t forged = 0; // accepted although changed, because the checksum was made to fit
    for (size_t length = 0; length < whole.size(); ++length)
    {
        truncated += survives(whole.substr(0, length), shapes) ? 1 : 0;
        if (length >= 20)
        {
            truncated += survives(withChecksum(whole.substr(0, length)), shapes) ? 1 : 0;
        }
        for (int const bit : {1, 2, 4, 8, 16, 32, 64, 128, 255})
        {
            std::string changed = whole;
            changed[length] = static_cast<char>(changed[length] ^ bit);
            corrupted += survives(changed, shapes) ? 1 : 0;
            forged += length >= 20 && survives(withChecksum(changed), shapes) ? 1 : 0;
        }
    }
    return std::to_string(whole.size()) + " bytes, accepted: " + std::to_string(truncated) + " truncated, "
           + std::to_string(corrupted) + " corrupted, " + std::to_string(forged) + " forged";
}

struct Pointers
{
    explicit Pointers(Definition const& definition)
    {
        for (size_t i = 0; i < definition.inputs.size(); ++i)
        {
            inputs.push_back(reinterpret_cast<void const*>(1000 + i));
        }
        for (size_t i = 0; i < definition.outputs.size(); ++i)
        {
            outputs.push_back(reinterpret_cast<void*>(2000 + i));
        }
    }

    std::vector<void const*> inputs;
    std::vector<void*> outputs;
};

void run(Launcher& launcher, Node const& node, Words const& words)
{
    Pointers const pointers{node.definition()};
    std::vector<TensorFormat> const formats(
        node.definition().tensors(), TensorFormat{dataTypeOf(words.at(0)), layoutOf(words.at(1))});
    launcher.launch(node, kFakeDriver, formats, shapesOf(words.at(2)), pointers.inputs.data(), pointers.outputs.data(),
        reinterpret_cast<CUstream>(7));
}

// launch TYPE LAYOUT SHAPES ATTRIBUTES [SHAPES...]: one launcher, the shapes in turn.
std::string launch(Words const& words)
{
    auto const node = nodeOf(words.at(3));
    Launcher launcher;
    run(launcher, node, words);
    for (size_t i = 4; i < words.size(); ++i)
    {
        run(launcher, node, {words[0], words[1], words[i]});
    }
    return fakeCudaTakeLog();
}

// threads COUNT TYPE LAYOUT SHAPES ATTRIBUTES: a launcher in every thread, all of one node.
std::string threads(Words const& words)
{
    auto const node = nodeOf(words.at(4));
    std::vector<std::thread> workers;
    std::atomic<bool> go{false};
    for (int i = 0; i < std::stoi(words.at(0)); ++i)
    {
        workers.emplace_back(
            [&]
            {
                Launcher launcher;
                while (!go)
                {
                    std::this_thread::yield();
                }
                for (int repeat = 0; repeat < 50; ++repeat)
                {
                    run(launcher, node, {words[1], words[2], words[3]});
                }
            });
    }
    go = true;
    for (auto& worker : workers)
    {
        worker.join();
    }
    return fakeCudaTakeLog();
}

std::string fake(Words const& words)
{
    fakeCudaSet(words.at(0).c_str(), std::stoi(words.at(1)));
    return "ok";
}

} // namespace

int main()
{
    return probe::serve({{"table", table}, {"operation", operation}, {"define", define}, {"outputs", outputs},
        {"plan", plan}, {"format", format}, {"state", state}, {"read", read}, {"damage", damage}, {"launch", launch},
        {"threads", threads}, {"fake", fake}});
}
