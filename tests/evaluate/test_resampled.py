"""The bootstrap of average precision, against average precision of images that were really drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from labelled import detected, label, labelled

from trtdeploy.core.types import Detections
from trtdeploy.evaluate.average_precision import average_precision
from trtdeploy.evaluate.datasets import LabelledImages
from trtdeploy.evaluate.resampled import draws_of, resampled_map

OWN = {0: 0, 1: 1}


def scenes(count: int = 12) -> tuple[list[Detections], LabelledImages]:
    """Return detections that are off by more in later images, of which some have one class alone, and the labels."""
    rng = np.random.default_rng(3)
    labels, found = [], []
    for image in range(count):
        corners = [(x := 60.0 * i, y := 40.0 * image, x + 30 + i, y + 30) for i in range(5)]
        classes = [0] * 5 if image % 3 == 0 else [0, 1, 0, 1, 1]
        labels.append([label(c, box) for c, box in zip(classes, corners, strict=True)])
        moved = np.array(corners) + rng.normal(0, 0.4 * image, (5, 4))
        found.append(detected(moved.tolist(), classes, sorted(rng.random(5).tolist(), reverse=True)))
    return found, labelled(*labels)


def test_each_draw_has_the_average_precision_of_the_images_drawn() -> None:
    found, data = scenes()
    draws = draws_of(12, 8, seed=5)
    assert data.labels is not None
    expected = []
    for drawn in draws:
        images = dataclasses.replace(
            data, paths=tuple(data.paths[i] for i in drawn), labels=tuple(data.labels[i] for i in drawn), image_ids=()
        )
        expected.append(average_precision([found[i] for i in drawn], images, OWN).map50_95)
    assert len(set(expected)) == 8
    assert resampled_map(found, data, OWN, draws) == pytest.approx(expected, abs=1e-12)


def test_all_images_once_have_the_average_precision_itself() -> None:
    found, data = scenes()
    expected = average_precision(found, data, OWN).map50_95
    assert resampled_map(found, data, OWN, np.arange(12)[None]) == [pytest.approx(expected, abs=1e-12)]


def test_draws_follow_from_the_seed() -> None:
    assert np.array_equal(draws_of(9, 4, seed=1), draws_of(9, 4, seed=1))
    assert not np.array_equal(draws_of(9, 4, seed=1), draws_of(9, 4, seed=2))
