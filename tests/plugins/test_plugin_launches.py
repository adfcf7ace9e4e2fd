"""The C++ plugins launch what the Python side would launch, with the same grid and arguments, through the driver."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from plugin_cases import (
    COMBINATIONS,
    OP_TYPES,
    PTX,
    SHAPES,
    Shapes,
    plan_in_python,
    shapes_of,
    spelled_attributes,
    spelled_shapes,
    tiny_definition,
    tiny_operation,
)
from plugin_probes import Probe

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.store import load_table, ptx_text

TINY = "float32 linear {shapes} 1,2;3"


def differences(probe: Probe, op_type: str) -> list[str]:
    """Return where C++ and Python launch different things for the operation that the probe holds."""
    spec, attributes = plugin_specs()[op_type], spelled_attributes(op_type)
    found = []
    for shapes in shapes_of(op_type):
        for data_type, layout in COMBINATIONS:
            expected = plan_in_python(spec, data_type, layout, shapes)
            answer = probe.ask("plan", data_type, layout, 87, spelled_shapes(shapes), attributes)
            if answer.startswith("error") if expected is None else answer == " ".join(expected):
                continue
            found.append(f"{data_type} {layout} {shapes}: Python {expected}, C++ {answer}")
        outputs = [[evaluate(size, Numbers(shapes), {}) for size in out.dims] for out in spec.operation.outputs]
        answer = probe.ask("outputs", spelled_shapes(shapes), attributes).replace(" ", "")
        if answer != spelled_shapes(outputs):
            found.append(f"shapes of outputs of {shapes}: Python {outputs}, C++ {answer}")
    return found


def test_the_library_holds_every_operation(probe: Probe) -> None:
    assert probe.ask("table").split() == [f"{op_type}:same" for op_type in OP_TYPES]
    assert sorted(SHAPES) == OP_TYPES, "plugin_cases.SHAPES needs the shapes of every operation"


@pytest.mark.parametrize("op_type", OP_TYPES)
def test_launches_are_those_of_the_python_side(probe: Probe, op_type: str) -> None:
    probe.ask("operation", op_type)
    assert differences(probe, op_type) == []


def test_the_shapes_reach_most_launches() -> None:
    taken = {
        plan[0]
        for op_type in OP_TYPES
        for shapes in shapes_of(op_type)
        for data_type, layout in COMBINATIONS
        if (plan := plan_in_python(plugin_specs()[op_type], data_type, layout, shapes)) is not None
    }
    names = {launch["name"] for operation in load_table()["operations"] for launch in operation["launches"]}
    assert len(taken) >= 0.8 * len(names), f"never taken: {sorted(names - taken)}"


def first_launch(operation: dict[str, Any]) -> dict[str, Any]:
    launch: dict[str, Any] = operation["launches"][0]
    return launch


MUTATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a condition is lost": lambda operation: [entry["conditions"].clear() for entry in operation["launches"]],
    "launches are in another order": lambda operation: operation["launches"].reverse(),
    "a grid is one block larger": lambda operation: [
        entry["grid"].__setitem__(0, ["+", entry["grid"][0], 1]) for entry in operation["launches"]
    ],
    "arguments are swapped": lambda operation: [entry["arguments"].reverse() for entry in operation["launches"]],
    "a block is twice as large": lambda operation: [
        entry.update(block=2 * entry["block"]) for entry in operation["launches"]
    ],
    "shared memory is missing": lambda operation: [entry.update(shared_bytes=0) for entry in operation["launches"]],
    "an output is transposed": lambda operation: operation["outputs"][0]["dims"].reverse(),
    "a data type is another": lambda operation: [entry.update(data_type="float32") for entry in operation["launches"]],
    "a layout is another": lambda operation: [entry.update(layout="linear") for entry in operation["launches"]],
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_table_is_noticed(probe: Probe, mutation: str) -> None:
    operation = next(o for o in copy.deepcopy(load_table()["operations"]) if o["op_type"] == "TrtdeploySimAMGate")
    MUTATIONS[mutation](operation)
    assert probe.ask("define", tiny_definition(operation)) == "ok"
    assert differences(probe, "TrtdeploySimAMGate")


@pytest.mark.parametrize("op_type", OP_TYPES)
@pytest.mark.parametrize(("capability", "target"), [(75, "sm75"), (80, "sm80"), (121, "sm80")])
def test_the_driver_gets_the_kernel_of_the_device(probe: Probe, op_type: str, capability: int, target: str) -> None:
    probe.ask("operation", op_type)
    probe.ask("fake", "capability", capability)
    shapes = next(iter(shapes_of(op_type)))
    spec, attributes = plugin_specs()[op_type], spelled_attributes(op_type)
    answer = probe.ask("launch", "float16", "linear", spelled_shapes(shapes), attributes)
    plan = plan_in_python(spec, "float16", "linear", shapes)
    assert plan is not None
    name, *numbers = plan
    if target not in _targets(name):
        assert "needs compute capability 8.0 or newer; this device has 7.5. Build with --attention native." in answer
        return
    assert f".target sm_{target[2:]}" in ptx_text(name, target)  # type: ignore[arg-type]
    inputs = [f"p{1000 + i}" for i in range(len(shapes))]
    outputs = [f"p{2000 + i}" for i in range(len(spec.operation.outputs))]
    assert answer == (
        f"load sm_{target[2:]} launch {name} grid={'x'.join(numbers[:3])} block={numbers[3]} shared={numbers[4]} "
        f"stream=7 parameters={','.join((*inputs, *numbers[5:], *outputs))}"
    )


def _targets(name: str) -> list[str]:
    launches = (launch for operation in load_table()["operations"] for launch in operation["launches"])
    return next(list(launch["ptx"]) for launch in launches if launch["name"] == name)


def launch(probe: Probe, *shapes: Shapes) -> str:
    return probe.ask(
        "launch", "float32 linear", spelled_shapes(shapes[0]), "1,2;3", *(spelled_shapes(more) for more in shapes[1:])
    )


def test_a_kernel_is_compiled_once_a_context(probe: Probe) -> None:
    probe.ask("define", tiny_definition())
    assert launch(probe, ((2, 5),), ((2, 6),), ((2, 5),)).count("load") == 1
    assert launch(probe, ((2, 7),)).count("load") == 0, "another plugin uses the same kernel"
    probe.ask("fake", "context", 2)
    assert launch(probe, ((2, 5),)).count("load") == 1, "a new context at the address of an old one needs its own"


def test_more_shapes_than_are_kept_are_launched_right(probe: Probe) -> None:
    probe.ask("define", tiny_definition())
    sizes = [*range(1, 60), *range(1, 60)]
    answer = launch(probe, *(((1, size),) for size in sizes))
    assert [int(part.split(",")[1]) for part in answer.split("parameters=")[1:]] == sizes


def test_threads_share_the_compiled_kernel(probe: Probe) -> None:
    probe.ask("define", tiny_definition())
    answer = probe.ask("threads", 8, "float32 linear 2x5 1,2;3")
    assert (answer.count("load"), answer.count("launch")) == (1, 400)


def test_nothing_is_launched_for_empty_outputs(probe: Probe) -> None:
    probe.ask("define", tiny_definition())
    assert launch(probe, ((0, 5),)) == ""
    assert probe.ask("plan", "float32 linear 87 2x0 1,2;3") == "empty"


@pytest.mark.parametrize(
    ("shapes", "attributes", "message"),
    [
        ("2x1000", "1,2;3", "There is no kernel for Tiny with float32 tensors in linear layout, shapes 2x1000."),
        ("2x5x1", "1,2;3", "Tiny: input 'x' has 3 axes, expected 2."),
        ("2x-1", "1,2;3", "Tiny: input 'x' has an unknown size (2x-1)."),
        ("2x5,2x5", "1,2;3", "Tiny takes 1 inputs, got 2."),
        ("9000000x900", "1,2;3", "has the argument 8100000000, which is no 32-bit integer."),
        ("2x5", "1;3", "Tiny: attribute 'heads' has 1 numbers, expected 2."),
        ("2x5", "1,2", "Tiny has 2 attributes, got 1."),
    ],
)
def test_what_cannot_be_launched_is_an_error(probe: Probe, shapes: str, attributes: str, message: str) -> None:
    probe.ask("define", tiny_definition())
    assert message in probe.ask("plan", "float32 linear 87", shapes, attributes)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([2**31, 1, 1], "has a grid of 2147483648 blocks along axis 0, expected 1 to 2147483647."),
        ([1, 65536, 1], "has a grid of 65536 blocks along axis 1, expected 1 to 65535."),
        ([1, 1, 65536], "has a grid of 65536 blocks along axis 2, expected 1 to 65535."),
        ([0, 1, 1], "has a grid of 0 blocks along axis 0"),
    ],
)
def test_grids_that_no_device_has_are_errors(probe: Probe, grid: list[int], message: str) -> None:
    probe.ask("define", tiny_definition(tiny_operation(launch={"grid": grid})))
    assert message in probe.ask("plan", "float32 linear 87 2x5 1,2;3")


def test_conditions_of_the_operation_are_kept(probe: Probe) -> None:
    probe.ask("define", tiny_definition(tiny_operation(conditions=[["==", ["dim", 0, 0], ["attr", "heads", 0]]])))
    assert probe.ask("plan", "float32 linear 87 4x5 4,2;3").startswith("tiny ")
    assert "Tiny does not support shapes 5x5." in probe.ask("plan", "float32 linear 87 5x5 4,2;3")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("fail_load", 222, "Kernel 'tiny' cannot be loaded. The driver's log: line 1: fake log : CUDA error 222"),
        ("fail_launch", 719, "Kernel 'tiny' cannot be launched: CUDA error 719 (a fake error)."),
        ("context", 0, "No CUDA context is current in the thread that runs Tiny."),
        ("capability", 70, "needs compute capability 7.5 or newer; this device has 7.0."),
    ],
)
def test_errors_of_the_driver_are_told(probe: Probe, setting: str, value: int, message: str) -> None:
    probe.ask("define", tiny_definition())
    probe.ask("fake", setting, value)
    assert message in launch(probe, ((2, 5),))
    probe.ask("fake", setting, {"context": 1, "capability": 87}.get(setting, 0))
    assert "launch tiny" in launch(probe, ((2, 5),)), "a failure is not kept"


def test_ptx_without_the_kernel_is_an_error(probe: Probe) -> None:
    probe.ask("define", tiny_definition(ptx=PTX.format(entry="other")))
    assert "The PTX of kernel 'tiny' does not contain it" in launch(probe, ((2, 5),))


def test_blocks_are_those_that_the_ptx_requires(probe: Probe) -> None:
    probe.ask("define", tiny_definition(tiny_operation(launch={"block": 64})))
    assert "Kernel 'tiny' cannot be launched: CUDA error 1 " in launch(probe, ((2, 5),))
