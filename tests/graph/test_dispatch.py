"""One file for every engine: TensorRT's parser takes plugins, ONNX Runtime and TensorRT-RTX the bodies."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from trtdeploy.api.optimize import OptimizeOptions, optimize
from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import DOMAIN
from trtdeploy.attention.operations import is_operation, operations
from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import Precision
from trtdeploy.graph.dispatch import Creator, dispatch, strip_bodies

KINDS = ("cbam", "simam", "mhsa", "coordatt", "se")
VERSIONS = [(10, 0), (10, 3), (10, 6), (10, 9), (10, 16), (11, 4)]
ALL: list[Creator] = [(op_type, "1", "trtdeploy") for op_type in operations()]


@pytest.fixture(scope="module")
def optimized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a network as exported, and what `trtdeploy optimize --fp16` makes of it."""
    folder = tmp_path_factory.mktemp("one")
    torch.manual_seed(0)
    blocks = [catalogue.kind(kind).make(64) for kind in KINDS]
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, stride=4), *blocks, nn.Conv2d(64, 8, 1)).eval()
    source, target = folder / "net.onnx", folder / "optimized.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.rand(1, 3, 32, 32),), str(source), dynamo=False, opset_version=17, input_names=["images"],
            dynamic_axes={"images": {0: "b", 2: "h", 3: "w"}},
        )  # fmt: skip
    optimize(source, target, OptimizeOptions(precision=Precision.FP16))
    return source, target


def seen(model: ir.Model, creators: Collection[Creator], version: tuple[int, int]) -> dict[str, set[str]]:
    """Return who takes the operations and the blocks, after what a backend does for this version."""
    given = strip_bodies(model, {op_type for op_type, _, _ in creators}) if version < (10, 7) else model
    found: dict[str, set[str]] = {"operations": set(), "blocks": set(), "problems": set()}
    for taken in dispatch(given, creators, version):
        found["problems"] |= {taken.problem} - {""}
        if taken.domain == DOMAIN:
            found["operations" if is_operation(DOMAIN, taken.op_type) else "blocks"].add(taken.handler)
    return found


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"TensorRT {v[0]}.{v[1]}")
def test_every_operation_goes_to_its_plugin(optimized: tuple[Path, Path], version: tuple[int, int]) -> None:
    model = ir.load(optimized[1])
    found = seen(model, ALL, version)
    blocks = {"function"} if version >= (10, 7) else set()  # up to 10.6 they were inlined before
    assert found == {"operations": {"plugin"}, "blocks": blocks, "problems": set()}
    taken = [t for t in dispatch(model, ALL, (10, 16)) if t.handler == "plugin"]
    assert len(taken) == len(ALL_OF_KINDS)
    assert sorted(t.op_type for t in taken) == sorted(ALL_OF_KINDS)
    assert all(t.creator == (t.op_type, "1", "trtdeploy") and len(t.inside) == 1 for t in taken)


ALL_OF_KINDS = [
    "TrtdeployChannelPool", "TrtdeployScaledSpatialPool", "TrtdeployScaledSpatialGate", "TrtdeploySimAMGate",
    "TrtdeployScaledDotProduct", "TrtdeployCoordPool", "TrtdeployCoordGate", "TrtdeployGateMultiply",
]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"TensorRT {v[0]}.{v[1]}")
def test_without_plugins_everything_is_inlined(optimized: tuple[Path, Path], version: tuple[int, int]) -> None:
    model = ir.load(optimized[1])
    taken = dispatch(model, [], version)
    assert {t.handler for t in taken if t.domain == DOMAIN} == {"function"}
    assert {t.handler for t in taken if not t.domain} == {"built-in"}
    assert not [t.problem for t in taken if t.problem]


def test_plugins_of_some_operations_leave_the_rest_to_the_bodies(optimized: tuple[Path, Path]) -> None:
    model, some = ir.load(optimized[1]), [("TrtdeploySimAMGate", "1", "trtdeploy")]
    for version in ((10, 3), (11, 4)):
        assert seen(model, some, version)["problems"] == set()
    stripped = strip_bodies(model, ["TrtdeploySimAMGate"])
    assert not stripped.functions
    assert [n.op_type for n in stripped.graph if n.domain == DOMAIN] == ["TrtdeploySimAMGate"]
    assert len(model.functions) > 1  # what was given stays whole


