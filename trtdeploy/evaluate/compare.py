"""Compares the detections of two engines, image by image, and says what became of the boxes, by size and by class."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from trtdeploy.core.engine_info import NmsInfo
from trtdeploy.core.types import Detections
from trtdeploy.engine.boxes import SIZES, Found, Judged, compare_boxes, decisive
from trtdeploy.engine.tolerance import Tolerance

Verdict = Literal["agree", "differ", "inconclusive"]
PERCENTILES = (0, 1, 5, 50)
_MIN_BOXES, _MIN_IMAGES = 20, 2
"""Fewer boxes of A, or boxes on fewer images, prove nothing."""
_MIN_PAIRS, _SIGMAS = 12, 3.3
"""Rounding has no direction: one that chance shows once in a thousand comparisons is called systematic."""
_KEPT = 12


@dataclass(frozen=True)
class Row:
    """The boxes of one group: all, a size, a class or an image.

    Attributes:
        name: The group.
        boxes: A's boxes, without those at the threshold.
        found: Those that B has in the same place with the same class, wherever its score lies.
        moved, score, relabelled, missing: Those of A's boxes that differ.
        extra: Boxes that only B has.
        lost_at_threshold, new_at_threshold: Boxes that only A or only B has, where rounding may decide; not in `boxes`.
    """

    name: str
    boxes: int
    found: int
    moved: int
    score: int
    relabelled: int
    missing: int
    extra: int
    lost_at_threshold: int
    new_at_threshold: int

    @property
    def lost(self) -> float:
        """Share of A's boxes that B does not have with that class."""
        return (self.missing + self.relabelled) / self.boxes if self.boxes else 0.0


@dataclass(frozen=True)
class WorstImage:
    """An image on which the engines differ.

    Attributes:
        name: Its name.
        weight: How much they differ: the sum of the scores of boxes that are missing, new or of another class, and of
            the distances of the others.
        judged: What became of each box.
    """

    name: str
    weight: float
    judged: tuple[Judged, ...]

    def counts(self) -> Counter[str]:
        """Return how many boxes have each fate."""
        return Counter(item.fate for item in self.judged)


