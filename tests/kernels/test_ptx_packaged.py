"""Every packaged kernel, run from its PTX text as the launchers launch it, against the operation's own reference."""

from __future__ import annotations

import numpy as np
import pytest
from packaged_cases import Case, chosen_shapes, expected, make_case, tolerance_of, worst_error
from packaged_kernels import ITEM, packaged_kernel, packaged_launches, python_values, run, value_of
from ptx_emulator.machine import Doubt

from trtdeploy.attention.plugins import plugin_specs

LAUNCHES = packaged_launches()
NAMES = sorted(LAUNCHES)
RUNS = [(name, target) for name in NAMES for target in LAUNCHES[name].entry["ptx"]]
BY_RUN = pytest.mark.parametrize(
    ("name", "target"), RUNS, ids=[f"{name.removeprefix('trtdeploy_')}-{target}" for name, target in RUNS]
)
BY_NAME = pytest.mark.parametrize("name", NAMES, ids=[name.removeprefix("trtdeploy_") for name in NAMES])
SHAPES = {"sm80": 3, "sm75": 2}


def test_table_has_every_launch_of_every_operation() -> None:
    assert {launch.name for spec in plugin_specs().values() for launch in spec.launches} == set(NAMES)
    assert len(NAMES) > 90


@BY_RUN
def test_kernel_computes_what_the_reference_computes(name: str, target: str) -> None:
    packaged = LAUNCHES[name]
    shapes = chosen_shapes(packaged, SHAPES[target])
    assert len(shapes) >= 2, "this launch is never taken: add shapes to packaged_cases.py"
    kernel = packaged_kernel(name, target)
    for i, sizes in enumerate(shapes):
        case = make_case(packaged, sizes, seed=i)
        doubt = Doubt(ulps=2, poison=(0xFF, 0x7B)[i % 2], seed=i)
        results = run(packaged, case.inputs, case.attributes, kernel=kernel, doubt=doubt)
        assert worst_error(results, expected(case)) < tolerance_of(packaged), sizes


@BY_NAME
def test_python_and_the_table_launch_alike(name: str) -> None:
    packaged = LAUNCHES[name]
    for shapes in chosen_shapes(packaged, 3):
        attributes = make_case(packaged, shapes).attributes
        for key, values in python_values(packaged.launch, shapes, attributes).items():
            assert [value_of(part, shapes, attributes) for part in packaged.entry[key]] == values, key
        assert all(value_of(condition, shapes, attributes) for condition in packaged.entry["conditions"])


@BY_NAME
def test_not_a_number_and_infinity_come_out_as_in_the_reference(name: str) -> None:
    packaged = LAUNCHES[name]
    case = make_case(packaged, chosen_shapes(packaged, 4)[1])
    for i, (operand, array) in enumerate(zip(case.operation.inputs, case.inputs, strict=True)):
        infinity = np.nan if operand.name == "v" else np.inf  # a weight may underflow, and 0 times infinity is NaN
        spoilt = array.copy()
        spoilt.reshape(-1)[[0, array.size // 2, -1]] = np.nan, infinity, -infinity
        others = Case(case.operation, (*case.inputs[:i], spoilt, *case.inputs[i + 1 :]), case.attributes)
        results = run(packaged, others.inputs, others.attributes, kernel=packaged_kernel(name, "sm80"))
        assert worst_error(results, expected(others)) < tolerance_of(packaged), operand.name


@pytest.mark.parametrize("data_type", ["float16", "float32"])
def test_large_mean_costs_simam_no_precision(data_type: str) -> None:
    for name, packaged in LAUNCHES.items():
        if "simam" in name and packaged.launch.data_type == data_type:
            case = make_case(packaged, chosen_shapes(packaged, 2)[0])
            shifted = Case(case.operation, ((case.inputs[0] + 200).astype(ITEM[data_type]),), case.attributes)
            results = run(packaged, shifted.inputs, shifted.attributes, kernel=packaged_kernel(name, "sm80"))
            assert worst_error(results, expected(shifted)) < (6e-4 if data_type == "float16" else 2e-5), name


@BY_NAME
def test_last_image_of_the_largest_batch_is_found_where_32_bits_do_not_reach(name: str) -> None:
    """Take the largest batch that the grid allows; only its last image exists and is run."""
    packaged = LAUNCHES[name]
    pair = make_case(packaged, chosen_shapes(packaged, 1, batch=2)[0])
    last = tuple(array[-1:] for array in pair.inputs)
    blocks = value_of(packaged.entry["grid"][0], [array.shape for array in last], pair.attributes)
    batch = ((1 << 31) - 1) // blocks
    shapes = [(batch if len(array) == 2 else 1, *array.shape[1:]) for array in pair.inputs]
    case = Case(pair.operation, last, pair.attributes)
    results = run(packaged, last, case.attributes, kernel=packaged_kernel(name, "sm80"), shapes=shapes)
    assert worst_error(results, expected(case)) < tolerance_of(packaged)
