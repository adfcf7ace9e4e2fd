"""Ways in which an engine can be wrong, as functions that spoil the outputs of a right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.errors import EngineError

Outputs = dict[str, NDArray[Any]]
Fault = Callable[[Outputs, NDArray[np.uint8]], Outputs]


class RightEngine:
    """Runs batches through a context and remembers them, so that each is computed once for all faults."""

    def __init__(self, infer: Callable[[NDArray[np.uint8]], Outputs]) -> None:
        self._infer = infer
        self._known: dict[tuple[Any, ...], Outputs] = {}

    def infer(self, images: NDArray[np.uint8]) -> Outputs:
        key = (images.shape, hash(images.tobytes()))
        if key not in self._known:
            self._known[key] = self._infer(images)
        return {name: value.copy() for name, value in self._known[key].items()}

    def opener(self, fault: Fault) -> Callable[[], Any]:
        """Return a function that opens an engine with `fault`."""

        @contextmanager
        def open_engine() -> Iterator[Callable[[NDArray[np.uint8]], Outputs]]:
            yield lambda images: fault(self.infer(images), images)

        return open_engine


def keep_boxes(outputs: Outputs, slot: int, kept: NDArray[np.bool_]) -> None:
    """Leave only the boxes `kept` `[count]` in a slot."""
    count = int(outputs["num_dets"][slot, 0])
    for name, empty in (("boxes", 0), ("scores", 0), ("classes", -1)):
        values = outputs[name][slot, :count][kept].copy()
        outputs[name][slot] = empty
        outputs[name][slot, : len(values)] = values
    outputs["num_dets"][slot, 0] = int(kept.sum())


def filled(outputs: Outputs) -> NDArray[np.bool_]:
    """Return which output slots hold a box, `[B, M]`."""
    found: NDArray[np.bool_] = np.arange(outputs["scores"].shape[1])[None] < outputs["num_dets"]
    return found


def fair(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    return outputs


def rounding() -> Fault:
    """Boxes and scores off by what 16 bits leave, the same for the same image."""

    def fault(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
        for slot in range(len(images)):
            random = np.random.default_rng(int(images[slot].sum()))
            mask = filled(outputs)[slot]
            outputs["boxes"][slot][mask] += random.uniform(-0.1, 0.1, (int(mask.sum()), 4)).astype(np.float32)
            scores = outputs["scores"][slot][mask] + random.uniform(-0.004, 0.004, int(mask.sum()))
            order = np.argsort(-scores)
            for name in ("boxes", "classes"):
                outputs[name][slot][: len(order)] = outputs[name][slot][order]
            outputs["scores"][slot][: len(order)] = scores[order].clip(0, 1)
        return outputs

    return fault


def copied_slot(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    if len(images) > 1:
        for value in outputs.values():
            value[-1] = value[0]
    return outputs


def swapped_slots(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    return {name: value[::-1].copy() for name, value in outputs.items()}


def swapped_classes(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    labels = outputs["classes"]
    outputs["classes"] = np.where(labels == 0, 1, np.where(labels == 1, 0, labels)).astype(labels.dtype)
    return outputs


def shifted(pixels: float) -> Fault:
    def fault(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
        outputs["boxes"][filled(outputs)] += np.float32(pixels)
        return outputs

    return fault


def lost_small_objects(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    for slot in range(len(images)):
        boxes = outputs["boxes"][slot][filled(outputs)[slot]]
        keep_boxes(outputs, slot, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 110)
    return outputs


def lost_class(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    for slot in range(len(images)):
        keep_boxes(outputs, slot, outputs["classes"][slot][filled(outputs)[slot]] != 2)
    return outputs


def nan_scores(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    outputs["scores"][0, 0] = np.nan
    return outputs


def weak_scores(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    outputs["scores"] *= np.float32(0.9)
    return outputs


def only_batch_one(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    return shifted(9.0)(outputs, images) if len(images) > 1 else outputs


def only_smaller_batches(largest: int) -> Fault:
    def fault(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
        return shifted(9.0)(outputs, images) if len(images) == largest else outputs

    return fault


def only_smaller_sizes(largest: int) -> Fault:
    def fault(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
        return shifted(9.0)(outputs, images) if images.shape[1] == largest else outputs

    return fault


def previous_batch() -> Fault:
    last: list[Outputs] = []

    def fault(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
        last.append(outputs)
        same = len(last) > 1 and last[-2]["scores"].shape == outputs["scores"].shape
        return {name: value.copy() for name, value in last[-2 if same else -1].items()}

    return fault


def first_batch_for_ever() -> Fault:
    first: dict[tuple[int, ...], Outputs] = {}

    def fault(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
        known = first.setdefault(images.shape, outputs)
        return {name: value.copy() for name, value in known.items()}

    return fault


def nondeterministic() -> Fault:
    """Scores that differ from run to run, each time within what FP16 may do."""
    random = np.random.default_rng(3)

    def fault(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
        outputs["scores"] = (outputs["scores"] - filled(outputs) * random.uniform(0.0, 0.04)).clip(0, 1)
        return outputs

    return fault


def slots_differ(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    """Scores that differ from slot to slot, each within what FP16 may do."""
    lower = np.linspace(0, 0.04, len(images))[:, None]
    outputs["scores"] = (outputs["scores"] - filled(outputs) * lower).clip(0, 1)
    return outputs


def too_many(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    outputs["num_dets"][:] = outputs["scores"].shape[1] + 1
    return outputs


def garbage_behind(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    outputs["classes"][~filled(outputs)] = 3
    return outputs


def unknown_class(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    outputs["classes"][:, 0] = 7
    return outputs


def unsorted(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    for slot, (count,) in enumerate(outputs["num_dets"]):
        for name in ("boxes", "scores", "classes"):
            outputs[name][slot, :count] = outputs[name][slot, :count][::-1].copy()
    return outputs


def doubled(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    """NMS does nothing: each box comes twice."""
    for slot, (count,) in enumerate(outputs["num_dets"]):
        for name in ("boxes", "scores", "classes"):
            outputs[name][slot, : 2 * count] = np.repeat(outputs[name][slot, :count].copy(), 2, axis=0)
        outputs["num_dets"][slot] = 2 * count
    return outputs


def nothing(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    for slot in range(len(images)):
        keep_boxes(outputs, slot, np.zeros(int(outputs["num_dets"][slot, 0]), bool))
    return outputs


def no_scores(outputs: Outputs, _images: NDArray[np.uint8]) -> Outputs:
    del outputs["scores"]
    return outputs


def failing(outputs: Outputs, images: NDArray[np.uint8]) -> Outputs:
    if len(images) == 4:
        raise EngineError("an illegal memory access was encountered")
    return outputs