@dataclass(frozen=True)
class BoxReport:
    """What became of A's boxes in B.

    Attributes:
        verdict: `agree`; `differ`: a limit of the tolerance is exceeded; `inconclusive`: nothing differs, but A finds
            too little to prove anything.
        reason: Why, in a sentence.
        failures: Every limit that was exceeded, in a sentence each.
        images: Images compared.
        counts: Boxes by fate.
        total: The row of all boxes.
        sizes, classes: Rows by size of object (COCO's limits) and by class.
        iou: Percentiles of the overlap of boxes found again, by percent.
        score_difference: Percentiles of the absolute difference of their scores, from the other end: 100, 99, 95, 50.
        score_shift: Median of B's score minus A's.
        worst: The images that differ most, the worst first.
        tolerance: The limits, in pixels of the network.
    """

    verdict: Verdict
    reason: str
    failures: tuple[str, ...]
    images: int
    counts: dict[str, int]
    total: Row
    sizes: tuple[Row, ...]
    classes: tuple[Row, ...]
    iou: dict[str, float]
    score_difference: dict[str, float]
    score_shift: float
    worst: tuple[WorstImage, ...]
    tolerance: Tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; of the worst images, the boxes that differ."""
        plain = {name: getattr(self, name) for name in ("verdict", "reason", "images", "counts", "score_shift")}
        return plain | {
            "failures": list(self.failures),
            "total": _row_of(self.total),
            "sizes": [_row_of(row) for row in self.sizes],
            "classes": [_row_of(row) for row in self.classes],
            "iou_percentiles": self.iou,
            "score_difference_percentiles": self.score_difference,
            "worst": [
                {"image": image.name, "counts": dict(image.counts()), "boxes": [*map(_judged_of, _differing(image))]}
                for image in self.worst
            ],
            "tolerance": asdict(self.tolerance),
        }


@dataclass
class _Group:
    """What is counted of one group."""

    fates: Counter[str] = field(default_factory=Counter)
    only_a: int = 0
    only_b: int = 0
    shifts: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(count for fate, count in self.fates.items() if fate != "borderline")

    @property
    def wrong(self) -> int:
        return self.total - self.fates["same"]

    def row(self, name: str) -> Row:
        fates = self.fates
        found = fates["same"] + fates["moved"] + fates["score"]
        return Row(
            name=name,
            boxes=found + fates["class"] + fates["missing"],
            found=found,
            moved=fates["moved"],
            score=fates["score"],
            relabelled=fates["class"],
            missing=fates["missing"],
            extra=fates["extra"],
            lost_at_threshold=self.only_a,
            new_at_threshold=self.only_b,
        )


class BoxComparison:
    """Collects the detections of two engines, image by image, and gives the report.

    Args:
        tolerance: The limits, in pixels of the network.
        nms: Thresholds that both engines follow.
        class_names: Class names by index; a class without one is `class<index>`.
        max_det: Detections per image at which each engine cuts off, A's and B's.
    """

    def __init__(
        self, tolerance: Tolerance, nms: NmsInfo, class_names: Sequence[str], max_det: tuple[int, int]
    ) -> None:
        self._tolerance = tolerance
        self._nms = nms
        self._names = tuple(class_names)
        self._max_det = max_det
        self._groups: defaultdict[tuple[str, str], _Group] = defaultdict(_Group)
        self._ious: list[float] = []
        self._scores: list[float] = []
        self._worst: list[tuple[float, int, WorstImage]] = []
        self._broken: list[str] = []
        self._images = 0
        self._sure: Counter[str] = Counter()

    def add(self, name: str, a: Detections, b: Detections, scale: float = 1.0) -> None:
        """Compare the detections of one image.

        Args:
            name: The image.
            a, b: Detections in pixels of the image.
            scale: Pixels of the image per pixel of the network: a tolerance of one pixel of the network is that many.
        """
        tolerance = replace(self._tolerance, pixels=self._tolerance.pixels * scale)
        before, after = self._found(name, "A", a, self._max_det[0]), self._found(name, "B", b, self._max_det[1])
        judged = compare_boxes(before, after, tolerance, self._nms)
        self._images += 1
        self._sure[name] += decisive(before, tolerance, self._nms)
        for item in judged:
            self._count(name, item, scale)
        weight = sum(weight_of(item) for item in judged)
        if weight > 0:
            entry = (weight, -self._images, WorstImage(name, round(weight, 4), tuple(judged)))
            (heapq.heappush if len(self._worst) < _KEPT else heapq.heappushpop)(self._worst, entry)

    def report(self) -> BoxReport:
        """Return what became of the boxes."""
        failures = self._failures()
        verdict: Verdict = "agree"
        whole = self._groups["all", ""].row("all")
        reason = f"{whole.found} of {whole.boxes} boxes of A found again in B on {self._images} images"
        if failures:
            verdict, reason = "differ", failures[0]
        elif shortage := self._shortage():
            verdict, reason = "inconclusive", shortage
        classes = [group.row(name) for (kind, name), group in self._groups.items() if kind == "class"]
        return BoxReport(
            verdict=verdict,
            reason=reason,
            failures=tuple(failures),
            images=self._images,
            counts=dict(self._groups["all", ""].fates),
            total=whole,
            sizes=tuple(self._groups["size of object", name].row(name) for name in SIZES),
            classes=tuple(sorted(classes, key=lambda row: (-row.lost, -row.boxes, row.name))),
            iou=_percentiles(self._ious, PERCENTILES),
            score_difference=_percentiles(np.abs(self._scores), [100 - percent for percent in PERCENTILES]),
            score_shift=round(float(np.median(self._scores)), 5) if self._scores else 0.0,
            worst=tuple(image for _, _, image in sorted(self._worst, key=lambda entry: (-entry[0], -entry[1]))),
            tolerance=self._tolerance,
        )

    def _found(self, image: str, side: str, detections: Detections, most: int) -> Found:
        """Return the detections above the common threshold; broken ones are a failure and left out."""
        sound = np.isfinite(detections.xyxy).all(axis=1) & np.isfinite(detections.scores)
        if not sound.all():
            broken = int(np.count_nonzero(~sound))
            self._broken.append(f"{image}: {broken} detections of {side} are NaN or infinite")
        keep = sound & (detections.scores > self._nms.conf)
        return Found(
            detections.xyxy[keep].astype(np.float64),
            detections.scores[keep].astype(np.float64),
            detections.classes[keep].astype(np.int64),
            len(detections) >= most,
        )

    def _count(self, image: str, item: Judged, scale: float) -> None:
        box = item.box
        label = self._names[box.label] if box.label < len(self._names) else f"class{box.label}"
        keys: tuple[tuple[str, str], ...] = (
            ("all", ""), ("size of object", box.bucket), ("class", label), ("image", image)
        )  # fmt: skip
        shift = None
        if item.deviation is not None and item.fate != "class":
            left, top, right, bottom = (value / scale for value in item.deviation)
            shift = left, top, right, bottom  # of thousands of images: one tuple, whatever the number of groups
        for key in keys:
            group = self._groups[key]
            group.fates[item.fate] += 1
            if item.fate == "borderline":
                group.only_a += item.expected is not None
                group.only_b += item.got is not None
            elif shift is not None:
                group.shifts.append(shift)
        if item.expected is not None and item.got is not None and item.fate != "class":
            self._ious.append(item.iou)
            self._scores.append(item.got.score - item.expected.score)

    def _failures(self) -> list[str]:
        """Return every limit that was exceeded, in words, the widest group first."""
        allowed = self._tolerance.allowed
        exceeded = [(key, group) for key, group in self._groups.items() if group.wrong > allowed(group.total)]
        exceeded.sort(key=lambda entry: (entry[0][0] != "all", -entry[1].wrong / entry[1].total, -entry[1].total))
        failures = list(self._broken)
        failures += [
            f"{_text(key)}: {group.wrong} of {group.total} boxes differ (at most {int(allowed(group.total))} may)"
            for key, group in exceeded
        ]
        for key, group in self._groups.items():
            ends = group.only_a + group.only_b
            if ends >= _MIN_PAIRS and abs(group.only_a - group.only_b) > _SIGMAS * math.sqrt(ends):
                failures.append(
                    f"{_text(key)}: {group.only_a} boxes at the threshold are only in A and {group.only_b} only in B; "
                    "rounding alone would move as many each way"
                )
            if len(group.shifts) >= _MIN_PAIRS:
                shift = np.median(np.array(group.shifts), axis=0)
                if np.abs(shift).max() > self._tolerance.shift:
                    sides = ", ".join(f"{value:+.2f}" for value in shift)
                    failures.append(
                        f"{_text(key)}: B's boxes are shifted by {sides} pixels of the network (left, top, right, "
                        f"bottom; median of {len(group.shifts)}, at most {self._tolerance.shift})"
                    )
        return failures

    def _shortage(self) -> str:
        """Return why the images prove too little; empty when they do not."""
        boxes, images = sum(self._sure.values()), sum(count > 0 for count in self._sure.values())
        if boxes >= _MIN_BOXES and images >= _MIN_IMAGES:
            return ""
        return (
            f"nothing differs, but A finds only {boxes} boxes clearly above the threshold, on {images} images "
            f"(expected {_MIN_BOXES} on {_MIN_IMAGES} at least); give images that show what it detects"
        )


def weight_of(item: Judged) -> float:
    """Return how much one box differs."""
    if not item.differs:
        return 0.0
    best = max(box.score for box in (item.expected, item.got) if box is not None)
    if item.fate == "moved":
        return best * (1 - item.iou)
    if item.fate == "score":
        assert item.expected is not None
        assert item.got is not None
        return abs(item.got.score - item.expected.score)
    return best


def _differing(image: WorstImage) -> list[Judged]:
    return sorted((item for item in image.judged if item.differs), key=lambda item: -weight_of(item))


def _percentiles(values: Iterable[float], percents: Iterable[int]) -> dict[str, float]:
    found = np.fromiter(values, np.float64)
    return {str(p): round(float(np.percentile(found, p)), 5) for p in percents} if found.size else {}


def _text(key: tuple[str, str]) -> str:
    kind, value = key
    return "over all" if kind == "all" else f"{kind} {value}"


def _row_of(row: Row) -> dict[str, Any]:
    return asdict(row) | {"lost": round(row.lost, 5)}


def _judged_of(item: Judged) -> dict[str, Any]:
    found = item.to_dict()
    return {"fate": found["fate"], "iou": found["iou"], "a": found["expected"], "b": found["got"]}
