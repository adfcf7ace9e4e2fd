"""One file, three runtimes: the fused node is taken as a function, inlined, or computed by ONNX's reference."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import DOMAIN
from trtdeploy.graph.inline import InlineAttention
from trtdeploy.graph.load import load_model
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate


@pytest.fixture(scope="module", params=["cbam", "self_attention", "simam"])
def fused(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a network as exported, and with its attention as one node with a body."""
    torch.manual_seed(0)
    attention = catalogue.kind(request.param).make(16)
    if hasattr(attention, "gamma"):
        torch.nn.init.constant_(attention.gamma, 0.5)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), attention, torch.nn.Conv2d(16, 4, 1)).eval()
    path = Path(tmp_path_factory.mktemp("fused") / "m.onnx")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(1, 3, 9, 11),), str(path), dynamo=False, opset_version=18, input_names=["x"],
            dynamic_axes={"x": {0: "b", 2: "h", 3: "w"}},
        )  # fmt: skip
    model, _ = operate(Prepare().run(load_model(path).model).model)
    proto = ir.to_proto(model)
    assert [node.domain for node in proto.graph.node].count(DOMAIN) == 1
    return onnx.load(path), proto


def in_runtime(proto: onnx.ModelProto, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("shape", [(1, 3, 9, 11), (3, 3, 12, 7)])
def test_every_runtime_gives_the_same(fused: tuple[onnx.ModelProto, onnx.ModelProto], shape: tuple[int, ...]) -> None:
    plain, with_node = fused
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = in_runtime(plain, x)
    without = ir.to_proto(InlineAttention("test").run(ir.from_proto(with_node)).model)
    assert not without.functions
    assert all(node.domain != DOMAIN for node in without.graph.node)
    results = {
        "ONNX Runtime, function": in_runtime(with_node, x),
        "ONNX Runtime, inlined by trtdeploy": in_runtime(without, x),
        "ONNX Runtime, inlined by onnx": in_runtime(onnx.inliner.inline_local_functions(with_node), x),
        "onnx.reference, function": ReferenceEvaluator(with_node).run(None, {"x": x})[0],
    }
    for name, got in results.items():
        np.testing.assert_allclose(got, expected, atol=2e-5, err_msg=name)


def test_a_runtime_that_has_the_operator_uses_its_own(fused: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """The body is a fallback: an implementation of the operator is preferred where the runtime has one."""
    _, with_node = fused
    name = next(node.op_type for node in with_node.graph.node if node.domain == DOMAIN)
    asked = []

    def run(_self: OpRun, x: np.ndarray, *_weights: np.ndarray, **_plugin: object) -> tuple[np.ndarray]:
        asked.append(name)
        return (x,)

    kernel = type(name, (OpRun,), {"op_domain": DOMAIN, "_run": run})
    bare = onnx.ModelProto()
    bare.CopyFrom(with_node)
    del bare.functions[:]  # a plugin's backend takes the node and drops the body
    ReferenceEvaluator(bare, new_ops=[kernel]).run(None, {"x": np.zeros((1, 3, 9, 11), np.float32)})
    assert asked == [name]
