"""Adaptive computation, early exit, attention cache: both outcomes, both exporters, ONNX Runtime, the builder."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import trtdeploy
from trtdeploy.attention.cbam.module import CBAM
from trtdeploy.attention.self_attention.module import SelfAttention
from trtdeploy.backends.rtx_probe import probe_build
from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.graph.load import load_model
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate
from trtdeploy.models.adaptive_computation import ADAPTIVE_COMPUTATION
from trtdeploy.models.attention_cache import CachedAttention, attend, map_of
from trtdeploy.models.choose import Choose, scripted
from trtdeploy.models.early_exit import EarlyExit, with_early_exit
from trtdeploy.models.family import Network, NetworkOptions
from trtdeploy.models.insert import insert

AUTO = torch.export.Dim.DYNAMIC
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
EXPORTERS = ("dynamo", "torchscript", "scripted")
C = 16


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def written(
    module: nn.Module, args: tuple[Tensor, ...], path: Path, exporter: str, shapes: Any, outputs: int = 1
) -> Path:
    names, results = [f"x{i}" for i in range(len(args))], [f"y{i}" for i in range(outputs)]
    if exporter == "dynamo":
        torch.onnx.export(
            module, args, str(path), dynamo=True, opset_version=18, external_data=False, verbose=False,
            input_names=names, output_names=results, dynamic_shapes=shapes,
        )  # fmt: skip
        return path
    given = scripted(module, *args) if exporter == "scripted" else module
    open_axes = {
        name: {i: f"{name}_{i}" for i in range(a.ndim) if i != 1 or a.ndim == 5}
        for name, a in zip(names, args, strict=True)
    }
    torch.onnx.export(
        given, args, str(path), dynamo=False, opset_version=18, input_names=names, output_names=results,
        dynamic_axes=open_axes,
    )  # fmt: skip
    return path


def session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def gap(run: onnxruntime.InferenceSession, module: nn.Module, *args: Tensor) -> float:
    expected = module(*args)
    expected = expected if isinstance(expected, tuple) else (expected,)
    results = run.run(None, {f"x{i}": a.numpy() for i, a in enumerate(args)})
    worst = 0.0
    for wanted, got in zip(expected, results, strict=True):
        assert tuple(wanted.shape) == got.shape
        worst = max(worst, float(np.abs(wanted.numpy() - got).max()) / max(1.0, float(wanted.abs().max())))
    return worst


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def after_surgery(path: Path) -> tuple[onnx.ModelProto, list[str]]:
    model, reports = operate(Prepare().run(load_model(path).model).model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return proto, [text for report in reports for text in report.refusals]


def builds(proto: onnx.ModelProto, shapes: dict[str, Any]) -> None:
    model = ir.from_proto(proto)
    for typed in (model, ToFp16().run(model).model):
        facts = probe_build(ir.to_proto(typed).SerializeToString(), shapes)
        assert not facts.refused, facts.refused[0]


# Adaptive computation


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("full", ["cbam", "self_attention"])
def test_adaptive_computation_takes_either_path_in_the_graph(tmp_path: Path, exporter: str, full: str) -> None:
    module = ADAPTIVE_COMPUTATION.make(C, full=full, threshold=0.6).eval()
    busy, calm = torch.randn(2, C, 9, 11), 0.01 * torch.randn(2, C, 9, 11)
    assert module.complexity(calm) < 0.6 < module.complexity(busy)
    assert torch.equal(module(busy), module.choose.first(busy))
    assert torch.equal(module(calm), module.choose.second(calm))
    path = written(module, (busy,), tmp_path / "m.onnx", exporter, ({0: AUTO, 2: AUTO, 3: AUTO},))
    assert operators(path).count("If") == (0 if exporter == "torchscript" else 1)
    run = session(path)
    for x in (busy, calm, torch.randn(1, C, 5, 6), torch.randn(3, C, 1, 1)):
        assert gap(run, module, x) < 1e-5
    if exporter == "torchscript":
        return
    proto, refusals = after_surgery(path)
    assert any("then_branch" in text for text in refusals)
    for x in (busy, calm):
        assert gap(session(proto), module, x) < 1e-5
    if HAS_RTX:
        builds(proto, {"x0": ((1, C, 8, 8), (2, C, 16, 16), (4, C, 24, 24))})


def test_adaptive_computation_follows_its_definition() -> None:
    module = ADAPTIVE_COMPUTATION.make(4)
    x = torch.randn(2, 4, 3, 5)
    total = 0.0
    for b, c, i, j in np.ndindex(*x.shape):
        right = float(x[b, c, i, min(j + 1, 4)] - x[b, c, i, j])
        below = float(x[b, c, min(i + 1, 2), j] - x[b, c, i, j])
        total += (right**2 + below**2) ** 0.5
    statistics = [float(module.statistics(x[b : b + 1].mean((2, 3), keepdim=True))) for b in range(2)]
    assert float(module.complexity(x)) == pytest.approx(0.6 * np.mean(statistics) + 0.4 * total / x.numel(), rel=1e-5)


def test_adaptive_computation_learns_and_is_inserted() -> None:
    module = ADAPTIVE_COMPUTATION.make(C).train()
    with torch.enable_grad():
        module(torch.randn(2, C, 4, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.statistics.parameters())
    network = Network(NetworkOptions(class_count=3)).eval()
    assert insert(network, ADAPTIVE_COMPUTATION, "backbone") == ["backbone.stage5.attention"]


@pytest.mark.parametrize("options", [{"channels": 0}, {"channels": 8, "full": "multi_scale"}])
def test_adaptive_computation_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"must be at least 1|takes several maps"):
        ADAPTIVE_COMPUTATION.make(**options)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.choose = Choose(nn.ReLU(), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.choose(x.sum() > 0, x)


def test_scripted_says_where_nothing_is_chosen() -> None:
    with pytest.raises(UsageError, match="chooses nowhere"):
        scripted(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4))
    nested = Choose(Inner(), nn.Sigmoid())
    with pytest.raises(UsageError, match="not reached"):
        scripted(nested, torch.tensor(False), torch.zeros(1))


# Early exit


def exiting(threshold: float) -> EarlyExit:
    torch.manual_seed(0)
    return with_early_exit(Network(NetworkOptions(class_count=4)).eval(), threshold).eval()


def test_early_exit_gives_the_networks_answer_or_the_heads() -> None:
    torch.manual_seed(0)
    network, x = Network(NetworkOptions(class_count=4)).eval(), torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(with_early_exit(network, 1.0)(x), network(x), atol=1e-3, rtol=1e-5)
    early = with_early_exit(network, 0.0)
    maps = network.backbone(x)
    expected = early.exit_head.head.eval()(list(maps))
    torch.testing.assert_close(early(x), expected, atol=1e-3, rtol=1e-5)


def test_one_unsure_image_keeps_the_batch_in() -> None:
    model = exiting(0.5)
    early = torch.full((2, model.first_score + 4, 6), -9.0)
    early[0, -1, 0] = 1.0
    assert not model.is_sure(early)
    early[1, -2, 3] = 0.1
    assert model.is_sure(early)


@pytest.mark.parametrize("exporter", ["dynamo", "scripted"])
def test_early_exit_exports_with_both_outcomes(tmp_path: Path, exporter: str) -> None:
    x = torch.rand(2, 3, 64, 96)
    early = exiting(0.0)
    best = early.exit_head(*early.backbone(x))[:, early.first_score :].amax(dim=(1, 2)).amin().sigmoid()
    dark = torch.zeros_like(x)
    other = early.exit_head(*early.backbone(dark))[:, early.first_score :].amax(dim=(1, 2)).amin().sigmoid()
    model = exiting(float((best + other) / 2))
    side = [torch.export.Dim(name, min=1, max=64) for name in "bhw"]
    shapes = ({0: side[0], 2: 32 * side[1], 3: 32 * side[2]},)
    path = written(model, (x,), tmp_path / "m.onnx", exporter, shapes)
    assert operators(path).count("If") == 1
    outcomes = {bool(model.is_sure(model.exit_head(*model.backbone(image)))) for image in (x, dark)}
    assert outcomes == {True, False}
    proto, _ = after_surgery(path)
    for run in (session(path), session(proto)):
        for image in (x, dark, torch.rand(1, 3, 96, 64)):
            assert gap(run, model, image) < 1e-5
    if HAS_RTX and exporter == "dynamo":
        builds(proto, {"x0": ((1, 3, 64, 64), (2, 3, 128, 128), (4, 3, 160, 160))})


def test_build_takes_early_exit_and_refuses_a_graph_with_state(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 64, 96)
    b, h, w = (torch.export.Dim(name, min=1, max=64) for name in "bhw")
    written(exiting(0.0), (x,), tmp_path / "exit.onnx", "dynamo", ({0: b, 2: 32 * h, 3: 32 * w},))
    report = trtdeploy.build(tmp_path / "exit.onnx", tmp_path / "exit.engine")
    assert (tmp_path / "exit.engine").exists()
    assert any("Recognised a yolov8 head" in text for entry in report.reports for text in entry.changes)
    cached = CachedAttention(Watched().eval()).eval()
    written(cached, (x, *cached.start(x)), tmp_path / "state.onnx", "scripted", None, outputs=4)
    with pytest.raises(ModelError, match="image inputs"):
        trtdeploy.build(tmp_path / "state.onnx", tmp_path / "state.engine")


def test_early_exit_refuses() -> None:
    with pytest.raises(UsageError, match="v10"):
        with_early_exit(Network(NetworkOptions(style="v10")))
    with pytest.raises(UsageError, match="between 0 and 1"):
        exiting(1.5)
    network = Network(NetworkOptions(class_count=4)).eval()
    insert(network, "se", "head")
    with pytest.raises(UsageError, match="attention on its maps"):
        with_early_exit(network)


# Attention cache


class Watched(nn.Module):
    """A small network with a gate at stride 16 and attention at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.cbam = nn.Conv2d(3, C, 3, 16, 1), CBAM(C)
        self.b, self.attention, self.o = nn.Conv2d(C, C, 3, 2, 1), SelfAttention(C), nn.Conv2d(C, 6, 1)
        self.attention.gamma.data.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.attention(self.b(self.cbam(self.a(x))))).flatten(2)


