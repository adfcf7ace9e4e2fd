"""What every kind of the catalogue must satisfy; used by the tests and by the command that writes the table."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray

from trtdeploy.attention.kind import AttentionKind, Case
from trtdeploy.graph.fuse import FuseAttention
from trtdeploy.graph.load import load_model
from trtdeploy.graph.prepare import Prepare

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


def export(
    kind: AttentionKind, case: Case, exporter: str, path: Path, opset: int = 18, *, inside: bool = False
) -> Path:
    """Export the kind's module, alone or between convolutions, with a stock exporter of torch; all sizes dynamic."""
    module = make(kind, case)
    if inside:
        module = Between(module, case.channels if isinstance(case.channels, tuple) else (case.channels,)).eval()
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


def export_gap(kind: AttentionKind, case: Case, path: Path) -> float:
    """Return the largest absolute difference of ONNX Runtime and torch at shapes that were not traced."""
    module = make(kind, case)
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
    report = FuseAttention().run(model).report
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    before, after = session_of(path), session_of(proto.SerializeToString())
    worst = 0.0
    for shape in RUN:
        feeds = {given.name: m.numpy() for given, m in zip(before.get_inputs(), images(case, shape), strict=True)}
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
