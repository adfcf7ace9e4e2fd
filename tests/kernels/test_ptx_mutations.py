"""The tests of the packaged kernels can fail: they see mistakes in the table and in the PTX text, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from packaged_cases import Case, Shapes, chosen_shapes, expected, make_case, tolerance_of, worst_error
from packaged_kernels import Packaged, packaged_kernel, packaged_launches, run
from ptx_emulator.errors import PtxError
from ptx_emulator.machine import Doubt
from ptx_emulator.parser import Kernel, parse

from trtdeploy.kernels.store import ptx_text

LAUNCHES = packaged_launches()
Entry = Mapping[str, Any]


def _is_right(packaged: Packaged, case: Case, kernel: Kernel, entry: Entry | None = None) -> bool:
    """Return whether the tests of the packaged kernels would pass."""
    try:
        results = run(packaged, case.inputs, case.attributes, kernel=kernel, entry=entry, doubt=Doubt(ulps=2))
    except PtxError:
        return False
    return worst_error(results, expected(case)) < tolerance_of(packaged)


def _cases(packaged: Packaged, *, spoilt: bool = False) -> list[Case]:
    """Return what the tests run: some shapes, and for `spoilt` NaN in the first input."""
    cases = [make_case(packaged, shapes, seed) for seed, shapes in enumerate(chosen_shapes(packaged, 3))]
    if spoilt:
        cases[0].inputs[0].reshape(-1)[0] = np.nan
    return cases


def _with(**changes: Any) -> Callable[[Entry], Entry]:
    """Return a change of an entry: each value, or what a function makes of the old one."""
    return lambda entry: {
        **entry,
        **{key: value(entry[key]) if callable(value) else value for key, value in changes.items()},
    }


def _grid(change: Callable[[Any], Any]) -> Callable[[Entry], Entry]:
    return _with(grid=lambda grid: [change(grid[0]), *grid[1:]])


def _swapped(a: int, b: int) -> Callable[[list[Any]], list[Any]]:
    def swap(items: list[Any]) -> list[Any]:
        items = list(items)
        items[a], items[b] = items[b], items[a]
        return items

    return swap


EPSILON = ["attr", "epsilon", 0]
WAIT = r"cp\.async\.wait_group +0;"
MMA = r"(mma\S+ +\{[^}]*\}, \{ ?%r\d+, )(%r\d+), (%r\d+)"
H, W = ["dim", 0, 2], ["dim", 0, 3]
TABLE: list[tuple[str, str, Callable[[Entry], Entry]]] = [
    ("block of half the threads", "simam_gate_f16_linear_512_wide", _with(block=32)),
    ("block of twice the threads", "coord_pool_f32_linear_32", _with(block=256)),
    ("grid one short", "simam_gate_f32_linear_512", _grid(lambda x: ["-", x, 1])),
    ("grid one short, of many tiles", "spatial_gate_f16_linear", _grid(lambda x: ["-", x, 1])),
    ("grid one too long", "channel_pool_f16_linear", _grid(lambda x: ["+", x, 1])),
    ("grid rounded down", "gate_multiply_f32_linear_any", _grid(lambda x: ["*", x[1], ["//", ["*", H, W], 1024]])),
    ("grid of channels forgotten", "coord_gate_f16_linear_32", _grid(lambda _: ["dim", 0, 0])),
    ("arguments C and H W swapped", "channel_pool_f32_linear", _with(arguments=_swapped(0, 1))),
    ("arguments H and W swapped", "coord_pool_f16_linear_128", _with(arguments=_swapped(1, 2))),
    ("arguments H and W swapped in a gate", "spatial_gate_f32_linear", _with(arguments=_swapped(1, 2))),
    ("argument missing", "simam_gate_f16_linear_512", _with(arguments=lambda items: items[:-1])),
    ("argument too many", "simam_gate_f16_linear_512", _with(arguments=lambda items: [*items, 1])),
    (
        "bits of a float as its integer",
        "simam_gate_f32_linear_512",
        _with(arguments=lambda items: [*items[:-1], EPSILON]),
    ),
    ("queries for keys", "scaled_dot_product_f16_linear_d32", _with(arguments=_swapped(0, 1))),
    ("stride of a broadcast axis", "gate_multiply_f16_linear_any", _with(arguments=lambda items: [*items[:-1], 1])),
    ("no shared memory", "simam_gate_f16_linear_512_wide", _with(shared_bytes=0)),
    ("shared memory too small", "scaled_dot_product_f16_linear_d64_wide", _with(shared_bytes=lambda size: size - 16)),
    ("shared memory over the limit", "scaled_dot_product_f16_linear_d64_wide", _with(shared_bytes=65536)),
    ("linear taken for hwc8", "coord_gate_f16_linear_32", _with(layout="hwc8")),
    ("hwc8 taken for linear", "simam_gate_f16_hwc8_512", _with(layout="linear")),
    ("float32 taken for float16", "gate_multiply_f32_linear_point", _with(data_type="float16")),
    ("float16 taken for float32", "spatial_pool_f16_linear", _with(data_type="float32")),
]
SIZES: list[tuple[str, str, Shapes]] = [
    ("wide accesses on an odd plane", "simam_gate_f16_linear_512_wide", ((1, 2, 7, 13),)),
    ("wide accesses on an odd row", "coord_pool_f32_linear_32_wide", ((1, 2, 4, 13),)),
    (
        "wide accesses on odd keys",
        "scaled_dot_product_f16_linear_d16_wide",
        ((1, 1, 9, 16), (1, 1, 16, 27), (1, 1, 27, 16)),
    ),
    ("a plane larger than the block", "simam_gate_f32_linear_512", ((1, 2, 27, 19),)),
    ("a row longer than the tile", "coord_pool_f16_linear_32", ((1, 2, 3, 33),)),
    (
        "a head wider than the kernel's",
        "scaled_dot_product_f32_linear_d16",
        ((1, 1, 9, 32), (1, 1, 32, 11), (1, 1, 11, 32)),
    ),
    ("a gate per row where one per plane is read", "gate_multiply_f32_linear_point", ((1, 2, 5, 7), (1, 2, 5, 1))),
]
TEXT: list[tuple[str, str, str, str]] = [
    (
        "hidden parameter not stripped",
        "simam_gate_f16_linear_512",
        r"(\.param .*_param_4)\n",
        r"\1,\n.param .u64 scratch\n",
    ),
    ("mask that lets one more in", "simam_gate_f16_linear_512", r"setp\.lt\.s32", "setp.le.s32"),
    ("mask that lets one more row in", "coord_pool_f32_linear_32", r"setp\.lt\.s32", "setp.le.s32"),
    ("mask at the upper edge", "spatial_gate_f32_linear_wide", r"([\s\S]*setp\.gt\.s32 +%p\d+, %r\d+), -1", r"\1, 0"),
    ("store without its mask", "gate_multiply_f16_linear_any", r"@%p\d+ (?=st\.global)", ""),
    ("store with the opposite mask", "gate_multiply_f16_linear_any", r"@(?=%p\d+ st\.global)", "@!"),
    ("barrier dropped before the first exchange", "simam_gate_f16_linear_512_wide", r"bar\.sync +0;", ""),
    ("last barrier dropped", "coord_pool_f32_linear_128_wide", r"bar\.sync +0;(?![\s\S]*bar\.sync)", ""),
    ("barrier of a warp dropped", "scaled_dot_product_f16_linear_d16_wide", r"bar\.warp\.sync +-1;", ""),
    ("wait for copies dropped", "scaled_dot_product_f16_linear_d32_wide", WAIT, ""),
    ("wait leaves a group open", "scaled_dot_product_f16_linear_d32_wide", WAIT, "cp.async.wait_group 1;"),
    ("matrix not transposed", "scaled_dot_product_f16_linear_d64_wide", r"x4\.trans", "x4"),
    ("matrix operands swapped", "scaled_dot_product_f16_linear_d32", MMA, r"\1\3, \2"),
    ("TF32 once instead of three times", "scaled_dot_product_f32_linear_d32", r"cvt\.rna\.tf32\.f32", "mov.b32"),
    ("constant 1/4", "simam_gate_f32_linear_512_wide", r"0f3E800000", "0f3E804000"),
    ("constant 1/2", "simam_gate_f16_linear_2048_wide", r"0f3F000000", "0f3F080000"),
    ("constant log2(e)", "coord_gate_f32_linear_32", r"0fBFB8AA3B", "0fBFB8A000"),
    ("constant 1 in a sigmoid", "gate_multiply_f32_linear_point", r"0f3F800000", "0f3F800100"),
    ("size of an element", "spatial_pool_f32_linear", r"(shl\.b64 +%rd\d+, %rd\d+), 2", r"\1, 1"),
    ("offset of a vector", "gate_multiply_f16_linear_point_wide", r"(ld\.global\.v4\.b32 [^;]*\+ )0", r"\g<1>16"),
    ("vector off by an element", "spatial_pool_f16_linear_wide", r"(ld\.global\.v4\.b32 [^;]*\+ )0", r"\g<1>2"),
    ("distance of a shuffle", "channel_pool_f16_linear", r"(shfl\.sync\.bfly\.b32 [^;]*), 16, 31", r"\1, 8, 31"),
    ("sum for a maximum", "spatial_pool_f32_linear_wide", r"max\.NaN\.f32|max\.f32", "add.f32"),
    ("minimum for a maximum", "scaled_spatial_pool_f16_linear_wide", r"max(?=\.(?:NaN\.)?f32)", "min"),
    ("maximum without NaN", "channel_pool_f32_linear_wide", r"max\.NaN\.f32", "max.f32"),
    ("zero for minus infinity", "channel_pool_f16_linear", r"([\s\S]*)0fFF800000", r"\g<1>0f00000000"),
    ("remainder for a quotient", "coord_gate_f16_linear_128", r"div\.s32", "rem.s32"),
    ("index of a block in another axis", "simam_gate_f16_linear_512", r"%ctaid\.x", "%ctaid.y"),
    ("threads of .reqntid", "simam_gate_f16_linear_512", r"\.reqntid 64", ".reqntid 128"),
    ("an unknown instruction", "simam_gate_f16_linear_512", r"shfl\.sync\.bfly\.b32", "shfl.bfly.b32"),
]


@pytest.mark.parametrize(("name", "change"), [item[1:] for item in TABLE], ids=[item[0] for item in TABLE])
def test_mistake_in_the_table_is_seen(name: str, change: Callable[[Entry], Entry]) -> None:
    packaged = LAUNCHES[f"trtdeploy_{name}"]
    kernel, entry = packaged_kernel(packaged.launch.name, "sm80"), change(packaged.entry)
    assert entry != packaged.entry
    assert not all(_is_right(packaged, case, kernel, entry) for case in _cases(packaged))


@pytest.mark.parametrize(("name", "shapes"), [item[1:] for item in SIZES], ids=[item[0] for item in SIZES])
def test_launch_on_sizes_that_its_conditions_exclude_is_seen(name: str, shapes: Shapes) -> None:
    packaged = LAUNCHES[f"trtdeploy_{name}"]
    assert not packaged.is_chosen(shapes)
    assert not _is_right(packaged, make_case(packaged, shapes), packaged_kernel(packaged.launch.name, "sm80"))


@pytest.mark.parametrize(
    ("name", "pattern", "replacement"), [item[1:] for item in TEXT], ids=[item[0] for item in TEXT]
)
def test_mistake_in_the_text_is_seen(name: str, pattern: str, replacement: str) -> None:
    packaged = LAUNCHES[f"trtdeploy_{name}"]
    text = ptx_text(packaged.launch.name, "sm80")
    mutated = re.sub(pattern, replacement, text, count=1)
    assert mutated != text, "the pattern is not in the text any more: change it, or take another kernel"
    cases = _cases(packaged, spoilt=True)
    assert all(_is_right(packaged, case, parse(text)) for case in cases)
    try:
        kernel = parse(mutated)
    except PtxError:
        return
    assert not all(_is_right(packaged, case, kernel) for case in cases)
