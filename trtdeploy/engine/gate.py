"""The accuracy gate: what an engine detected against what its model detects, counted in groups, and the verdict."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.engine_info import EngineInfo, GateInfo
from trtdeploy.core.types import Size
from trtdeploy.engine.boxes import Found, Judged, Outputs, compare_boxes, decisive, defect_of
from trtdeploy.engine.tolerance import Tolerance

Verdict = Literal["passed", "failed", "inconclusive", "emulated"]
Group = tuple[str, str]
"""What a group holds in common, and its value: `("slot", "3")`."""
_MIN_BOXES, _MIN_IMAGES = 20, 2
"""Fewer boxes of the reference, or boxes on fewer images, prove nothing."""
_MIN_PAIRS = 12
"""Fewer pairs tell no systematic shift from chance."""
_GROSS = 10
_SHOWN = 20


@dataclass(frozen=True)
class Place:
    """Where in a run an image was shown.

    Attributes:
        check: `reference`: compared with the reference; `identical slots`: with slot 0 of the same batch, which holds
            the same image; `repeat`: with what the engine answered to the same batch before.
        batch: Images in the batch.
        size: Size of the images.
        slot: Position in the batch.
        image: Name of the image.
    """

    check: Literal["reference", "identical slots", "repeat"]
    batch: int
    size: Size
    slot: int
    image: str

    def __str__(self) -> str:
        return f"{self.image} in slot {self.slot} of batch {self.batch} at {self.size}, {self.check}"


@dataclass(frozen=True)
class GateReport:
    """What the gate found.

    Attributes:
        verdict: `passed`, `failed` or `inconclusive`; `emulated`: passed by its emulated twin.
        reason: Why, in a sentence.
        failures: Every limit that was exceeded, in a sentence each, the plainest first.
        boxes: Boxes of the reference that the engine had to find, over all batches.
        counts: Boxes, or elements of raw outputs, by fate.
        largest: Largest deviations among matched boxes: `iou` (the least; 0 for boxes without area), `pixels`, `score`.
        worst: The most confident boxes that differ, with place, expected and got.
        images: Names of the images.
        batches: The batches that ran, in words.
        skipped: Batches that were left out, with the reason.
        tolerance: The limits.
        kept: Blocks that stay in a higher precision because of an earlier try.
    """

    verdict: Verdict
    reason: str
    failures: tuple[str, ...]
    boxes: int
    counts: dict[str, int]
    largest: dict[str, float]
    worst: tuple[dict[str, Any], ...]
    images: tuple[str, ...]
    batches: tuple[str, ...]
    skipped: tuple[str, ...]
    tolerance: Tolerance
    kept: tuple[str, ...] = ()

    @property
    def info(self) -> GateInfo:
        """The report as the engine's metadata keep it."""
        return GateInfo(
            verdict=self.verdict,
            reason=self.reason,
            images=len(self.images),
            batches=len(self.batches),
            boxes=self.boxes,
            kept=list(self.kept),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as text: the verdict, what exceeded its limit, and the worst boxes."""
        lines = [f"gate {self.verdict}: {self.reason}"]
        lines += [f"  {failure}" for failure in self.failures[1:8]]  # the first is the reason
        if self.worst:
            lines.append("  worst:")
        for item in self.worst[:5]:
            lines.append(f"    {item['fate']}: {item['place']}")
            lines += [f"      {side:<8} {_box_text(item[side])}" for side in ("expected", "got")]
        return lines


@dataclass
class _Count:
    total: int = 0
    wrong: int = 0
    deviations: list[tuple[float, float, float, float]] = field(default_factory=list)


class Tally:
    """Collects comparisons, and gives the verdict.

    Args:
        info: The engine's metadata; tells outputs and thresholds.
        tolerance: The limits.
    """

    def __init__(self, info: EngineInfo, tolerance: Tolerance) -> None:
        self._info = info
        self._tolerance = tolerance
        self._groups: defaultdict[Group, _Count] = defaultdict(_Count)
        self._defects: list[str] = []
        self._gross: list[str] = []
        self._fates: Counter[str] = Counter()
        self._worst: list[tuple[float, int, dict[str, Any]]] = []
        self._largest = {"iou": 1.0, "pixels": 0.0, "score": 0.0}
        self._evidence: dict[tuple[str, Size], int] = {}
        self._boxes = 0
        self._batches: list[str] = []
        self._skipped: list[str] = []

    @property
    def detects(self) -> bool:
        """Whether the outputs are detections; raw ones are compared element by element."""
        return self._info.nms.method != "none"

    def ran(self, batch: int, size: Size, what: str) -> None:
        """Note that a batch ran."""
        self._batches.append(f"{batch} at {size}, {what}")

    def skip(self, batch: int, size: Size, reason: str) -> None:
        """Note that a batch was left out."""
        self._skipped.append(f"{batch} at {size}: {reason}")

    def defect(self, text: str) -> None:
        """Note something that no tolerance allows."""
        if text not in self._defects:
            self._defects.append(text)

    def add(self, place: Place, expected: Outputs, expected_slot: int, got: Outputs, got_slot: int) -> None:
        """Compare one slot of the engine's outputs with one of the reference's."""
        tolerance = self._tolerance if place.check == "reference" else self._tolerance.of_repeats
        if not self.detects:
            self._add_tensors(place, expected, expected_slot, got, got_slot, tolerance)
            return
        defect = defect_of(got, got_slot, len(self._info.class_names))
        if defect:
            self.defect(f"{place}: {defect}")
            return
        if place.check != "reference" and defect_of(expected, expected_slot, len(self._info.class_names)):
            return  # noted where that slot was compared with the reference
        before, after = Found.of(expected, expected_slot), Found.of(got, got_slot)
        if place.check == "reference":
            wanted = decisive(before, tolerance, self._info.nms)
            self._evidence[place.image, place.size] = wanted
            self._boxes += wanted
        for judged in compare_boxes(before, after, tolerance, self._info.nms):
            self._add_box(place, judged)

    def report(self, images: Sequence[str], kept: Sequence[str] = ()) -> GateReport:
        """Return the verdict on what was added."""
        failures = self._failures()
        verdict: Verdict = "passed"
        reason = self._passed()
        if failures:
            reason, verdict = failures[0], "failed"
        elif self.detects and (shortage := self._shortage()):
            reason, verdict = shortage, "inconclusive"
        return GateReport(
            verdict=verdict,
            reason=reason,
            failures=tuple(failures),
            boxes=self._boxes,
            counts=dict(self._fates),
            largest={name: round(value, 5) for name, value in self._largest.items()},
            worst=tuple(item for _, _, item in sorted(self._worst, key=lambda entry: -entry[0])),
            images=tuple(images),
            batches=tuple(self._batches),
            skipped=tuple(self._skipped),
            tolerance=self._tolerance,
            kept=tuple(kept),
        )

    def _add_box(self, place: Place, judged: Judged) -> None:
        self._fates[judged.fate] += 1
        if judged.fate == "borderline":
            return
        box = judged.box
        groups = [*_groups_of(place), ("class", self._info.class_name(box.label)), ("size of object", box.bucket)]
        for group in groups:
            count = self._groups[group]
            count.total += 1
            count.wrong += judged.differs
            if judged.deviation is not None and judged.fate != "class":
                count.deviations.append(judged.deviation)
        if judged.fate in {"same", "score"}:
            self._measure(judged)
        if judged.differs:
            self._keep(box.score, {"place": str(place), **judged.to_dict()})

    def _measure(self, judged: Judged) -> None:
        assert judged.expected is not None
        assert judged.got is not None
        assert judged.deviation is not None
        largest = self._largest
        largest["iou"] = min(largest["iou"], judged.iou)
        largest["pixels"] = max(largest["pixels"], *map(abs, judged.deviation))
        largest["score"] = max(largest["score"], abs(judged.got.score - judged.expected.score))

    def _keep(self, weight: float, item: dict[str, Any]) -> None:
        """Keep the worst differences."""
        entry = (weight, -sum(self._fates.values()), item)  # the earlier of two equal ones
        if len(self._worst) < _SHOWN:
            heapq.heappush(self._worst, entry)
        elif entry[:2] > self._worst[0][:2]:
            heapq.heapreplace(self._worst, entry)

    def _add_tensors(
        self, place: Place, expected: Outputs, expected_slot: int, got: Outputs, got_slot: int, tolerance: Tolerance
    ) -> None:
        """Compare raw outputs element by element."""
        for name, whole in expected.items():
            a, b = _slot_of(whole, expected_slot), _slot_of(got[name], got_slot)
            if a.shape != b.shape:
                self.defect(f"{place}: output {name} has shape {b.shape} for each image, expected {a.shape}")
                continue
            if not np.array_equal(np.isfinite(a), np.isfinite(b)):
                self.defect(f"{place}: output {name} is NaN or infinite where the reference is not, or the reverse")
                continue
            error = _relative_error(a, b) / tolerance.tensor
            wrong = int(np.count_nonzero(error > 1))
            self._fates["same"] += error.size - wrong
            self._fates["moved"] += wrong
            for group in [*_groups_of(place), ("output", name)]:
                self._groups[group].total += error.size
                self._groups[group].wrong += wrong
            if error.size and error.max() > _GROSS:
                index = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
                values = f"{a[index]:g} became {b[index]:g}"
                self._gross.append(f"{place}: output {name}{list(index)}: {values}, {error.max():.0f} times the limit")

    def _failures(self) -> list[str]:
        """Return every limit that was exceeded, in words."""
        failures = list(self._defects)
        exceeded = [(group, count) for group, count in self._groups.items() if count.wrong > self._allowed(count.total)]
        # the whole first, then the groups in which most differs
        exceeded.sort(key=lambda entry: (entry[0][0] != "all", -entry[1].wrong / entry[1].total, -entry[1].total))
        what = "boxes" if self.detects else "elements"
        failures += [
            f"{_group_text(group)}: {count.wrong} of {count.total} {what} differ "
            f"(at most {int(self._allowed(count.total))} may)"
            for group, count in exceeded
        ]
        failures += self._gross[:_SHOWN]
        for group, count in self._groups.items():
            if len(count.deviations) >= _MIN_PAIRS:
                shift = np.median(np.array(count.deviations), axis=0)
                if np.abs(shift).max() > self._tolerance.shift:
                    sides = ", ".join(f"{value:+.2f}" for value in shift)
                    failures.append(
                        f"{_group_text(group)}: boxes are shifted by {sides} pixels (left, top, right, bottom; median "
                        f"of {len(count.deviations)}, at most {self._tolerance.shift})"
                    )
        return failures

    def _allowed(self, total: int) -> float:
        if not self.detects:
            return self._tolerance.tensor_rate * total
        return self._tolerance.allowed(total)

    def _shortage(self) -> str:
        """Return why the images prove too little; empty when they do not."""
        boxes = sum(self._evidence.values())
        images = {image for (image, _), count in self._evidence.items() if count}
        if boxes >= _MIN_BOXES and len(images) >= _MIN_IMAGES:
            return ""
        return (
            f"nothing differs, but the model finds only {boxes} boxes on {len(images)} of the images (expected "
            f"{_MIN_BOXES} on {_MIN_IMAGES} at least); give photos with --gate-images that show what it detects"
        )

    def _passed(self) -> str:
        """Return what was compared, in a sentence."""
        if not self.detects:
            return f"{sum(self._fates.values())} elements of raw outputs compared"
        text = f"{self._boxes} boxes found again in {len(self._batches)} batches"
        sizes = dict.fromkeys(size for _, size in self._evidence)
        silent = [size for size in sizes if not any(n for (_, s), n in self._evidence.items() if s == size)]
        return f"{text}; the model finds nothing at {', '.join(map(str, silent))}" if silent else text


def _slot_of(output: NDArray[Any], slot: int) -> NDArray[np.float64]:
    """Return one image's part of a raw output; one without a batch is the same for all."""
    part = output[slot] if output.ndim and slot < len(output) else output
    return part.astype(np.float64)


def _relative_error(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `|a - b| / (1 + |a|)`; equal infinities and NaN at the same places are equal."""
    with np.errstate(invalid="ignore"):
        error: NDArray[np.float64] = np.abs(a - b) / (1 + np.abs(a))
    return np.where(np.isfinite(a), error, np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.inf))


def _groups_of(place: Place) -> list[Group]:
    if place.check != "reference":
        return [(place.check, f"batch {place.batch} at {place.size}")]
    return [("all", ""), ("batch", f"{place.batch} at {place.size}"), ("slot", str(place.slot)), ("image", place.image)]


def _group_text(group: Group) -> str:
    kind, value = group
    return "over all" if kind == "all" else f"{kind} {value}"


def _box_text(box: dict[str, Any] | None) -> str:
    if box is None:
        return "nothing"
    return f"class {box['class']}, score {box['score']:.3f}, {', '.join(f'{v:.1f}' for v in box['xyxy'])}"
