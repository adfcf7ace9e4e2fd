"""How far kinds of attention in 16 bits are from FP32, every tensor rounded as half arithmetic rounds it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from catalogue_checks import drawn, export, images, make
from numpy.typing import NDArray

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind, Case
from trtdeploy.backends.half_arithmetic import round_half
from trtdeploy.graph.load import load_model
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.measured import tensors_to_measure
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate
from trtdeploy.quantize.measure import measure_ranges

Maps = tuple[torch.Tensor, ...]
Tensors = list[NDArray[Any]]
SHAPE = (2, 9, 8)
"""Batch, height and width, in units of `Case.multiple`."""
SCALES = (1e-4, 1e2, 1e3)


@cache
def fused(name: str, index: int) -> ir.Model:
    """Return the graph of a kind's case alone, its attention fused as `optimize` does. Not to be changed."""
    kind = catalogue.kind(name)
    with tempfile.TemporaryDirectory() as folder:
        path = export(kind, kind.cases[index], "torchscript", Path(folder) / "x.onnx")
        model = Prepare(verify=False).run(load_model(path).model).model
    return operate(model, verify=False)[0]


def run(model: ir.Model, maps: Maps) -> Tensors:
    """Run a model in FP32; 16-bit tensors must have been made explicit (`round_half`)."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    results: Tensors = session.run(None, feeds_of(model, maps))
    return results


def feeds_of(model: ir.Model, maps: Maps) -> dict[str, NDArray[Any]]:
    return {value.name or "": given.numpy() for value, given in zip(model.graph.inputs, maps, strict=True)}


def half_gap(
    model: ir.Model,
    maps: Sequence[Maps],
    element_type: ir.DataType = ir.DataType.FLOAT16,
    calibration: Sequence[Maps] = (),
    change: Callable[[ir.Model], ir.Model] = lambda model: model,
) -> float:
    """Return the largest difference of a model and its 16-bit form, relative to the output's largest magnitude.

    Infinite where the 16-bit form is not finite and FP32 is.

    Args:
        model: The model.
        maps: The inputs.
        element_type: FLOAT16 or BFLOAT16.
        calibration: Inputs on which ranges are measured; without, no range is known.
        change: Applied to the 16-bit form.
    """
    ranges = None
    if calibration:
        ranges = measure_ranges(model, tensors_to_measure(model), (feeds_of(model, given) for given in calibration))
    lowered = round_half(change(ToFp16(ranges=ranges, element_type=element_type).run(model).model))
    return max(relative(run(model, given), run(lowered, given)) for given in maps)


def relative(expected: Tensors, actual: Tensors) -> float:
    worst = 0.0
    for wanted, got in zip(expected, actual, strict=True):
        finite = np.isfinite(wanted)
        if not np.isfinite(got[finite]).all():
            return math.inf
        gaps = np.abs(wanted[finite].astype(np.float64) - got[finite])
        worst = max(worst, float(gaps.max(initial=0.0)) / max(float(np.abs(wanted[finite]).max(initial=0.0)), 1e-30))
    return worst


def scaled(maps: Maps, factor: float) -> Maps:
    return tuple(given * factor for given in maps)


def in_torch(kind: AttentionKind, case: Case) -> float:
    """Return the same difference for torch's own half arithmetic on a CPU, which knows no islands."""
    module = make(kind, case)
    maps = images(case, SHAPE)
    with torch.no_grad():
        expected = _tensors(module(*maps))
        actual = _tensors(module.half()(*(given.half() for given in maps)))
    return relative(expected, actual)


def measure(kind: AttentionKind, index: int) -> dict[str, float]:
    """Return the differences of a kind's case by column of the table."""
    case, model = kind.cases[index], fused(kind.name, index)
    usual = [images(case, SHAPE), drawn(case)]
    found = {"FP16": half_gap(model, usual), "BF16": half_gap(model, usual, ir.DataType.BFLOAT16)}
    for factor in SCALES:
        others = [scaled(images(case, SHAPE, seed=2), factor)]
        found[f"x{factor:g}"] = half_gap(model, [scaled(images(case, SHAPE), factor)], calibration=others)
    return found


def _tensors(value: Any) -> Tensors:
    values: Mapping[Any, Any] | Sequence[Any] = value if isinstance(value, tuple | list) else (value,)
    return [one.detach().float().numpy() for one in values]
