"""One computed quantity, and small helpers for reading graphs into terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.view.axes import Tag

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Dropout"})
"""Operators that leave a term as it is."""


@dataclass(eq=False)
class Term:
    """One computed quantity.

    Attributes:
        op: What computes it; `input` for graph inputs, `const` and `size` for what no data enter.
        args: What it is computed from, data only.
        value: The value of the graph that holds it, before layout changes.
        attrs: Properties that patterns may ask for.
    """

    op: str
    args: tuple[Term, ...]
    value: ir.Value
    attrs: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(a.op for a in self.args)})@{self.value.name}"


def letters(tag: Tag) -> str:
    """Return the letters of a tag in the order B, C, H, W, K."""
    return "".join(letter for letter in "BCHWK" if letter in tag)


def scalar(tensor: ir.TensorProtocol | None) -> float | None:
    """Return the number that a constant of one element holds."""
    if tensor is None or tensor.size != 1 or tensor.dtype not in {*FLOATS, ir.DataType.INT64, ir.DataType.INT32}:
        return None
    return float(np.asarray(tensor.numpy(), np.float64).reshape(-1)[0])


def captured(node: ir.Node) -> list[ir.Value]:
    """Return the values of the enclosing graph that the bodies of a control-flow node use."""
    found: dict[ir.Value, None] = {}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            inner = [v for inside in body.all_nodes() for v in inside.inputs if v is not None] + list(body.outputs)
            found |= dict.fromkeys(v for v in inner if v.graph is node.graph)
    return list(found)
