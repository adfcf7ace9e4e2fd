"""What the emulator refuses: accesses, races, barriers, launches and texts that a GPU would get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_emulator.errors import PtxError
from ptx_emulator.global_memory import GlobalMemory
from ptx_emulator.launch import launch
from ptx_emulator.machine import Doubt
from ptx_emulator.parser import parse
from ptx_snippets import compute, run_body, source

STORE = "shl.b32 %r10, %r0, 2; st.shared.b32 [%r10], %r0;"
"""Thread i writes i to word i of shared memory."""
NEXT_WARP = "xor.b32 %r11, %r10, 128; ld.shared.b32 %r1, [%r11];"
"""Thread i reads what thread i + 32 or i - 32 wrote."""
NEXT_THREAD = "xor.b32 %r11, %r10, 4; ld.shared.b32 %r1, [%r11];"
READ_BY_ALL = "ld.shared.b32 %r1, [smem]; setp.eq.s32 %p1, %r0, 63;"
"""All threads read word 0; %p1 is true in the last one."""
COPY = "shl.b32 %r10, %r0, 2; cp.async.ca.shared.global [%r10], [%rd2], 4; cp.async.commit_group;"
THREAD = np.arange(64)


def test_loads_and_stores_of_every_width() -> None:
    body = """
    shl.b32 %r10, %r0, 4; mul.wide.u32 %rd4, %r10, 1; add.s64 %rd4, %rd4, %rd0;
    ld.global.v4.b32 {%r20, %r21, %r22, %r23}, [%rd4];
    st.shared.v2.b32 [%r10], {%r20, %r21}; st.shared.v2.b32 [%r10+8], {%r22, %r23};
    ld.shared.v2.b16 {%rs1, %rs2}, [%r10+12]; ld.shared.b64 %rd5, [%r10]; cvt.u32.u64 %r24, %rd5;
    cvt.u32.u16 %r25, %rs1; mad.lo.u32 %r1, %r24, 1000, %r25;
