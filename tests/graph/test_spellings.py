"""Other ways of writing attention: operator Attention, Einsum, written-out softmax; the same numbers after."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from trtdeploy.backends.rtx_probe import probe_build
from trtdeploy.graph.canonicalise import Canonicalise, sdpa_form
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.precision.fp16 import ToFp16

SHAPES = "float[b,4,n,8] q, float[b,4,m,8] k, float[b,4,m,8] v"
FIXED = "float[b,4,5,8] q, float[b,4,7,8] k, float[b,4,7,8] v"
DIMS = {"q": (2, 4, 5, 8), "k": (2, 4, 7, 8), "v": (2, 4, 7, 8), "mask": (5, 7), "keep": (2, 1, 5, 7)}
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is missing")


def parsed(inputs: str, body: str, opset: int, output: str = "y") -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => (float[a,b0,c0,d0] {output}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    onnx.checker.check_model(proto)
    return proto


def canonical(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, PassResult]:
    result = Canonicalise(pad=False).run(ir.from_proto(proto))
    changed = ir.to_proto(result.model)
    onnx.checker.check_model(changed, full_check=True)
    return changed, result


def feeds(proto: onnx.ModelProto, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made = {v.name: (scale * rng.standard_normal(DIMS[v.name])).astype(np.float32) for v in proto.graph.input}
    return {name: array > -0.5 if name == "keep" else array for name, array in made.items()}


def run(proto: onnx.ModelProto, given: dict[str, Any]) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, given)[0])


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


# Operator Attention


ATTENTION = {
    "plain": ("", "Attention(q, k, v)"),
    "scale": ("", "Attention <scale = 0.5> (q, k, v)"),
    "causal": ("", "Attention <is_causal = 1> (q, k, v)"),
    "mask": (", float[5,7] mask", "Attention(q, k, v, mask)"),
    "booleans": (", bool[b,1,5,7] keep", "Attention(q, k, v, keep)"),
    "causal-mask-scale": (", float[5,7] mask", "Attention <is_causal = 1, scale = 0.25> (q, k, v, mask)"),
}


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_operator_becomes_products(name: str, opset: int) -> None:
    extra, node = ATTENTION[name]
    proto = parsed((FIXED if extra else SHAPES) + extra, f"y = {node}", opset)
    changed, result = canonical(proto)
    assert "Attention" not in operators(changed)
    assert operators(changed).count("MatMul") == 2
    assert any("operator Attention" in text for text in result.report.changes)
    given = feeds(proto)
    np.testing.assert_allclose(run(changed, given), run(proto, given), atol=2e-6)


def test_attention_comparison_notices_a_wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: a causal mask the wrong way round must not pass the comparison above."""
    proto = parsed(SHAPES, "y = Attention <is_causal = 1> (q, k, v)", 23)
    given = feeds(proto)
    right = sdpa_form._is_later
    monkeypatch.setattr(sdpa_form, "_is_later", lambda emit, q, k: emit.logical_not(right(emit, q, k)))
    assert np.abs(run(canonical(proto)[0], given) - run(proto, given)).max() > 0.1


