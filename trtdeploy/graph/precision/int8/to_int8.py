"""The pass that quantises a model's convolutions and matrix products to INT8, in the graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.precision.element_types import constant, is_onnx
from trtdeploy.graph.precision.int8.layers import Layers
from trtdeploy.graph.precision.int8.opset import raise_opset, version_of
from trtdeploy.graph.precision.int8.placement import Placement
from trtdeploy.graph.precision.int8.weights import LEVELS, SMALLEST_SCALE, rounded_up
from trtdeploy.graph.precision.int8.write import Writer
from trtdeploy.graph.precision.measured import Ranges
from trtdeploy.graph.precision.named import check_patterns

Form = Literal["standard", "factored", "runtime"]
MIN_OPSET = 13
"""Oldest opset whose Q/DQ have one scale per channel."""
_LARGEST = 65504.0


class ToInt8:
    """Puts symmetric Q/DQ around convolutions and products with constant weights.

    Weights become INT8 with one scale per output channel; biases and results keep their type. Tensors have one scale
    each; those that meet in a concatenation share one. `ToFp16` makes the rest FP16, the scales too. In higher
    precision stay:

    - calls of functions (fused attention), and the projections of dot-product attention that no rule fused;
    - the first layer, the last layers of the head, and what decodes and selects boxes: rounding shows there most;
    - depthwise convolutions, which compute little and lose most;
    - layers whose weights or measured ranges cannot be quantised, and those that `keep` names.

    Args:
        ranges: Largest magnitude of each tensor that `tensors_to_calibrate` names; more may be there.
        keep: Patterns of names of nodes that stay in higher precision, `*` for any text. Default: none.
        form: How the same layers are written for a builder. `standard` is for TensorRT and OpenVINO. `factored`, for
            TensorRT-RTX, gives the weights of a convolution one scale and its result one factor per channel: the same
            numbers, but that builder then hands results on in FP16 instead of FP32. `runtime` is for ONNX Runtime,
            which computes in integers where results are quantised as well, in uint8 with zero point 128.
    """

    name = "int8"
    stage = "PRECISION"

    def __init__(self, ranges: Ranges, keep: Collection[str] = (), form: Form = "standard") -> None:
        self._ranges = dict(ranges)
        self._keep = tuple(keep)
        self._form = form

    def run(self, model: ir.Model) -> PassResult:
        """Run the pass on a copy of `model`.

        The report's details have an entry for each layer (`layers`), and bounds of new tensors (`ranges`), which
        `ToFp16` takes beside the measured ones.

        Raises:
            ModelError: A range is missing, the opset is too old, or a pattern of `keep` names no node.
        """
        _check(model, self._keep)
        if _is_quantised(model):
            refusal = "the model is quantised already: its own Q/DQ stay as they are"
            return PassResult(model, False, PassReport(name=self.name, stage=self.stage, refusals=(refusal,)))
        model = model.clone()
        unraised = raise_opset(model)
        layers = Layers(model, self._keep)
        self._check_ranges(model, layers)
        placement = Placement(model.graph, layers, self._unusable, results=self._form == "runtime")
        bounds = self._write(model, layers, placement)
        common.RemoveUnusedNodesPass()(model)
        report = self._report(model, layers, placement, bounds, unraised)
        return PassResult(model, bool(report.details["int8"]), report)

    def _check_ranges(self, model: ir.Model, layers: Layers) -> None:
        missing = [name for name in _wanted(model, layers, self._form) if name not in self._ranges]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ModelError(
                f"No range was measured for the tensor {missing[0]!r}{more}, which INT8 needs. Calibrate the tensors "
                "that tensors_to_calibrate names, of this model."
            )

    def _unusable(self, value: ir.Value) -> str:
        """Return why a tensor cannot be quantised, or an empty string."""
        largest = float(self._ranges.get(value.name or "", math.nan))
        if not math.isfinite(largest):
            return f"the range of its input {value.name!r} is {largest}"
        if not LEVELS * SMALLEST_SCALE <= largest <= LEVELS * _LARGEST:
            return f"the range of its input {value.name!r} is {largest:g}, which no FP16 scale covers"
        return ""

    def _write(self, model: ir.Model, layers: Layers, placement: Placement) -> dict[str, float]:
        """Write the pairs and weights; return the bounds of new tensors."""
        writer = Writer(model, unsigned=self._form == "runtime")
        scales: dict[ir.Value, ir.Value] = {}
        data = {node: node.inputs[0] for node in layers.weights}
        largest: dict[ir.Value | None, float] = {}
        for value, reads in placement.reads.items():
            root, known = placement.group(value), placement.known
            if root not in scales:
                members = placement.members(value)
                largest[root] = max(known[m] if m in known else self._ranges[m.name or ""] for m in members)
                scales[root] = writer.scale(root.name or "", _scale(largest[root]))
            largest[value] = largest[root]
            writer.pair(value, scales[root], reads)
        for node, weights in layers.weights.items():
            if node in placement.kept:
                continue
            if self._form == "factored" and _has_factored_form(node):
                writer.factored_weights(node, weights, largest[data[node]])
            else:
                writer.weights(node, weights)
        return writer.ranges

    def _report(
        self, model: ir.Model, layers: Layers, placement: Placement, bounds: dict[str, float], unraised: str
    ) -> PassReport:
        kept = layers.kept | placement.kept
        entries = [_entry(node, kept.get(node, "")) for node in model.graph if node in layers.weights or node in kept]
        reasons = Counter(kept.values())
        count = sum(entry["int8"] for entry in entries)
        changes = (
            [f"{count} of {len(entries)} layers in INT8, {len(placement.reads)} tensors quantised"] if count else []
        )
        changes += (
            [f"in higher precision: {number} ({reason})" for reason, number in reasons.most_common()] if count else []
        )
        refusals = [f"{node.name}: stays in higher precision, {reason}" for node, reason in placement.kept.items()]
        if not count:
            refusals.append("no layer can be INT8: each is excluded, see the reasons in the details")
        if unraised:
            refusals.append(
                f"opset {version_of(model.graph)} stays, so that scales are FP32 and casts surround them: {unraised}"
            )
        details = {
            "int8": count,
            "kept": len(entries) - count,
            "reasons": dict(reasons),
            "tensors": len(placement.reads),
            "scales": len({placement.group(value) for value in placement.reads}),
            "ranges": bounds,
            "layers": entries,
        }
        return PassReport(
            name=self.name, stage=self.stage, changes=tuple(changes), refusals=tuple(refusals), details=details
        )


def tensors_to_calibrate(model: ir.Model, keep: Collection[str] = (), form: Form = "standard") -> tuple[str, ...]:
    """Return the names of the tensors whose ranges `ToInt8` needs with the same arguments, in the order of the graph.

    With more patterns in `keep` it needs no others. A model that is quantised already needs none.

    Raises:
        ModelError: The opset is too old, or a pattern of `keep` names no node.
    """
    _check(model, keep)
    return () if _is_quantised(model) else _wanted(model, Layers(model, keep), form)


def _wanted(model: ir.Model, layers: Layers, form: Form) -> tuple[str, ...]:
    placement = Placement(model.graph, layers, lambda _value: "", results=form == "runtime")
    return tuple(value.name or "" for value in placement.reads if value not in placement.known)


def _check(model: ir.Model, keep: Collection[str]) -> None:
    opset = version_of(model.graph)
    if opset < MIN_OPSET:
        raise ModelError(
            f"The model has opset {opset}, whose Q/DQ have one scale for all channels. Expected {MIN_OPSET} or newer: "
            "export it again with a newer opset."
        )
    check_patterns(model, keep)


def _is_quantised(model: ir.Model) -> bool:
    return any(is_onnx(node, "QuantizeLinear", "DequantizeLinear") for node in model.graph.all_nodes())


def _has_factored_form(node: ir.Node) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    known = bias is None or constant(bias) is not None
    return node.op_type == "Conv" and known and not node.outputs[0].is_graph_output()


def _scale(largest: float) -> float:
    """Return the scale that maps `largest` to 127, rounded up to an FP16 number."""
    return float(rounded_up(np.array([largest / LEVELS], np.float32))[0])


def _entry(node: ir.Node, reason: str) -> dict[str, Any]:
    name = node.name or ""
    return {"layer": name, "block": name.strip("/").rpartition("/")[0], "int8": not reason, "reason": reason}
