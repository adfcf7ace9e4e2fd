"""`trtdeploy infer` on good input: what it writes, filters, counts and says."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from trtdeploy.cli.summary import keep_detections
from trtdeploy.core.types import Detections, Frame, Result

Cli = Callable[..., Any]


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_videos_give_json_lines_annotated_videos_and_a_summary(cli: Cli, assets: Path, tmp_path: Path) -> None:
    done = cli(
        *("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--video", assets / "b.mp4"),
        *("--jsonl", "out.jsonl", "--save-video", "videos"),
    )
    assert done.code == 0, done.text
    records = _records(tmp_path / "out.jsonl")
    names = {stream: {d["name"] for r in records if r["stream"] == stream for d in r["detections"]} for stream in "ab"}
    assert names == {"a": {"red"}, "b": {"blue"}}
    assert sorted(os.listdir(tmp_path / "videos")) == ["a.mp4", "b.mp4"]
    count = sum(len(record["detections"]) for record in records)
    assert re.search(rf"32 frames in .* {count} detections: ", done.out)
    assert "latency in ms" in done.out
    assert "\x1b" not in done.text, "plain where the output is not a terminal"


def test_detections_lie_on_the_patch(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    """The first frame has one red patch from (0, 30) to (60, 90)."""
    cli_inside("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--jsonl", "o", "--max-frames", 1)
    (record,) = _records(tmp_path / "o")
    boxes = np.array([item["box"] for item in record["detections"] if item["score"] > 0.9])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert len(boxes) > 3
    assert (centres > [-1, 29]).all()
    assert (centres < [61, 91]).all()


def test_summary_as_json_is_one_document_and_agrees_with_the_lines(
    cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    done = cli_inside(
        "infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--jsonl", "out.jsonl", "--json"
    )
    summary = done.json()
    records = _records(tmp_path / "out.jsonl")
    assert summary["frames"] == len(records) == 20
    assert summary["detections"] == sum(len(record["detections"]) for record in records)
    assert summary["detections_by_class"] == {"red": summary["detections"]}
    assert summary["streams"][0]["detections"] == summary["detections"]
    assert summary["interrupted"] is False
    assert summary["outputs"] == {"jsonl": "out.jsonl", "video": {}}
    total = summary["latency_ms"]["total"]
    assert 0 < total["p50"] <= total["p95"] <= total["p99"] <= total["max"]


def test_json_lines_on_stdout_are_alone_there(cli_inside: Cli, assets: Path) -> None:
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--jsonl", "-")
    assert [json.loads(line)["frame"] for line in done.out.splitlines()] == list(range(20))
    assert "20 frames in" in done.err


def test_folder_of_photos_names_them_and_annotates_them(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / "photos" / name), np.full((60, 80, 3), (255, 0, 0), np.uint8))
    done = cli_inside(
        *("infer", "--engine", assets / "x.engine", "--video", "photos"),
        *("--jsonl", "out.jsonl", "--save-video", "annotated", "--json"),
    )
    assert done.code == 0, done.text
    assert [record["item"] for record in _records(tmp_path / "out.jsonl")] == ["a.jpg", "b.png"]
    assert done.json()["detections_by_class"].keys() == {"blue"}
    assert sorted(os.listdir(tmp_path / "annotated")) == ["a.jpg", "b.png"]


def test_skip_and_max_frames_choose_frames(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    args = ("--skip", 3, "--max-frames", 4, "--jsonl", "out.jsonl")
    assert cli_inside("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", *args).code == 0
    assert [record["frame"] for record in _records(tmp_path / "out.jsonl")] == [0, 4, 8, 12]


def test_classes_keep_only_those_named(cli_inside: Cli, assets: Path) -> None:
    run = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--json")
    assert cli_inside(*run, "--classes", "blue").json()["detections"] == 0
    everything = cli_inside(*run).json()["detections"]
    assert cli_inside(*run, "--classes", "0").json()["detections"] == everything > 0


def test_conf_keeps_scores_above_it_and_cannot_go_below_the_engines(
    cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    run = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--jsonl", "out.jsonl", "--force")
    assert cli_inside(*run, "--conf", "0.9").code == 0
    scores = [item["score"] for record in _records(tmp_path / "out.jsonl") for item in record["detections"]]
    assert min(scores) > 0.9
    cli_inside(*run, "--conf", "0.1").failed(2, "--conf 0.1", "built with --conf 0.25")


def test_filter_keeps_track_numbers_beside_their_boxes() -> None:
    frame = Frame(stream="s", stream_index=0, index=0, pts_s=0.0, image=np.zeros((4, 4, 3), np.uint8))
    found = Detections(
        xyxy=np.arange(12, dtype=np.float32).reshape(3, 4),
        scores=np.array([0.9, 0.5, 0.8], np.float32),
        classes=np.array([0, 0, 1], np.int32),
        track_ids=np.array([7, 8, 9], np.int32),
    )
    kept = keep_detections(0.5, frozenset({0, 2}))(Result(frame=frame, detections=found)).detections
    assert kept.track_ids is not None
    assert (kept.track_ids.tolist(), kept.scores.tolist()) == ([7], [np.float32(0.9)])
    assert kept.xyxy.tolist() == [[0, 1, 2, 3]]


def test_tracking_numbers_the_detections(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    run = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--track", "bytetrack")
    assert cli_inside(*run, "--jsonl", "out.jsonl").code == 0
    tracks = [item["track"] for record in _records(tmp_path / "out.jsonl")[5:] for item in record["detections"]]
    assert any(track is not None for track in tracks)


def test_tracking_without_its_library_gives_the_pip_line(
    cli_inside: Cli, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.core.discovery.is_installed", lambda module: module != "trackers")
    run = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--track", "sort", "--jsonl", "o")
    cli_inside(*run).failed(8, "pip install 'trtdeploy[track]'")
    assert os.listdir(tmp_path) == []


def test_network_size_must_be_one_of_the_engines(cli_inside: Cli, assets: Path) -> None:
    run = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4")
    assert cli_inside(*run, "--imgsz", "64x128", "--rect").code == 0
    cli_inside(*run, "--imgsz", "640").failed(2, "640x640", "64x64:96x96:128x128")
    cli_inside(*run, "--imgsz", "100").failed(2, "100x100")


def test_batch_must_be_one_of_the_engines(cli_inside: Cli, assets: Path) -> None:
    run = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4")
    assert cli_inside(*run, "--batch", "4", "--contexts", "1", "--threads", "1", "--deadline-ms", "50").code == 0
    cli_inside(*run, "--batch", "5").failed(2, "accepts batch 1-4, got", "5")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--policy", "fastest"),
        ("--skip", "-1"),
        ("--max-frames", "0"),
        ("--metrics-port", "70000"),
        ("--contexts", "0"),
    ],
)
def test_value_out_of_range_is_a_usage_error(option: str, value: str, cli_inside: Cli) -> None:
    cli_inside("infer", "--engine", "x", "--video", "a", option, value).failed(2, option, value)


@pytest.mark.parametrize("missing", ["--engine", "--video"])
def test_missing_option_is_a_usage_error(missing: str, cli_inside: Cli) -> None:
    given = {"--engine": "x", "--video": "a"}
    del given[missing]
    cli_inside("infer", *[text for pair in given.items() for text in pair]).failed(2, "Missing option", missing)


def test_engine_with_raw_outputs_is_refused(cli_inside: Cli, assets: Path) -> None:
    build = ("build", assets / "model.onnx", "-o", "raw.engine", "--nms", "none", "--imgsz", 64)
    assert cli_inside(*build, "--backend", "onnxruntime").code == 0
    cli_inside("infer", "--engine", "raw.engine", "--video", assets / "a.mp4").failed(2, "raw.engine", "--nms none")


def test_unknown_backend_lists_those_known(cli_inside: Cli, assets: Path) -> None:
    run = ("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--backend", "cuda")
    cli_inside(*run).failed(2, "'cuda'", "onnxruntime", "openvino")


def test_options_may_come_from_a_file(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    text = f'[infer]\nengine = "{assets / "x.engine"}"\nvideo = ["{assets / "a.mp4"}"]\nmax-frames = 3\njson = true\n'
    (tmp_path / "t.toml").write_text(text)
    assert cli_inside("infer", "--config", "t.toml").json()["frames"] == 3
    assert cli_inside("infer", "--config", "t.toml", "--max-frames", "2").json()["frames"] == 2


def test_window_without_a_display_is_an_error(cli_inside: Cli, assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", assets / "a.mp4", "--show")
    assert done.code in {7, 8}, done.text
    done.failed(done.code, "window")


def test_metrics_are_served_while_it_runs(start_cli: Callable[..., Any], assets: Path) -> None:
    pytest.importorskip("prometheus_client")
    video = "synthetic:bars?size=160x120&frames=0&rate=realtime"
    process = start_cli("infer", "--engine", assets / "x.engine", "--video", video, "--metrics-port", "0")
    address = None
    for line in process.stderr:
        address = re.search(rb"Metrics: (http://\S+)", line)
        if address:
            break
    assert address is not None
    with urllib.request.urlopen(address[1].decode(), timeout=30) as page:
        text = page.read().decode()
    assert "trtdeploy" in text
    assert 'stream="bars"' in text


def test_progress_is_plain_lines_where_stderr_is_not_a_terminal(
    cli_inside: Cli, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.cli.console.FIRST_PROGRESS_S", 0.01)
    video = "synthetic:bars?size=160x120&frames=60&rate=realtime&fps=60"
    done = cli_inside("infer", "--engine", assets / "x.engine", "--video", video)
    assert re.search(r"frames, [\d.]+ frames/s, \d+ dropped", done.err)
