"""Quick plugins in the real bindings' protocol, against the table that the C++ plugin and the emulator launch from."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trt_bindings
from quick_protocol import MUTATIONS

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.backends.quick_plugins import ptx_target, register_quick_plugins, supports_quick_plugins
from trtdeploy.core.errors import BuildError
from trtdeploy.kernels import store

SCRIPT = Path(__file__).with_name("quick_protocol.py")
Shapes = list[list[int]]
SIZES = (  # N, C, H, W
    (1, 1, 1, 1),
    (1, 8, 4, 4),
    (2, 3, 5, 7),
    (1, 16, 20, 20),
    (3, 24, 1, 63),
    (1, 7, 31, 2),
    (2, 64, 16, 8),
    (1, 2, 1, 1023),
    (4, 33, 9, 9),
    (1, 12, 40, 40),
)
HEADS = (  # B, heads, N, D, M
    (1, 1, 1, 16, 1),
    (1, 2, 49, 32, 49),
    (2, 3, 5, 64, 7),
    (1, 1, 17, 128, 63),
    (2, 8, 16, 32, 16),
    (1, 4, 100, 64, 100),
    (3, 1, 1, 16, 65),
    (1, 2, 63, 128, 1),
    (1, 1, 400, 32, 400),
    (2, 2, 31, 16, 33),
)
ATTRIBUTES = {"epsilon": [1e-4], "scale": [0.17677669]}


def image_shapes(op_type: str, n: int, c: int, h: int, w: int) -> Shapes:
    """Return the shapes of an operation's inputs, by the definitions of the operations."""
    x, s, d, kernel = [n, c, h, w], [n, c, 1, 1], [n, 2, h, w], [1, 2, 7, 7]
    return {
        "TrtdeploySimAMGate": [x],
        "TrtdeployCoordPool": [x],
        "TrtdeployCoordGate": [x, [n, c, h, 1], [n, c, 1, w]],
        "TrtdeployChannelPool": [x],
        "TrtdeploySpatialPool": [x],
        "TrtdeploySpatialGate": [x, d, kernel],
        "TrtdeployScaledSpatialPool": [x, s],
        "TrtdeployScaledSpatialGate": [x, s, d, kernel],
        "TrtdeployGateMultiply": [x, s],
    }[op_type]


def input_shapes(op_type: str) -> list[Shapes]:
    if op_type == "TrtdeployScaledDotProduct":
        return [[[b, heads, n, d], [b, heads, d, m], [b, heads, m, d]] for b, heads, n, d, m in HEADS]
    return [image_shapes(op_type, *size) for size in SIZES]


def dynamic(op_type: str) -> Shapes:
    """Return the shapes of a network whose batch and picture size are open: what comes from weights is fixed."""
    if op_type == "TrtdeployScaledDotProduct":
        return [[-1, 2, -1, 32], [-1, 2, 32, -1], [-1, 2, -1, 32]]
    return image_shapes(op_type, -1, 24, -1, -1)


def dynamic_runs(op_type: str) -> list[Shapes]:
    if op_type == "TrtdeployScaledDotProduct":
        return [[[b, 2, n, 32], [b, 2, 32, m], [b, 2, m, 32]] for b, _, n, _, m in HEADS]
    return [image_shapes(op_type, n, 24, h, w) for n, _, h, w in SIZES]


@functools.cache
def cases() -> list[dict[str, Any]]:
    """Return each operation, type and shape, fixed in the network; then with open sizes, run on all the shapes."""
    found = []
    for op_type, spec in plugin_specs().items():
        names = [attribute.name for attribute in spec.operation.attributes]
        attributes = {name: ATTRIBUTES[name] for name in names}
        for data_type in ("float16", "float32"):
            common = {"op_type": op_type, "data_type": data_type, "attributes": attributes}
            found += [{**common, "shapes": shapes, "runs": [shapes]} for shapes in input_shapes(op_type)]
            found.append({**common, "shapes": dynamic(op_type), "runs": dynamic_runs(op_type)})
    return found


@functools.cache
def walked(version: str, target: str = "sm80", mutation: str | None = None) -> list[Any]:
    chosen = [case for case in cases() if target in runs_on(case["op_type"])]
    if mutation:  # both types are launched alike; one is enough to notice
        chosen = [case for case in chosen if case["data_type"] == "float16"]
    order = {"target": target, "cases": chosen, "mutation": mutation}
    results = trt_bindings.run(version, SCRIPT, "walk", order)
    return list(zip(chosen, results, strict=True))


def operation(op_type: str) -> dict[str, Any]:
    (found,) = (one for one in store.load_table()["operations"] if one["op_type"] == op_type)
    return found


