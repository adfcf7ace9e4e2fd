"""The sample that trains the demo model: its scores are right, and its commands run one after the other."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

SAMPLES = Path(__file__).parents[2] / "samples"
NAMES = ("a", "b")


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(SAMPLES))
    return pytest.importorskip("board_scores")


def _labels() -> np.ndarray:
    labels = np.full((2, 4, 5), -1, np.float32)
    labels[0, :2] = [[0, 10, 10, 30, 30], [1, 40, 40, 200, 200]]
    labels[1, 0] = [1, 5, 6, 25, 20]
    return labels


def _found(labels: np.ndarray, shift: float = 0.0) -> list[dict[str, object]]:
    return [
        {
            "image_id": i,
            "category_id": int(k),
            "bbox": [float(x0 + shift), float(y0), float(x1 - x0), float(y1 - y0)],
            "score": 0.9,
        }
        for i, rows in enumerate(labels)
        for k, x0, y0, x1, y1 in rows
        if k >= 0
    ]


def test_perfect_boxes_score_one_and_shifted_ones_less(scores) -> None:  # type: ignore[no-untyped-def]
    labels = _labels()
    perfect = scores._coco(_found(labels), labels, NAMES)
    assert list(perfect.values()) == pytest.approx([1.0] * len(perfect))
    shifted = scores._coco(_found(labels, shift=3.0), labels, NAMES)
    assert shifted["mAP50"] == pytest.approx(1.0)
    assert 0.5 < shifted["mAP50-95"] < 0.95
    assert shifted["small mAP50-95"] < shifted["mAP50-95"]
    missed = scores._coco(_found(labels)[:2], labels, NAMES)
    assert missed["AP50 a"] == pytest.approx(1.0)
    assert missed["AP50 b"] == pytest.approx(0.5, abs=0.01)


def test_suppression_keeps_the_stronger_box_of_each_class(scores) -> None:  # type: ignore[no-untyped-def]
    boxes = np.array([[20, 20, 20, 20], [21, 20, 20, 20], [20, 20, 20, 20], [60, 60, 10, 10]], np.float32)
    strengths = np.array([[0.8, 0.9, 0, 0], [0, 0, 0.7, 0.0005]], np.float32)
    kept, values, kinds = scores.detections(np.concatenate([boxes.T, strengths]))
    assert values.tolist() == pytest.approx([0.9, 0.7])
    assert kinds.tolist() == [0, 1]
    np.testing.assert_allclose(kept, [[11, 10, 31, 30], [10, 10, 30, 30]])


def _call(*arguments: str) -> str:
    sample = importlib.import_module("train_circuit_boards")
    done = CliRunner().invoke(sample.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.usefixtures("scores")
def test_draws_trains_and_evaluates(tmp_path: Path) -> None:
    work = ("--work", str(tmp_path))
    drawn = _call("data", *work, "--boards", "1", "--views", "2", "--held-out", "1", "--jobs", "1")
    assert "train: 2 images" in drawn
    assert "held_out: 3 images" in drawn
    _call("train", *work, "--attention", "cbam", "--minutes", "0.001", "--batch", "2")
    table = _call("evaluate", *work, "--variant", "cbam", "--limit", "1")
    assert "| mAP50 |" in table
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["cbam"]["difference"] < 1e-4
    assert results["cbam"]["GFLOPs"] < 3.5
    assert (tmp_path / "circuit_boards_cbam.onnx").exists()


@pytest.mark.usefixtures("scores")
def test_draws_a_video(tmp_path: Path) -> None:
    path = tmp_path / "boards.avi"
    _call("video", str(path), "--frames", "2", "--width", "160", "--height", "96")
    assert path.stat().st_size > 1000
