"""ONNX Runtime as the reference of the graph passes; the only file of this room that runs models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensors = dict[str, "NDArray[Any]"]
MAX_REFERENCE_BYTES = 1 << 30
"""Larger models are not checked by running them: the reference needs the whole model in memory twice."""


class ReferenceRunError(RuntimeError):
    """ONNX Runtime could not load or run a model. Internal: passes turn it into a refusal or a `ModelError`."""


class ReferenceModel:
    """A model loaded into ONNX Runtime without its own graph optimisations.

    Args:
        model: The model; it is copied, later changes do not show.

    Raises:
        ReferenceRunError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: ir.Model) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self._session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises classes it does not export
            raise ReferenceRunError(_first_line(error)) from error

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Return the outputs by name.

        Raises:
            ReferenceRunError: ONNX Runtime fails.
        """
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as error:  # the library raises classes it does not export
            raise ReferenceRunError(_first_line(error)) from error
        return {output.name: value for output, value in zip(self._session.get_outputs(), values, strict=True)}


def weight_bytes(model: ir.Model) -> int:
    """Return the size of all initializers in bytes."""
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def to_bytes(model: ir.Model) -> bytes:
    """Return the model as one ONNX file's bytes, weights included.

    Raises:
        ReferenceRunError: The weights are larger than `MAX_REFERENCE_BYTES`.
    """
    size = weight_bytes(model)
    if size > MAX_REFERENCE_BYTES:
        raise ReferenceRunError(f"the model has {size} bytes of weights; at most {MAX_REFERENCE_BYTES} are run")
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def difference(expected: Tensors, actual: Tensors) -> float:
    """Return the largest difference between outputs, relative to each output's largest magnitude (at least 1).

    Infinite when names, shapes or dtypes differ, or when finiteness does.
    """
    if expected.keys() != actual.keys():
        return float("inf")
    worst = 0.0
    for name, left in expected.items():
        right = actual[name]
        if left.shape != right.shape or left.dtype != right.dtype:
            return float("inf")
        if left.size == 0:
            continue
        a, b = left.astype(np.float64), right.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.where(a == b, 0.0, np.abs(a - b))
        gap = np.where(np.isnan(a) & np.isnan(b), 0.0, gap)
        if not np.isfinite(gap).all():
            return float("inf")
        scale = max(1.0, float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
        worst = max(worst, float(gap.max()) / scale)
    return worst


def tolerance(model: ReferenceModel, feeds: Mapping[str, NDArray[Any]], expected: Tensors, usual: float) -> float:
    """Return how far outputs may differ from `expected`: `usual`, or more where the model itself is that unsteady.

    A model that selects (TopK among near equals, as in RT-DETR) answers a change of its input in the last digits with
    other rows. Such changes are tried, and three times their effect is allowed.

    Raises:
        ReferenceRunError: ONNX Runtime fails.
    """
    rng = np.random.default_rng(5)
    worst = 0.0
    for _ in range(3):
        moved = {
            name: (value * (1 + 1e-6 * rng.standard_normal(value.shape))).astype(value.dtype)
            if np.issubdtype(value.dtype, np.floating)
            else value
            for name, value in feeds.items()
        }
        worst = max(worst, difference(expected, model.run(moved)))
    return max(usual, 3 * worst)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:400]