"""
    found = run_body(body, outputs=128, inputs=np.arange(128, dtype=np.uint32))[:32]
    np.testing.assert_array_equal(found, [4 * i * 1000 + 4 * i + 3 for i in range(32)])


def test_load_to_a_wider_register_extends_by_the_type() -> None:
    for type_, expected in (("s32", -2), ("u32", 0xFFFF_FFFE)):
        body = f"ld.global.{type_} %rd5, [%rd2]; shr.u64 %rd5, %rd5, 32; cvt.u32.u64 %r1, %rd5;"
        found = run_body(body, inputs=np.full(32, 0xFFFF_FFFE, np.uint32))
        np.testing.assert_array_equal(found, np.full(32, expected >> 32 & 0xFFFF_FFFF))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.b32 %r1, [%rd2+4];", r"global read out of bounds by 1 of 32 threads: ld\.global"),
        ("ld.global.b32 %r1, [%rd2+-4];", "global read out of bounds by 1 of 32 threads"),
        ("ld.global.b32 %r1, [%rd2+2];", "misaligned 4-byte global read"),
        ("ld.global.v2.b32 {%r1, %r2}, [%rd2];", "misaligned 8-byte global read"),
        ("ld.global.b32 %r1, [%rd3];", "global read of out, which kernels only write"),
        ("mov.b32 %r1, 0; st.global.b32 [%rd2], %r1;", "global write of in, which kernels only read"),
        ("mov.b32 %r1, 0; st.global.b32 [%rd3+4], %r1;", "global write out of bounds by 1 of 32"),
        ("mov.b32 %r1, %r0; st.global.b32 [%rd1], %r0;", "two threads write different values to one place of out"),
        ("mov.b32 %r1, 9; st.global.b32 [%rd3], %r0;", "two threads write different values to one place of out"),
        ("mov.b32 %r1, 0; st.shared.b32 [%r0], %r1;", "misaligned 4-byte shared write"),
        (
            "shl.b32 %r1, %r0, 6; st.shared.b32 [%r1], %r1;",
            "shared write at 1984 is out of bounds: the launch has 1024",
        ),
        ("mov.b32 %r2, -4; st.shared.b32 [%r2], %r2;", "shared write at 4294967292 is out of bounds"),
        ("shl.b32 %r10, %r0, 2; ld.shared.b32 %r1, [%r10];", "shared read of what nobody wrote"),
        ("mov.b32 %r2, 4; ld.shared.v2.b32 {%r1, %r3}, [%r2];", "misaligned 8-byte shared read"),
    ],
)
def test_wrong_access_is_an_error(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=message):
        run_body(body)


def test_predicated_access_counts_only_where_it_runs() -> None:
    body = "mov.b32 %r1, 77; setp.lt.s32 %p1, %r0, 31; @%p1 ld.global.b32 %r1, [%rd2+4];"
    np.testing.assert_array_equal(run_body(body), [*range(1, 32), 77])
    body = "mov.b32 %r1, 77; setp.lt.s32 %p1, %r0, 31; @!%p1 ld.global.b32 %r1, [%rd2+4];"
    with pytest.raises(PtxError, match="out of bounds by 1 of 1 threads"):
        run_body(body)


@pytest.mark.parametrize("poison", [0xFF, 0x7B])
def test_predicated_load_leaves_the_rest_of_a_new_register_undefined(poison: int) -> None:
    body = "setp.lt.s32 %p1, {a}, 1; @%p1 mov.b32 {d}, 5;"
    found = compute(body, [("b32", [0, 1])], "b32", Doubt(poison=poison))
    assert found.tolist() == [5, poison * 0x0101_0101]


def test_barrier_orders_warps_and_a_warp_barrier_threads() -> None:
    for barrier, read, partner in (("bar.sync 0;", NEXT_WARP, 32), ("bar.warp.sync -1;", NEXT_THREAD, 1)):
        found = run_body(f"{STORE} {barrier} {read}", outputs=64, threads=64)
        np.testing.assert_array_equal(found, THREAD ^ partner)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"{STORE} {NEXT_WARP}", "a thread reads what another one writes"),
        (f"{STORE} bar.warp.sync -1; {NEXT_WARP}", "a thread reads what another one writes"),
        (f"{STORE} {NEXT_THREAD}", "a thread reads what another one writes"),
        (f"{STORE} bar.sync 0; {NEXT_WARP} {STORE}", "a thread writes what another one reads"),
        (f"{STORE} bar.sync 0; {NEXT_THREAD} {STORE}", "a thread writes what another one reads"),
        (
            f"{STORE} bar.sync 0; {READ_BY_ALL} @%p1 st.shared.b32 [smem], %r0;",
            "a thread writes what another one reads",
        ),
        (f"{STORE} xor.b32 %r11, %r10, 128; st.shared.b32 [%r11], %r0; mov.b32 %r1, 0;", "two threads write different"),
        ("mov.b32 %r1, 0; st.shared.b32 [smem], %r0;", "two threads write different values"),
        ("mov.b32 %r1, 0; shr.u32 %r9, %r0, 5; st.shared.b32 [smem], %r9;", "two threads write different values"),
    ],
)
def test_race_through_shared_memory_is_an_error(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=f"shared race: {message}"):
        run_body(body, outputs=64, threads=64)


@pytest.mark.parametrize(
    "body",
    [
        f"{STORE} bar.sync 0; {NEXT_WARP} bar.sync 0; {STORE}",
        f"{STORE} bar.sync 0; {NEXT_THREAD} bar.warp.sync -1; {STORE}",
        f"{STORE} ld.shared.b32 %r1, [%r10]; {STORE}",
        "mov.b32 %r1, 5; mov.b32 %r10, 0; st.shared.b32 [%r10], %r1;",
        f"{STORE} bar.sync 0; ld.shared.b32 %r1, [smem]; ld.shared.b32 %r1, [smem];",
    ],
)
def test_what_barriers_or_equal_values_order_is_no_race(body: str) -> None:
    run_body(body, outputs=64, threads=64)


def test_blocks_have_shared_memory_of_their_own() -> None:
    body = """
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r4, %r2, %r3, %r0; mad.wide.u32 %rd3, %r4, 4, %rd1;
    shl.b32 %r10, %r0, 2; st.shared.b32 [%r10], %r4; bar.sync 0; xor.b32 %r11, %r10, 128; ld.shared.b32 %r1, [%r11];
