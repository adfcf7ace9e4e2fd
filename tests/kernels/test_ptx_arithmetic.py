"""Integers, bits, comparisons and moves of the emulator, against results worked out from the PTX ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx_emulator.errors import PtxError
from ptx_snippets import compute, run_body

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1
CASES: list[tuple[Any, ...]] = [
    ("add wraps", "add.s32", "s32 s32 s32", [1, INT_MAX], [2, 1], [3, INT_MIN]),
    ("sub wraps", "sub.s32", "s32 s32 s32", [1, INT_MIN], [2, 1], [-1, INT_MAX]),
    ("add of 64 bits", "add.s64", "s64 s64 s64", [1 << 40], [5], [(1 << 40) + 5]),
    ("mul.lo keeps the low half", "mul.lo.s32", "s32 s32 s32", [-3, 1 << 30], [7, 4], [-21, 0]),
    ("mul.wide is signed", "mul.wide.s32", "s32 s32 s64", [-3, INT_MAX], [4, 2], [-12, 2 * INT_MAX]),
    ("mul.wide is unsigned", "mul.wide.u32", "u32 u32 u64", [0xFFFF_FFFF], [2], [0x1_FFFF_FFFE]),
    ("mad.lo wraps", "mad.lo.s32", "s32 s32 s32 s32", [3, INT_MAX], [4, 1], [5, 1], [17, INT_MIN]),
    ("mad.lo of 64 bits", "mad.lo.s64", "s64 s64 s64 s64", [1 << 33], [-4], [7], [7 - (1 << 35)]),
    ("mad.wide", "mad.wide.s32", "s32 s32 s64 s64", [-2], [INT_MAX], [1], [1 - 2 * INT_MAX]),
    ("neg", "neg.s32", "s32 s32", [5, -7], [-5, 7]),
    ("abs", "abs.s32", "s32 s32", [5, -7], [5, 7]),
    ("div rounds to zero", "div.s32", "s32 s32 s32", [7, -7, 7, -7], [2, 2, -2, -2], [3, -3, -3, 3]),
    ("rem has the sign of a", "rem.s32", "s32 s32 s32", [7, -7, 7, -7], [2, 2, -2, -2], [1, -1, 1, -1]),
    ("div is unsigned", "div.u32", "u32 u32 u32", [0xFFFF_FFFF], [2], [0x7FFF_FFFF]),
    ("min and max are signed", "min.s32", "s32 s32 s32", [-1, 4], [3, 2], [-1, 2]),
    ("max is unsigned", "max.u32", "u32 u32 u32", [0xFFFF_FFFF], [3], [0xFFFF_FFFF]),
    ("and", "and.b32 {d}, {a}, 12;", "b32 b32", [10], [8]),
    ("or", "or.b64", "b64 b64 b64", [1 << 40], [2], [(1 << 40) + 2]),
    ("xor", "xor.b16", "b16 b16 b16", [0xF0F0], [0xFFFF], [0x0F0F]),
    ("not", "not.b32", "b32 b32", [15], [0xFFFF_FFF0]),
    ("shl by 32 and more is 0", "shl.b32", "b32 u32 b32", [3, 3, 3, 3], [1, 31, 32, 0xFFFF_FFFF], [6, 1 << 31, 0, 0]),
    ("shl of 16 bits", "shl.b16", "b16 u32 b16", [3, 3], [15, 16], [0x8000, 0]),
    ("shr of signed keeps the sign", "shr.s32", "s32 u32 s32", [-8, -8], [1, 99], [-4, -1]),
    ("shr of unsigned brings zeros", "shr.u32", "u32 u32 u32", [1 << 31, 1 << 31], [31, 32], [1, 0]),
    ("shf.l.wrap", "shf.l.wrap.b32", "b32 b32 u32 b32", [0x8000_0001, 5], [16, 6], [4, 32], [264, 6]),
    ("selp", "selp.b32", "b32 b32 pred b32", [1, 2], [3, 4], [1, 0], [1, 4]),
    ("setp is signed", "setp.lt.s32", "s32 s32 pred", [-1, 1, 1], [1, -1, 1], [1, 0, 0]),
    ("setp is unsigned", "setp.gt.u32", "u32 u32 pred", [0xFFFF_FFFF], [1], [1]),
    ("setp.lo is setp.lt", "setp.lo.u32", "u32 u32 pred", [1, 2], [2, 2], [1, 0]),
    ("setp le, ge", "setp.le.s64", "s64 s64 pred", [1, 2, 3], [2, 2, 2], [1, 1, 0]),
    ("setp and", "setp.eq.and.b32 {d}, {a}, 5, {b};", "b32 pred pred", [5, 5, 4], [1, 0, 1], [1, 0, 0]),
    ("setp or", "setp.ne.or.b32 {d}, {a}, 5, !{b};", "b32 pred pred", [5, 5, 4], [1, 0, 1], [0, 1, 1]),
    ("second predicate is the opposite", "setp.ge.s32 %p7|{d}, {a}, 3;", "s32 pred", [2, 3], [1, 0]),
    (
        "predicates",
        "xor.pred %p8, {a}, {b}; and.pred %p8, %p8, {a}; not.pred %p9, %p8; or.pred {d}, %p9, 0;",
        "pred pred pred",
        [1, 1, 0],
        [0, 1, 1],
        [0, 1, 1],
    ),
    ("mov.pred", "mov.pred {d}, -1; @{a} mov.pred {d}, 0;", "pred pred", [0, 1], [1, 0]),
    (
        "mov unpacks",
        "mov.b32 {{%rs5, %rs6}}, {a}; mov.b32 {d}, {{%rs6, %rs5}};",
        "b32 b32",
        [0x1234_5678],
        [0x5678_1234],
    ),
    ("mov leaves a part out", "mov.b32 {{_, {d}}}, {a};", "b32 b16", [0x1234_5678], [0x1234]),
    (
        "mov of 64 bits",
        "mov.b64 {{%r5, %r6}}, {a}; mov.b64 {d}, {{%r6, %r5}};",
        "b64 b64",
        [0x1111_1111_2222_2222],
        [2459565876208275729],
    ),
    ("cvt extends the sign", "cvt.s64.s32", "s32 s64", [-5], [-5]),
    ("cvt extends with zeros", "cvt.u64.u32", "u32 u64", [0xFFFF_FFFF], [0xFFFF_FFFF]),
    ("cvt cuts", "cvt.u32.u64", "u64 u32", [(7 << 32) + 9], [9]),
    ("cvt to 16 bits", "cvt.u16.u32", "u32 u16", [0x1_2345], [0x2345]),
    ("immediates", "mov.b32 {d}, 0x10; add.s32 {d}, {d}, -1; add.s32 {d}, {d}, {a};", "s32 s32", [0], [15]),
]


@pytest.mark.parametrize("case", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_integer_instruction(case: tuple[Any, ...]) -> None:
    instruction, types, *sources, expected = case
    *source_types, result = types.split()
    found = compute(instruction, list(zip(source_types, sources, strict=True)), result)
    np.testing.assert_array_equal(found, np.array(expected).astype(found.dtype))


@pytest.mark.parametrize("kind", ["u", "s"])
def test_bfe_is_what_the_isa_writes_bit_by_bit(kind: str) -> None:
    value, expected, positions, lengths = 0xA5C3_0F96, [], [], []
    for position, length in [(0, 0), (4, 8), (3, 32), (31, 1), (31, 4), (32, 4), (40, 40), (0, 32), (28, 200)]:
        sign = 0 if kind == "u" or length == 0 else value >> min(position + length - 1, 31) & 1
        taken = [value >> position + i & 1 if i < length and position + i <= 31 else sign for i in range(32)]
        expected.append(sum(bit << i for i, bit in enumerate(taken)))
        positions.append(position)
        lengths.append(length)
    sources = [("b32", [value] * len(positions)), ("u32", positions), ("u32", lengths)]
    np.testing.assert_array_equal(compute(f"bfe.{kind}32 {{d}}, {{a}}, {{b}}, {{c}};", sources, "b32"), expected)


def test_special_registers_name_thread_and_block() -> None:
    body = """
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %nctaid.x; mov.u32 %r4, %ctaid.y; mov.u32 %r5, %ntid.x; mov.u32 %r6, %laneid;
    mad.lo.u32 %r7, %r4, %r3, %r2;
    mad.lo.u32 %r8, %r7, %r5, %r0;
    mad.wide.u32 %rd3, %r8, 4, %rd1;
    mad.lo.u32 %r1, %r2, 1000, %r6;
    mad.lo.u32 %r1, %r4, 10000, %r1;
