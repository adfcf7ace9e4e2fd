#include "trtdeploy/expression.h"

#include <algorithm>
#include <limits>
#include <string>

namespace trtdeploy
{

namespace
{

int64_t divide(int64_t a, int64_t b, bool up)
{
    if (b == 0)
    {
        throw Error("An expression divides " + std::to_string(a) + " by zero.");
    }
    if (a == std::numeric_limits<int64_t>::min() && b == -1)
    {
        throw Error("An expression overflows 64 bits.");
    }
    int64_t const quotient = a / b; // rounded towards zero
    bool const exact = quotient * b == a;
    bool const positive = (a < 0) == (b < 0);
    if (exact || positive != up)
    {
        return quotient;
    }
    return up ? quotient + 1 : quotient - 1;
}

} // namespace

void checkProgram(Program const& program)
{
    size_t open = 1; // values that are still to come
    for (auto const& instruction : program)
    {
        if (open == 0)
        {
            throw Error("An expression goes on after its end.");
        }
        open = isBinary(instruction.op) ? open + 1 : open - 1;
    }
    if (open != 0)
    {
        throw Error("An expression ends before its last operand.");
    }
}

int64_t Numbers::binary(Op op, int64_t a, int64_t b) const
{
    int64_t result{};
    bool overflow = false;
    switch (op)
    {
    case Op::kAdd: overflow = __builtin_add_overflow(a, b, &result); break;
    case Op::kSubtract: overflow = __builtin_sub_overflow(a, b, &result); break;
    case Op::kMultiply: overflow = __builtin_mul_overflow(a, b, &result); break;
    case Op::kFloorDivide: return divide(a, b, false);
    case Op::kCeilDivide: return divide(a, b, true);
    case Op::kMaximum: return std::max(a, b);
    case Op::kMinimum: return std::min(a, b);
    case Op::kEqual: return a == b ? 1 : 0;
    case Op::kLess: return a < b ? 1 : 0;
    default: throw Error("An expression uses a leaf as a binary operation.");
    }
    if (overflow)
    {
        throw Error("An expression overflows 64 bits.");
    }
    return result;
}

} // namespace trtdeploy
