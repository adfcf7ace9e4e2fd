"""Emits the decoding of a head: the best score of every candidate, and boxes and classes of chosen candidates.

Decoding is lazy: the whole of a `[B,84,8400]` output is read once for its best scores, everything else only for the
candidates that NMS looks at.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.head.detector import Columns, Detector


class Candidates:
    """The candidates of a head inside a graph under construction.

    Attributes:
        rows: N where it is fixed, else None.
        best: `[B, N]` f32, the best score of each candidate. With `multi_label`, of each pair of candidate and class.

    Args:
        emitter: Emitter of the main graph.
        detector: The recognised head.
        images: The network's input `[B,3,H,W]`, whose size scales normalised boxes and grids.
        pair_limit: With a number, candidates are pairs of a box and a class, taken from this many best boxes.
    """

    def __init__(self, emitter: Emitter, detector: Detector, images: ir.Value, pair_limit: int | None = None) -> None:
        self._detector = _in_float32(emitter, detector)
        self._scale = _box_scale(emitter, images) if detector.normalized else None
        self._grid = _grid(emitter, images, detector.grid_strides) if detector.grid_strides else None
        self._boxes_of_pairs: ir.Value | None = None
        self._classes_of_pairs: ir.Value | None = None
        self.rows = detector.boxes.rows
        self.best = self._best_scores(emitter)
        if pair_limit is not None and detector.classes is None:
            self._pair(emitter, pair_limit)

    def take(self, emitter: Emitter, indices: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Emit the boxes and classes of chosen candidates.

        Args:
            emitter: Emitter of the main graph, or of a Loop body inside it.
            indices: `[B, K]` int64.

        Returns:
            Boxes `[B, 4, K]` f32, rows x1, y1, x2, y2 in canvas pixels; classes `[B, K]` f32.
        """
        if self._boxes_of_pairs is not None and self._classes_of_pairs is not None:
            boxes = emitter.gather_elements(self._boxes_of_pairs, _spread(emitter, indices, 4), axis=2)
            return boxes, emitter.gather_elements(self._classes_of_pairs, indices, axis=1)
        picked = _Picked(emitter, indices)
        return self._boxes(picked), self._classes(picked)

    def _classes(self, picked: _Picked) -> ir.Value:
        emitter = picked.emitter
        if self._detector.classes is not None:
            return emitter.squeeze(picked.columns(self._detector.classes), 1)
        if self._detector.scores.count == 1:
            return emitter.mul(emitter.cast(picked.indices, ir.DataType.FLOAT), 0.0)
        return emitter.cast(emitter.arg_max(self._scores(picked), axis=1), ir.DataType.FLOAT)

    def _scores(self, picked: _Picked) -> ir.Value:
        """Emit `[B, nc, K]` class scores, with the objectness."""
        scores = _activate(picked.emitter, self._detector, picked.columns(self._detector.scores), axis=1)
        if self._detector.objectness is None:
            return scores
        objectness = picked.columns(self._detector.objectness)
        return picked.emitter.mul(scores, _activate(picked.emitter, self._detector, objectness, axis=None))

    def _boxes(self, picked: _Picked) -> ir.Value:
        emitter, boxes = picked.emitter, picked.columns(self._detector.boxes)
        if self._grid is not None:
            boxes = _on_grid(emitter, boxes, emitter.gather(self._grid, picked.indices, axis=0))
        first, second = (emitter.slice(boxes, at, at + 2, axis=1) for at in (0, 2))
        if self._detector.box_format == "cxcywh":
            half = emitter.mul(second, 0.5)
            boxes = emitter.concat([emitter.sub(first, half), emitter.add(first, half)], axis=1)
        elif self._detector.box_format == "yxyx":
            boxes = emitter.gather(boxes, emitter.ints(1, 0, 3, 2), axis=1)
        return boxes if self._scale is None else emitter.mul(boxes, self._scale)

    def _best_scores(self, emitter: Emitter) -> ir.Value:
        """Emit `[B, N]`: reduce first and activate afterwards where the activation keeps the order."""
        head = self._detector
        scores = _columns(emitter, head.scores)
        if head.scores.axis is None:
            best = scores
        else:
            if head.activation == "softmax":
                scores = _activate(emitter, head, scores, axis=head.scores.axis)
            best = (
                emitter.squeeze(scores, head.scores.axis)
                if head.scores.count == 1
                else emitter.reduce_max(scores, head.scores.axis)
            )
        if head.activation == "sigmoid":
            best = emitter.sigmoid(best)
        if head.objectness is not None:
            objectness = _columns(emitter, head.objectness)
            if head.objectness.axis is not None:
                objectness = emitter.squeeze(objectness, head.objectness.axis)
            best = emitter.mul(best, _activate(emitter, head, objectness, axis=None))
        if head.counts is not None:
            place = emitter.range(0, emitter.squeeze(emitter.dim(best, 1), 0))
            counts = emitter.reshape(emitter.cast(head.counts, ir.DataType.INT64), -1, 1)
            best = emitter.mul(best, emitter.cast(emitter.less(place, counts), ir.DataType.FLOAT))
        return best

    def _pair(self, emitter: Emitter, limit: int) -> None:
        """Turn the candidates into pairs of box and class, of the `limit` best boxes in their own order.

        The best `limit` pairs lie among the `limit` best boxes, since a box is at least as good as its pairs.
        """
        keep = limited(emitter, self.best, self.rows, limit)
        _, chosen = emitter.top_k(self.best, keep, axis=1)
        # In float32, which holds every index exactly: TensorRT sorts no int64.
        descending = emitter.mul(emitter.cast(chosen, ir.DataType.FLOAT), -1.0)
        ordered, _ = emitter.top_k(descending, keep, axis=1)
        indices = emitter.cast(emitter.mul(ordered, -1.0), ir.DataType.INT64)
        picked = _Picked(emitter, indices)
        scores = emitter.transpose(self._scores(picked), 0, 2, 1)
        boxes = self._boxes(picked)
        classes = self._detector.scores.count
        one_per_pair = emitter.expand(emitter.unsqueeze(boxes, 3), 1, 1, 1, classes)
        self._boxes_of_pairs = emitter.reshape(one_per_pair, 0, 4, -1)
        self.best = emitter.reshape(scores, 0, -1)
        labels = emitter.constant(np.arange(classes, dtype=np.float32).reshape(1, 1, classes))
        every = emitter.add(emitter.mul(scores, 0.0), labels)
        self._classes_of_pairs = emitter.reshape(every, 0, -1)
        self.rows = min(self.rows, limit) * classes if self.rows is not None else None


