"""Parts of blocks with kernels become operations, and only what computes the same does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import DOMAIN
from trtdeploy.attention.operations import forms, is_operation, operations
from trtdeploy.graph.fuse.fuse_attention import FuseAttention
from trtdeploy.graph.fuse.proof import Proof
from trtdeploy.graph.fuse.region import Region, region_of
from trtdeploy.graph.load import load_model
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.reference import difference
from trtdeploy.graph.surgery import operate
from trtdeploy.graph.view.facts import GraphFacts

SIMAM = ["TrtdeploySimAMGate"]
COORD = ["TrtdeployCoordPool", "TrtdeployCoordGate"]
CHANNEL = ["TrtdeployChannelPool", "TrtdeployGateMultiply"]
SPATIAL = ["TrtdeploySpatialGate", "TrtdeploySpatialPool"]
CBAM = ["TrtdeployScaledSpatialGate", "TrtdeployScaledSpatialPool", "TrtdeployChannelPool"]
GATE = ["TrtdeployGateMultiply"]
ATTEND = ["TrtdeployScaledDotProduct"]
INSIDE: dict[str, list[str]] = {
    "simam": SIMAM, "coordatt": COORD, "channel_attention": CHANNEL, "spatial_attention": SPATIAL, "cbam": CBAM,
    "se": GATE, "eca": GATE, "ema": [*COORD, *GATE], "mhsa": ATTEND, "self_attention": ATTEND, "psa": ATTEND,
    "area": ATTEND, "window": ATTEND, "cga": ATTEND * 4,
}  # fmt: skip
LINEAR = {"se": {"linear": True}, "channel_attention": {"linear": True}}
SHAPES = ((1, 16, 32), (3, 8, 24))


class Net(nn.Module):
    """A body between two convolutions."""

    def __init__(self, body: nn.Module | Callable[[Net, Tensor], Tensor], channels: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.one, self.two = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.narrow, self.wide = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)
        self.planes = nn.ModuleDict({
            "usual": nn.Conv2d(2, 1, 7, padding=3, bias=False),
            "bias": nn.Conv2d(2, 1, 7, padding=3),
            "small": nn.Conv2d(2, 1, 3, padding=1, bias=False),
            "dilated": nn.Conv2d(2, 1, 7, padding=6, dilation=2, bias=False),
        })  # fmt: skip
        self.body = body
        for name, tensor in self.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(tensor, 0.7)
        self.head = nn.Conv2d(channels, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.body(x) if isinstance(self.body, nn.Module) else self.body(self, x)
        out: Tensor = self.head(x)
        return out


def export(module: nn.Module, path: Path, opset: int = 17, *, dynamic: bool = True) -> Path:
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.rand(1, 3, 8, 24),), str(path), dynamo=False, opset_version=opset,
            input_names=["images"], dynamic_axes=axes,
        )  # fmt: skip
    return path


def cut(path: Path, **options: Any) -> tuple[ir.Model, list[dict[str, Any]]]:
    """Run surgery on a file; return the model and its blocks."""
    model, reports = operate(Prepare(verify=False).run(load_model(path).model).model, verify=False, **options)
    onnx.checker.check_model(ir.to_proto(model))
    return model, next(r for r in reports if r.name == FuseAttention.name).details["blocks"]


def run(model: Path | ir.Model, images: np.ndarray) -> dict[str, Any]:
    data = str(model) if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def gap(before: Path, after: ir.Model, shapes: Any = SHAPES) -> float:
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((b, 3, h, w)).astype(np.float32) for b, h, w in shapes]
    return max(difference(run(before, x), run(after, x)) for x in inputs)


def inside(blocks: list[dict[str, Any]]) -> list[str]:
    return [op_type for block in blocks if block["fused"] for op_type in block["operations"]]


def nodes_of(model: ir.Model) -> list[ir.Node]:
    """Return the operations inside the functions of blocks."""
    blocks = [f for f in model.functions.values() if not is_operation(f.domain, f.name)]
    return [node for f in blocks for node in f if is_operation(node.domain, node.op_type)]


# What becomes of every kind


@pytest.mark.parametrize("kind", INSIDE)
def test_operations_of_a_kind(kind: str, tmp_path: Path) -> None:
    path = export(Net(catalogue.kind(kind).make(64)), tmp_path / "net.onnx")
    model, blocks = cut(path)
    assert inside(blocks) == INSIDE[kind]
    assert sorted(n.op_type for n in nodes_of(model)) == sorted(INSIDE[kind])
    assert all(node.domain != DOMAIN or not is_operation(node.domain, node.op_type) for node in model.graph)
    assert gap(path, model) <= 1e-6
    half = ToFp16().run(model).model
    assert gap(path, half) <= 2e-3
    _has_no_cast_before_operations(half)
    before, after = ({f.name: f for f in m.functions.values() if f.name in operations()} for m in (model, half))
    assert all(ir.to_proto(after[name]) == ir.to_proto(before[name]) for name in before)


def _has_no_cast_before_operations(half: ir.Model) -> None:
    """Check that what a block is given reaches its operations as it is, in FP16."""
    for node in half.graph:
        if node.domain == DOMAIN:
            assert all(v.dtype == ir.DataType.FLOAT16 for v in node.inputs if v is not None and v.dtype is not None)
    for function in half.functions.values():
        for node in [n for n in function if is_operation(n.domain, n.op_type)]:
            for value in node.inputs:
                cast = value.producer() if value is not None else None
                assert cast is None or cast.op_type != "Cast" or cast.inputs[0] not in function.inputs


@pytest.mark.parametrize("kind", LINEAR)
def test_logits_of_rank_2_get_their_axes(kind: str, tmp_path: Path) -> None:
    path = export(Net(catalogue.kind(kind).make(64, **LINEAR[kind])), tmp_path / "net.onnx")
    model, blocks = cut(path)
    assert inside(blocks) == INSIDE[kind]
    assert gap(path, model) <= 1e-6


@pytest.mark.parametrize("kind", ["simam", "coordatt", "cbam", "ema", "mhsa"])
def test_fixed_sizes(kind: str, tmp_path: Path) -> None:
    path = export(Net(catalogue.kind(kind).make(64)), tmp_path / "net.onnx", dynamic=False)
    model, blocks = cut(path)
    assert inside(blocks) == INSIDE[kind]
    assert gap(path, model, ((1, 8, 24),)) <= 1e-6


def test_the_result_can_be_operated_on_again(tmp_path: Path) -> None:
    path = export(Net(nn.Sequential(*(catalogue.kind(k).make(64) for k in ("cbam", "simam", "mhsa")))), tmp_path / "n")
    model, blocks = cut(path)
    ir.save(model, tmp_path / "once.onnx")
    again, found = cut(tmp_path / "once.onnx")
    assert inside(found) == inside(blocks) == [*CBAM, *SIMAM, *ATTEND]
    assert gap(path, again) <= 1e-6


def test_without_operations_none_are_made(tmp_path: Path) -> None:
    model, blocks = cut(export(Net(catalogue.kind("cbam").make(64)), tmp_path / "net.onnx"), operations=False)
    assert inside(blocks) == []
    assert [f.name for f in model.functions.values()] == ["TrtdeployCBAM"]


@pytest.mark.parametrize("opset", [13, 14])
def test_opset_13_and_14_are_raised(opset: int, tmp_path: Path) -> None:
    path = export(Net(catalogue.kind("cbam").make(64)), tmp_path / "net.onnx", opset)
    model, blocks = cut(path)
    assert (inside(blocks), model.opset_imports[""]) == (CBAM, 15)
    assert gap(path, model) <= 1e-6


def test_opset_12_has_no_operations_and_says_so(tmp_path: Path) -> None:
    path = export(Net(catalogue.kind("se").make(64)), tmp_path / "net.onnx", 12)
    model, blocks = cut(path)
    assert blocks[0]["not_operations"] == ["opset 12 is too old for operations, which need 15"]
    assert gap(path, model) <= 1e-6


def test_a_node_has_what_tensorrt_asks_for(tmp_path: Path) -> None:
    model, _ = cut(export(Net(catalogue.kind("simam").make(64, epsilon=3e-3)), tmp_path / "net.onnx"))
    (node,) = nodes_of(model)
    assert {name: attribute.value for name, attribute in node.attributes.items()} == {
        "epsilon": pytest.approx((3e-3,)), "plugin_namespace": "trtdeploy", "plugin_version": "1", "aot": 1,
    }  # fmt: skip


# What looks like an operation and is none


def _simam(x: Tensor, less: int = 1, factor: float = 4.0, shift: float = 0.5, outside: bool = False) -> Tensor:
    n = x.shape[2] * x.shape[3] - less
    d = (x - x.mean((2, 3), keepdim=True)).pow(2)
    v = d.sum((2, 3), keepdim=True) / n
    energy = factor * v + factor * 1e-4 if outside else factor * (v + 1e-4)
    return x * torch.sigmoid(d / energy + shift)


def _spatial(n: Net, x: Tensor, plane: str = "usual", swapped: bool = False, hard: bool = False) -> Tensor:
    mean, peak = x.mean(1, keepdim=True), x.amax(1, keepdim=True)
    logits = n.planes[plane](torch.cat([peak, mean] if swapped else [mean, peak], 1))
    return x * (F.hardsigmoid(logits) if hard else logits.sigmoid())


def _channel(n: Net, x: Tensor, gate: Callable[[Tensor], Tensor] = torch.sigmoid) -> Tensor:
    pools = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return x * gate(sum(n.wide(F.relu(n.narrow(pool))) for pool in pools))


def _attend(width: int, scale: float, divide: bool = False) -> Callable[[Net, Tensor], Tensor]:
    def body(n: Net, x: Tensor) -> Tensor:
        q, k, v = (f(x).reshape(x.shape[0], 64 // width, width, -1).transpose(2, 3) for f in (n.one, n.two, n.one))
        scores = q @ k.transpose(2, 3)
        weights = (scores / scale if divide else scores * scale).softmax(-1)
        return n.two((weights @ v).transpose(2, 3).reshape(x.shape))

    return body


BODIES: dict[str, tuple[Callable[[Net, Tensor], Tensor], list[str]]] = {
    "SimAM with epsilon inside": (lambda n, x: _simam(x), SIMAM),
    "SimAM with epsilon outside": (lambda n, x: _simam(x, outside=True), SIMAM),
    "SimAM divided by HW": (lambda n, x: _simam(x, less=0), GATE),
    "SimAM divided by 3 variances": (lambda n, x: _simam(x, factor=3.0), GATE),
    "SimAM with another shift": (lambda n, x: _simam(x, shift=0.4), GATE),
    "spatial": (_spatial, SPATIAL),
    "spatial, maximum first": (lambda n, x: _spatial(n, x, swapped=True), ["TrtdeploySpatialGate"]),
    "spatial with a bias": (lambda n, x: _spatial(n, x, "bias"), ["TrtdeploySpatialPool", *GATE]),
    "spatial 3x3": (lambda n, x: _spatial(n, x, "small"), ["TrtdeploySpatialPool", *GATE]),
    "spatial dilated": (lambda n, x: _spatial(n, x, "dilated"), ["TrtdeploySpatialPool", *GATE]),
    "spatial with a hard sigmoid": (lambda n, x: _spatial(n, x, hard=True), ["TrtdeploySpatialPool"]),
    "channel": (_channel, CHANNEL),
    "channel with a hard sigmoid": (lambda n, x: _channel(n, x, F.hardsigmoid), ["TrtdeployChannelPool"]),
    "CBAM": (lambda n, x: _spatial(n, _channel(n, x)), CBAM),
    "CBAM with a bias": (
        lambda n, x: _spatial(n, _channel(n, x), "bias"),
        ["TrtdeploySpatialPool", "TrtdeployChannelPool", *GATE, *GATE],
    ),
    "attention of width 32": (_attend(32, 0.2), ATTEND),
    "attention divided by a scale": (_attend(32, 5.0, divide=True), ATTEND),
    "attention of width 8, padded to 16": (_attend(8, 0.3), ATTEND),
}


@pytest.mark.parametrize("name", BODIES)
def test_only_what_computes_the_same_is_an_operation(name: str, tmp_path: Path) -> None:
    body, wanted = BODIES[name]
    path = export(Net(body), tmp_path / "net.onnx")
    model, blocks = cut(path)
    assert [block["fused"] for block in blocks] == [True]
    assert sorted(inside(blocks)) == sorted(wanted)
    assert gap(path, model) <= 1e-6


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SimAM divided by HW", "its numbers differ"),
        ("spatial with a bias", "its numbers differ"),
        ("spatial 3x3", "no way to give it its operands in its shapes"),
    ],
)
def test_the_report_says_what_is_none(name: str, reason: str, tmp_path: Path) -> None:
    _, blocks = cut(export(Net(BODIES[name][0]), tmp_path / "net.onnx"))
    (said,) = blocks[0]["not_operations"]
    assert said.startswith("Trtdeploy")
    assert said.endswith(reason)


def test_a_width_without_a_kernel_is_reported(tmp_path: Path) -> None:
    _, blocks = cut(export(Net(catalogue.kind("mhsa").make(64, heads=8)), tmp_path / "n.onnx"), pad=False)
    assert inside(blocks) == []
    assert blocks[0]["not_operations"][0].endswith("D is 8; there are kernels for (16, 32, 64, 128)")


# Sharing


def test_two_blocks_share_the_functions_of_operations(tmp_path: Path) -> None:
    path = export(Net(nn.Sequential(*(catalogue.kind(k).make(64) for k in ("se", "eca", "se")))), tmp_path / "net.onnx")
    model, blocks = cut(path)
    assert inside(blocks) == GATE * 3
    assert [f.name for f in model.functions.values()].count("TrtdeployGateMultiply") == 1
    assert gap(path, model) <= 1e-6


def test_pools_that_another_branch_uses_stay_there_too(tmp_path: Path) -> None:
    def body(n: Net, x: Tensor) -> Tensor:
        return _channel(n, x) + n.one(x.mean((2, 3), keepdim=True)) + n.two(x.amax((2, 3), keepdim=True))

    path = export(Net(body), tmp_path / "net.onnx")
    model, blocks = cut(path)
    assert inside(blocks) == CHANNEL
    assert gap(path, model) <= 1e-6


# FP16


@pytest.mark.parametrize("kinds", [("se", "se"), ("eca", "se"), ("a2c2f", "a2c2f", "area")])
def test_a_block_that_stays_fp32_shares_its_operation_with_one_in_fp16(kinds: tuple[str, ...], tmp_path: Path) -> None:
    path = export(Net(nn.Sequential(*(catalogue.kind(kind).make(64) for kind in kinds))), tmp_path / "net.onnx")
    model, _ = cut(path)
    outer = [node.name for node in model.graph if node.domain == DOMAIN]
    assert len(outer) == len(kinds)
    half = ToFp16(keep=[outer[0]]).run(model).model
    onnx.checker.check_model(ir.to_proto(half))
    assert gap(path, half) <= 2e-3
    kept = next(node for node in half.graph if node.name == outer[0])
    assert {v.dtype for v in kept.inputs if v is not None} == {ir.DataType.FLOAT}


def test_attention_whose_scores_are_large_stays_fp32(tmp_path: Path) -> None:
    def body(n: Net, x: Tensor) -> Tensor:
        q, k, v = (f(x).reshape(x.shape[0], 2, 32, -1).transpose(2, 3) for f in (n.one, n.two, n.one))
        weights = (2e-6 * ((400 * q) @ (400 * k).transpose(2, 3))).softmax(-1)
        return n.two((weights @ v).transpose(2, 3).reshape(x.shape))

    path = export(Net(body), tmp_path / "net.onnx")
    model, _ = cut(path)
    half = ToFp16().run(model)
    assert half.report.details["islands"] == {"scores": 1}
    (node,) = nodes_of(half.model)
    assert all(v is not None and v.producer().op_type == "Cast" for v in node.inputs)
    assert gap(path, half.model) <= 2e-3


# The proof itself


def _simam_region(tmp_path: Path) -> tuple[Region, GraphFacts]:
    path = export(Net(lambda n, x: _simam(x)), tmp_path / "net.onnx")
    model = Prepare(verify=False).run(load_model(path).model).model
    facts = GraphFacts(model)
    order = {node: i for i, node in enumerate(model.graph)}
    conv, *_, last = list(model.graph)
    value = last.inputs[0]
    assert value is not None
    region = region_of([conv.outputs[0]], [value], facts, order)
    assert isinstance(region, Region)
    return region, facts


def test_a_proof_objects_to_every_other_number(tmp_path: Path) -> None:
    region, facts = _simam_region(tmp_path)
    gate, shape = operations()["TrtdeploySimAMGate"], facts.dims(region.inputs[0])
    assert shape is not None
    dims = tuple(d for d in shape if d is not None)

    def objection(epsilon: float) -> str:
        return Proof(region, facts, 17).objection(gate, [(dims, dims)], {"epsilon": [epsilon]})

    assert objection(float(np.float32(1e-4))) == ""
    assert {objection(e) for e in (1.01e-4, 0.99e-4, 0.0, 4e-4)} == {"its numbers differ"}


def test_every_operation_has_one_form() -> None:
    assert sorted(form.operation.op_type for form in forms()) == sorted(operations())
    for form in forms():
        assert list(form.shapes) == [operand.name for operand in form.operation.inputs]
