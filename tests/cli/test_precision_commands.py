"""`--int8`, `--fp16`, calibration and search as users get them wrong: a clear message, and nothing is written."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from cli_support import CLASS_NAMES, Done, draw_frame
from onnx import helper, numpy_helper

from trtdeploy.evaluate.datasets import coco
from trtdeploy.evaluate.datasets.labelled_images import Label, Sample

Cli = Callable[..., Done]
MODEL = ("model.onnx", "-o", "x.engine", "--imgsz", "64x96", "--backend", "onnxruntime", "--gate", "off")
INT8 = ("--int8", "--calib-method", "minmax", "--calib")
SEARCH = (*INT8, "photos", "--max-map-drop", "0.1")
LAYERS = {"stem": (16, 3), "middle": (32, 16), "back": (3, 32)}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, detector: Callable[..., onnx.ModelProto]) -> Path:
    """A folder with a model of which two layers can be INT8, one of which none can, and images of many kinds."""
    folder = tmp_path_factory.mktemp("material")
    onnx.save(_with_layers(detector()), folder / "model.onnx")
    onnx.save(detector(), folder / "bare.onnx")
    image = draw_frame(3, (64, 96))
    kinds = {
        "photos": {"a.png": image, "b.png": draw_frame(9, (64, 96))},
        "one": {"a.png": image},
        "black": {"a.png": 0 * image, "b.png": 0 * image},
        "tiny": {f"{index}.png": cv2.resize(draw_frame(index, (64, 96)), (16, 16)) for index in range(3)},
        "broken": {"a.png": image},
        "empty": {},
    }
    for kind, images in kinds.items():
        (folder / kind).mkdir()
        for name, pixels in images.items():
            cv2.imwrite(str(folder / kind / name), pixels)
    whole = (folder / "one" / "a.png").read_bytes()
    (folder / "broken" / "cut.png").write_bytes(whole[: len(whole) // 3])
    (folder / "broken" / "text.jpg").write_text("no image")
    for name, classes in (("labels", CLASS_NAMES), ("others", ("cat", "dog"))):
        (folder / name).mkdir()
        coco.write(folder / name, classes, [Sample("a", image, (Label(0, (12, 16, 32, 32)),))])
    return folder


def _with_layers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put convolutions before a detector that leave its image nearly as it is."""
    rng = np.random.default_rng(5)
    before, names = [], ["images"]
    for name, (after, channels) in LAYERS.items():
        weights = rng.normal(size=(after, channels, 3, 3)).astype(np.float32) / 100
        for channel in range(3):
            weights[channel, channel, 1, 1] += 1
        model.graph.initializer.append(numpy_helper.from_array(weights, f"{name}.w"))
        before.append(helper.make_node("Conv", [names[-1], f"{name}.w"], [name], name=f"/{name}/Conv", pads=[1] * 4))
        names.append(name)
    for node in model.graph.node:
        node.input[:] = [names[-1] if read == "images" else read for read in node.input]
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def cli(cli_inside: Cli, material: Path, tmp_path: Path) -> Cli:
    """Run `trtdeploy` where the material is, as links: a test's own files are not among it."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return cli_inside


REFUSED = {
    "INT8 without images": (("--int8",), 2, ["--int8 needs images", "--calib"]),
    "an empty folder": ((*INT8, "empty"), 2, ["--calib empty holds no image"]),
    "a folder that is not there": ((*INT8, "nowhere"), 2, ["--calib nowhere: there is no such file or folder"]),
    "a cut image and a text": ((*INT8, "broken"), 6, ["2 of 3 images cannot be read: cut.png, text.jpg. Remove them"]),
    "black images": ((*INT8, "black"), 6, ["all 2 images are of one colour", "give photos"]),
    "no images at most": ((*INT8, "photos", "--calib-images", "0"), 2, ["a limit of 0 allows none. Give 1 or more"]),
    "an unknown method": ((*INT8, "photos", "--calib-method", "max"), 2, ["'max' is not known", "entropy, minmax"]),
    "a cache that is a folder": ((*INT8, "photos", "--calib-cache", "empty"), 2, ["--calib-cache empty is a folder"]),
    "a cache that is an image": (
        (*INT8, "photos", "--calib-cache", "one/a.png"), 2, ["one/a.png is no calibration cache and is not replaced"],
    ),
    "a cache that is the model": ((*INT8, "photos", "--calib-cache", "model.onnx"), 2, ["is the input model.onnx"]),
    "a cache that is the engine": (
        (*INT8, "photos", "--calib-cache", "x.engine"), 2, ["--calib-cache x.engine is already the output of -o"],
    ),
    "a cache in no folder": ((*INT8, "photos", "--calib-cache", "no/c"), 7, ["there is no folder", "Create it first"]),
    "a cache below a file": (
        (*INT8, "photos", "--calib-cache", "model.onnx/c"), 7, ["--calib-cache model.onnx/c cannot be written"],
    ),
    "a cache without INT8": (
        ("--fp16", "--calib", "photos", "--calib-cache", "c", "--backend", "emulated"), 2,
        ["--calib-cache c keeps ranges for INT8", "give --int8"],
    ),
    "images for FP32": (("--calib", "photos"), 2, ["--calib photos: nothing is measured for fp32", "--int8"]),
    "images for FP16 that the backend lowers": (
        ("--fp16", "--calib", "photos"), 2, ["--calib photos: nothing is measured for fp16 on this backend"],
    ),
    "an unknown node": (
        (*INT8, "nowhere", "--keep", "middle/Conv"), 3, ["No node is named 'middle/Conv'", "mean '/middle/Conv'?"],
    ),
    "a limit without INT8": (("--max-map-drop", "0.01"), 2, ["needs INT8, not fp32. Give --int8"]),
    "a limit above 1": ((*INT8, "photos", "--max-map-drop", "2"), 2, ["--max-map-drop 2 is out of range", "0.005"]),
    "a limit below 0": ((*INT8, "photos", "--max-map-drop", "-1"), 2, ["--max-map-drop -1 is out of range"]),
    "a limit that is no number": ((*INT8, "photos", "--max-map-drop", "nan"), 2, ["--max-map-drop nan is out of"]),
    "a search of one trial": ((*SEARCH, "--trials", "1"), 2, ["--trials 1: a search needs 4 evaluations or more"]),
    "trials without a search": ((*INT8, "photos", "--trials", "9"), 2, ["are for a search. Give --max-map-drop too"]),
    "a file of trials that is an image": (
        (*SEARCH, "--trial-cache", "one/a.png"), 2, ["one/a.png is no file of trials", "Give another name"],
    ),
    "labels of other classes": (
        (*SEARCH, "--data", "others/labels.json"), 2, ["(cat, dog)", "(red, blue)", "Give labels with the model's"],
    ),
    "a part of the data that is not there": (
        (*SEARCH, "--data", "labels/labels.json", "--split", "test"), 2, ["--split"],
    ),
    "a search on images that cannot be read": ((*SEARCH, "--data", "broken"), 6, ["cut.png"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused_and_nothing_is_written(case: str, cli: Cli, tmp_path: Path) -> None:
    options, code, words = REFUSED[case]
    before = sorted(os.listdir(tmp_path))
    cli("build", *MODEL, *options).failed(code, *words)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_model_of_which_nothing_can_be_int8_is_refused(cli: Cli, tmp_path: Path) -> None:
    cli("build", "bare.onnx", *MODEL[1:], *INT8, "photos").failed(3, "no layer of this model can be INT8", "--fp16")
    assert not (tmp_path / "x.engine").exists()


def test_a_model_in_fp16_is_not_called_int8(cli: Cli) -> None:
    assert cli("optimize", "model.onnx", "-o", "half.onnx", "--fp16", "--imgsz", "64x96").code == 0
    done = cli("build", "half.onnx", *MODEL[1:], *INT8, "photos")
    done.failed(3, "no layer of this model can be INT8", "not FP32", "exported in FP32")


def test_a_quantised_model_is_taken_as_it_is_but_not_searched(cli: Cli) -> None:
    assert cli("optimize", "model.onnx", "-o", "q.onnx", *INT8, "photos", "--imgsz", "64x96").code == 0
    assert cli("build", "q.onnx", *MODEL[1:], "--int8").code == 0
    done = cli("build", "q.onnx", *MODEL[1:], "--force", *SEARCH)
    done.failed(2, "q.onnx came quantised", "Give the float model instead")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*INT8, "one"), ["the ranges rest on 1 distinct images. Give 32 or more"]),
        ((*INT8, "tiny"), ["3 of 3 images are much smaller than the network's 64x96", "0.png (16x16)"]),
        ((*INT8, "photos", "--nms", "none"), []),
        ((*INT8, "photos", "--no-surgery"), []),
        ((*INT8, "photos", "--imgsz", "64"), []),
    ],
    ids=["one image", "small images", "no NMS", "no surgery", "another size"],
)
def test_what_can_be_built_is_built_with_its_warnings(cli: Cli, options: tuple[str, ...], words: list[str]) -> None:
    done = cli("build", *MODEL, *options)
    assert done.code == 0, done.err
    assert "2 of 9 layers in INT8" in done.out
    for word in words:
        assert f"Warning: --calib {options[3]}: {word}" in done.err or word in done.err


def test_ranges_of_sizes_and_batches_are_built_and_run(cli: Cli, tmp_path: Path) -> None:
    options = [*MODEL[:3], *MODEL[5:], "--dynamic", "64:96:128", "--batch", "1:2:4", *INT8, "photos"]
    assert cli("build", *options).code == 0
    done = cli("infer", "--engine", "x.engine", "--video", "photos", "--jsonl", "found.jsonl")
    assert done.code == 0, done.err
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) >= 2


def test_a_cache_that_is_cut_short_is_measured_anew_and_then_reused(cli: Cli, tmp_path: Path) -> None:
    options = ("build", *MODEL, *INT8, "photos", "--force", "--calib-cache", "c")
    assert cli(*options).code == 0
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(whole[: len(whole) // 2])
    done = cli(*options)
    assert done.code == 0
    assert "The calibration cache c is damaged or cut short: calibrated anew, and replaced." in done.err
    assert (tmp_path / "c").read_bytes() == whole
    done = cli(*options)
    assert "calibration reused (c)" in done.err
    assert "anew" not in done.err


def test_search_and_build_share_one_calibration(cli: Cli) -> None:
    search = ("--max-map-drop", "0.9", "--trials", "4", "--data", "labels/labels.json", "--trial-cache", "t")
    options = ("build", *MODEL, *INT8, "photos", *search, "--calib-cache", "c", "--force", "--batch", "1:2:2")
    first, second = cli(*options), cli(*options)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.err.count("calibrate 1/2") == 1
    assert "calibrated anew" not in first.err + second.err
    assert "2 evaluations, 2 of them from the cache" in second.out


def test_an_interrupted_calibration_leaves_its_cache_and_no_engine(
    start_cli: Callable[..., subprocess.Popen[bytes]], material: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(25):
        cv2.imwrite(str(photos / f"{index:03}.png"), draw_frame(index, (480, 640)))
    model = (material / "model.onnx", "-o", "x.engine", "--imgsz", "960x1280", *MODEL[5:])
    process = start_cli("build", *model, *INT8, "photos", "--calib-cache", "c")
    assert process.stderr is not None
    assert any(b"calibrate 1/" in line for line in process.stderr), "it was not seen calibrating"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert sorted(os.listdir(tmp_path)) in (["photos"], ["c", "photos"])
