"""`build` with the gate: what stands at the target, what is beside it, and what the metadata say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import gate_faults as faults
import numpy as np
import pytest
from spoiled_backend import HalfDevice, SpoiledBackend

from trtdeploy import api
from trtdeploy.api import BuildOptions, BuildReport, GateOptions
from trtdeploy.api.gate_options import gate_images
from trtdeploy.backends import registry
from trtdeploy.cli.main import main
from trtdeploy.core.errors import EngineError, GateError, SourceError, UsageError
from trtdeploy.core.types import Precision
from trtdeploy.engine.sniff import read_info
from trtdeploy.graph.head import NmsOptions
from trtdeploy.graph.shapes import parse_imgsz

Build = Callable[..., BuildReport]


@pytest.fixture
def build(demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build the packaged model at 320 pixels with a backend of the test's as `onnxruntime`."""

    def run(backend: SpoiledBackend, mode: Any = "auto", images: Path | None = None, **options: Any) -> BuildReport:
        monkeypatch.setitem(registry._MAKERS, "onnxruntime", lambda: backend)
        gate = GateOptions(mode=mode, images=images)
        fields = {"sizes": parse_imgsz("320"), "surgery": False, "backend": "onnxruntime", "force": True}
        return api.build(demo_model, tmp_path / "x.engine", BuildOptions(**fields, gate=gate, **options))

    return run


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_right_engine_is_written_with_the_verdict_inside(build: Build, tmp_path: Path) -> None:
    report = build(SpoiledBackend())
    assert names_in(tmp_path) == ["x.engine"]
    gate = read_info(tmp_path / "x.engine").gate
    assert gate == report.info.gate
    assert gate.verdict == "passed"
    assert (gate.images, gate.batches) == (4, 5)
    assert gate.boxes >= 100
    with api.open(tmp_path / "x.engine") as engine:
        assert len(engine.detect([np.zeros((320, 320, 3), np.uint8)])) == 1


def test_wrong_engine_is_refused_and_the_earlier_one_stays(build: Build, tmp_path: Path) -> None:
    target = tmp_path / "x.engine"
    target.write_bytes(b"the engine of yesterday")
    with pytest.raises(
        GateError, match=r"x\.engine is refused: .*\n.*gate failed: over all: \d+ of \d+ boxes"
    ) as caught:
        build(SpoiledBackend(faults.swapped_classes))
    assert caught.value.exit_code == 9
    assert "--gate warn" in str(caught.value)
    assert target.read_bytes() == b"the engine of yesterday"
    assert names_in(tmp_path) == ["x.engine", "x.engine.gate.json"]
    document = json.loads((tmp_path / "x.engine.gate.json").read_text())
    assert document["refused"] is True
    assert document["verdict"] == "failed"
    assert document["counts"]["class"] > 50
    assert document["worst"][0]["expected"]["class"] in {0, 1}


def test_warning_writes_the_engine_which_says_that_it_failed(build: Build, tmp_path: Path) -> None:
    report = build(SpoiledBackend(faults.swapped_classes), "warn")
    assert report.gate is not None
    assert report.gate.verdict == report.info.gate.verdict == "failed"
    assert names_in(tmp_path) == ["x.engine", "x.engine.gate.json"]
    assert json.loads((tmp_path / "x.engine.gate.json").read_text())["refused"] is False
    assert str(read_info(tmp_path / "x.engine").gate).startswith("failed: over all: ")
    build(SpoiledBackend())
    assert names_in(tmp_path) == ["x.engine"], "the report of the engine before is outdated"


@pytest.mark.parametrize(
    ("backend", "mode", "reason"),
    [
        (SpoiledBackend(faults.nan_scores), "off", "it was switched off"),
        (SpoiledBackend(faults.nan_scores, cannot_run="There is no NVIDIA GPU here."), "auto", "no NVIDIA GPU here"),
    ],
    ids=["switched off", "cannot run here"],
)
def test_ungated_engine_says_why(build: Build, backend: SpoiledBackend, mode: str, reason: str) -> None:
    report = build(backend, mode)
    assert report.gate is None
    assert report.info.gate.verdict == "ungated"
    assert reason in report.info.gate.reason


def test_enforcing_where_the_engine_cannot_run_is_refused_before_the_build(build: Build, tmp_path: Path) -> None:
    backend = SpoiledBackend(cannot_run="There is no NVIDIA GPU here.")
    with pytest.raises(GateError, match=r"cannot run: There is no NVIDIA GPU here\. Build where the engine can run"):
        build(backend, "enforce")
    assert backend.builds == 0
    assert names_in(tmp_path) == []


