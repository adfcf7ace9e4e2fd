// Integer expressions over the sizes and attributes of an operation: the C++ side of trtdeploy/kernels/expression.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "trtdeploy/error.h"

namespace trtdeploy
{

enum class Op : uint8_t
{
    kConstant,  // a: the number
    kSize,      // a: input, b: axis
    kAttribute, // a: attribute, b: element; a float stands for its IEEE 754 bits as int32
    kAdd,
    kSubtract,
    kMultiply,
    kFloorDivide,
    kCeilDivide,
    kMaximum,
    kMinimum,
    kEqual,
    kLess,
};

constexpr Op kLastOp = Op::kLess;

constexpr bool isBinary(Op op)
{
    return op >= Op::kAdd;
}

struct Instruction
{
    Op op{Op::kConstant};
    int64_t a{0};
    int64_t b{0};
};

// An expression tree in prefix order: a binary instruction is followed by its first and then its second operand.
using Program = std::vector<Instruction>;

using Shape = std::vector<int64_t>;
using Shapes = std::vector<Shape>;

// Values of a node's attributes, in the order of its definition. Floats are held as their bits.
using Attributes = std::vector<std::vector<int64_t>>;

// Throws Error unless the program is one whole tree. What it refers to is checked against a definition elsewhere.
void checkProgram(Program const& program);

// Returns the value of a checked program. `Arithmetic` says what a value is: a number, or TensorRT's symbolic size. It
// has constant(int64_t), size(operand, axis) and binary(op, a, b). Reading prefix order backwards needs a stack and no
// recursion.
template <typename Arithmetic>
auto evaluate(
    Program const& program, Arithmetic& arithmetic, Attributes const& attributes) -> decltype(arithmetic.constant(0))
{
    std::vector<decltype(arithmetic.constant(0))> stack;
    for (auto instruction = program.rbegin(); instruction != program.rend(); ++instruction)
    {
        auto const a = static_cast<size_t>(instruction->a);
        auto const b = static_cast<size_t>(instruction->b);
        switch (instruction->op)
        {
        case Op::kConstant: stack.push_back(arithmetic.constant(instruction->a)); break;
        case Op::kSize: stack.push_back(arithmetic.size(a, b)); break;
        case Op::kAttribute: stack.push_back(arithmetic.constant(attributes.at(a).at(b))); break;
        default:
        {
            auto const first = stack.back();
            stack.pop_back();
            stack.back() = arithmetic.binary(instruction->op, first, stack.back());
        }
        }
    }
    return stack.back();
}

// Arithmetic on known sizes. Overflow and division by zero throw Error; divisions round as in Python.
class Numbers
{
public:
    explicit Numbers(Shapes const& shapes)
        : mShapes{shapes}
    {
    }

    int64_t constant(int64_t value) const
    {
        return value;
    }

    int64_t size(size_t operand, size_t axis) const
    {
        return mShapes.at(operand).at(axis);
    }

    int64_t binary(Op op, int64_t a, int64_t b) const;

private:
    Shapes const& mShapes;
};

inline int64_t evaluateNumber(Program const& program, Shapes const& shapes, Attributes const& attributes)
{
    Numbers numbers{shapes};
    return evaluate(program, numbers, attributes);
}

} // namespace trtdeploy
