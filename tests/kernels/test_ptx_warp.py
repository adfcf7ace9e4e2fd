"""Shuffles, reductions, matrix loads and products of the emulator, against the figures of the PTX ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx_emulator.errors import PtxError
from ptx_snippets import compute, run_body

LANE = np.arange(32)


@pytest.mark.parametrize(
    ("mode", "b", "c", "expected"),
    [
        ("bfly", 1, 31, LANE ^ 1),
        ("bfly", 16, 31, LANE ^ 16),
        ("idx", 5, 31, np.full(32, 5)),
        ("down", 3, 31, np.where(LANE + 3 > 31, LANE, LANE + 3)),
        ("up", 3, 0, np.where(LANE < 3, LANE, LANE - 3)),
        ("bfly", 12, 0x1800 | 31, np.where((LANE ^ 12) <= (LANE & 24 | 7), LANE ^ 12, LANE)),  # segments of 8 lanes
        ("idx", 5, 0x1800 | 31, LANE // 8 * 8 + 5),
        ("down", 2, 0x1800 | 31, np.where(LANE % 8 + 2 > 7, LANE, LANE + 2)),
    ],
)
def test_shuffle_takes_the_value_of_the_lane_that_the_isa_says(mode: str, b: int, c: int, expected: Any) -> None:
    found = compute(f"shfl.sync.{mode}.b32 {{d}}, {{a}}, {b}, {c}, -1;", [("b32", LANE + 100)], "b32")
    np.testing.assert_array_equal(found, expected + 100)


def test_shuffle_says_which_lanes_got_a_value() -> None:
    found = compute("shfl.sync.down.b32 %r8|{d}, {a}, 4, 31, -1;", [("b32", LANE)], "pred")
    np.testing.assert_array_equal(found, LANE < 28)


@pytest.mark.parametrize(("operation", "expected"), [("max", 7), ("min", -24), ("add", -272)])
def test_reduction_of_a_warp(operation: str, expected: int) -> None:
    found = compute(f"redux.sync.{operation}.s32 {{d}}, {{a}}, -1;", [("s32", 7 - LANE)], "s32")
    np.testing.assert_array_equal(found, np.full(32, expected))


@pytest.mark.parametrize("instruction", ["shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;", "redux.sync.max.s32 %r1, %r0, -1;"])
def test_warp_instruction_that_a_part_of_a_warp_runs_is_an_error(instruction: str) -> None:
    with pytest.raises(PtxError, match="only a part of a warp's threads run it"):
        run_body(f"mov.b32 %r1, 0; setp.lt.s32 %p1, %r0, 9; @%p1 {instruction}")


def test_warp_instruction_for_a_part_of_a_warp_is_an_error() -> None:
    with pytest.raises(PtxError, match="mask of members is 0xff; only whole warps are supported"):
        run_body("shfl.sync.bfly.b32 %r1, %r0, 1, 31, 255;")


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_load_gives_each_thread_its_pair(transposed: bool) -> None:
    """Store 4 matrices of 8 by 8 `b16` with value `100 * matrix + 8 * row + column`, one row per thread."""
    store = ["shl.b32 %r10, %r0, 4; shr.u32 %r11, %r0, 3; and.b32 %r12, %r0, 7; mul.lo.u32 %r13, %r11, 100;"]
    store.append("shl.b32 %r14, %r12, 3; add.s32 %r13, %r13, %r14;")
    for pair in range(4):
        store.append(f"add.s32 %r15, %r13, {2 * pair + 1}; shl.b32 %r15, %r15, 16; add.s32 %r16, %r13, {2 * pair};")
        store.append(f"or.b32 %r{20 + pair}, %r15, %r16;")
    store.append("st.shared.v4.b32 [%r10], {%r20, %r21, %r22, %r23}; bar.warp.sync -1;")
    how = ".trans" if transposed else ""
    load = f"ldmatrix.sync.aligned.m8n8.x4{how}.shared.b16 {{%r30, %r31, %r32, %r33}}, [%r10];"
    for matrix in range(4):
        found = run_body(" ".join([*store, load, f"mov.b32 %r1, %r3{matrix};"]))
        row, column = LANE // 4, 2 * (LANE % 4)
        for half in range(2):
            r, c = (column + half, row) if transposed else (row, column + half)
            np.testing.assert_array_equal(found >> 16 * half & 0xFFFF, 100 * matrix + 8 * r + c)


def test_matrix_load_of_one_matrix_takes_its_rows_from_the_first_eight_threads() -> None:
    body = """
    shl.b32 %r10, %r0, 2; st.shared.b32 [%r10], %r0; bar.warp.sync -1;
    mov.b32 %r11, 99999; setp.lt.s32 %p1, %r0, 8; shl.b32 %r12, %r0, 4; selp.b32 %r11, %r12, %r11, %p1;
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r11];
"""
    np.testing.assert_array_equal(run_body(body), LANE)


def _fragments(matrix: np.ndarray, items: list[tuple[np.ndarray, np.ndarray]], packed: bool) -> list[np.ndarray]:
    """Return the register of each thread for (row, column) of its elements."""
    if not packed:
        return [matrix[row, column].view(np.uint32) for row, column in items]
    pairs = [np.stack([matrix[row, column], matrix[row, column + 1]], 1) for row, column in items]
    return [np.ascontiguousarray(pair).view(np.uint32)[:, 0] for pair in pairs]


@pytest.mark.parametrize("half", [True, False])
def test_matrix_product(half: bool) -> None:
    """Fragments as in the ISA's figures for m16n8k16 (f16) and m16n8k8 (tf32)."""
    random = np.random.default_rng(4)
    depth, item = (16, np.float16) if half else (8, np.float32)
    a, b = random.standard_normal((16, depth)).astype(np.float16), random.standard_normal((depth, 8)).astype(np.float16)
    a, b, c = a.astype(item), b.astype(item), random.standard_normal((16, 8)).astype(np.float32)
    row, pair = LANE // 4, LANE % 4
    if half:
        first = [(row, 2 * pair), (row + 8, 2 * pair), (row, 2 * pair + 8), (row + 8, 2 * pair + 8)]
        second = [(row, 2 * pair), (row, 2 * pair + 8)]  # of the transposed matrix: pairs run along the depth
    else:
        first = [(row, pair), (row + 8, pair), (row, pair + 4), (row + 8, pair + 4)]
        second = [(row, pair), (row, pair + 4)]
    third = [(row, 2 * pair), (row, 2 * pair + 1), (row + 8, 2 * pair), (row + 8, 2 * pair + 1)]
    registers = [
        *_fragments(a, first, half),
        *_fragments(np.ascontiguousarray(b.T), second, half),
        *_fragments(c, third, False),
    ]
    load = "\n".join(f"ld.global.b32 %r{10 + i}, [%rd2+{128 * i}];" for i in range(10))
    kind = "m16n8k16.row.col.f32.f16.f16.f32" if half else "m16n8k8.row.col.f32.tf32.tf32.f32"
    product = f"mma.sync.aligned.{kind} {{%r30, %r31, %r32, %r33}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, "
    product += "{%r16, %r17, %r18, %r19};"
    expected = (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float32)
    for i, (r, column) in enumerate(third):
        found = run_body(f"{load}\n{product}\nmov.b32 %r1, %r3{i};", inputs=np.concatenate(registers), outputs=32)
        np.testing.assert_array_equal(found.view(np.float32), expected[r, column])


def test_matrix_product_ignores_the_low_bits_of_tf32() -> None:
    ones = "\n".join(f"mov.b32 %r1{i}, 0f3F801FFF;" for i in range(6)) + "mov.b32 %r20, 0;"
    product = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r1, %r31, %r32, %r33}, {%r10, %r11, %r12, %r13}, "
    found = run_body(f"{ones}\n{product}{{%r14, %r15}}, {{%r20, %r20, %r20, %r20}};")
    np.testing.assert_array_equal(found.view(np.float32), np.full(32, 8.0))
