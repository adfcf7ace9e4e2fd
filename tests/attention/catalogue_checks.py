"""What every kind of the catalogue must satisfy; used by the tests and by the command that writes the table."""

from __future__ import annotations

import functools
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from trtdeploy.attention.kind import AttentionKind, Case
from trtdeploy.backends.rtx_probe import BuildFacts, ShapeRange, probe_builds
from trtdeploy.graph.load import load_model
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate
from trtdeploy.graph.view.sdpa import find_core
from trtdeploy.scenes.circuit_boards import CircuitBoardScene

EXPORTERS = ("dynamo", "torchscript")
ODD = ((1, 7, 5), (2, 13, 9), (1, 1, 3))
"""Batch, height and width at which modules are compared with the naive reference, in units of `Case.multiple`."""
RUN = ((1, 12, 10), (3, 9, 14), (8, 5, 7))
"""Batch, height and width at which exported graphs run; none is the traced one."""
TRACED = (2, 8, 6)


def make(kind: AttentionKind, case: Case, seed: int = 0) -> torch.nn.Module:
    """Return the kind's module in evaluation mode; no weight or statistic is at its neutral initial value."""
    torch.manual_seed(seed)
    module: torch.nn.Module = kind.make(case.channels, **case.options)
    with torch.no_grad():
        for name, tensor in module.named_buffers():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.2)
        for tensor in module.parameters():
            if tensor.ndim <= 1:  # scales, biases, learned scalars
                tensor.add_(0.2 * torch.rand_like(tensor) + 0.1)
    return module.eval()


def images(case: Case, shape: tuple[int, int, int], seed: int = 1) -> tuple[torch.Tensor, ...]:
    """Return random maps, the first the largest, each further one half as high and wide."""
    batch, height, width = shape[0], shape[1] * case.multiple, shape[2] * case.multiple
    channels = case.channels if isinstance(case.channels, tuple) else (case.channels,)
    generator = torch.Generator().manual_seed(seed)
    last = len(channels) - 1
    return tuple(
        torch.randn(batch, count, height << (last - i), width << (last - i), generator=generator)
        for i, count in enumerate(channels)
    )


@functools.cache
def _board() -> NDArray[np.uint8]:
    image, _boxes, _classes = CircuitBoardScene(3, width=256, height=256).frame(0)
    return image


