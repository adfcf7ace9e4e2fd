"""A set of drawn boards written in each layout and read again gives the same labels and the same figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from labelled import detected

from trtdeploy.core.errors import SinkError
from trtdeploy.core.types import Detections
from trtdeploy.evaluate.average_precision import Accuracy, average_precision
from trtdeploy.evaluate.datasets import LAYOUTS, Label, LabelledImages, Sample, match_classes, read_images
from trtdeploy.evaluate.datasets.boards import CLASS_NAMES, draw_boards

IMAGES = 3
LAYOUT = {layout.name: layout for layout in LAYOUTS}


@pytest.fixture(scope="module")
def boards() -> list[Sample]:
    return list(draw_boards(IMAGES, width=640, height=360))


@pytest.fixture(scope="module")
def whole(boards: list[Sample]) -> list[Sample]:
    """The same boards with boxes of whole pixels, which VOC can say exactly."""
    rounded = []
    for sample in boards:
        corners = [np.round([*x.box[:2], x.box[0] + x.box[2], x.box[1] + x.box[3]]).tolist() for x in sample.labels]
        boxes = [(left, top, right - left, bottom - top) for left, top, right, bottom in corners]
        labels = tuple(Label(x.class_index, box) for x, box in zip(sample.labels, boxes, strict=True))
        rounded.append(dataclasses.replace(sample, labels=labels))
    return rounded


def _written(name: str, samples: list[Sample], folder: Path) -> LabelledImages:
    return read_images(LAYOUT[name].write(folder / name, CLASS_NAMES, samples))


def _found(samples: list[Sample]) -> list[Detections]:
    """Return the labels as a detector with faults would find them, in the model's order of classes."""
    rng = np.random.default_rng(3)
    found = []
    for sample in samples:
        boxes = np.array([(*x.box[:2], x.box[0] + x.box[2], x.box[1] + x.box[3]) for x in sample.labels])
        kept = rng.random(len(boxes)) < 0.9
        moved = boxes[kept] + rng.normal(0, 0.8, (int(kept.sum()), 4))
        kinds = np.array([x.class_index for x in sample.labels])[kept]
        kinds = np.where(rng.random(len(kinds)) < 0.05, rng.integers(0, len(CLASS_NAMES), len(kinds)), kinds)
        found.append(detected(moved.tolist(), kinds.tolist(), rng.random(len(kinds)).tolist()))
    return found


def _accuracy(found: list[Detections], data: LabelledImages) -> Accuracy:
    return average_precision(found, data, match_classes(data.classes, CLASS_NAMES))


def test_every_layout_of_whole_pixels_gives_the_same_figures(whole: list[Sample], tmp_path: Path) -> None:
    found = _found(whole)
    first, *others = (_accuracy(found, _written(name, whole, tmp_path)) for name in LAYOUT)
    assert 0.2 < first.map50_95 < 0.95
    for other in others:
        for name in first.by_size:
            assert dataclasses.astuple(other.by_size[name]) == pytest.approx(dataclasses.astuple(first.by_size[name]))
        for name, figures in other.by_class.items():
            assert dataclasses.astuple(figures) == pytest.approx(dataclasses.astuple(first.by_class[name]))


def test_only_voc_rounds_boxes_and_by_half_a_pixel_at_most(boards: list[Sample], tmp_path: Path) -> None:
    for name in LAYOUT:
        data = _written(name, boards, tmp_path)
        mine = np.array([x.box for labels in data.labels for x in labels])
        theirs = np.array([x.box for sample in boards for x in sample.labels])
        mine[:, 2:] += mine[:, :2]
        theirs[:, 2:] += theirs[:, :2]
        difference = np.abs(mine - theirs).max()
        assert (0.4 < difference <= 0.5) if name == "voc" else difference < 1e-9


def test_boards_follow_from_the_seed_and_differ(boards: list[Sample]) -> None:
    (again,) = draw_boards(1, width=640, height=360)
    assert np.array_equal(again.image, boards[0].image)
    assert again.labels == boards[0].labels
    assert boards[1].labels != boards[0].labels
    assert sum(len(sample.labels) for sample in boards) > 20 * IMAGES


def test_ignored_labels_survive_where_the_layout_has_them(boards: list[Sample], tmp_path: Path) -> None:
    first = boards[0].labels
    sample = dataclasses.replace(boards[0], labels=(first[0]._replace(is_ignored=True), *first[1:]))
    counts = {name: _written(name, [sample], tmp_path).labels[0] for name in LAYOUT}
    assert counts["coco"][0].is_ignored
    assert counts["voc"][0].is_ignored
    assert len(counts["yolo"]) == len(first) - 1


@pytest.mark.parametrize("name", LAYOUT)
def test_a_folder_that_cannot_be_written_is_named(name: str, boards: list[Sample], tmp_path: Path) -> None:
    (tmp_path / name).write_text("a file")
    with pytest.raises(SinkError, match=f"Cannot write .*{name}"):
        _written(name, boards[:1], tmp_path)