"""
    found = run_body(body, outputs=192, threads=64, grid=(3, 1, 1))
    np.testing.assert_array_equal(found, np.arange(192) ^ 32)


def test_asynchronous_copy_is_there_after_the_wait_and_a_barrier() -> None:
    found = run_body(f"{COPY} cp.async.wait_group 0; bar.sync 0; {NEXT_WARP}", outputs=64, threads=64)
    np.testing.assert_array_equal(found, THREAD ^ 32)
    found = run_body(f"{COPY} cp.async.wait_all; ld.shared.b32 %r1, [%r10];", outputs=64, threads=64)
    np.testing.assert_array_equal(found, THREAD)


def test_wait_leaves_the_last_groups_open() -> None:
    second = "cp.async.ca.shared.global [%r10+512], [%rd2], 4; cp.async.commit_group; cp.async.wait_group 1;"
    found = run_body(f"{COPY} {second} ld.shared.b32 %r1, [%r10];", outputs=64, threads=64)
    np.testing.assert_array_equal(found, THREAD)
    with pytest.raises(PtxError, match="a copy that was not waited for"):
        run_body(f"{COPY} {second} ld.shared.b32 %r1, [%r10+512];", outputs=64, threads=64)


def test_copy_of_no_bytes_brings_zeros_and_reads_nothing() -> None:
    body = """
    shl.b32 %r10, %r0, 4; setp.lt.s32 %p1, %r0, 16; selp.b32 %r12, 16, 0, %p1;
    mul.wide.u32 %rd5, %r0, 16; add.s64 %rd5, %rd5, %rd0;
    cp.async.cg.shared.global [%r10], [%rd5], 16, %r12; cp.async.commit_group; cp.async.wait_group 0;
    ld.shared.b32 %r1, [%r10+4];
"""
    found = run_body(body, outputs=64, threads=32)[:32]
    np.testing.assert_array_equal(found, [*(4 * i + 1 for i in range(16)), *[0] * 16])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"{COPY} ld.shared.b32 %r1, [%r10];", "a copy that was not waited for"),
        (f"{COPY} cp.async.wait_group 0; {NEXT_WARP}", "a thread reads what another one writes"),
        (f"{STORE} bar.sync 0; {NEXT_WARP} {COPY}", "an asynchronous copy writes what another thread uses"),
        ("cp.async.ca.shared.global [%r0], [%rd2], 4; mov.b32 %r1, 0;", "misaligned 4-byte shared write"),
        ("mov.b32 %r1, 0; shl.b32 %r10, %r0, 3; cp.async.ca.shared.global [%r10], [%rd2], 8;", "misaligned 8-byte"),
        ("mov.b32 %r1, 0; shl.b32 %r10, %r0, 2; cp.async.ca.shared.global [%r10], [%rd2+4], 4;", "global read out of"),
        ("mov.b32 %r1, 0; mov.b32 %r9, 2; cp.async.ca.shared.global [%r1], [%rd2], 4, %r9;", "of 2 of 4 bytes"),
        ("mov.b32 %r1, 0; cp.async.cg.shared.global [%r1], [%rd2], 8;", "copies 8 bytes"),
    ],
)
def test_wrong_asynchronous_copy_is_an_error(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=message):
        run_body(body, outputs=64, threads=64)


def test_threads_take_both_sides_of_a_branch_and_meet_again() -> None:
    body = """
    mov.b32 %r1, 0; mov.b32 %r2, 0; rem.u32 %r3, %r0, 5; setp.eq.s32 %p1, %r3, 0; @%p1 bra $L_end;
$L_loop:
    add.s32 %r1, %r1, %r0; add.s32 %r2, %r2, 1; setp.lt.s32 %p2, %r2, %r3; @%p2 bra $L_loop;
    bra.uni $L_other;
$L_end:
    mov.b32 %r1, 1000;
$L_other:
    bar.sync 0; shfl.sync.idx.b32 %r4, %r1, 0, 31, -1; add.s32 %r1, %r1, %r4;
