"""Emits fixed-size detections: greedy NMS in a Loop or as an unrolled fixpoint, or the best candidates as they are.

Greedy NMS takes candidates from the best score down and drops those whose IoU with a kept box of their class is above
the threshold. Candidates with equal scores keep the order of the head's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtdeploy.core.engine_info import NmsInfo
from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.head.decode import Candidates, limited

TILE = 64
"""Candidates that one turn of the Loop looks at. On a CPU 64 and 128 measured alike, 256 slower."""

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Kept:
    """The kept candidates: scores `[B, M]`, best first, 0 in empty slots; boxes `[B, 4, M]`; classes `[B, M]` f32."""

    scores: ir.Value
    boxes: ir.Value
    classes: ir.Value


def emit_detections(emitter: Emitter, candidates: Candidates, nms: NmsInfo) -> list[ir.Value]:
    """Emit the path from candidates to the outputs `num_dets`, `boxes`, `scores`, `classes`.

    Args:
        emitter: Emitter of the main graph.
        candidates: The decoded head.
        nms: Method and thresholds.

    Returns:
        The four outputs, with names, types and shapes.
    """
    if nms.method == "loop":
        kept = _loop(emitter, candidates, nms)
    elif nms.method == "fixpoint":
        kept = _fixpoint(emitter, candidates, nms)
    else:
        kept = _best(emitter, candidates, nms)
    return _outputs(emitter, kept)


def _best(emitter: Emitter, candidates: Candidates, nms: NmsInfo) -> Kept:
    scores, indices = emitter.top_k(
        candidates.best, limited(emitter, candidates.best, candidates.rows, nms.max_det), axis=1
    )
    boxes, classes = candidates.take(emitter, indices)
    above = emitter.cast(emitter.greater(scores, nms.conf), FLOAT)
    return _filled(emitter, Kept(emitter.mul(scores, above), boxes, classes), candidates.rows, nms.max_det)


def _filled(emitter: Emitter, kept: Kept, rows: int | None, slots: int) -> Kept:
    """Emit empty slots behind the kept candidates where the head may have fewer rows than there are slots."""
    if rows is not None and rows >= slots:
        return kept
    blank = emitter.expand(emitter.constant(np.zeros((1, 1), np.float32)), emitter.dim(kept.scores, 0), slots)
    blank4 = emitter.expand(emitter.constant(np.zeros((1, 1, 1), np.float32)), emitter.dim(kept.scores, 0), 4, slots)
    return Kept(
        emitter.slice(emitter.concat([kept.scores, blank], axis=1), 0, slots, axis=1),
        emitter.slice(emitter.concat([kept.boxes, blank4], axis=2), 0, slots, axis=2),
        emitter.slice(emitter.concat([kept.classes, blank], axis=1), 0, slots, axis=1),
    )


def _fixpoint(emitter: Emitter, candidates: Candidates, nms: NmsInfo) -> Kept:
    """Repeat `keep = no kept better box suppresses me`, which settles link by link along every chain."""
    limit = limited(emitter, candidates.best, candidates.rows, nms.candidates)
    scores, indices = emitter.top_k(candidates.best, limit, axis=1)
    boxes, classes = candidates.take(emitter, indices)
    hits = _suppressions(emitter, boxes, classes, boxes, classes, nms)
    hits = emitter.mul(hits, _earlier(emitter, limit, candidates.rows, nms.candidates))
    valid = emitter.unsqueeze(emitter.cast(emitter.greater(scores, nms.conf), FLOAT), 1)
    keep = valid
    for _ in range(nms.steps):
        keep = _unsuppressed(emitter, valid, keep, hits)
    kept = Kept(emitter.mul(scores, emitter.squeeze(keep, 1)), boxes, classes)
    return _selected(emitter, kept, candidates.rows, nms)


def _selected(emitter: Emitter, kept: Kept, rows: int | None, nms: NmsInfo) -> Kept:
    scores, order = emitter.top_k(kept.scores, limited(emitter, kept.scores, rows, nms.max_det), axis=1)
    chosen = _reordered(emitter, Kept(scores, kept.boxes, kept.classes), order)
    return _filled(emitter, chosen, rows, nms.max_det)


def _loop(emitter: Emitter, candidates: Candidates, nms: NmsInfo) -> Kept:
    """Emit exact greedy NMS, a tile of candidates a turn, until no candidate or no slot is left in any image.

    A turn compares its tile with the boxes kept so far and with itself, so that its cost does not depend on how many
    candidates there are, and the number of turns follows the images.
    """
    limit = limited(emitter, candidates.best, candidates.rows, nms.candidates)
    scores, indices = emitter.top_k(candidates.best, limit, axis=1)
    batch = emitter.dim(candidates.best, 0)
    start = [
        emitter.expand(emitter.constant(np.zeros((1, 1), np.float32)), batch, nms.max_det),
        emitter.expand(emitter.constant(np.zeros((1, 1, 1), np.float32)), batch, 4, nms.max_det),
        emitter.expand(emitter.constant(np.zeros((1, 1), np.float32)), batch, nms.max_det),
    ]
    turns = emitter.squeeze(emitter.div(emitter.add(limit, TILE - 1), TILE), 0)
    first = emitter.reduce_max(emitter.slice(scores, 0, 1, axis=1), 0, 1)
    body = _turn(emitter, candidates, scores, indices, limit, nms)
    kept = emitter.multi("Loop", 3, turns, emitter.greater(first, nms.conf), *start, body=body)
    return Kept(*kept)


def _turn(
    outer: Emitter, candidates: Candidates, scores: ir.Value, indices: ir.Value, limit: ir.Value, nms: NmsInfo
) -> ir.Graph:
    emitter = outer.child("turn")
    turn, go = _input(emitter, "turn", ir.DataType.INT64), _input(emitter, "go", ir.DataType.BOOL)
    state = Kept(
        _input(emitter, "kept_scores", FLOAT, "B", nms.max_det),
        _input(emitter, "kept_boxes", FLOAT, "B", 4, nms.max_det),
        _input(emitter, "kept_classes", FLOAT, "B", nms.max_det),
    )
    place = emitter.add(emitter.mul(turn, TILE), np.arange(TILE, dtype=np.int64))
    inside = emitter.less(place, limit)
    place = emitter.min(place, emitter.sub(limit, 1))
    tile_scores = emitter.gather(scores, place, axis=1)
    boxes, classes = candidates.take(emitter, emitter.gather(indices, place, axis=1))
    valid = emitter.logical_and(inside, emitter.greater(tile_scores, nms.conf))
    valid = emitter.unsqueeze(emitter.cast(valid, FLOAT), 1)

    all_boxes = emitter.concat([state.boxes, boxes], axis=2)
    all_classes = emitter.concat([state.classes, classes], axis=1)
    hits = _suppressions(emitter, all_boxes, all_classes, boxes, classes, nms)
    by_kept = emitter.slice(hits, 0, nms.max_det, axis=1)
    within = emitter.slice(hits, nms.max_det, nms.max_det + TILE, axis=1)
    within = emitter.mul(within, np.triu(np.ones((TILE, TILE), np.float32), 1))
    kept_mask = emitter.unsqueeze(emitter.cast(emitter.greater(state.scores, 0.0), FLOAT), 1)
    valid = _unsuppressed(emitter, valid, kept_mask, by_kept)
    keep = _settled(emitter, valid, within)

    tile_scores = emitter.mul(tile_scores, emitter.squeeze(keep, 1))
    top, order = emitter.top_k(emitter.concat([state.scores, tile_scores], axis=1), nms.max_det, axis=1)
    merged = _reordered(emitter, Kept(top, all_boxes, all_classes), order)
    outputs = [
        _more(emitter, turn, scores, limit, merged.scores, nms),
        emitter.op("Identity", merged.scores),
        merged.boxes,
        merged.classes,
    ]
    for output, like in zip(outputs, [go, state.scores, state.boxes, state.classes], strict=True):
        output.type, output.shape = like.type, like.shape
    return emitter.body("turn", [turn, go, state.scores, state.boxes, state.classes], outputs)


def _more(
    emitter: Emitter, turn: ir.Value, scores: ir.Value, limit: ir.Value, kept_scores: ir.Value, nms: NmsInfo
) -> ir.Value:
    """Emit whether any image has both a candidate in the next tile and an empty slot."""
    following = emitter.mul(emitter.add(turn, 1), TILE)
    following = emitter.min(emitter.reshape(following, 1), emitter.sub(limit, 1))
    waiting = emitter.greater(emitter.gather(scores, following, axis=1), nms.conf)
    empty = emitter.logical_not(emitter.greater(emitter.slice(kept_scores, -1, _END, axis=1), 0.0))
    unfinished = emitter.cast(emitter.logical_and(waiting, empty), FLOAT)
    return emitter.greater(emitter.reduce_max(unfinished, 0, 1), 0.5)


def _settled(outer: Emitter, valid: ir.Value, hits: ir.Value) -> ir.Value:
    """Emit a Loop that repeats the fixpoint step until nothing changes; `[B, 1, T]`."""
    emitter = outer.child("settle")
    step, go = _input(emitter, "step", ir.DataType.INT64), _input(emitter, "again", ir.DataType.BOOL)
    keep = _input(emitter, "keep", FLOAT, "B", 1, TILE)
    after = _unsuppressed(emitter, valid, keep, hits)
    changed = emitter.op("Abs", emitter.sub(after, keep))
    again = emitter.greater(emitter.reduce_max(changed, 0, 1, 2), 0.5)
    again.type, again.shape = go.type, go.shape
    after.type, after.shape = keep.type, keep.shape
    body = emitter.body("settle", [step, go, keep], [again, after])
    return outer.multi("Loop", 1, TILE, True, valid, body=body)[0]


def _unsuppressed(emitter: Emitter, valid: ir.Value, keep: ir.Value, hits: ir.Value) -> ir.Value:
    """Emit `[B, 1, T]`: valid, and hit by none of the kept. `keep` is `[B, 1, S]`, `hits` `[B, S, T]`."""
    free = emitter.less(emitter.matmul(keep, hits), 0.5)
    return emitter.mul(valid, emitter.cast(free, FLOAT))


def _suppressions(
    emitter: Emitter, boxes: ir.Value, classes: ir.Value, tile: ir.Value, tile_classes: ir.Value, nms: NmsInfo
) -> ir.Value:
    """Emit `[B, S, T]` f32, 1 where box s of `[B, 4, S]` overlaps box t of `[B, 4, T]` of its class too much.

    The IoU is compared without a division, `inter > iou * (a + b - inter)`, so that boxes without area hit nothing.
    """
    left = [emitter.reshape(emitter.slice(boxes, i, i + 1, axis=1), 0, -1, 1) for i in range(4)]
    top = [emitter.slice(tile, i, i + 1, axis=1) for i in range(4)]
    width = emitter.sub(emitter.min(left[2], top[2]), emitter.max(left[0], top[0]))
    height = emitter.sub(emitter.min(left[3], top[3]), emitter.max(left[1], top[1]))
    inter = emitter.mul(emitter.max(width, 0.0), emitter.max(height, 0.0))
    union = emitter.sub(emitter.add(_area(emitter, left), _area(emitter, top)), inter)
    hits = emitter.greater(inter, emitter.mul(union, nms.iou))
    if not nms.class_agnostic:
        same = emitter.equal(emitter.unsqueeze(classes, 2), emitter.unsqueeze(tile_classes, 1))
        hits = emitter.logical_and(hits, same)
    return emitter.cast(hits, FLOAT)


def _area(emitter: Emitter, corners: list[ir.Value]) -> ir.Value:
    width, height = emitter.sub(corners[2], corners[0]), emitter.sub(corners[3], corners[1])
    return emitter.mul(emitter.max(width, 0.0), emitter.max(height, 0.0))


def _earlier(emitter: Emitter, limit: ir.Value, rows: int | None, candidates: int) -> ir.Value:
    """Emit `[K, K]` f32, 1 where the row's candidate is better than the column's."""
    if rows is not None:
        size = min(rows, candidates)
        return emitter.constant(np.triu(np.ones((size, size), np.float32), 1))
    place = emitter.range(0, emitter.squeeze(limit, 0))
    return emitter.cast(emitter.less(emitter.unsqueeze(place, 1), emitter.unsqueeze(place, 0)), FLOAT)


def _reordered(emitter: Emitter, kept: Kept, order: ir.Value) -> Kept:
    """Emit boxes and classes in the order `[B, M]`; the scores are in it already."""
    spread = emitter.expand(emitter.unsqueeze(order, 1), 1, 4, 1)
    return Kept(
        kept.scores,
        emitter.gather_elements(kept.boxes, spread, axis=2),
        emitter.gather_elements(kept.classes, order, axis=1),
    )


def _outputs(emitter: Emitter, kept: Kept) -> list[ir.Value]:
    taken = emitter.greater(kept.scores, 0.0)
    taken_f32 = emitter.cast(taken, FLOAT)
    boxes = emitter.mul(emitter.transpose(kept.boxes, 0, 2, 1), emitter.unsqueeze(taken_f32, 2))
    classes = emitter.cast(emitter.where(taken, kept.classes, -1.0), ir.DataType.INT32)
    num_dets = emitter.cast(emitter.reduce_sum(taken_f32, 1, keepdims=True), ir.DataType.INT32)
    return [num_dets, boxes, emitter.op("Identity", kept.scores), classes]


def _input(emitter: Emitter, name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
    return ir.Value(name=f"{emitter.prefix}/{name}", type=ir.TensorType(dtype), shape=ir.Shape(shape))


_END = np.iinfo(np.int64).max
