"""`trtdeploy val` measures accuracy, says what limits it, and fails with a message where it cannot."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from cli_support import CLASS_NAMES, Done
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trtdeploy.api.engine import Engine
from trtdeploy.engine.sniff import read_info
from trtdeploy.engine.stamp import stamp
from trtdeploy.evaluate.datasets import LAYOUTS, Label, Sample
from trtdeploy.evaluate.plots import PLOTS

Cli = Callable[..., Done]
LAYOUT = {layout.name: layout for layout in LAYOUTS}
COLOURS = ((0, 0, 255), (255, 0, 0))


def _samples() -> list[Sample]:
    """Draw patches on the detector's grid of 32 pixels; its widest box of each spans 64."""
    samples = []
    for number, (x, y, kind) in enumerate([(0, 0, 0), (1, 1, 1), (2, 1, 0), (1, 2, 0)]):
        image = np.full((96, 96, 3), 90, np.uint8)
        left, top = 32 * x, 32 * y
        cv2.rectangle(image, (left, top), (left + 31, top + 31), COLOURS[kind], -1)
        corners = np.clip([left - 16, top - 16, left + 48, top + 48], 0, 96).tolist()
        box = (corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1])
        samples.append(Sample(f"patch{number}", image, (Label(kind, tuple(map(float, box))),)))
    return samples


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What to give as --data, by layout."""
    folder = tmp_path_factory.mktemp("sets")
    return {name: LAYOUT[name].write(folder / name, CLASS_NAMES, _samples()) for name in LAYOUT}


def _pycocotools(labels: Path, detections: Path) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(labels))
        evaluation = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_figures_are_pycocotools_of_the_saved_detections(
    cli: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    args = ("--data", sets["coco"], "--save-detections", "out/found.json", "--plots", "plots", "--json")
    done = cli("val", "--engine", assets / "x.engine", *args)
    assert done.code == 0, done.text
    report = done.json()
    stats = _pycocotools(sets["coco"], tmp_path / "out" / "found.json")
    sizes = report["sizes"]
    mine = [sizes["all"][key] for key in ("map50_95", "map50", "map75")]
    mine += [sizes[name]["map50_95"] for name in ("small", "medium", "large")]
    assert [-1 if value is None else value for value in mine] == pytest.approx(list(stats[:6]), abs=1e-6)
    assert 0.1 < sizes["all"]["map50"] <= 1
    assert (report["images"], sizes["all"]["labels"], report["classes"]["red"]["labels"]) == (4, 4, 3)
    assert report["images_per_s"] > 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(PLOTS)
    assert "drops detections below 0.25" in report["notes"][0]
    assert "--conf 0.001 --max-det 300" in report["notes"][0]


@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_other_layouts_give_the_figures_of_coco(
    layout: str, cli_inside: Cli, assets: Path, sets: dict[str, Path]
) -> None:
    first, other = (
        cli_inside("val", "--engine", assets / "x.engine", "--data", sets[name], "--json").json()
        for name in ("coco", layout)
    )
    for name, figures in first["sizes"].items():
        assert other["sizes"][name] == pytest.approx(figures)
    assert other["best_f1"]["f1"] == pytest.approx(first["best_f1"]["f1"])
    assert other["data"].startswith(layout.upper())


def test_table_shows_sizes_classes_and_notes(cli_inside: Cli, assets: Path, sets: dict[str, Path]) -> None:
    done = cli_inside("val", "--engine", assets / "x.engine", "--data", sets["voc"], "--split", "test", "--limit", "3")
    assert done.code == 0, done.text
    for words in (
        "VOC, test: 3 images, 3 labels",
        "fp32 on onnxruntime",
        "mAP50-95",
        "images/s",
        "Note: The engine drops",
    ):
        assert words in done.out
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line[:1].isalpha()}
    assert rows["large"] == ["0", "-", "-", "-", "-", "-", "-"]
    assert rows["red"][0] == "2"
    assert len(rows["blue"]) == 7


def test_onnx_models_are_evaluated_in_fp32_without_a_limit(
    cli_inside: Cli, assets: Path, sets: dict[str, Path]
) -> None:
    done = cli_inside(
        "val", "--engine", assets / "model.onnx", "--data", sets["coco"], "--imgsz", "96", "--json"
    )  # fmt: skip
    report = done.json()
    assert report["notes"] == []
    engine = cli_inside("val", "--engine", assets / "x.engine", "--data", sets["coco"], "--json").json()
    assert report["sizes"]["all"]["recall"] >= engine["sizes"]["all"]["recall"]


def test_map_below_the_minimum_fails_and_above_it_passes(cli_inside: Cli, assets: Path, sets: dict[str, Path]) -> None:
    args = ("val", "--engine", assets / "x.engine", "--data", sets["coco"])
    low = cli_inside(*args, "--min-map", "0.99", "--json")
    low.failed(9, "below --min-map 0.99")
    assert low.json()["passed"] is False
    assert low.json()["sizes"]["all"]["map50_95"] < 0.99
    assert cli_inside(*args, "--min-map", "0.01", "--json").json()["passed"] is True


def test_classes_of_one_side_are_said(cli_inside: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    document = json.loads(sets["coco"].read_text())
    document["categories"][1]["name"] = "cat"
    (tmp_path / "labels.json").write_text(json.dumps(document))
    args = ("val", "--engine", assets / "x.engine", "--data", "labels.json", "--images", sets["coco"].parent / "images")
    done = cli_inside(*args)
    assert done.code == 0, done.text
    assert "The model does not have these classes of the labels, which do not count: cat." in done.out
    assert "No label is of these classes of the model, whose detections do not count: blue." in done.out
    document["categories"][0]["name"] = "dog"
    (tmp_path / "labels.json").write_text(json.dumps(document))
    cli_inside(*args).failed(2, "No class of the labels (dog, cat) is one of the model's (red, blue)")


def test_what_cannot_be_evaluated_is_said_before_any_work(
    cli_inside: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    engine = ("val", "--engine", assets / "x.engine")
    cli_inside(*engine, "--data", sets["coco"].parent / "images").failed(2, "there is nothing to compare", "labels")
    cli_inside(*engine, "--data", "gone").failed(2, "no such file or folder", "data.yaml")
    cli_inside(*engine, "--data", sets["coco"], "--images", tmp_path).failed(6, "patch0.jpg does not exist", "--images")
    cli_inside(*engine, "--data", sets["coco"], "--split", "val").failed(2, "a COCO file is one split")
    cli_inside(*engine, "--data", sets["coco"], "--imgsz", "640").failed(2, "640x640", "64x64:96x96:128x128")
    cli_inside("val", "--engine", "gone.engine", "--data", sets["coco"]).failed(5, "no such file")
    (tmp_path / "found.json").write_text("mine")
    saving = (*engine, "--data", sets["coco"], "--save-detections", "found.json")
    cli_inside(*saving).failed(2, "--force")
    assert (tmp_path / "found.json").read_text() == "mine"
    assert cli_inside(*saving, "--force").code == 0
    assert json.loads((tmp_path / "found.json").read_text())[0].keys() == {"image_id", "category_id", "bbox", "score"}


def test_a_damaged_image_is_named(cli_inside: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(sets["coco"].parent, tmp_path / "set")
    (tmp_path / "set" / "images" / "patch2.jpg").write_bytes(b"\xff\xd8 no more")
    done = cli_inside("val", "--engine", assets / "x.engine", "--data", "set/labels.json")
    done.failed(6, "patch2.jpg cannot be read: it is damaged")


def test_an_engine_of_a_gpu_is_sent_to_the_emulated_backend(
    cli_inside: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    engine = Path(shutil.copy(assets / "x.engine", tmp_path / "gpu.engine"))
    stamp(engine, msgspec.structs.replace(read_info(engine), backend="tensorrt-rtx", precision="fp16"))
    done = cli_inside("val", "--engine", "gpu.engine", "--data", sets["coco"])
    done.failed(5, "needs the GPU", "in the same precision (fp16) with --backend emulated")


def test_missing_evaluator_is_named_with_its_extra(
    cli_inside: Cli, assets: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.core.discovery.is_installed", lambda name: name != "faster_coco_eval")
    done = cli_inside("val", "--engine", assets / "x.engine", "--data", sets["coco"])
    done.failed(8, "faster_coco_eval is needed for average precision", "trtdeploy[eval]")


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_images_turned_by_exif_are_said_where_the_labels_mean_them_unturned(
    layout: str, cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    from PIL import Image

    box = Label(0, (64.0, 0.0, 64.0, 64.0))
    data = LAYOUT[layout].write(tmp_path / "set", CLASS_NAMES, [Sample("a", np.zeros((64, 128, 3), np.uint8), (box,))])
    file = next((tmp_path / "set").rglob("a.jpg"))
    with Image.open(file) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(file, exif=exif)
    done = cli_inside("val", "--engine", assets / "x.engine", "--data", data)
    assert done.code == 0, done.text
    assert "another size than the labels say" in done.out
    assert "1, such as a.jpg (128x64, labels: 64x128)" in done.out


def test_an_image_beyond_the_limit_of_opencv_is_named(
    cli_inside: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(sets["coco"].parent, tmp_path / "set")
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    content = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "set" / "images" / "patch1.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    done = cli_inside("val", "--engine", assets / "x.engine", "--data", "set/labels.json")
    done.failed(6, "patch1.jpg cannot be read", "too large")


@pytest.mark.parametrize("option", ["--min-map", "--conf"])
def test_nan_is_no_share(option: str, cli_inside: Cli, assets: Path, sets: dict[str, Path]) -> None:
    done = cli_inside("val", "--engine", assets / "x.engine", "--data", sets["coco"], option, "nan")
    done.failed(2, option, "nan is not in the range 0<=x<=1")


def test_detections_that_are_no_numbers_do_not_count_and_are_said(
    cli_inside: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = Engine.detect

    def broken(self: Engine, images: Any, size: Any = None) -> Any:
        found = detect(self, images, size)
        for detections in found:
            detections.xyxy[:1] = np.nan
        return found

    monkeypatch.setattr(Engine, "detect", broken)
    done = cli_inside("val", "--engine", assets / "x.engine", "--data", sets["coco"], "--save-detections", "d.json")
    assert "Detections that are NaN or infinite, which do not count: 4" in done.out
    assert "NaN" not in (tmp_path / "d.json").read_text()


def test_raw_outputs_cannot_be_evaluated(cli_inside: Cli, assets: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    args = ("--nms", "none", "--imgsz", "64", "--backend", "onnxruntime", "--gate", "off")
    cli_inside("build", assets / "model.onnx", "-o", "raw.engine", *args)
    done = cli_inside("val", "--engine", "raw.engine", "--data", sets["coco"])
    done.failed(2, "raw outputs", "--nms none")