REFUSED = {
    "grouped": ("float[b,4,n,8] q, float[b,2,m,8] k, float[b,2,m,8] v", "Attention(q, k, v)", "grouped"),
    "cap": (SHAPES, "Attention <softcap = 2.0> (q, k, v)", "soft cap"),
    "rank-3": (
        "float[b,n,32] q, float[b,m,32] k, float[b,m,32] v",
        "Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)",
        "rank 3",
    ),
    "cache": (f"{SHAPES}, float[b,4,p,8] pk, float[b,4,p,8] pv", "Attention(q, k, v, , pk, pv)", "earlier calls"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_attention_operator_is_left_alone_with_a_reason(name: str) -> None:
    inputs, node, reason = REFUSED[name]
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => (float[] y) {{ y = {node} }}'
    )
    result = Canonicalise().run(ir.from_proto(proto))
    assert [node.op_type for node in result.model.graph] == ["Attention"]
    assert any(reason in text for text in result.report.refusals), result.report.refusals


class Sdpa(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Conv2d(16, 48, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, 3, 2, 8, height * width).transpose(3, 4).unbind(1)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(2, 3).reshape(batch, channels, height, width)


@needs_rtx
def test_attention_operator_of_torch_builds_in_both_precisions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x, auto = Sdpa().eval(), torch.randn(2, 16, 5, 7), torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), str(tmp_path / "m.onnx"), dynamo=True, opset_version=23, external_data=False, verbose=False,
            input_names=["x"], dynamic_shapes=({0: auto, 2: auto, 3: auto},),
        )  # fmt: skip
    proto = onnx.load(tmp_path / "m.onnx")
    assert "Attention" in operators(proto)
    shapes = {"x": ((1, 16, 4, 4), (2, 16, 8, 8), (2, 16, 16, 16))}
    assert probe_build(proto.SerializeToString(), shapes).refused, "the builder takes the operator now: keep it"
    result = Canonicalise().run(ir.from_proto(proto))
    np.testing.assert_allclose(run(ir.to_proto(result.model), {"x": x.numpy()}), module(x).detach(), atol=2e-6)
    assert not probe_build(ir.to_proto(result.model).SerializeToString(), shapes).refused
    half = probe_build(ir.to_proto(ToFp16().run(result.model).model).SerializeToString(), shapes)
    assert not half.refused
    assert half.mha == 1


# Einsum


EINSUMS = {
    "scores": ("float[b,4,n,8] q, float[b,4,m,8] k", "bhid,bhjd->bhij"),
    "mix": ("float[b,4,n,8] q, float[b,4,8,m] w", "bhij,bhjd->bhid"),
    "channels-first": ("float[b,4,n,8] q, float[b,4,m,8] k", "bhdi,bhdj->bhij"),
    "heads-last": ("float[b,4,n,8] q, float[b,4,m,8] k", "bihd,bjhd->bhij"),
    "result-turned": ("float[b,4,n,8] q, float[b,4,m,8] k", "bhid,bhjd->bhji"),
    "projection": ("float[b,4,n,8] q, float[8,24] w", "bhnc,cd->bhnd"),
}
OPERANDS = {
    "scores": ((2, 4, 5, 8), (2, 4, 7, 8)),
    "mix": ((2, 4, 5, 8), (2, 4, 8, 7)),
    "channels-first": ((2, 4, 8, 5), (2, 4, 8, 7)),
    "heads-last": ((2, 5, 4, 8), (2, 7, 4, 8)),
    "result-turned": ((2, 4, 5, 8), (2, 4, 7, 8)),
    "projection": ((2, 4, 5, 8), (8, 24)),
}


def einsum(equation: str, left: tuple[int, ...], right: tuple[int, ...]) -> onnx.ModelProto:
    """Return a model whose first axis is open."""
    opened = [", ".join(["b", *map(str, shape[1:])]) if len(shape) == 4 else "8, 24" for shape in (left, right)]
    rank = ",".join("wxyz"[: len(equation.partition("->")[2])])
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{opened[0]}] l, float[{opened[1]}] r) '
        f'=> (float[{rank}] y) {{ y = Einsum <equation = "{equation}"> (l, r) }}'
    )
    onnx.checker.check_model(proto)
    return proto


@pytest.mark.parametrize("name", EINSUMS)
def test_einsum_becomes_a_product(name: str) -> None:
    equation, (left, right) = EINSUMS[name][1], OPERANDS[name]
    proto = einsum(equation, left, right)
    changed, _ = canonical(proto)
    assert operators(changed).count("MatMul") == 1
    assert "Einsum" not in operators(changed)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in (left, right))
    np.testing.assert_allclose(run(changed, {"l": a, "r": b}), np.einsum(equation, a, b), atol=2e-6)


@pytest.mark.parametrize("equation", ["bhid,bhid->bhi", "bhid,bhjd->bij", "bhid,bhjd->bh"])
def test_einsum_that_is_no_product_of_matrices_stays(equation: str) -> None:
    proto = einsum(equation, (2, 4, 5, 8), (2, 4, 5, 8))
    assert operators(canonical(proto)[0]) == ["Einsum"]


