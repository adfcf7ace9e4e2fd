"""Plots are pictures that show the figures; confusions are counted as by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from labelled import detected, label, labelled

from trtdeploy.core.errors import MissingDependencyError, SinkError
from trtdeploy.core.types import Detections
from trtdeploy.evaluate import plots
from trtdeploy.evaluate.average_precision import average_precision
from trtdeploy.evaluate.confusion import confusion
from trtdeploy.evaluate.datasets import LabelledImages
from trtdeploy.evaluate.matching import confidence_curves, match_detections
from trtdeploy.evaluate.plots import PLOTS, Evaluation, write_plots

A, B, C, D = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)


def test_confusions_count_what_each_label_was_taken_for() -> None:
    labels = [label(0, A), label(1, B), label(1, C), label(0, (80, 0, 90, 10), ignored=True)]
    found = [detected([A, A, B, D, (81, 0, 89, 10)], [1, 0, 0, 1, 0], [0.9, 0.5, 0.8, 0.7, 0.6])]
    counted = confusion(found, labelled(labels), {0: 0, 1: 1}, 0.4)
    # label A is found by its own class although the other class is surer; B is taken for a cat; C is lost; the second
    # detection of A and D have no label; the detection of the ignored label does not count
    assert counted.counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0]]
    assert confusion(found, labelled(labels), {0: 0, 1: 1}, 0.85).counts.tolist() == [[0, 1, 0], [0, 0, 2], [0, 0, 0]]


def test_confusions_leave_out_classes_of_one_side() -> None:
    data = labelled([label(0, A), label(1, B)])
    counted = confusion([detected([A, B], [5, 3])], data, {5: 0}, 0)
    assert counted.names == ("cat",)
    assert counted.counts.tolist() == [[1, 0], [0, 0]]


def _evaluation(classes: int, images: int) -> Evaluation:
    rng = np.random.default_rng(0)
    labels, found = [], []
    for _ in range(images):
        sides = rng.uniform(5, 200, 4)
        corners = [(x, y, x + side, y + side) for x, y, side in zip(*rng.uniform(0, 400, (2, 4)), sides, strict=True)]
        kinds = rng.integers(0, classes, 4).tolist()
        labels.append([label(kind, box) for kind, box in zip(kinds, corners, strict=True)])
        found.append(detected(corners[1:], kinds[1:], rng.random(3).tolist()))
    data = labelled(*labels, classes=[f"a class with a long name {k}" for k in range(classes)])
    return _of(found, data, {k: k for k in range(classes)})


def _of(found: list[Detections], data: LabelledImages, own: dict[int, int]) -> Evaluation:
    matches = match_detections(found, data, own)
    return Evaluation(
        accuracy=average_precision(found, data, own),
        matches=matches,
        curves=confidence_curves(matches),
        confusion=confusion(found, data, own, 0.5),
    )


def test_plots_of_many_classes_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_DPI", 50)
    for path in write_plots(_evaluation(26, 20), tmp_path / "plots"):
        picture = cv2.imread(str(path))
        assert picture.shape[0] > 100
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20, path
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(PLOTS)


def test_plots_of_an_engine_that_finds_nothing_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_DPI", 30)
    data = labelled([label(0, A), label(1, B)])
    assert len(write_plots(_of([detected([], [])], data, {0: 0, 1: 1}), tmp_path)) == len(PLOTS)


def test_pictures_show_the_figures() -> None:
    evaluation = _evaluation(3, 20)
    texts = {text.get_text() for text in plots.draw_sizes(evaluation).axes[0].texts}
    assert f"{evaluation.accuracy.map50_95:.3f}" in texts
    bars = plots.draw_sizes(evaluation).axes[1].patches
    assert sum(bar.get_height() for bar in bars) == evaluation.accuracy.by_size["all"].labels
    curve = plots.draw_precision_recall(evaluation).axes[0].lines[-1]
    assert np.mean(curve.get_ydata()) == pytest.approx(evaluation.accuracy.map50)
    cells = {text.get_text() for text in plots.draw_confusion(evaluation).axes[0].texts}
    assert cells == {str(count) for count in evaluation.confusion.counts[evaluation.confusion.counts > 0]}


def test_missing_matplotlib_and_unwritable_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match=r"Cannot write .*file"):
        write_plots(_evaluation(1, 1), tmp_path / "file" / "plots")
    monkeypatch.setattr("trtdeploy.core.discovery.is_installed", lambda _name: False)
    with pytest.raises(MissingDependencyError, match=r"matplotlib is needed for plots .*trtdeploy\[viz\]"):
        plots.check_plots()
