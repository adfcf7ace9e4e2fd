"""Changes the layout of queries, keys and values together.

The builder makes one kernel of each layout change. Where queries, keys and values lie channels first, as convolutions
leave them, their maps are concatenated (padded where needed), exchanged with the positions in one transpose, and split:
that is one kernel with three results. Measured with TensorRT-RTX 1.7: `docs/builder-facts.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.view.facts import GraphFacts

RANK = 4
_SPLIT_INPUT = 13
"""Opset since which the sizes of a Split are an input."""


def same_leading(facts: GraphFacts, values: Sequence[ir.Value]) -> bool:
    """Return whether maps `[B, heads, width, positions]`, or without heads, agree in all but their known widths."""
    first: list[Vec | None] | None = None
    for value in values:
        dims = facts.dims(value)
        if dims is None or len(dims) not in {RANK - 1, RANK} or None in dims or _varies(dims[-2]):
            return False
        if len(dims) == RANK and _varies(dims[1]):
            return False
        others = [*dims[:-2], dims[-1]]
        if first is not None and others != first:
            return False
        first = others
    return first is not None


def exchange(emit: Emitter, maps: Sequence[ir.Value], widths: Sequence[int], width: int, heads: int) -> list[ir.Value]:
    """Return maps `[B, heads, width_i, positions]` as `[B, heads, positions, width]`, with one layout change.

    Args:
        emit: Where nodes go.
        maps: The maps; all have the same batch, heads and positions.
        widths: Their widths.
        width: The common width; narrower maps are padded with zeros.
        heads: The number of heads.
    """
    padded = [_padded(emit, value, width - own) for value, own in zip(maps, widths, strict=True)]
    joined = emit.transpose(emit.concat(padded, axis=1), 0, 1, 3, 2)
    parts = [heads] * len(maps)
    if emit.opset >= _SPLIT_INPUT:
        return list(emit.multi("Split", len(maps), joined, emit.ints(*parts), axis=1))
    return list(emit.multi("Split", len(maps), joined, axis=1, split=parts))


def _padded(emit: Emitter, value: ir.Value, missing: int) -> ir.Value:
    if missing <= 0:
        return value
    return emit.op("Pad", value, np.array([0] * (RANK + 2) + [missing, 0], np.int64))


def _varies(dim: Vec | None) -> bool:
    return dim is None or len(set(dim)) > 1