"""
    result = run_body(body, 3 * 2 * 64, threads=64, grid=(3, 2, 1)).reshape(2, 3, 64)
    y, x, thread = np.indices((2, 3, 64))
    np.testing.assert_array_equal(result, y * 10000 + x * 1000 + thread % 32)


def test_division_by_zero_is_an_error_only_where_it_happens() -> None:
    guarded = "setp.ne.s32 %p1, {b}, 0; mov.b32 {d}, 7; @%p1 div.s32 {d}, {a}, {b};"
    assert compute(guarded, [("s32", [6, 6]), ("s32", [0, 3])], "s32").tolist() == [7, 2]
    with pytest.raises(PtxError, match=r"division by zero: div\.s32"):
        compute("div.s32 {d}, {a}, {b};", [("s32", [6]), ("s32", [0])], "s32")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("vote.sync.any.pred %p1, %p2, -1;", "'vote.sync.any.pred' is not known"),
        ("add.sat.s32 {d}, {a}, {a};", "'add.sat.s32' is not known"),
        ("add.s32 {d}, {a};", "has 2 operands"),
        ("add.s64 {d}, {a}, {a};", "uses %r9 of 32 bits for 64"),
        ("add.s32 {d}, {a}, %r60;", "Register %r60 is not declared"),
        ("add.s32 {d}, {a}, symbol;", "operand 'symbol', which is not known"),
        ("add.s32 {d}, {a}, %r40;", "%r40 is read before anything was written to it"),
        ("setp.lt.b32 %p1, {a}, {a};", "orders bits"),
        ("setp.lo.s32 %p1, {a}, {a};", "compares signed numbers as unsigned"),
        ("mov.u64 %rd5, %tid.x;", "reads %tid.x as u64"),
    ],
)
def test_what_is_not_known_is_an_error(instruction: str, message: str) -> None:
    with pytest.raises(PtxError, match=message.replace(".", r"\.")):
        compute(instruction + " mov.b32 {d}, {a};", [("b32", [1])], "b32")
