"""`build`, `inspect`, `bench` and `demo` on good input."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtdeploy.cli import demo
from trtdeploy.cli.demo_score import score_frame
from trtdeploy.cli.measure import quantile
from trtdeploy.evaluate.matching import pairwise_iou

Cli = Callable[..., Any]


def test_build_says_what_it_chose_and_did(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    done = cli_inside(
        *("build", assets / "model.onnx", "-o", "y.engine", "--fp16", "--dynamic", "60:96:128", "--batch", "1:2:4"),
        *("--backend", "onnxruntime", "--conf", "0.4", "--max-det", "50", "--class-agnostic"),
    )
    assert done.code == 0, done.text
    for words in (
        "onnxruntime",
        "as asked",
        "fp16: ",
        "FP16",
        "60 -> 64",
        "1:2:4",
        "scores above 0.4",
        "at most 50 boxes",
        "class-agnostic",
        "2: red, blue",
        "Recognised a yolov8 head",
        "kB",
        "built in",
        "trtdeploy infer --engine y.engine",
    ):
        assert words in done.out
    assert "\x1b" not in done.text


def test_build_without_a_backend_says_which_and_why(cli_inside: Cli, assets: Path) -> None:
    report = cli_inside("build", assets / "model.onnx", "-o", "y.engine", "--imgsz", "64", "--json").json()
    assert report["info"]["backend"] in report["backend_reason"]
    assert report["seconds"] > 0
    assert report["size_bytes"] > 1000
    assert report["info"]["size_opt"] == [64, 64]


def test_names_of_a_file_replace_the_models(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("warm\ncold\n")
    build = ("build", assets / "model.onnx", "-o", "y.engine", "--imgsz", "64", "--backend", "onnxruntime", "--json")
    assert cli_inside(*build, "--names", "names.txt").json()["info"]["class_names"] == ["warm", "cold"]
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    cli_inside(*build, "--names", "names.txt", "--force").failed(2, "3 class names", "2 classes")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--nms", "magic"), "'magic'"),
        (("--conf", "1.5"), "1.5"),
        (("--head", "boxes=a"), "boxes=NAME,scores=NAME"),
        (("--head", "yolo99"), "yolo99"),
        (("--batch", "4:2:8"), "--batch '4:2:8'"),
        (("--imgsz", "64", "--dynamic", "64:64:64"), "exclude each other"),
        (("--backend", "tpu"), "'tpu'"),
        (("--names", "nowhere.txt"), "nowhere.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_option_of_build_is_a_usage_error(
    args: tuple[str, ...], words: str, cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    cli_inside("build", assets / "model.onnx", "-o", "y.engine", *args).failed(2, words)
    assert os.listdir(tmp_path) == []


def test_inspect_of_an_engine_tells_everything(cli_inside: Cli, assets: Path) -> None:
    info = cli_inside("inspect", assets / "x.engine", "--json").json()
    assert info["kind"] == "engine"
    assert info["class_names"] == ["red", "blue"]
    assert (info["size_min"], info["size_opt"], info["size_max"]) == ([64, 64], [96, 96], [128, 128])
    assert (info["batch_min"], info["batch_opt"], info["batch_max"]) == (1, 2, 4)
    assert info["precision"] == "fp32"
    assert len(info["source"]["sha256"]) == 64
    assert "onnxruntime" in info["versions"]
    assert any(item["stage"] == "HEAD" and item["changes"] for item in info["passes"])
    text = cli_inside("inspect", assets / "x.engine").out
    assert info["source"]["sha256"] in text
    assert "64x64:96x96:128x128" in text


def test_inspect_of_a_model_tells_the_head_that_would_be_recognised(
    cli_inside: Cli, assets: Path, detector: Callable[..., Any], tmp_path: Path
) -> None:
    facts = cli_inside("inspect", assets / "model.onnx", "--json").json()
    assert (facts["kind"], facts["head"], facts["opset"]) == ("model", "yolov8", 17)
    assert facts["outputs"] == ["output0 float[batch,6,anchors]"]
    assert facts["class_names"] == ["red", "blue"]
    assert facts["parameters"] > 10_000
    assert "yolov8" in cli_inside("inspect", assets / "model.onnx").out


def test_bench_measures_plans_and_pipeline(cli_inside: Cli, assets: Path) -> None:
    done = cli_inside("bench", "--engine", assets / "x.engine", "--seconds", "0.6", "--json")
    assert done.code == 0, done.text
    report = done.json()
    assert {plan["batch"] for plan in report["plans"]} == {1, 2, 4}
    for plan in report["plans"]:
        assert plan["error"] == ""
        assert plan["images_per_s"] > 0
        assert 0 < plan["median_ms"] <= plan["p95_ms"] <= plan["p99_ms"]
        assert plan["inferences"] * plan["batch"] == pytest.approx(plan["images_per_s"] * plan["seconds"], rel=0.01)
    assert report["pipeline"]["frames"] > 0
    assert report["machine"]["usable_cores"] >= 1
    assert "onnxruntime" in report["versions"]


def test_bench_of_a_video_ends_with_it(cli_inside: Cli, assets: Path) -> None:
    args = ("--video", assets / "a.mp4", "--seconds", "0.2", "--batch", "2", "--imgsz", "64")
    done = cli_inside("bench", "--engine", assets / "x.engine", *args)
    assert done.code == 0, done.text
    assert "20 frames in" in done.out
    assert re.search(r"median ms +p95 ms +p99 ms", done.out)
    cli_inside("bench", "--engine", assets / "x.engine", "--batch", "9").failed(2, "--batch 9", "1:2:4")


def test_quantiles_are_those_of_numpy() -> None:
    values = sorted(np.random.default_rng(0).random(101).tolist())
    for q in (0.5, 0.95, 0.99, 1.0):
        expected = np.quantile(values, q, method="inverted_cdf")
        assert quantile(values, q) == expected
    assert quantile([], 0.5) == 0.0


def test_demo_finds_what_it_drew(cli_inside: Cli, tmp_path: Path) -> None:
    done = cli_inside("demo", "--output", "demo", "--frames", "5", "--backend", "onnxruntime", "--json")
    assert done.code == 0, done.text
    report = done.json()
    files = {key: Path(tmp_path, path) for key, path in report["files"].items()}
    assert all(path.stat().st_size > 0 for path in files.values())
    assert len(files["detections"].read_text().splitlines()) == 5
    assert report["scores"]["all"]["labels"] > 50
    assert report["scores"]["all"]["precision"] > 0.7
    assert report["scores"]["all"]["recall"] > 0.7
    cli_inside("demo", "--output", "demo").failed(2, "exists", "--force")


def _label_lines(path: Path, labels: demo.Labels) -> None:
    """Write labels as if they had been detected."""
    lines = []
    for index, (boxes, classes) in enumerate(labels):
        items = [{"class": int(c), "score": 0.9, "box": box.tolist()} for box, c in zip(boxes, classes, strict=True)]
        lines.append(json.dumps({"frame": index, "detections": items}))
    path.write_text("\n".join(lines))


def test_comparison_of_the_labels_with_themselves_is_perfect_and_of_moved_ones_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 200, (8, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 60, (8, 2))], axis=1).astype(np.float32)
    labels = [(boxes, np.arange(8, dtype=np.int32) % 2)]
    _label_lines(tmp_path / "same.jsonl", labels)
    score = demo.compare(tmp_path / "same.jsonl", labels, ["a", "b"])["all"]
    assert (score.precision, score.recall) == (1.0, 1.0)
    _label_lines(tmp_path / "moved.jsonl", [(boxes + 1000, labels[0][1])])
    score = demo.compare(tmp_path / "moved.jsonl", labels, ["a", "b"])["all"]
    assert (score.precision, score.recall) == (0.0, 0.0)
    _label_lines(tmp_path / "swapped.jsonl", [(boxes, 1 - labels[0][1])])
    assert demo.compare(tmp_path / "swapped.jsonl", labels, ["a", "b"])["all"].matched == 0


def test_label_is_matched_once_by_the_best_score() -> None:
    label = np.array([[0, 0, 10, 10]], np.float32)
    twice = np.array([[0, 0, 10, 10], [0, 1, 10, 10]], np.float32)
    score = score_frame(twice, np.array([0.5, 0.9], np.float32), label)
    assert (score.matched, score.detections, score.labels) == (1, 2, 1)
    assert score_frame(twice[:0], np.zeros(0, np.float32), label).recall == 0.0
    assert score_frame(twice, np.array([0.5, 0.9], np.float32), label[:0]).recall is None


def test_overlaps_are_those_computed_one_by_one() -> None:
    rng = np.random.default_rng(2)
    a, b = (np.sort(rng.uniform(0, 50, (n, 2, 2)), axis=1).reshape(n, 4).astype(np.float32) for n in (7, 5))
    table = pairwise_iou(a, b)
    for i, p in enumerate(a.astype(float)):
        for j, q in enumerate(b.astype(float)):
            width, height = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
            shared = width * height if width > 0 and height > 0 else 0.0
            union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - shared
            assert table[i, j] == pytest.approx(shared / union)
