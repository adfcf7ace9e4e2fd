"""`trtdeploy sensitivity` prints a table of blocks, writes it as JSON, and refuses options that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import cv2
import pytest
from cli_support import Done

from trtdeploy.evaluate.datasets import coco
from trtdeploy.evaluate.datasets.boards import CLASS_NAMES, draw_boards

Cli = Callable[..., Done]


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for sample in draw_boards(2, 5_000_000, width=320, height=192):
        cv2.imwrite(str(folder / f"{sample.name}.png"), sample.image)
    return folder


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco.write(tmp_path_factory.mktemp("boards"), CLASS_NAMES, draw_boards(2, width=320, height=192))


def test_blocks_are_listed_with_what_int8_does_to_them(
    cli_inside: Cli, calibration: Path, boards: Path, tmp_path: Path
) -> None:
    output = tmp_path / "sensitivity.json"
    with resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as model:
        done = cli_inside(
            "sensitivity", model, "--calib", calibration, "--calib-method", "minmax", "--images", "1",
            "--imgsz", "96x160", "--backend", "onnxruntime", "--data", boards, "-o", output,
        )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(output.read_text())
    assert len(report["blocks"]) == 13
    assert sum(block["damage"] for block in report["blocks"]) == pytest.approx(1, abs=1e-4)
    assert all(block["drop"] is not None for block in report["blocks"])
    assert report["measure"] == "mAP50-95"
    header, *rows = done.out.splitlines()
    assert header.split() == ["block", "layers", "MACs", "weights", "SQNR", "dB", "error", "drop", "±", "advice"]
    assert [row.split()[0] for row in rows[:13]] == [block["block"] for block in report["blocks"]]
    assert f"FP32 {report['fp32']:.4f}, all blocks in INT8 {report['int8']:.4f} (drop" in done.out
    assert "the ranges rest on 2 distinct images" in done.out
    assert "evaluation 15 of at most 15, at most " in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--limit", "3"), "--trial-cache, --limit and --split are for scores. Give --data too."),
        (("--trial-cache", "t.json"), "Give --data too."),
        (("--max-map-drop", "2"), "--max-map-drop 2 is out of range"),
        ((), "Give a folder of them with --calib"),
    ],
)
def test_options_that_do_not_fit_are_refused(cli_inside: Cli, options: tuple[str, ...], message: str) -> None:
    with resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as model:
        done = cli_inside("sensitivity", model, "--imgsz", "96x160", *options)
    done.failed(2, message)