"""
    found = run_body(body, outputs=64, threads=64)
    own = np.where(THREAD % 5 == 0, 1000, THREAD * (THREAD % 5))
    np.testing.assert_array_equal(found, own + own[THREAD // 32 * 32])


def test_threads_that_return_early_write_nothing_more() -> None:
    found = run_body("mov.b32 %r1, 1; setp.ge.s32 %p1, %r0, 40; @%p1 ret; bar.sync 0;", outputs=64, threads=64)
    np.testing.assert_array_equal(found, np.where(THREAD < 40, 1, 0xDEAD))


@pytest.mark.parametrize("branch", ["@%p1 bra $L_skip; bar.sync 0;\n$L_skip:\n", "@%p1 bar.sync 0;"])
def test_barrier_that_some_threads_miss_is_an_error(branch: str) -> None:
    with pytest.raises(PtxError, match="a barrier that some threads of a block do not reach"):
        run_body(f"mov.b32 %r1, 0; setp.lt.s32 %p1, %r0, 8; {branch}")


def test_endless_loop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptx_emulator.launch.LIMIT", 500)
    with pytest.raises(PtxError, match="did not end within 500 instructions"):
        run_body("mov.b32 %r1, 0;\n$L_again:\n bra $L_again;")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 64}, r"Blocks of 64 threads cannot be launched: the kernel's \.reqntid is 32"),
        ({"grid": (0, 1, 1)}, r"A grid of \(0, 1, 1\) blocks"),
        ({"grid": (1, 65536, 1)}, r"A grid of \(1, 65536, 1\) blocks"),
        ({"shared_bytes": 49153}, "49153 bytes of shared memory cannot be launched: the limit is 49152"),
        ({"arguments": []}, r"Arguments of \[\] bytes for parameters of \[8, 4\] bytes"),
        ({"arguments": [np.int32(1), np.uint64(1)]}, r"Arguments of \[4, 8\] bytes for parameters of \[8, 4\] bytes"),
    ],
)
def test_launch_that_the_driver_would_refuse_is_an_error(options: dict, message: str) -> None:
    kernel = parse(source("", ["u64", "u32"], ".reqntid 32\n"))
    good = {"grid": (1, 1, 1), "block": 32, "shared_bytes": 0, "arguments": [np.uint64(1), np.int32(1)]}
    launch(kernel, **good, memory=GlobalMemory())
    with pytest.raises(PtxError, match=message):
        launch(kernel, **{**good, **options}, memory=GlobalMemory())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ret;", "frobnicate.b32 %r1, %r2;", "Instruction 'frobnicate.b32' is not known"),
        ("ret;", "bra $L_nowhere;", "label \\$L_nowhere does not exist"),
        ("ret;", "{ .reg .b32 t; }", "A scope in braces is not supported"),
        (".reqntid 32", ".maxntid 32", "Directives of the kernel"),
        (".visible .entry kernel", ".visible .func kernel", "0 kernels"),
        (".b32 %r<60>", ".f32 %f<60>", "Declaration .* is not known"),
        (".extern .shared .align 16 .b8 smem[];", ".shared .align 16 .b8 smem[64];", "other than shared memory whose"),
        (".target sm_80", "", "no .*target"),
        ("ret;", "ret", "has no end"),
    ],
)
def test_text_that_is_not_known_is_an_error(before: str, after: str, message: str) -> None:
    text = source("", ["u64"], ".reqntid 32\n")
    assert before in text
    with pytest.raises(PtxError, match=message):
        launch(
            parse(text.replace(before, after)),
            grid=(1, 1, 1),
            block=32,
            shared_bytes=0,
            arguments=[np.uint64(0)],
            memory=GlobalMemory(),
        )


def test_comments_debug_lines_and_strings_are_left_out() -> None:
    text = source("/* two\nlines */ .loc 1 2 3\n // bar.sync 0;\n", ["u64"], ".reqntid 32\n")
    kernel = parse(text.replace(".visible", ".global .align 1 .b8 _$_str[2] = {95, 0};\n.visible"))
    assert [step.mnemonic for step in kernel.code] == ["ret"]
    assert (kernel.name, kernel.version, kernel.target, kernel.block) == ("kernel", "8.0", "sm_80", 32)