def test_engine_that_does_not_open_is_refused(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SpoiledBackend()

    def refuse(path: Path, *_args: object) -> None:
        raise EngineError(f"{path}: the library refuses the plan.")

    monkeypatch.setattr(backend, "open", refuse)
    with pytest.raises(GateError, match="the engine does not run: ") as caught:
        build(backend)
    assert f"{tmp_path / 'x.engine'}: the library refuses the plan" in (tmp_path / "x.engine.gate.json").read_text()
    assert ".staging" not in str(caught.value)


def test_interrupted_gate_leaves_nothing(build: Build, tmp_path: Path) -> None:
    def interrupt(_outputs: Any, _images: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(SpoiledBackend(interrupt))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "unit"),
    [({"nms": NmsOptions(method="none")}, "elements of raw outputs"), ({"frames": True}, "boxes found again")],
    ids=["raw outputs", "frames in"],
)
def test_every_kind_of_engine_is_compared(build: Build, options: dict[str, Any], unit: str) -> None:
    report = build(SpoiledBackend(), "enforce", **options)
    assert report.info.gate.verdict == "passed"
    assert unit in report.info.gate.reason


def test_wrong_raw_outputs_are_refused(build: Build) -> None:
    def spoil(outputs: faults.Outputs, _images: Any) -> faults.Outputs:
        return {name: value * np.float32(1.01) for name, value in outputs.items()}

    with pytest.raises(GateError, match=r"elements differ"):
        build(SpoiledBackend(spoil), nms=NmsOptions(method="none"))


def test_block_that_fails_in_fp16_stays_fp32(build: Build, tmp_path: Path) -> None:
    report = build(HalfDevice("/stage4/"), precision=Precision.FP16)
    assert report.info.gate.verdict == "passed"
    assert report.info.gate.kept == ["stage4"]
    assert str(report.info.gate).endswith("; kept in FP32: stage4")
    assert names_in(tmp_path) == ["x.engine"]
    fp16 = next(item for item in report.info.passes if item.name == "fp16")
    assert any(change.startswith("FP32 asked for: ") for change in fp16.changes)


def test_engine_that_fails_in_fp32_too_is_refused_and_says_so(build: Build) -> None:
    backend = HalfDevice("/stage4/", always=True)
    with pytest.raises(GateError, match=r"not a matter of FP16: it fails with all \d+ blocks in FP32"):
        build(backend, precision=Precision.FP16)
    assert backend.builds == 2


def write_photos(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for index in range(count):
        image = np.full((40, 60, 3), 20 * index, np.uint8)
        image[:, :30] = 255 - 20 * index
        cv2.imwrite(str(folder / f"{index}.png"), image)


def test_photos_of_the_user_are_shown(build: Build, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 3)
    report = build(SpoiledBackend(), "enforce", tmp_path / "photos")
    assert report.gate is not None
    assert report.gate.images == ("0.png", "1.png", "2.png")
    assert report.info.gate.verdict == "inconclusive"
    assert "the model finds only" in report.info.gate.reason


def test_photos_are_taken_evenly_and_a_single_one_gets_a_mirrored_twin(tmp_path: Path) -> None:
    write_photos(tmp_path / "many", 12)
    names = [image.name for image in gate_images(GateOptions(images=tmp_path / "many", limit=3), 4)]
    assert names == ["0.png", "2.png", "6.png"]
    write_photos(tmp_path / "one", 1)
    first, second = gate_images(GateOptions(images=tmp_path / "one"), 4)
    assert (first.name, second.name) == ("0.png", "0.png (mirrored)")
    assert np.array_equal(first.image[:, ::-1], second.image)


def test_bad_folders_of_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--gate-images .*nowhere: it does not exist\. Give a folder of images"):
        GateOptions(images=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"empty: there is no image in it\. Expected files that end with \.bmp"):
        GateOptions(images=tmp_path / "empty")
    with pytest.raises(UsageError, match=r"notes\.txt: it is not a folder"):
        GateOptions(images=tmp_path / "empty" / "notes.txt")
    write_photos(tmp_path / "broken", 3)
    (tmp_path / "broken" / "1.png").write_bytes(b"no image")
    (tmp_path / "broken" / "2.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"2 of 3 images cannot be read: 1\.png, 2\.png\. Remove them"):
        gate_images(GateOptions(images=tmp_path / "broken"), 4)
    with pytest.raises(UsageError, match=r"Gate 'strict' is not known\. Choose one of auto, off, warn, enforce"):
        GateOptions(mode="strict")  # type: ignore[arg-type]


def test_command_line_refuses_warns_and_names_the_exit_code(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = SpoiledBackend(faults.copied_slot)
    monkeypatch.setitem(registry._MAKERS, "onnxruntime", lambda: backend)
    args = ["build", str(demo_model), "-o", str(tmp_path / "x.engine"), "--imgsz", "320", "--no-surgery"]
    args += ["--batch", "1:2:4", "--backend", "onnxruntime"]
    assert main(args) == 9
    err = capsys.readouterr().err
    assert "slot 3: " in err
    assert "expected class" in " ".join(err.split())
    assert not (tmp_path / "x.engine").exists()
    assert main([*args, "--gate", "warn", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["gate"]["verdict"] == document["info"]["gate"]["verdict"] == "failed"
    assert "gate failed: over all" in captured.err
    assert main(["inspect", str(tmp_path / "x.engine")]) == 0
    assert "gate        failed: over all: " in capsys.readouterr().out
