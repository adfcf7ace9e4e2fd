"""Queries, keys and values by one convolution: the same numbers, and only where nothing else is lost by it."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from trtdeploy.backends.rtx_probe import probe_build
from trtdeploy.graph.canonicalise import Canonicalise
from trtdeploy.graph.canonicalise.projections import JoinProjections
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.reference import ReferenceModel
from trtdeploy.graph.view.facts import GraphFacts

C = 16
X = np.random.default_rng(1).standard_normal((2, C, 5, 7)).astype(np.float32)
LAYERS = "a = Conv(x, wq, bq) c = Conv(x, wk) d = Conv(x, wv, bv)"
CORE = (
    "q3 = Reshape(a, flat) k3 = Reshape(c, flat) v3 = Reshape(d, flat) qt = Transpose <perm = [0, 2, 1]> (q3) "
    "s = MatMul(qt, k3) p = Softmax <axis = -1> (s) pt = Transpose <perm = [0, 2, 1]> (p) m = MatMul(v3, pt) "
    "shape = Shape(x) r = Reshape(m, shape) y = Add(r, x)"
)


def attention(layers: str = LAYERS, opset: int = 17, core: str = CORE, **more: np.ndarray[Any, Any]) -> ir.Model:
    """Return SAGAN's self-attention behind a convolution; keys have no bias."""
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray[Any, Any]] = {
        "w0": rng.standard_normal((C, C, 3, 3)) / 12, "wq": rng.standard_normal((4, C, 1, 1)),
        "wk": rng.standard_normal((4, C, 1, 1)), "wv": rng.standard_normal((C, C, 1, 1)),
        "bq": rng.standard_normal(4), "bv": rng.standard_normal(C), **more,
    }  # fmt: skip
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[b,{C},h,w] i) => (float[b,{C},h,w] y) {{ '
        f"x = Conv <pads = [1, 1, 1, 1]> (i, w0) {layers} {core} }}"
    )
    tensors = {name: array.astype(np.float32) for name, array in weights.items()}
    tensors["flat"] = np.array([0, 0, -1], np.int64)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def gap(model: ir.Model, changed: ir.Model) -> float:
    onnx.checker.check_model(ir.to_proto(changed), full_check=True)
    wanted, got = (ReferenceModel(m).run({"i": X})["y"] for m in (model, changed))
    return float(np.abs(wanted - got).max())


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_three_convolutions_of_one_map_become_one(opset: int) -> None:
    model = attention(opset=opset)
    changed = model.clone()
    assert len(JoinProjections(changed, GraphFacts(changed)).run()) == 1
    assert operators(changed).count("Conv") == 2
    assert operators(changed).count("Split") == 1
    assert gap(model, changed) < 1e-5


def test_comparison_notices_exchanged_parts() -> None:
    """Mutation: queries and keys in the wrong places must not pass."""
    model = attention()
    changed = model.clone()
    JoinProjections(changed, GraphFacts(changed)).run()
    split = next(node for node in changed.graph if node.op_type == "Split")
    first, second, _ = split.outputs
    first.replace_all_uses_with(second)
    assert gap(model, changed) > 1e-2


def test_canonicalise_joins_and_reports() -> None:
    model = attention()
    result = Canonicalise(pad=False).run(model.clone())
    assert any("projections of attention" in text for text in result.report.changes)
    assert gap(model, result.model) < 1e-5


STAY = {
    "another-input": ("a = Conv(x, wq, bq) z = Relu(x) c = Conv(z, wk) z2 = Tanh(x) d = Conv(z2, wv, bv)", {}),
    "kernels": (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w3) c = Conv <pads = [0, 1, 0, 1]> (x, w13) d = Conv(x, wv, bv)",
        {"w3": np.ones((4, C, 3, 3)), "w13": np.ones((4, C, 1, 3))},
    ),
    "groups": (
        "a = Conv <group = 2> (x, wg) c = Conv <group = 4> (x, wh) d = Conv(x, wv, bv)",
        {"wg": np.ones((4, C // 2, 1, 1)), "wh": np.ones((4, C // 4, 1, 1))},
    ),
}


@pytest.mark.parametrize("name", STAY)
def test_other_layers_stay(name: str) -> None:
    layers, more = STAY[name]
    model = attention(layers, **more)
    before = operators(model)
    assert JoinProjections(model, GraphFacts(model)).run() == []
    assert operators(model) == before


def test_convolutions_that_feed_no_attention_stay() -> None:
    model = attention(core="s = Concat <axis = 1> (a, c) r = ReduceMean <axes = [1]> (s) y = Add(r, d)")
    assert JoinProjections(model, GraphFacts(model)).run() == []


def test_products_with_matrices_are_joined_only_where_asked() -> None:
    layers = (
        "f = Reshape(x, flat) t = Transpose <perm = [0, 2, 1]> (f) "
        "a = MatMul(t, mq) c = MatMul(t, mk) d = MatMul(t, mv)"
    )
    core = (
        "kt = Transpose <perm = [0, 2, 1]> (c) s = MatMul(a, kt) p = Softmax <axis = -1> (s) m = MatMul(p, d) "
        "mt = Transpose <perm = [0, 2, 1]> (m) shape = Shape(x) y = Reshape(mt, shape)"
    )
    rng = np.random.default_rng(0)
    matrices = {name: rng.standard_normal((C, width)) / 4 for name, width in (("mq", 4), ("mk", 4), ("mv", C))}
    model = attention(layers, core=core, **matrices)
    changed = model.clone()
    assert JoinProjections(changed, GraphFacts(changed)).run() == []
    assert len(JoinProjections(changed, GraphFacts(changed), products=True).run()) == 1
    assert operators(changed).count("MatMul") == 3
    assert gap(model, changed) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is missing")
def test_joining_saves_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"i": ((1, C, 16, 16), (4, C, 20, 20), (8, C, 34, 34))}

    def facts() -> Any:
        model = ToFp16().run(Canonicalise().run(attention()).model).model
        return probe_build(ir.to_proto(model).SerializeToString(), shapes)

    joined = facts()
    monkeypatch.setattr(JoinProjections, "run", lambda _self: [])
    separate = facts()
    assert joined.launches < separate.launches
    assert joined.activation_bytes <= separate.activation_bytes
    assert joined.mha == separate.mha == 1
