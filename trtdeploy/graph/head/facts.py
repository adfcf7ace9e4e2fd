"""What is known about a model before its outputs are read: its input, its class names, its task."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.graph.head.layout import dims

STRIDES = (2, 4, 8, 16, 32, 64, 128)
COMMON_STRIDES = (8, 16, 32)
STRIDE_SETS = (
    *(STRIDES[i:j] for i in range(len(STRIDES)) for j in range(i + 1, len(STRIDES) + 1)),
    COMMON_STRIDES,  # last, so that it wins where two sets have as many cells
)
MAX_ANCHORS = 9


@dataclass(frozen=True)
class Facts:
    """What is known about a model before its outputs are read.

    Attributes:
        model: The model.
        images: Its image input `[B,3,H,W]`.
        names: Number of class names, None when nobody names them.
        task: `task` of the metadata, as exporters write it; empty when it says nothing.
    """

    model: ir.Model
    images: ir.Value
    names: int | None
    task: str

    @property
    def cells(self) -> dict[int, tuple[int, ...]]:
        """Numbers of grid cells that the input size allows, each with its strides; empty for dynamic sizes."""
        shape = dims(self.images)
        height, width = (shape[2], shape[3]) if shape is not None and len(shape) == 4 else (None, None)
        if height is None or width is None:
            return {}
        return {sum(-(-height // s) * -(-width // s) for s in strides): strides for strides in STRIDE_SETS}

    @property
    def row_counts(self) -> set[int]:
        """Numbers of rows that a head on these grids may have."""
        return {cells * anchors for cells in self.cells for anchors in range(1, MAX_ANCHORS + 1)}
