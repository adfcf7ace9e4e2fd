// What an operation is and how its kernels are launched: the C++ side of trtdeploy/kernels/spec.py.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "trtdeploy/expression.h"

namespace trtdeploy
{

enum class DataType : uint8_t
{
    kFloat32,
    kFloat16,
};

enum class Layout : uint8_t
{
    kLinear, // [N, C, H, W]
    kHwc8,   // [N, H, W, C8], C8 = C rounded up to 8, zeros behind C
};

char const* nameOf(DataType dataType);
char const* nameOf(Layout layout);

struct Operand
{
    std::string name;
    uint32_t rank{0};
    bool image{false}; // it comes in the launch's layout; others are linear
};

struct Result
{
    std::string name;
    std::vector<Program> dims;
    bool image{false};
};

enum class AttributeKind : uint8_t
{
    kFloats,
    kInts,
};

struct Attribute
{
    std::string name;
    AttributeKind kind{AttributeKind::kFloats};
    uint32_t length{1};
};

struct Ptx
{
    uint32_t capability{0}; // 75 or 80: it runs on this compute capability and on newer ones
    std::string text;
};

struct Launch
{
    std::string entry; // the kernel's name in the PTX
    DataType dataType{DataType::kFloat32};
    Layout layout{Layout::kLinear};
    std::vector<Program> conditions;
    std::array<Program, 3> grid;
    std::vector<Program> arguments;
    uint32_t block{0};
    uint32_t sharedBytes{0};
    std::vector<Ptx> ptx;

    // The newest PTX that runs on a device, or null.
    Ptx const* ptxFor(uint32_t capability) const;
};

struct Definition
{
    std::string opType;
    std::vector<Operand> inputs;
    std::vector<Result> outputs;
    std::vector<Attribute> attributes;
    std::vector<Program> conditions;
    std::vector<Launch> launches; // in order of preference

    size_t tensors() const
    {
        return inputs.size() + outputs.size();
    }

    // Inputs come before outputs.
    bool isImage(size_t tensor) const
    {
        return tensor < inputs.size() ? inputs[tensor].image : outputs[tensor - inputs.size()].image;
    }
};

// Leaves out what an engine cannot use: launches for other data types than those it was configured for, and PTX for
// other devices than the one it is built on. Where either is not known (none, or no device) everything stays.
Definition trim(Definition const& definition, std::optional<uint32_t> capability, std::set<DataType> const& dataTypes);

} // namespace trtdeploy
