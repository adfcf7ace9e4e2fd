"""Every kernel against the naive reference, in the sanitised interpreter; and bugs put into the kernels are caught."""

from __future__ import annotations

from typing import Any

import pytest
from interpret import interpret, needs_triton
from kernel_cases import MAPS, jobs_of, tolerance_of
from mutants import MUTANTS, Mutant

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.spec import Launch, PluginSpec

pytestmark = needs_triton
SPECS = plugin_specs()
LAUNCHES = {launch.name: (spec, launch) for spec in SPECS.values() for launch in spec.launches}
RUNS = 4
RUNS_COSTLY = 2
"""Of a launch whose program has a hundred loads."""
FOLDERS = sorted({mutant.folder for mutant in MUTANTS})


def _runs(spec: PluginSpec, launch: Launch) -> list[dict[str, Any]]:
    return jobs_of(spec, launch, RUNS_COSTLY if "SpatialGate" in spec.operation.op_type else RUNS)


def _is_right(job: dict[str, Any], result: dict[str, Any]) -> bool:
    spec, launch = LAUNCHES[job["launch"]]
    return "violation" not in result and result["error"] <= tolerance_of(spec.operation, launch)


@pytest.mark.parametrize("op_type", SPECS)
def test_every_launch_computes_the_reference_and_does_nothing_undefined(op_type: str) -> None:
    spec = SPECS[op_type]
    jobs = [job for launch in spec.launches for job in _runs(spec, launch)]
    results = interpret(jobs)
    wrong = [(job, result) for job, result in zip(jobs, results, strict=True) if not _is_right(job, result)]
    assert not wrong
    assert {job["launch"] for job in jobs} == {launch.name for launch in spec.launches}


def test_each_kernel_runs_on_ten_shapes_or_more() -> None:
    shapes: dict[tuple[str, str], set[Any]] = {}
    for spec, launch in LAUNCHES.values():
        how = launch.compilation
        seen = shapes.setdefault((how.module, how.function), set())
        seen.update(tuple(map(tuple, job["shapes"])) for job in _runs(spec, launch))
    assert {kernel: len(seen) for kernel, seen in shapes.items() if len(seen) < 10} == {}
    sizes = {size for shape in MAPS for size in shape}
    assert {1, 63} <= sizes
    assert 1023 in {shape[2] * shape[3] for shape in MAPS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder or "device")
def test_every_bug_that_is_put_into_a_kernel_is_caught(folder: str) -> None:
    mutants = [mutant for mutant in MUTANTS if mutant.folder == folder]
    jobs = [mutant.job() for mutant in mutants]
    without_bug = [{**job, "mutant": None} for job in jobs]
    results = interpret([*jobs, *without_bug])
    assert [
        job for job, result in zip(without_bug, results[len(jobs) :], strict=True) if not _is_right(job, result)
    ] == []
    caught = [not _is_right(job, result) for job, result in zip(jobs, results[: len(jobs)], strict=True)]
    assert [mutant.what for mutant, is_caught in zip(mutants, caught, strict=True) if not is_caught] == []


def test_a_bug_that_no_longer_applies_fails_loudly() -> None:
    gone = Mutant("gone", "simam", "no such text", "", "simam_gate_f32_linear_512", [(1, 1, 2, 2)])
    with pytest.raises(AssertionError, match=r"Mutant of trtdeploy.attention.simam.kernel: 'no such text' is there 0"):
        interpret([gone.job()])


def test_a_launch_that_promises_a_multiple_that_is_none_is_caught() -> None:
    job = {"launch": "trtdeploy_simam_gate_f32_linear_512_wide", "shapes": [(1, 2, 5, 3)], "special": "", "seed": 0}
    (result,) = interpret([job])
    assert result["violation"].endswith("promises that HW is a multiple of 4, but it is 15")


def test_the_same_work_is_the_same_in_another_order_of_the_programs() -> None:
    job = {"launch": "trtdeploy_coord_gate_f32_linear_32", "special": "", "seed": 0}
    shapes = [(1, 2, 40, 9), (1, 2, 40, 1), (1, 2, 1, 9)]
    first, second = interpret([{**job, "shapes": shapes}, {**job, "shapes": shapes, "order": 7}])
    assert first == second


@pytest.mark.parametrize("op_type", SPECS)
def test_there_is_a_launch_for_every_type_layout_and_shape(op_type: str) -> None:
    spec = SPECS[op_type]
    is_image = any(operand.image for operand in spec.operation.inputs)
    wanted = {("float16", "linear"), ("float32", "linear")} | ({("float16", "hwc8")} if is_image else set())
    without_sizes = {
        (launch.data_type, launch.layout)
        for launch in spec.launches
        if not launch.conditions or "ScaledDotProduct" in op_type
    }
    assert without_sizes == wanted