def limited(emitter: Emitter, best: ir.Value, rows: int | None, limit: int) -> ir.Value:
    """Return min(N, `limit`) as a one-element int64: a constant where N is fixed."""
    if rows is not None:
        return emitter.ints(min(rows, limit))
    return emitter.min(emitter.dim(best, 1), emitter.ints(limit))


def _in_float32(emitter: Emitter, detector: Detector) -> Detector:
    """Cast what the head reads to float32, each tensor once: the tail stays exact in a 16-bit network."""
    made: dict[int, ir.Value] = {}

    def cast(columns: Columns | None) -> Columns | None:
        if columns is None or columns.value.dtype in {ir.DataType.FLOAT, None}:
            return columns
        key = id(columns.value)
        if key not in made:
            made[key] = emitter.cast(columns.value, ir.DataType.FLOAT)
            made[key].shape = columns.value.shape
        return replace(columns, value=made[key])

    boxes, scores = cast(detector.boxes), cast(detector.scores)
    if boxes is None or scores is None:
        raise TypeError("A detector has boxes and scores.")
    return replace(
        detector, boxes=boxes, scores=scores, objectness=cast(detector.objectness), classes=cast(detector.classes)
    )


def _columns(emitter: Emitter, columns: Columns) -> ir.Value:
    if columns.axis is None or columns.count == columns.width:
        return columns.value
    return emitter.slice(columns.value, columns.start, columns.stop, axis=columns.axis)


