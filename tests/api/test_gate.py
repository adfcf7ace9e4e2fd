"""The gate lets right engines pass and catches wrong ones; and each of its checks is needed for one of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gate_faults as faults
import msgspec
import numpy as np
import pytest

from trtdeploy.api import gate as api_gate
from trtdeploy.api.gate import Gate, frame_sizes
from trtdeploy.core.engine_info import PlanInfo, ProfileInfo
from trtdeploy.core.types import Size
from trtdeploy.engine import gate as engine_gate
from trtdeploy.engine.gate import GateReport

WRONG: dict[str, tuple[Callable[[], faults.Fault], str]] = {
    "the last slot holds the first image's": (lambda: faults.copied_slot, "slot 3: "),
    "slots are swapped": (lambda: faults.swapped_slots, "boxes differ"),
    "classes are swapped": (lambda: faults.swapped_classes, "boxes differ"),
    "boxes are shifted far": (lambda: faults.shifted(6.0), "boxes differ"),
    "boxes are shifted a little": (lambda: faults.shifted(0.5), "shifted by +0.50, +0.50, +0.50, +0.50 pixels"),
    "small objects are lost": (lambda: faults.lost_small_objects, "size of object small"),
    "a class is lost": (lambda: faults.lost_class, "class bridge"),
    "scores are NaN": (lambda: faults.nan_scores, "1 values that are NaN or infinite"),
    "scores are weaker": (lambda: faults.weak_scores, "boxes differ"),
    "right for batch 1 only": (lambda: faults.only_batch_one, "batch 2 at 320x320"),
    "wrong at the largest batch": (lambda: faults.only_smaller_batches(4), "batch 4 at 320x320"),
    "wrong at the largest size": (lambda: faults.only_smaller_sizes(352), "batch 1 at 352x352"),
    "wrong at the smallest size": (lambda: faults.only_smaller_sizes(288), "batch 1 at 288x288"),
    "answers with the previous batch": (faults.previous_batch, "boxes differ"),
    "answers with the first batch": (faults.first_batch_for_ever, "boxes differ"),
    "answers differ from run to run": (faults.nondeterministic, "repeat batch 1 at 320x320"),
    "slots differ for the same image": (lambda: faults.slots_differ, "identical slots batch 4"),
    "more detections than slots": (lambda: faults.too_many, "num_dets is 301, expected 0 to 300"),
    "empty slots are not empty": (lambda: faults.garbage_behind, "are not empty"),
    "a class that there is not": (lambda: faults.unknown_class, "classes reach from 0 to 7, expected 0 to 6"),
    "scores are not sorted": (lambda: faults.unsorted, "not in descending order"),
    "NMS does nothing": (lambda: faults.doubled, "boxes differ"),
    "nothing is found": (lambda: faults.nothing, "boxes differ"),
    "an output is missing": (lambda: faults.no_scores, "output scores is nothing"),
    "the device fails": (lambda: faults.failing, "does not run: an illegal memory access"),
}


def check(subject: Any, fault: faults.Fault) -> GateReport:
    report: GateReport = subject.gate.check(subject.engine.opener(fault))
    return report


@pytest.mark.parametrize("make", [lambda: faults.fair, faults.rounding], ids=["exact", "with rounding of 16 bits"])
def test_right_engine_passes(subject: Any, make: Callable[[], faults.Fault]) -> None:
    report = check(subject, make())
    assert report.verdict == "passed", report.lines()
    assert report.boxes > 400
    assert report.counts.get("missing", 0) == report.counts.get("extra", 0) == 0
    assert len(report.batches) == 7 + 6 + 6  # at the usual size all images are shown
    assert report.reason == f"{report.boxes} boxes found again in {len(report.batches)} batches"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_engine_is_caught(subject: Any, name: str) -> None:
    make, words = WRONG[name]
    report = check(subject, make())
    assert report.verdict == "failed", name
    assert any(words in failure for failure in report.failures), report.failures


def _without_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_gate, "_MIN_PAIRS", 1 << 30)


def _without(kind: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Leave out comparisons of one kind."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        add = engine_gate.Tally.add

        def rest(self: Any, place: Any, *args: Any) -> None:
            if place.check != kind:
                add(self, place, *args)

        monkeypatch.setattr(engine_gate.Tally, "add", rest)

    return patch


def _without_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_gate, "defect_of", lambda *_: "")


def _only_first_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Gate._sizes
    monkeypatch.setattr(Gate, "_sizes", lambda self: sizes(self)[:1])


def _without_large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_gate, "MAX_PIXELS", 2 * 352 * 352)


MUTATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "no check for shifts": (_without_shifts, "boxes are shifted a little"),
    "no repeated batch": (_without("repeat"), "answers differ from run to run"),
    "no identical slots": (_without("identical slots"), "slots differ for the same image"),
    "no look at the outputs themselves": (_without_defects, "empty slots are not empty"),
    "one size": (_only_first_size, "wrong at the largest size"),
    "small batches": (_without_large_batches, "wrong at the largest batch"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_each_check_is_needed(subject: Any, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, name = MUTATIONS[mutation]
    patch(monkeypatch)
    report = check(subject, WRONG[name][0]())
    assert report.verdict == "passed", f"{mutation}: {name} is caught all the same: {report.failures[:2]}"


def test_report_shows_the_worst_boxes_with_place_expected_and_got(subject: Any) -> None:
    report = check(subject, faults.swapped_classes)
    worst = report.to_dict()["worst"][0]
    assert worst["fate"] == "class"
    assert {worst["expected"]["class"], worst["got"]["class"]} == {0, 1}
    assert worst["expected"]["xyxy"] == worst["got"]["xyxy"]
    assert "drawing" in worst["place"]
    assert "slot" in worst["place"]
    scores = [item["expected"]["score"] for item in report.worst]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.9
    text = "\n".join(report.lines())
    assert "gate failed: over all: " in text
    assert "expected class " in " ".join(text.split())


def test_model_that_finds_nothing_on_the_images_does_not_pass(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subject.gate._reference.run
    gate = object.__new__(Gate)
    gate.__dict__.update(subject.gate.__dict__ | {"_answers": {}})
    stub = type("Silent", (), {"run": lambda _self, feeds: faults.nothing(run(feeds), next(iter(feeds.values())))})
    gate._reference = stub()
    report = gate.check(subject.engine.opener(faults.nothing))
    assert report.verdict == "inconclusive"
    assert "finds only 0 boxes on 0 of the images" in report.reason
    assert "--gate-images" in report.reason
    assert str(report.info).startswith("inconclusive: nothing differs, but")


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (["B", "frame_height", "frame_width", 3], [Size(320, 320), Size(360, 640), Size(481, 319)]),
        (["B", 720, 1280, 3], [Size(720, 1280)]),
        (["B", 720, "frame_width", 3], [Size(720, 320), Size(720, 640), Size(720, 319)]),
    ],
    ids=["any size", "fixed", "fixed height"],
)
def test_frames_have_several_shapes_where_the_engine_leaves_them_open(
    subject: Any, shape: list[int | str], sizes: list[Size]
) -> None:
    tensor = msgspec.structs.replace(subject.info.inputs[0], shape=shape)
    info = msgspec.structs.replace(subject.info, input_kind="frames", inputs=[tensor])
    assert frame_sizes(info) == sizes


def test_only_shapes_that_an_optimization_profile_allows_are_run(subject: Any) -> None:
    profiles = [
        ProfileInfo(name="day", min=(1, 288, 288, 3), opt=(2, 320, 320, 3), max=(4, 320, 320, 3)),
        ProfileInfo(name="night", min=(1, 352, 352, 3), opt=(1, 352, 352, 3), max=(1, 352, 352, 3)),
    ]
    info = msgspec.structs.replace(subject.info, plan=PlanInfo(profiles=profiles))
    gate = object.__new__(Gate)
    gate.__dict__.update(subject.gate.__dict__ | {"_info": info})
    report = gate.check(subject.engine.opener(faults.fair))
    assert report.verdict == "passed"
    shapes = {batch.split(", ")[0] for batch in report.batches}
    assert shapes == {f"{batch} at {size}x{size}" for size in (288, 320) for batch in (1, 2, 4)} | {"1 at 352x352"}


def test_no_two_batches_in_a_row_are_the_same(subject: Any) -> None:
    seen: list[np.ndarray] = []
    check(subject, lambda outputs, images: (seen.append(images.copy()), outputs)[1])
    # between the batch of one image in all slots and the repeated one the shapes differ
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(seen))
