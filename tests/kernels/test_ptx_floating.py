"""Floating-point instructions of the emulator, against exact arithmetic and the rules of the PTX ISA."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ptx_emulator.machine import Doubt
from ptx_snippets import compute

INF, NAN = math.inf, math.nan
TINY = 2.0**-149
"""The smallest float32."""


def _nearest(value: Fraction) -> np.float32:
    """Return a fraction rounded to float32, ties to even: among the neighbours of Python's rounding, the nearest."""
    guess = np.float32(float(value))
    near = [np.nextafter(guess, np.float32(-INF)), guess, np.nextafter(guess, np.float32(INF))]
    distances = [abs(Fraction(float(item)) - value) for item in near]
    best = [item for item, distance in zip(near, distances, strict=True) if distance == min(distances)]
    return next((item for item in best if item.view(np.uint32) % 2 == 0), best[0])


def test_fma_rounds_once() -> None:
    random = np.random.default_rng(1)
    a, b = (random.standard_normal(4000).astype(np.float32) for _ in range(2))
    c = (random.standard_normal(4000) * 2.0 ** random.integers(-30, 30, 4000)).astype(np.float32)
    # The products are 2^-70 below and above halfway to the next float32 after c: in float64 the sums are halfway.
    a[:3] = 2.0**-24 * (1 + 2.0**-23), 8392705 * 2.0**-35, -8392705 * 2.0**-35
    b[:3] = 1 - 2.0**-23, 8384513 * 2.0**-35, 8384513 * 2.0**-35
    c[:3] = 1 + 2.0**-23, 1, -1
    expected = [
        _nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)
    ]
    for start in range(0, 4000, 32):
        part = slice(start, start + 32)
        sources = [("f32", a[part]), ("f32", b[part]), ("f32", c[part])]
        result = compute("fma.rn.f32 {d}, {a}, {b}, {c};", sources, "f32")
        np.testing.assert_array_equal(result, expected[part])
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice[:3] != expected[:3]).all(), "rounding twice is right here, so nothing is tested"