def runs_on(op_type: str) -> set[str]:
    return set.intersection(*(set(launch["ptx"]) for launch in operation(op_type)["launches"]))


def compute(expression: Any, shapes: Shapes, attributes: dict[str, list[float]]) -> int | None:
    """Compute an expression of the table, None where it depends on an open size (-1)."""
    if isinstance(expression, int):
        return expression
    kind, first, second = expression
    if kind == "dim":
        size = shapes[first][second]
        return None if size < 0 else size
    if kind == "bits":
        return int(struct.unpack("=i", np.float32(attributes[first][second]).tobytes())[0])
    a, b = compute(first, shapes, attributes), compute(second, shapes, attributes)
    if a is None or b is None:
        return None
    rounded_up = {"cdiv": lambda: a // b + (a % b > 0)}
    plain = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "//": lambda: a // b}
    compared = {"max": lambda: max(a, b), "min": lambda: min(a, b), "==": lambda: a == b, "<": lambda: a < b}
    return int({**rounded_up, **plain, **compared}[kind]())


def expected_launches(case: dict[str, Any], layout: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the table's launches that may be taken, with their tactics."""
    table = operation(case["op_type"])
    found = []
    for index, launch in enumerate(table["launches"]):
        conditions = [*table["conditions"], *launch["conditions"]]
        if (launch["data_type"], launch["layout"]) == (case["data_type"], layout) and all(
            compute(condition, case["shapes"], case["attributes"]) for condition in conditions
        ):
            found.append((index + 1, launch))
    return found


def formats(case: dict[str, Any], layout: str) -> list[str]:
    table = operation(case["op_type"])
    return [layout.upper() if tensor["image"] else "LINEAR" for tensor in (*table["inputs"], *table["outputs"])]


def check(case: dict[str, Any], result: Any, target: str) -> None:
    """Compare one walk with the table."""
    assert not isinstance(result, str), f"{case['op_type']}: {result}"
    table, attributes = operation(case["op_type"]), case["attributes"]
    kind = {"float16": "HALF", "float32": "FLOAT"}[case["data_type"]]
    assert result["types"] == [kind] * len(table["outputs"])
    for run, shapes in zip(case["runs"], result["shapes"], strict=True):
        assert shapes == [[compute(size, run, attributes) for size in one["dims"]] for one in table["outputs"]]
    expected = [
        (layout, tactic, launch) for layout in ("linear", "hwc8") for tactic, launch in expected_launches(case, layout)
    ]
    assert [(one["formats"], one["tactic"]) for one in result["launches"]] == [
        (formats(case, layout), tactic) for layout, tactic, _ in expected
    ]
    for one, (_, _, launch) in zip(result["launches"], expected, strict=True):
        assert set(one["types"]) == {kind}
        assert one["kernel"] == launch["entry"]
        assert one["sha256"] == launch["ptx"][target]["sha256"]
        assert one["declares"] == [[target.replace("sm", "sm_"), ""], ["", one["kernel"]]]
        for index, run in enumerate(case["runs"]):
            grid = [compute(size, run, attributes) for size in launch["grid"]]
            assert one["grid"][index] == [*grid, launch["block"], 1, 1, launch["shared_bytes"]], (launch["name"], run)
            arguments = [compute(argument, run, attributes) for argument in launch["arguments"]]
            assert one["arguments"][index] == arguments, (launch["name"], run)


@pytest.mark.parametrize("op_type", sorted(plugin_specs()))
@pytest.mark.parametrize("version", trt_bindings.VERSIONS)
def test_a_plugin_says_what_the_table_says(version: str, op_type: str) -> None:
    results = [(case, result) for case, result in walked(version) if case["op_type"] == op_type]
    assert len(results) == 22  # ten fixed shapes and one open, in two types
    for case, result in results:
        check(case, result, "sm80")


def test_sm75_plugins_take_their_own_kernels() -> None:
    results = walked("11.4.0.106", "sm75")
    assert {case["op_type"] for case, _ in results} == set(plugin_specs()) - {"TrtdeployScaledDotProduct"}
    for case, result in results:
        check(case, result, "sm75")


def test_what_a_network_leaves_open_takes_launches_without_conditions_on_it() -> None:
    open_cases = [(case, result) for case, result in walked("11.4.0.106") if len(case["runs"]) > 1]
    assert len(open_cases) == 2 * len(plugin_specs())
    for case, result in open_cases:
        taken = [operation(case["op_type"])["launches"][one["tactic"] - 1] for one in result["launches"]]
        conditions = [condition for launch in taken for condition in launch["conditions"]]
        assert all(compute(condition, case["shapes"], {}) for condition in conditions)
        fixed = [shape for shape in case["shapes"] if all(size >= 0 for size in shape)]
        assert taken
        assert len(fixed) < len(case["shapes"])


@pytest.mark.parametrize("op_type", sorted(plugin_specs()))
def test_output_shapes_are_those_of_the_reference(op_type: str) -> None:
    spec, generator = plugin_specs()[op_type], np.random.default_rng(0)
    for case, result in walked("10.13.3.9"):
        if case["op_type"] != op_type or len(case["runs"]) > 1:
            continue
        tensors = [generator.standard_normal(shape) for shape in case["shapes"]]
        outputs = spec.operation.reference(*tensors, **case["attributes"])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert result["shapes"][0] == [list(output.shape) for output in outputs]


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_wrong_spec_is_noticed(mutation: str) -> None:
    failures = set()
    for case, result in walked("11.4.0.106", mutation=mutation):
        try:
            check(case, result, "sm80")
        except AssertionError:
            failures.add(case["op_type"])
    assert failures, f"nothing noticed: {mutation}"


def case_of(op_type: str, **changes: Any) -> dict[str, Any]:
    return {**next(case for case in cases() if case["op_type"] == op_type), **changes}


def answers(*refused: dict[str, Any], version: str = "11.4.0.106") -> list[Any]:
    order = {"target": "sm80", "cases": list(refused), "mutation": None}
    found: list[Any] = trt_bindings.run(version, SCRIPT, "walk", order)
    return found


def test_what_has_no_kernel_is_refused_with_the_sizes_and_what_to_do() -> None:
    narrow = [[1, 2, 9, 24], [1, 2, 24, 9], [1, 2, 9, 24]]
    open_width = [[1, 2, 9, -1], [1, 2, -1, 9], [1, 2, 9, -1]]
    product = "TrtdeployScaledDotProduct"
    found = answers(case_of(product, shapes=narrow, runs=[narrow]), case_of(product, shapes=open_width, runs=[narrow]))
    end = " in float16. Build the engine without plugins: --attention native."
    assert found == [
        f"BuildError: Plugin {product} has no kernel for inputs [1, 2, 9, 24], [1, 2, 24, 9], [1, 2, 9, 24]{end}",
        f"BuildError: Plugin {product} has no kernel for inputs [1, 2, 9, ?], [1, 2, ?, 9], [1, 2, 9, ?]{end}",
    ]


@pytest.mark.parametrize("version", trt_bindings.VERSIONS)
def test_types_without_kernels_are_refused(version: str) -> None:
    (mixed, other) = answers(
        case_of("TrtdeployCoordGate", input_types=["HALF", "HALF", "FLOAT"]),
        case_of("TrtdeploySimAMGate", input_types=["INT32"]),
        version=version,
    )
    end = "; expected all FLOAT or all HALF. Build the engine without plugins: --attention native."
    assert mixed == f"BuildError: Plugin TrtdeployCoordGate got inputs of types HALF, HALF, FLOAT{end}"
    assert other == f"BuildError: Plugin TrtdeploySimAMGate got inputs of types INT32{end}"


@pytest.mark.parametrize("version", trt_bindings.VERSIONS)
def test_the_bits_of_a_float_reach_the_arguments_as_they_are(version: str) -> None:
    numbers = (1e-4, -1e-4, 3.4e38, -3.4e38, 1e-45, -0.0)
    results = answers(*(case_of("TrtdeploySimAMGate", attributes={"epsilon": [x]}) for x in numbers), version=version)
    for number, result in zip(numbers, results, strict=True):
        for launch in result["launches"]:
            (arguments,) = launch["arguments"]
            assert struct.pack("=i", arguments[-1]) == np.float32(number).tobytes()


def test_versions_without_ahead_of_time_plugins_are_refused() -> None:
    old = SimpleNamespace(__name__="tensorrt", __version__="10.8.0.43", QuickPluginCreationRequest=None)
    rtx = SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1.116", QuickPluginCreationRequest=None)
    for module in (old, rtx):
        assert not supports_quick_plugins(module)
        with pytest.raises(BuildError, match=r"has no quick plugins (?s:.)*expected tensorrt 10\.9 or newer"):
            register_quick_plugins(module, plugin_specs().values())


def test_each_gpu_gets_the_newest_kernels_that_run_on_it() -> None:
    assert [ptx_target(gpu) for gpu in ((7, 5), (8, 0), (8, 7), (12, 1))] == ["sm75", "sm80", "sm80", "sm80"]
    with pytest.raises(BuildError, match=r"compute capability 7\.5 or newer; this one has 7\.2"):
        ptx_target((7, 2))