# Softmax


SOFTMAX = {
    "plain": "e = Exp(x) s = ReduceSum <keepdims = 1> (e, last) p = Div(e, s)",
    "shifted": (
        "m = ReduceMax <keepdims = 1> (x, last) c = Sub(x, m) e = Exp(c) s = ReduceSum <keepdims = 1> (e, last) "
        "p = Div(e, s)"
    ),
    "reciprocal": "e = Exp(x) s = ReduceSum <keepdims = 1> (e, last) i = Reciprocal(s) p = Mul(i, e)",
    "logsumexp": "s = ReduceLogSumExp <keepdims = 1> (x, last) c = Sub(x, s) p = Exp(c)",
    "log-softmax": "l = LogSoftmax <axis = 3> (x) p = Exp(l)",
}


def attention(softmax: str, axis: int = -1) -> onnx.ModelProto:
    """Return unscaled attention with a softmax that is written out."""
    return parsed(
        SHAPES,
        f"last = Constant <value_ints = [{axis}]> () t = Transpose <perm = [0, 1, 3, 2]> (k) x = MatMul(q, t) "
        f"{softmax} y = MatMul(p, v)",
        18,
    )


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_that_is_written_out_becomes_one_operator(name: str) -> None:
    proto = lifted(attention(SOFTMAX[name]))
    changed, result = canonical(proto)
    assert operators(changed).count("Softmax") == 1
    assert not {"Exp", "ReduceSum", "Div", "LogSoftmax"} & set(operators(changed))
    assert result.report.details["attention"], "attention is recognised"
    given = feeds(proto)
    np.testing.assert_allclose(run(changed, given), run(proto, given), atol=2e-6)
    large = feeds(proto, scale=12.0)  # exponentials beyond FP32, where the written form has no answer
    assert np.isfinite(run(changed, large)).all()
    assert np.isfinite(run(proto, large)).all() != (name in {"plain", "reciprocal"})


@pytest.mark.parametrize(
    "other",
    [
        "e = Exp(x) s = ReduceSum <keepdims = 1> (e, last) o = Constant <value_float = 1.0> () t2 = Add(s, o) "
        "p = Div(e, t2)",
        "e = Exp(x) f = Relu(x) s = ReduceSum <keepdims = 1> (f, last) p = Div(e, s)",
        "e = Exp(x) s = ReduceMax <keepdims = 1> (e, last) p = Div(e, s)",
        "s = ReduceLogSumExp <keepdims = 1> (x, last) c = Sub(s, x) p = Exp(c)",
    ],
    ids=["softmax-with-one-more", "other-sum", "maximum", "reversed"],
)
def test_what_only_looks_like_a_softmax_stays(other: str) -> None:
    assert "Softmax" not in operators(canonical(lifted(attention(other)))[0])


def lifted(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Make constant nodes initializers, as PREPARE does."""
    model = ir.from_proto(proto)
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return ir.to_proto(model)


# Branches


def test_attention_in_a_branch_is_reported_and_left_alone() -> None:
    inner = "t = Transpose <perm = [0, 1, 3, 2]> (k) x = MatMul(q, t) p = Softmax(x) z = MatMul(p, v)"
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({SHAPES}, bool c) => (float[b,4,n,8] y) {{ '
        f"o = If (c) <then_branch = a () => (float[b,4,n,8] z) {{ {inner} }}, "
        f"else_branch = b () => (float[b,4,n,8] w) {{ w = Identity(q) }}> y = Relu(o) }}"
    )
    changed, result = canonical(proto)
    assert operators(changed) == ["If", "Relu"]
    assert any("lies in the then_branch" in text for text in result.report.refusals)
    given = feeds(parsed(SHAPES, "y = Relu(q)", 17))
    for taken in (True, False):
        given["c"] = np.array(taken)
        np.testing.assert_array_equal(run(changed, given), run(proto, given))