@pytest.mark.parametrize(
    "kind", ["cbam", "channel_attention", "spatial_attention", "self_attention", "dynamic_attention"]
)
def test_map_and_application_make_the_module(kind: str) -> None:
    from trtdeploy.attention import catalogue

    module, x = catalogue.kind(kind).make(C).eval(), torch.randn(2, C, 5, 7)
    if hasattr(module, "gamma"):
        module.gamma.data.fill_(0.7)
    torch.testing.assert_close(attend(module, x, map_of(module, x)), module(x), atol=1e-6, rtol=1e-5)


def test_cache_keeps_maps_per_image_while_the_scene_is_still() -> None:
    net = Watched().eval()
    cached, x = CachedAttention(net).eval(), torch.rand(2, 3, 64, 96)
    first = cached(x, *cached.start(x))
    torch.testing.assert_close(first[0], net(x))
    moved = torch.stack([x[0] + 0.01, torch.rand(3, 64, 96)])
    second = cached(moved, *first[1:])
    for before, after in zip(first[1:], second[1:], strict=True):
        assert torch.equal(before[0], after[0])
        assert not torch.equal(before[1], after[1])
    torch.testing.assert_close(second[0][1], net(moved)[1])
    assert not torch.equal(second[0][0], net(moved)[0]), "a reused map is not the new one: that is its cost"
    creeping, state = x, first[1:]
    hits = []
    for _ in range(6):  # slow change adds up until it is seen
        creeping = creeping + 0.008
        _, *after = cached(creeping, *state)
        hits.append(torch.equal(after[0], state[0]))
        state = tuple(after)
    assert hits == [True, True, False, True, True, False]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_cache_runs_as_a_graph_with_state(tmp_path: Path, exporter: str) -> None:
    cached = CachedAttention(Watched().eval()).eval()
    x = torch.rand(2, 3, 64, 96)
    args = (x, *cached.start(x))
    b, h, w = (torch.export.Dim(name, min=1, max=64) for name in "bhw")
    shapes = (
        {0: b, 2: 32 * h, 3: 32 * w},
        {0: b, 2: 2 * h, 3: 2 * w},
        ({0: b, 2: 2 * h, 3: 2 * w}, {0: b, 1: h, 2: w, 3: h, 4: w}),
    )
    path = written(cached, args, tmp_path / "m.onnx", exporter, shapes, outputs=4)
    assert operators(path).count("If") == (0 if exporter == "torchscript" else 2)
    run = session(path)
    for first in (torch.rand(1, 3, 96, 64), x):
        state = cached.start(first)
        for image in (first, first + 0.001, torch.rand_like(first)):
            assert gap(run, cached, image, *state) < 1e-5
            state = cached(image, *state)[1:]


def test_cache_refuses() -> None:
    with pytest.raises(UsageError, match="no attention with a map"):
        CachedAttention(nn.Conv2d(3, 4, 1))
    with pytest.raises(UsageError, match="between 0 and 1"):
        CachedAttention(Watched(), threshold=2)
