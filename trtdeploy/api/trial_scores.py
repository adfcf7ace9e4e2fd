"""How good a trial of a network is: average precision where there are labels, else agreement with its FP32 boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.api.evaluate import CONF, ENGINE_MAX_DET
from trtdeploy.core.errors import SourceError
from trtdeploy.engine.boxes import Found, compare_boxes
from trtdeploy.engine.tolerance import FP16
from trtdeploy.evaluate.average_precision import average_precision, check_evaluator
from trtdeploy.evaluate.datasets import LabelledImages, match_classes
from trtdeploy.evaluate.resampled import draws_of, resampled_map
from trtdeploy.graph.head import NmsOptions
from trtdeploy.quantize.trials import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trtdeploy.api.trial_network import TrialNetwork
    from trtdeploy.core.engine_info import NmsInfo
    from trtdeploy.core.types import Detections

MAP, AGREEMENT = "mAP50-95", "box agreement with FP32"
_FOUND = frozenset({"same", "moved", "score"})
"""Fates of a box that is found again: the same class, overlapping by half or more."""


def trial_nms(nms: NmsOptions, *, labels: bool) -> NmsOptions:
    """Return the options of NMS that trials have: all candidates count for average precision."""
    exact = replace(nms, method="auto", steps=None)
    if not labels:
        return exact
    return replace(exact, conf=min(CONF, nms.conf), max_det=max(ENGINE_MAX_DET, nms.max_det), candidates=None)


@dataclass
class TrialScores:
    """Scores a network with some of its blocks kept out of INT8 on images.

    Args:
        network: The network, with the NMS of `trial_nms`.
        data: The images. With labels the score is mAP50-95; without, the share of boxes that the network in FP32 has
            and the trial has too, among all that either has; boxes at a threshold, where rounding decides, aside.
        draws: Bootstrap draws of the images.

    Raises:
        UsageError: No class of the labels is one of the model's.
        MissingDependencyError: Average precision cannot be computed here.
    """

    network: TrialNetwork
    data: LabelledImages
    draws: int

    def __post_init__(self) -> None:
        self._drawn = draws_of(len(self.data.paths), self.draws)
        self._fp32: list[Detections] | None = None
        self._own: dict[int, int] = {}
        if self.data.labels is not None:
            check_evaluator()
            names = self.network.info.class_names
            unnamed = {index: index for index in range(len(self.data.classes))}
            self._own = match_classes(self.data.classes, names) if names else unnamed

    @property
    def measure(self) -> str:
        """What the score is."""
        return AGREEMENT if self.data.labels is None else MAP

    def __call__(self, keep: frozenset[str]) -> Score:
        """Return the score with the named blocks kept out of INT8.

        Raises:
            SourceError: An image cannot be read.
            UsageError: None of the images has a label of the model's classes.
        """
        found = self.network.detect(keep, self.data.paths)
        if self.data.labels is not None:
            value = average_precision(found, self.data, self._own).map50_95
            return Score(value, tuple(resampled_map(found, self.data, self._own, self._drawn)))
        if self._fp32 is None:
            self._fp32 = self.network.detect({block.name for block in self.network.blocks}, self.data.paths)
        return agreement(self._fp32, found, self.network.info.nms, self._drawn)

    def key(self) -> str:
        """Return a hash of everything that scores depend on.

        Raises:
            SourceError: An image cannot be read.
        """
        import onnxruntime as ort

        digest = hashlib.sha256()
        parts = [
            f"onnxruntime {ort.__version__}", self.network.key, self.measure, str(self.draws), repr(self.data.classes),
            repr(self.data.labels), *map(_digest, self.data.paths),
        ]  # fmt: skip
        for part in parts:
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()


def agreement(
    expected: Sequence[Detections], got: Sequence[Detections], nms: NmsInfo, draws: NDArray[np.int64]
) -> Score:
    """Return the share of boxes that both detectors have; 1 where neither has any.

    Args:
        expected, got: Detections of each image.
        nms: Thresholds of both.
        draws: From `draws_of`.
    """
    counts = np.zeros((len(expected), 2), np.int64)
    for image, (first, second) in enumerate(zip(expected, got, strict=True)):
        fates = [item.fate for item in compare_boxes(_found(first, nms), _found(second, nms), FP16, nms)]
        counts[image] = sum(fate in _FOUND for fate in fates), sum(fate != "borderline" for fate in fates)

    def ratio(chosen: NDArray[np.int64]) -> float:
        both, either = counts[chosen].sum(axis=0)
        return float(both / either) if either else 1.0

    return Score(ratio(np.arange(len(counts))), tuple(ratio(drawn) for drawn in draws))


def _found(detections: Detections, nms: NmsInfo) -> Found:
    return Found(
        detections.xyxy.astype(np.float64),
        detections.scores.astype(np.float64),
        detections.classes.astype(np.int64),
        len(detections) >= nms.max_det,
    )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SourceError(f"The image {path} cannot be read: {error.strerror}.") from error