def drawn(case: Case) -> tuple[torch.Tensor, ...]:
    """Return maps whose channels are those of a drawn circuit board, shrunk and scaled: smooth parts, edges, spots."""
    maps = []
    for empty in images(case, (1, 9, 8)):
        _, channels, height, width = empty.shape
        small = cv2.resize(_board(), (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        planes = torch.from_numpy(small).permute(2, 0, 1)
        gains = torch.linspace(-3, 3, channels).view(-1, 1, 1)
        one = planes[torch.arange(channels) % 3] * gains
        maps.append(torch.stack([one, one.flip(2)]))
    return tuple(maps)


def build(model: onnx.ModelProto, case: Case) -> BuildFacts | str:
    """Build a fused graph with TensorRT-RTX in FP32 and FP16, fixed and dynamic; return the last, or what it says."""
    ranges: dict[str, ShapeRange] = {}
    fixed: dict[str, ShapeRange] = {}
    for value, example in zip(model.graph.input, images(case, (1, 1, 1)), strict=True):
        _, channels, height, width = example.shape

        def shape(batch: int, sides: int, c: int = channels, h: int = height, w: int = width) -> tuple[int, ...]:
            return (batch, c, h * sides, w * sides)

        ranges[value.name] = (shape(1, 8), shape(2, 16), shape(4, 32))
        fixed[value.name] = (shape(2, 16),) * 3
    facts: BuildFacts | None = None
    for precision in ("FP32", "FP16"):
        typed = ir.from_proto(model)
        if precision == "FP16":
            typed = ToFp16().run(typed).model
        built = probe_builds(ir.to_proto(typed).SerializeToString(), [fixed, ranges])
        for facts, shapes in zip(built, ("fixed", "dynamic"), strict=True):
            if facts.refused:
                return f"{precision}, {shapes}: {facts.refused[0]}".replace("|", "/").replace("\n", " ")[:200]
    assert facts is not None
    return facts


def softmax_attentions(model: onnx.ModelProto) -> int:
    """Return how many dot-product attentions a graph has, those in function bodies too."""
    whole = ir.from_proto(model)
    InlinePass()(whole)
    return sum(node.op_type == "MatMul" and find_core(node) is not None for node in whole.graph)


def module_gap(kind: AttentionKind, case: Case) -> float:
    """Return the largest difference of module and naive reference, relative to the output's magnitude."""
    module = make(kind, case)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    worst = 0.0
    for shape in ODD:
        maps = images(case, shape)
        with torch.no_grad():
            actual = _as_tuple(module(*maps))
        expected = _as_tuple(kind.naive(weights, *(m.double().numpy() for m in maps), **case.options))
        assert len(actual) == len(expected)
        for got, wanted in zip(actual, expected, strict=True):
            assert tuple(got.shape) == wanted.shape
            worst = max(worst, gap(wanted, got.numpy()))
    return worst


class Between(torch.nn.Module):
    """A module between convolutions, as in a network: its inputs and outputs are inner tensors."""

    def __init__(self, module: torch.nn.Module, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.before = torch.nn.ModuleList(torch.nn.Conv2d(count, count, 3, padding=1) for count in channels)
        self.module = module
        self.after = torch.nn.ModuleList(torch.nn.Conv2d(count, 4, 1) for count in channels)

    def forward(self, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inner = [torch.relu(conv(m)) for conv, m in zip(self.before, maps, strict=True)]
        outputs = _as_tuple(self.module(*inner))
        return tuple(conv(m) for conv, m in zip(self.after, outputs, strict=True))


def between(module: torch.nn.Module, case: Case) -> torch.nn.Module:
    """Return the module between convolutions."""
    torch.manual_seed(2)
    return Between(module, case.channels if isinstance(case.channels, tuple) else (case.channels,)).eval()


def export(
    kind: AttentionKind, case: Case, exporter: str, path: Path, opset: int = 18, *, inside: bool = False
) -> Path:
    """Export the kind's module, alone or between convolutions, with a stock exporter of torch; all sizes dynamic."""
    module = make(kind, case)
    if inside:
        module = between(module, case)
    example = images(case, TRACED)
    dynamic = _dynamic(example, case)
    inputs = [f"x{i}" for i in range(len(example))]
    outputs = [f"y{i}" for i in range(len(example))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            axes = {name: {0: "batch", 2: f"height_{name}", 3: f"width_{name}"} for name in [*inputs, *outputs]}
            torch.onnx.export(
                module, example, str(path), dynamo=False, opset_version=opset,
                input_names=inputs, output_names=outputs, dynamic_axes=axes,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, example, str(path), dynamo=True, opset_version=opset, external_data=False, verbose=False,
                input_names=inputs, output_names=outputs, dynamic_shapes=(dynamic,) if inside else dynamic,
            )  # fmt: skip
    return path


def exported(kind: AttentionKind, case: Case, exporter: str, folder: Path) -> Path:
    """Return the exported graph of the module between convolutions, made once per folder."""
    path = folder / f"{kind.name}-{kind.cases.index(case)}-{exporter}.onnx"
    return path if path.exists() else export(kind, case, exporter, path, inside=True)


def export_gap(kind: AttentionKind, case: Case, path: Path, *, inside: bool = False) -> float:
    """Return the largest absolute difference of ONNX Runtime and torch at shapes that were not traced."""
    module = between(make(kind, case), case) if inside else make(kind, case)
    session = session_of(path)
    worst = 0.0
    for shape in RUN:
        maps = images(case, shape)
        with torch.no_grad():
            expected = _as_tuple(module(*maps))
        feeds = {given.name: m.numpy() for given, m in zip(session.get_inputs(), maps, strict=True)}
        for wanted, got in zip(expected, session.run(None, feeds), strict=True):
            assert tuple(wanted.shape) == got.shape
            worst = max(worst, float(np.abs(wanted.numpy() - got).max()))
    return worst


@dataclass(frozen=True)
class Surgery:
    """What surgery did to a graph.

    Attributes:
        fused: Names of the kinds of the fused blocks.
        blocks: The report's entries.
        refusals: The report's refusals.
        gap: Largest difference of outputs before and after, relative to the output's magnitude, over `RUN`.
        model: The result.
    """

    fused: tuple[str, ...]
    blocks: list[dict[str, Any]]
    refusals: tuple[str, ...]
    gap: float
    model: onnx.ModelProto


def surgery(path: Path, case: Case) -> Surgery:
    """Prepare, canonicalise and fuse a graph with all kinds, and compare ONNX Runtime before and after."""
    model = Prepare(verify=False).run(load_model(path).model).model
    model, reports = operate(model, verify=False)
    report = next(report for report in reports if "blocks" in report.details)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    before, after = session_of(path), session_of(proto.SerializeToString())
    worst = 0.0
    for maps in [*(images(case, shape) for shape in RUN), drawn(case)]:
        feeds = {given.name: m.numpy() for given, m in zip(before.get_inputs(), maps, strict=True)}
        for wanted, got in zip(before.run(None, feeds), after.run(None, feeds), strict=True):
            worst = max(worst, gap(wanted, got))
    blocks = report.details["blocks"]
    fused = tuple(block["kind"] for block in blocks if block["fused"])
    return Surgery(fused, blocks, report.refusals, worst, proto)


def session_of(model: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )


def gap(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Return the largest difference relative to the largest magnitude; infinite where either is not finite."""
    difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max(initial=0.0)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float(difference / scale) if np.isfinite(difference) else float("inf")


def _dynamic(example: tuple[torch.Tensor, ...], case: Case) -> tuple[dict[int, Any], ...]:
    """Return torch.export's names of the dynamic dimensions; levels and multiples are tied to the smallest map."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    if len(example) == 1 and case.multiple == 1:
        auto = torch.export.Dim.DYNAMIC
        return ({0: auto, 2: auto, 3: auto},)
    batch, height, width = (torch.export.Dim(name, min=1, max=256) for name in ("batch", "height", "width"))
    last = len(example) - 1
    return tuple(
        {0: batch, 2: (case.multiple << (last - i)) * height, 3: (case.multiple << (last - i)) * width}
        for i in range(len(example))
    )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
