"""Photos of forests with labelled trees (deepforest, in VOC's layout) are read, and keep their figures elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from real_photos import package_folder

from trtdeploy.core.types import Detections
from trtdeploy.evaluate.average_precision import average_precision
from trtdeploy.evaluate.datasets import LAYOUTS, LabelledImages, Sample, read_images

TREES = {"2019_YELL_2_528000_4978000_image_crop2": 574, "2019_YELL_2_541000_4977000_image_crop": 279,
         "OSBS_029": 61, "SOAP_061": 37}  # fmt: skip


@pytest.fixture(scope="module")
def forests(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """The package's annotated photos as a VOC folder."""
    folder, source = tmp_path_factory.mktemp("forests"), package_folder("deepforest") / "data"
    for part, suffix in (("Annotations", ".xml"), ("JPEGImages", ".png")):
        (folder / part).mkdir()
        for name in TREES:
            (folder / part / f"{name}{suffix}").symlink_to(source / f"{name}{suffix}")
    return read_images(folder)


def test_every_labelled_tree_is_read(forests: LabelledImages) -> None:
    assert forests.classes == ("Alive", "Dead", "Tree")
    counts = {path.stem: len(labels) for path, labels in zip(forests.paths, forests.labels, strict=True)}
    assert counts == TREES


def test_boxes_are_those_of_the_packages_own_table(forests: LabelledImages) -> None:
    with (package_folder("deepforest") / "data" / "OSBS_029.csv").open() as file:
        rows = [[float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")] for row in csv.DictReader(file)]
    boxes = [label.box for label in forests.labels[list(TREES).index("OSBS_029")]]
    mine = [[left + 1, top + 1, left + width, top + height] for left, top, width, height in boxes]
    assert sorted(mine) == sorted(rows)


def test_figures_are_equal_in_every_layout(forests: LabelledImages, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found, samples = [], []
    for path, labels in zip(forests.paths, forests.labels, strict=True):
        boxes = np.array([label.box for label in labels])
        boxes[:, 2:] += boxes[:, :2]
        boxes += rng.normal(0, 2, boxes.shape)
        scores = rng.random(len(boxes)).astype(np.float32)
        kinds = np.array([label.class_index for label in labels], np.int32)
        found.append(Detections(boxes.astype(np.float32), scores, kinds))
        samples.append(Sample(path.stem, cv2.imread(str(path)), labels))
    own = {index: index for index in range(len(forests.classes))}
    figures = [average_precision(found, forests, own, 1000).map50_95]
    for layout in LAYOUTS:
        data = read_images(layout.write(tmp_path / layout.name, forests.classes, samples))
        figures.append(average_precision(found, data, own, 1000).map50_95)
    assert 0.3 < figures[0] < 0.99
    assert figures == pytest.approx([figures[0]] * 4)
