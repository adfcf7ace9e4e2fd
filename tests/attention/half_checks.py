"""How far kinds of attention in 16 bits are from FP32, every tensor rounded as half arithmetic rounds it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
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
TRIALS = 12


@cache
def fused(name: str, index: int) -> ir.Model:
    """Return the graph of a kind's case alone, its attention fused as `optimize` does. Not to be changed."""
    kind = catalogue.kind(name)
    with tempfile.TemporaryDirectory() as folder:
        path = export(kind, kind.cases[index], "torchscript", Path(folder) / "x.onnx")
        model = Prepare(verify=False).run(load_model(path).model).model
    return operate(model, verify=False)[0]


def run(model: ir.Model, maps: Sequence[Maps]) -> list[Tensors]:
    """Run a model in FP32 on each input; 16-bit tensors must have been made explicit (`round_half`)."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [session.run(None, feeds_of(model, given)) for given in maps]


def feeds_of(model: ir.Model, maps: Maps) -> dict[str, NDArray[Any]]:
    return {value.name or "": given.numpy() for value, given in zip(model.graph.inputs, maps, strict=True)}


def half_gaps(
    model: ir.Model,
    maps: Sequence[Maps],
    element_type: ir.DataType = ir.DataType.FLOAT16,
    calibration: Sequence[Maps] = (),
    change: Callable[[ir.Model], None] = lambda model: None,
) -> list[float]:
    """Return per input the largest difference of a model and its 16-bit form, relative to the output's magnitude.

    Infinite where the 16-bit form is not finite and FP32 is.

    Args:
        model: The model.
        maps: The inputs.
        element_type: FLOAT16 or BFLOAT16.
        calibration: Inputs on which ranges are measured; without, no range is known.
        change: Changes the 16-bit form.
    """
    ranges = None
    if calibration:
        ranges = measure_ranges(model, tensors_to_measure(model), (feeds_of(model, given) for given in calibration))
    lowered = ToFp16(ranges=ranges, element_type=element_type).run(model).model
    change(lowered)
    lowered = round_half(lowered)
    return list(map(relative, run(model, maps), run(lowered, maps)))


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


def rounding_gaps(model: ir.Model, maps: Sequence[Maps]) -> list[float]:
    """Return per input what an FP16 rounding of it and of the weights does at most to a model that computes in FP32.

    That is how much the numbers themselves ask for: a softmax of scores in the thousands answers a last digit with
    another winner, in any arithmetic. Tried are the rounding itself, and random ones of the same size of the input.
    """
    rounded = model.clone()
    for value in rounded.graph.initializers.values():
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT:
            data = value.const_value.numpy().astype(np.float16).astype(np.float32)
            value.const_value = ir.tensor(data, name=value.name)
    generator = torch.Generator().manual_seed(0)

    def shaken(given: torch.Tensor) -> torch.Tensor:
        return given * (1 + 2.0**-11 * (2 * torch.rand(given.shape, generator=generator) - 1))

    trials = [tuple(shaken(one) for one in given) for given in maps for _ in range(TRIALS)]
    results = run(model, [*maps, *trials])
    exact, others = results[: len(maps)], results[len(maps) :]
    halves = run(rounded, [tuple(one.half().float() for one in given) for given in maps])
    return [
        max(relative(expected, got) for got in (half, *others[index * TRIALS : (index + 1) * TRIALS]))
        for index, (expected, half) in enumerate(zip(exact, halves, strict=True))
    ]


def in_torch(kind: AttentionKind, case: Case) -> float:
    """Return the same difference for torch's own half arithmetic on a CPU, which knows no islands."""
    module = make(kind, case)
    maps = images(case, SHAPE)
    with torch.no_grad():
        expected = _tensors(module(*maps))
        actual = _tensors(module.half()(*(given.half() for given in maps)))
    return relative(expected, actual)


def scaled_gap(kind: AttentionKind, index: int, factor: float) -> float:
    """Return the difference of a kind's case on maps times `factor`, with ranges measured on other such maps."""
    case, model = kind.cases[index], fused(kind.name, index)
    others = [scaled(images(case, SHAPE, seed=2), factor)]
    return half_gaps(model, [scaled(images(case, SHAPE), factor)], calibration=others)[0]


def usual_gap(kind: AttentionKind, index: int, element_type: ir.DataType) -> float:
    """Return the difference of a kind's case on random and drawn maps, without measured ranges."""
    case = kind.cases[index]
    return max(half_gaps(fused(kind.name, index), [images(case, SHAPE), drawn(case)], element_type))


def _tensors(value: Any) -> Tensors:
    values: Sequence[Any] = value if isinstance(value, tuple | list) else (value,)
    return [one.detach().float().numpy() for one in values]
