"""The pass that quantises a model's convolutions and matrix products to INT8, in the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from trtdeploy.graph.plan import PassResult

Ranges = Mapping[str, float]
"""Largest magnitude of tensors, by the value's name in the main graph between FUSE and PRECISION."""


class ToInt8:
    """Puts symmetric Q/DQ around convolutions and products with constant weights.

    Args:
        ranges: Largest magnitude of each tensor that `tensors_to_calibrate` names.
        keep: Patterns of names of nodes that stay in higher precision, `*` for any text. Default: none.
    """

    name = "int8"
    stage = "PRECISION"

    def __init__(self, ranges: Ranges, keep: Collection[str] = ()) -> None:
        self._ranges = dict(ranges)
        self._keep = tuple(keep)

    def run(self, model: ir.Model) -> PassResult:
        """Run the pass on a copy of `model`.

        Raises:
            ModelError: A range is missing, the opset is too old, or a pattern of `keep` names no node.
        """
        raise NotImplementedError


def tensors_to_calibrate(model: ir.Model, keep: Collection[str] = ()) -> tuple[str, ...]:
    """Return the names of the tensors whose ranges `ToInt8` needs with the same `keep`, in the order of the graph.

    Raises:
        ModelError: A pattern of `keep` names no node.
    """
    raise NotImplementedError
