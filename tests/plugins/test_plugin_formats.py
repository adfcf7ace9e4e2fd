"""The C++ plugins take the data types and layouts that the launches are for, and no others."""

from __future__ import annotations

import itertools

import pytest
from plugin_cases import OP_TYPES, tiny_definition, tiny_operation
from plugin_probes import Probe

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.spec import PluginSpec

Format = tuple[str, str]
FORMATS: tuple[Format, ...] = tuple(itertools.product(("float32", "float16", "other"), ("linear", "hwc8", "other")))


def expected_combinations(spec: PluginSpec) -> set[tuple[Format, ...]]:
    """Return what the rule allows: one data type; images in one layout that has a launch; others linear."""
    operation = spec.operation
    images = [tensor.image for tensor in (*operation.inputs, *operation.outputs)]
    return {
        tuple((launch.data_type, launch.layout if image else "linear") for image in images) for launch in spec.launches
    }


def found_combinations(probe: Probe, tensors: int) -> set[tuple[Format, ...]]:
    """Return all combinations that the plugin accepts, position after position, as TensorRT asks."""
    accepted: list[tuple[Format, ...]] = [()]
    for position in range(tensors):
        accepted = [
            (*before, candidate)
            for before in accepted
            for candidate in FORMATS
            if probe.ask("format", position, ",".join(":".join(f) for f in (*before, candidate))) == "yes"
        ]
    return set(accepted)


@pytest.mark.parametrize("op_type", OP_TYPES)
def test_all_accepted_combinations_are_those_of_the_rule(probe: Probe, op_type: str) -> None:
    spec = plugin_specs()[op_type]
    probe.ask("operation", op_type)
    tensors = len(spec.operation.inputs) + len(spec.operation.outputs)
    expected = expected_combinations(spec)
    assert found_combinations(probe, tensors) == expected
    has_images = any(tensor.image for tensor in (*spec.operation.inputs, *spec.operation.outputs))
    assert len(expected) == (3 if has_images else 2), "FP32 linear, FP16 linear, and FP16 HWC8 for feature maps"


def test_what_stands_behind_the_position_is_ignored(probe: Probe) -> None:
    probe.ask("operation", "TrtdeploySimAMGate")
    assert probe.ask("format", 0, "float16:hwc8,other:other") == "yes"


def test_positions_that_do_not_exist_are_refused(probe: Probe) -> None:
    probe.ask("operation", "TrtdeploySimAMGate")
    assert probe.ask("format", 2, "float16:hwc8,float16:hwc8,float16:hwc8") == "no"
    assert probe.ask("format", 1, "float16:hwc8") == "no"


def test_a_layout_without_a_launch_for_the_type_is_refused(probe: Probe) -> None:
    image = {"name": "x", "rank": 4, "image": True}
    result = {"name": "y", "dims": [["dim", 0, axis] for axis in range(4)], "image": True}
    operation = tiny_operation(inputs=[image], outputs=[result], launch={"data_type": "float16", "layout": "hwc8"})
    probe.ask("define", tiny_definition(operation))
    assert found_combinations(probe, 2) == {(("float16", "hwc8"), ("float16", "hwc8"))}