class _Picked:
    """The rows of chosen candidates, each tensor gathered once and whole.

    OpenVINO demands that GatherElements leaves all other axes as they are, so columns are cut afterwards.
    """

    def __init__(self, emitter: Emitter, indices: ir.Value) -> None:
        self.emitter = emitter
        self.indices = indices
        self._made: dict[int, ir.Value] = {}

    def columns(self, columns: Columns) -> ir.Value:
        """Emit `[B, count, K]`."""
        key = id(columns.value)
        if key not in self._made:
            self._made[key] = self._rows(columns)
        if columns.axis is None or columns.count == columns.width:
            return self._made[key]
        return self.emitter.slice(self._made[key], columns.start, columns.stop, axis=1)

    def _rows(self, columns: Columns) -> ir.Value:
        emitter = self.emitter
        if columns.axis is None:
            return emitter.unsqueeze(emitter.gather_elements(columns.value, self.indices, axis=1), 1)
        if columns.axis == 1:
            return emitter.gather_elements(columns.value, _spread(emitter, self.indices, columns.width), axis=2)
        spread = emitter.expand(emitter.unsqueeze(self.indices, 2), 1, 1, columns.width)
        return emitter.transpose(emitter.gather_elements(columns.value, spread, axis=1), 0, 2, 1)


def _spread(emitter: Emitter, indices: ir.Value, count: int) -> ir.Value:
    """Emit `[B, count, K]` from indices `[B, K]`."""
    return emitter.expand(emitter.unsqueeze(indices, 1), 1, count, 1)


def _activate(emitter: Emitter, detector: Detector, x: ir.Value, axis: int | None) -> ir.Value:
    if detector.activation == "softmax" and axis is not None:
        return emitter.op("Softmax", x, axis=axis) if emitter.opset >= 13 else _softmax(emitter, x, axis)
    return emitter.sigmoid(x) if detector.activation == "sigmoid" else x


def _softmax(emitter: Emitter, x: ir.Value, axis: int) -> ir.Value:
    """Emit softmax along one axis; before opset 13 the operator flattens the axes that follow."""
    shifted = emitter.exp(emitter.sub(x, emitter.reduce_max(x, axis, keepdims=True)))
    return emitter.div(shifted, emitter.reduce_sum(shifted, axis, keepdims=True))


def _box_scale(emitter: Emitter, images: ir.Value) -> ir.Value:
    """Emit `[1, 4, 1]`: width, height, width, height of the network's input."""
    shape = images.shape
    if shape is not None and isinstance(shape[2], int) and isinstance(shape[3], int):
        return emitter.constant(np.array([shape[3], shape[2]] * 2, np.float32).reshape(1, 4, 1))
    size = emitter.cast(emitter.gather(emitter.shape(images), emitter.ints(3, 2, 3, 2), axis=0), ir.DataType.FLOAT)
    return emitter.reshape(size, 1, 4, 1)


def _grid(emitter: Emitter, images: ir.Value, strides: tuple[int, ...]) -> ir.Value:
    """Emit `[N, 3]` f32: column, row and stride of every cell, level by level, row by row."""
    shape = images.shape
    if shape is not None and isinstance(shape[2], int) and isinstance(shape[3], int):
        levels = []
        for stride in strides:
            y, x = np.mgrid[: shape[2] // stride, : shape[3] // stride]
            levels.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], axis=1))
        return emitter.constant(np.concatenate(levels).astype(np.float32))
    parts = []
    for stride in strides:
        height, width = (emitter.div(emitter.dim(images, axis), emitter.ints(stride)) for axis in (2, 3))
        cells = emitter.range(0, emitter.squeeze(emitter.mul(height, width), 0))
        row = emitter.div(cells, width)
        column = emitter.sub(cells, emitter.mul(row, width))
        level = emitter.add(emitter.mul(cells, 0), emitter.ints(stride))
        parts.append(emitter.concat([emitter.unsqueeze(part, 1) for part in (column, row, level)], axis=1))
    return emitter.cast(emitter.concat(parts, axis=0), ir.DataType.FLOAT)


def _on_grid(emitter: Emitter, boxes: ir.Value, cells: ir.Value) -> ir.Value:
    """Emit decoded cxcywh from raw `[B, 4, K]` and cells `[B, K, 3]`: `(xy + cell) * stride`, `exp(wh) * stride`."""
    cells = emitter.transpose(cells, 0, 2, 1)
    corner, stride = emitter.slice(cells, 0, 2, axis=1), emitter.slice(cells, 2, 3, axis=1)
    center = emitter.add(emitter.slice(boxes, 0, 2, axis=1), corner)
    size = emitter.exp(emitter.slice(boxes, 2, 4, axis=1))
    return emitter.mul(emitter.concat([center, size], axis=1), stride)