def test_the_function_before_the_plugin_is_said(optimized: tuple[Path, Path]) -> None:
    problems = {t.problem for t in dispatch(ir.load(optimized[1]), ALL, (10, 3)) if t.op_type == "TrtdeploySimAMGate"}
    assert problems == {
        "TensorRT 10.3 takes the function of trtdeploy::TrtdeploySimAMGate before its plugin: "
        "remove it with strip_bodies."
    }


def test_another_version_or_namespace_is_another_plugin(optimized: tuple[Path, Path]) -> None:
    for creator in (("TrtdeploySimAMGate", "2", "trtdeploy"), ("TrtdeploySimAMGate", "1", "")):
        handlers = {t.handler for t in dispatch(ir.load(optimized[1]), [creator], (11, 4)) if t.domain == DOMAIN}
        assert handlers == {"function"}


def test_the_same_file_runs_in_onnx_runtime(optimized: tuple[Path, Path]) -> None:
    images = np.random.default_rng(0).random((2, 3, 40, 56), np.float32)
    results = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]
        for path in optimized
    ]
    assert np.abs(results[0] - results[1]).max() <= 5e-3 * np.abs(results[0]).max()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
def test_the_same_file_builds_in_tensorrt_rtx(optimized: tuple[Path, Path]) -> None:
    from trtdeploy.backends.rtx_probe import probe_build

    built = probe_build(optimized[1], {"images": ((1, 3, 64, 64), (2, 3, 96, 128), (4, 3, 128, 160))})
    assert (built.refused, built.mha) == ((), 1)


# What the parser would misread


def conflicting(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto]) -> ir.Model:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 17), ("a", 1), ("b", 1))]
    return ir.from_proto(
        helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets, functions=functions)
    )


def function(domain: str, name: str, inner: str = "Relu", inner_domain: str = "") -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    node = helper.make_node(inner, ["p"], ["q"], domain=inner_domain)
    return helper.make_function(domain, name, ["p"], ["q"], [node], opsets)


def test_an_operators_name_in_another_domain_is_a_problem() -> None:
    model = conflicting([helper.make_node("Gelu", ["x"], ["y"], domain="a", name="n")], [function("a", "Gelu")])
    (taken,) = dispatch(model, [], (11, 4))
    assert (taken.handler, taken.problem) == (
        "built-in", "TensorRT takes a::Gelu for its own operator Gelu, whatever the domain: rename it.",
    )  # fmt: skip


def test_two_functions_of_one_name_are_a_problem() -> None:
    model = conflicting(
        [helper.make_node("Bar", ["x"], ["y"], domain="b")], [function("a", "Bar"), function("b", "Bar", "Neg")]
    )
    assert dispatch(model, [], (10, 16))[0].problem == ("2 functions are named Bar; TensorRT takes any: rename them.")


def test_a_function_of_another_domain_is_a_problem() -> None:
    model = conflicting([helper.make_node("Bar", ["x"], ["y"], domain="b")], [function("a", "Bar")])
    assert dispatch(model, [], (10, 16))[0].problem == "TensorRT takes the function a::Bar for b::Bar."


def test_a_node_that_nothing_takes_is_a_problem() -> None:
    model = conflicting([helper.make_node("Bar", ["x"], ["y"], domain="b")], [])
    (taken,) = dispatch(model, [("Bar", "1", "a")], (10, 16))
    assert (taken.handler, taken.problem) == (
        "nothing",
        "Neither a plugin nor a function is there for b::Bar: register its plugin or keep its function.",
    )
    assert dispatch(model, [("Bar", "1", "b")], (10, 0))[0].handler == "plugin"  # its domain is the namespace


def test_a_function_that_calls_itself_is_refused() -> None:
    model = conflicting([helper.make_node("Bar", ["x"], ["y"], domain="a")], [function("a", "Bar", "Bar", "a")])
    with pytest.raises(ModelError, match="Function 'Bar' calls itself: Bar > Bar"):
        dispatch(model, [], (10, 16))


def test_bodies_of_control_flow_are_looked_into() -> None:
    branch = helper.make_graph(
        [helper.make_node("Bar", ["x"], ["z"], domain="b", name="inner")], "then", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    taken = dispatch(conflicting(nodes, [function("b", "Bar")]), [("Bar", "1", "b")], (10, 16))
    assert [t.handler for t in taken if t.op_type == "Bar"] == ["function", "function"]