def test_fma_of_subnormals_rounds_once() -> None:
    a, b, c = [2.0**-100, 2.0**-100, 1.5 * 2.0**-75], [2.0**-49, -(2.0**-50), 2.0**-75], [TINY, 3 * TINY, 2.0**-126]
    expected = [_nearest(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    result = compute("fma.rn.f32 {d}, {a}, {b}, {c};", [("f32", a), ("f32", b), ("f32", c)], "f32")
    np.testing.assert_array_equal(result, expected)


CASES: list[tuple[Any, ...]] = [
    (
        "add rounds to even",
        "add.f32",
        "f32 f32 f32",
        [1, 1 + 2 ** (-23)],
        [2 ** (-24), 2 ** (-24)],
        [1, 1 + 2 ** (-22)],
    ),
    ("add keeps subnormals", "add.f32 {d}, {a}, {a};", "f32 f32", [TINY], [2 * TINY]),
    ("add of infinities", "add.f32", "f32 f32 f32", [INF, INF], [-INF, 1], [NAN, INF]),
    ("sub", "sub.f32", "f32 f32 f32", [5], [7], [-2]),
    ("mul overflows", "mul.f32", "f32 f32 f32", [3, 2e38], [0.5, 2], [1.5, INF]),
    ("add of float16", "add.f16", "f16 f16 f16", [2048, 1], [1, 1], [2048, 2]),
    (
        "fma of infinity and 0",
        "fma.rn.f32",
        "f32 f32 f32 f32",
        [INF, INF, 2],
        [0, 1, 3],
        [1, -INF, INF],
        [NAN, NAN, INF],
    ),
    ("fma overflows", "fma.rn.f32", "f32 f32 f32 f32", [3e38, -3e38], [3, 3], [0, 0], [INF, -INF]),
    (
        "div.full",
        "div.full.f32",
        "f32 f32 f32",
        [1, 1, -1, 0, 1],
        [3, 0, 0, 0, INF],
        [np.float32(1 / 3), INF, -INF, NAN, 0],
    ),
    ("div.rn", "div.rn.f32", "f32 f32 f32", [2], [3], [np.float32(2 / 3)]),
    ("rcp.approx", "rcp.approx.f32", "f32 f32", [4, 0, INF, 2.0**127], [0.25, INF, 0, 2.0 ** (-127)]),
    ("rcp.approx.ftz", "rcp.approx.ftz.f32", "f32 f32", [4, 2.0**127, TINY], [0.25, 0, INF]),
    ("ex2", "ex2.approx.f32", "f32 f32", [3, 0, -INF, INF, NAN, -140], [8, 1, 0, INF, NAN, 2.0 ** (-140)]),
    ("ex2.ftz", "ex2.approx.ftz.f32", "f32 f32", [3, TINY, -140], [8, 1, 0]),
    ("neg", "neg.f32", "f32 f32", [1, -INF], [-1, INF]),
    ("abs", "abs.f32", "f32 f32", [-1, -INF], [1, INF]),
    ("max drops NaN", "max.f32", "f32 f32 f32", [NAN, 1, NAN, 2], [1, NAN, NAN, 3], [1, 1, NAN, 3]),
    ("max.NaN keeps it", "max.NaN.f32", "f32 f32 f32", [NAN, 1, 2], [1, NAN, 3], [NAN, NAN, 3]),
    ("min drops NaN", "min.f32", "f32 f32 f32", [NAN, 1, 2], [-1, NAN, 3], [-1, 1, 2]),
    ("min.NaN keeps it", "min.NaN.f32", "f32 f32 f32", [NAN, 1], [1, 2], [NAN, 1]),
    (
        "max of zeros is +0",
        "max.f32 {d}, {a}, {b}; div.full.f32 {d}, 0f3F800000, {d};",
        "f32 f32 f32",
        [-0.0, 0.0, -0.0],
        [0.0, -0.0, -0.0],
        [INF, INF, -INF],
    ),
    (
        "min of zeros is -0",
        "min.f32 {d}, {a}, {b}; div.full.f32 {d}, 0f3F800000, {d};",
        "f32 f32 f32",
        [-0.0, 0.0, 0.0],
        [0.0, -0.0, 0.0],
        [-INF, -INF, INF],
    ),
    (
        "cvt to float16 rounds to even",
        "cvt.rn.f16.f32",
        "f32 f16",
        [1 + 2 ** (-11), 1 + 3 * 2 ** (-11), 65520, 1e-09, NAN],
        [1, 1 + 2 ** (-9), INF, 0, NAN],
    ),
    ("cvt from float16", "cvt.f32.f16", "f16 f32", [1.5, 2 ** (-24), -INF], [1.5, 2 ** (-24), -INF]),
    ("cvt to two float16, the first one high", "cvt.rn.f16x2.f32", "f32 f32 b32", [1], [2], [0x3C00_4000]),
    ("cvt from s32", "cvt.rn.f32.s32", "s32 f32", [-3, (1 << 24) + 1, (1 << 24) + 3], [-3, 1 << 24, (1 << 24) + 4]),
    ("cvt from u32", "cvt.rn.f32.u32", "u32 f32", [0xFFFF_FFFF], [2.0**32]),
    (
        "cvt to s32 saturates",
        "cvt.rzi.s32.f32",
        "f32 s32",
        [-2.7, 3000000000.0, -INF, NAN],
        [-2, (1 << 31) - 1, -(1 << 31), 0],
    ),
    ("cvt to u32 saturates", "cvt.rni.u32.f32", "f32 u32", [2.5, 3.5, -1, 10000000000.0], [2, 4, 0, 0xFFFF_FFFF]),
    (
        "cvt down and up",
        "cvt.rmi.s32.f32 %r8, {a}; cvt.rpi.s32.f32 {d}, {a}; sub.s32 {d}, {d}, %r8;",
        "f32 s32",
        [2.5, -2.5, 4],
        [1, 1, 0],
    ),
    (
        "cvt to tf32 rounds halves away",
        "cvt.rna.tf32.f32",
        "f32 f32",
        [1 + 2 ** (-11), -1 - 2 ** (-11), 1 + 2 ** (-12), INF],
        [1 + 2 ** (-10), -1 - 2 ** (-10), 1, INF],
    ),
    ("constants", "mov.b32 {d}, 0f40490FDB; add.f32 {d}, {d}, {a};", "f32 f32", [0], [np.float32(np.pi)]),
]


@pytest.mark.parametrize("case", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_floating_point_instruction(case: tuple[Any, ...]) -> None:
    instruction, types, *sources, expected = case
    *source_types, result = types.split()
    found = compute(instruction, list(zip(source_types, sources, strict=True)), result)
    np.testing.assert_array_equal(found, np.array(expected).astype(found.dtype))


NUMBERS = {"lt": [1, 0, 0], "le": [1, 1, 0], "gt": [0, 0, 1], "ge": [0, 1, 1], "eq": [0, 1, 0], "ne": [1, 0, 1]}


@pytest.mark.parametrize("comparison", [*NUMBERS, *(f"{name}u" for name in NUMBERS), "num", "nan"])
def test_setp_compares_numbers_and_decides_on_not_a_number(comparison: str) -> None:
    sources = [("f32", [1, 2, 3, NAN, 2, NAN]), ("f32", [2, 2, 2, 2, NAN, NAN])]
    with_numbers = NUMBERS.get(comparison[:2], [int(comparison == "num")] * 3)
    with_nan = int(comparison == "nan" or (comparison.endswith("u") and comparison != "num"))
    result = compute(f"setp.{comparison}.f32 {{d}}, {{a}}, {{b}};", sources, "pred")
    np.testing.assert_array_equal(result, [*with_numbers, *[with_nan] * 3])


def test_not_a_number_has_the_bits_that_hardware_writes() -> None:
    bits = compute("sub.f32 {d}, {a}, {a};", [("f32", [INF])], "b32")
    assert bits[0] == 0x7FFF_FFFF
    assert compute("cvt.rn.f16.f32 {d}, {a};", [("f32", [NAN])], "b16")[0] == 0x7FFF


@pytest.mark.parametrize(
    "instruction", ["div.full.f32 {d}, {a}, {b};", "ex2.approx.f32 {d}, {a};", "rcp.approx.f32 {d}, {b};"]
)
def test_doubt_moves_approximate_results_by_at_most_its_ulps(instruction: str) -> None:
    values = np.random.default_rng(3).uniform(1, 2, 32).astype(np.float32)
    sources = [("f32", values), ("f32", values[::-1].copy())]
    exact = compute(instruction, sources, "f32")
    moved = compute(instruction, sources, "f32", Doubt(ulps=2, seed=5))
    apart = np.abs(moved.view(np.int32) - exact.view(np.int32))
    assert 1 <= apart.max() <= 2
    np.testing.assert_array_equal(moved, compute(instruction, sources, "f32", Doubt(ulps=2, seed=5)))
    assert (moved != compute(instruction, sources, "f32", Doubt(ulps=2, seed=6))).any()


def test_doubt_leaves_exact_results_alone() -> None:
    sources = [("f32", [1.1]), ("f32", [2.3])]
    for instruction in ("add.f32 {d}, {a}, {b};", "fma.rn.f32 {d}, {a}, {b}, {b};", "div.rn.f32 {d}, {a}, {b};"):
        assert compute(instruction, sources, "f32") == compute(instruction, sources, "f32", Doubt(ulps=2, seed=5))
