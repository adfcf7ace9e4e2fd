"""Images for calibration: what is refused, what is warned of, and that the network gets what it gets at run time."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trtdeploy.api.calibration import CalibrationFeeds, CalibrationOptions, calibrate_model, calibration_feeds
from trtdeploy.api.calibration_images import FEWEST, choose_images
from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.core.types import Size, SizeRange
from trtdeploy.graph.frames import FramesIn
from trtdeploy.graph.reference import ReferenceModel
from trtdeploy.graph.shapes.image_input import find_image_input
from trtdeploy.runtime.letterbox import Canvas

NETWORK = Size(64, 96)


def _photo(index: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def _write(folder: Path, name: str, image: NDArray[np.uint8]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / name), image)
    return folder / name


def _folder(folder: Path, count: int = FEWEST, **size: int) -> Path:
    for index in range(count):
        _write(folder, f"{index:03d}.png", _photo(index, **size))
    return folder


def _model(batch: int | str = "batch", element: int = TensorProto.FLOAT) -> ir.Model:
    """Return y = x * 2 with an image input."""
    x, y = (helper.make_tensor_value_info(name, element, [batch, 3, 64, 96]) for name in ("pixels", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["pixels", "pixels"], ["y"])], "g", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def _feeds(
    data: Path, model: ir.Model | None = None, preprocess: Preprocess | None = None, **options: int
) -> CalibrationFeeds:
    image = find_image_input(model or _model())
    return calibration_feeds(CalibrationOptions(images=data, **options), image, preprocess or Preprocess(), NETWORK)


# sets that are refused


def test_without_images_there_is_nothing_to_calibrate_on() -> None:
    with pytest.raises(UsageError, match=r"Calibration needs images of what .* Give a folder of them with --calib"):
        calibration_feeds(CalibrationOptions(), find_image_input(_model()), Preprocess(), NETWORK)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--calib {tmp_path}/none: there is no such file or folder"):
        _feeds(tmp_path / "none")


def test_an_empty_folder_and_one_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--calib {tmp_path} holds no image"):
        _feeds(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match=f"--calib {tmp_path} holds no image"):
        _feeds(tmp_path)


def test_a_folder_of_folders_says_where_images_are(tmp_path: Path) -> None:
    _folder(tmp_path / "train", 1)
    (tmp_path / "cache").mkdir()
    with pytest.raises(UsageError, match=r"holds no image.* Folders in it hold images: train\."):
        _feeds(tmp_path)


def test_all_corrupt_images_are_named(tmp_path: Path) -> None:
    _folder(tmp_path, 4)
    whole = (tmp_path / "001.png").read_bytes()
    (tmp_path / "001.png").write_bytes(whole[:40])
    (tmp_path / "003.png").write_bytes(b"")
    (tmp_path / "x.jpg").write_bytes(b"not an image")
    with pytest.raises(SourceError) as error:
        _feeds(tmp_path)
    assert str(error.value) == (
        f"--calib {tmp_path}: 3 of 5 images cannot be read: 001.png, 003.png, x.jpg. Remove them or replace them."
    )


@pytest.mark.parametrize("level", [0, 114, 255])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_of_one_colour_alone_are_refused(tmp_path: Path, level: int, suffix: str) -> None:
    for index in range(3):
        _write(tmp_path, f"{index}.{suffix}", np.full((50 + index, 60, 3), (level, level, 255 - level), np.uint8))
    with pytest.raises(
        SourceError, match=r"all 3 images are of one colour, as black ones are. Nothing can be measured"
    ):
        _feeds(tmp_path)


def test_black_images_with_the_noise_of_a_covered_camera_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "dark.png", np.random.default_rng(0).integers(0, 4, (64, 96, 3), np.uint8))
    with pytest.raises(SourceError, match="all 1 images are of one colour"):
        _feeds(tmp_path)


@pytest.mark.parametrize(("options", "message"), [
    ({"limit": 0}, "a limit of 0 allows none"),
    ({"method": "kl"}, "Calibration method 'kl' is not known"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, int | str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CalibrationOptions(**options)  # type: ignore[arg-type]


# sets that are warned of


def test_a_good_set_has_no_warning(tmp_path: Path) -> None:
    feeds = _feeds(_folder(tmp_path))
    assert feeds.warnings == ()
    assert len(feeds.batches) == FEWEST


def test_few_images_are_warned_of(tmp_path: Path) -> None:
    (warning,) = _feeds(_folder(tmp_path, FEWEST - 1)).warnings
    assert warning == (
        f"--calib {tmp_path}: the ranges rest on 31 distinct images. Give 32 or more that show what "
        "the network will see."
    )


def test_some_images_of_one_colour_are_left_out_and_named(tmp_path: Path) -> None:
    _folder(tmp_path)
    _write(tmp_path, "black.png", np.zeros((64, 96, 3), np.uint8))
    feeds = _feeds(tmp_path)
    assert feeds.warnings == (f"--calib {tmp_path}: 1 of 33 images are of one colour and left out: black.png (64x96).",)
    assert "black.png" not in [batch.name for batch in feeds.batches]


def test_identical_images_count_once_whatever_their_format(tmp_path: Path) -> None:
    for name in ("a.png", "b.bmp", "c.png"):
        _write(tmp_path, name, _photo(0))
    feeds = _feeds(tmp_path)
    assert feeds.warnings[0] == (f"--calib {tmp_path}: all 3 images are the same one. The ranges fit that image alone.")
    assert [batch.name for batch in feeds.batches] == ["a.png"]
    _folder(tmp_path)
    feeds = _feeds(tmp_path)
    assert feeds.warnings == (f"--calib {tmp_path}: 3 of 35 images are copies of others and left out.",)
    assert len(feeds.batches) == FEWEST


def test_much_smaller_images_are_warned_of(tmp_path: Path) -> None:
    _folder(tmp_path)
    _write(tmp_path, "thumb.png", _photo(99, 32, 48))
    _write(tmp_path, "narrow.png", _photo(98, 64, 30))  # fills the height: nothing is scaled up
    (warning,) = _feeds(tmp_path).warnings
    assert "1 of 34 images are much smaller than the network's 64x96 and scaled up: thumb.png (32x48)." in warning


@pytest.mark.parametrize(("height", "width"), [(64, 500), (900, 96)])
def test_sides_that_are_nothing_like_the_networks_are_warned_of(tmp_path: Path, height: int, width: int) -> None:
    _folder(tmp_path)
    _write(tmp_path, "long.png", _photo(99, height, width))
    (warning,) = _feeds(tmp_path).warnings
    assert f"less than a quarter of it, or are squeezed: long.png ({height}x{width})" in warning


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    (warning,) = _feeds(_folder(tmp_path, height=16, width=24)).warnings
    assert "000.png (16x24), 001.png (16x24), 002.png (16x24), 003.png (16x24), 004.png (16x24) and 27 more" in warning


# which images


def test_the_limit_spreads_over_all_images(tmp_path: Path) -> None:
    _folder(tmp_path, 10)
    images, _ = choose_images(tmp_path, 4, NETWORK)
    assert [image.path.name for image in images] == ["000.png", "002.png", "005.png", "007.png"]


def test_coco_and_voc_give_their_images(tmp_path: Path) -> None:
    _folder(tmp_path / "coco", 2)
    _write(tmp_path / "coco", "unlisted.png", _photo(7))
    listed = [{"id": i, "file_name": f"{i:03d}.png", "height": 64, "width": 96} for i in range(2)]
    labels = tmp_path / "coco" / "labels.json"
    labels.write_text(json.dumps({"images": listed, "categories": [], "annotations": []}))
    assert [batch.name for batch in _feeds(labels).batches] == ["000.png", "001.png"]
    shutil.copytree(tmp_path / "coco", tmp_path / "voc" / "JPEGImages")
    (tmp_path / "voc" / "Annotations").mkdir()
    xml = "<annotation><filename>001.png</filename></annotation>"
    (tmp_path / "voc" / "Annotations" / "001.xml").write_text(xml)
    assert [batch.name for batch in _feeds(tmp_path / "voc").batches] == ["001.png"]
    (tmp_path / "coco" / "001.png").unlink()
    with pytest.raises(SourceError, match=f"--calib {re.escape(str(labels))}: the image .*001.png does not exist"):
        _feeds(labels)


def test_yolo_gives_the_images_of_its_validation_split(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        _folder(tmp_path / "images" / split, count)
        for index in range(count):
            (tmp_path / "labels" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "labels" / split / f"{index:03d}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [part]\n")
    assert [batch.name for batch in _feeds(data).batches] == ["000.png", "001.png"]


def test_one_image_is_enough_to_run(tmp_path: Path) -> None:
    feeds = _feeds(_write(tmp_path, "one.png", _photo(1)))
    assert len(feeds.batches) == 1
    assert "rest on 1 distinct images" in feeds.warnings[0]


# what the network gets


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(fit="top-left", color="bgr", divisor=1.0),
        Preprocess(fit="stretch", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ],
    ids=["YOLOv8", "YOLOX", "RT-DETR with ImageNet's mean"],
)
def test_inputs_equal_those_of_the_letterbox_and_the_frames_pass(tmp_path: Path, preprocess: Preprocess) -> None:
    for index, (height, width) in enumerate([(64, 96), (120, 90), (50, 200), (33, 47)]):
        _write(tmp_path, f"{index}.png", _photo(index, height, width))
    engine = ReferenceModel(FramesIn("canvas", preprocess, SizeRange.fixed(NETWORK)).run(_model()).model)
    canvas = Canvas(1, preprocess.fit)
    canvas.resize(NETWORK)
    for index, given in enumerate(_feeds(tmp_path, preprocess=preprocess)):
        canvas.draw(0, cv2.imread(str(tmp_path / f"{index}.png")))
        assert given["pixels"].dtype == np.float32
        doubled = engine.run({"images": canvas.batch(1)})["y"]
        np.testing.assert_allclose(2 * given["pixels"], doubled, rtol=0, atol=1e-5)


def test_grey_transparent_and_16_bit_images_become_three_channels_of_8_bits(tmp_path: Path) -> None:
    photo = _photo(3)
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    alpha = np.dstack([photo, np.full(photo.shape[:2], 7, np.uint8)])
    _write(tmp_path, "0grey.png", grey)
    _write(tmp_path, "1alpha.png", alpha)
    _write(tmp_path, "2deep.png", photo.astype(np.uint16) * 257)
    found = [given["pixels"] for given in _feeds(tmp_path, limit=3)]
    as_input = photo[..., ::-1].transpose(2, 0, 1) / 255
    assert len(found) == 2  # the 16-bit one is the same picture as that with an alpha channel
    np.testing.assert_allclose(found[0][0], np.broadcast_to(grey / 255, (3, 64, 96)), atol=1e-6)
    np.testing.assert_allclose(found[1][0], as_input, atol=1e-6)


def test_a_model_of_a_fixed_batch_gets_full_batches(tmp_path: Path) -> None:
    _folder(tmp_path, 5)
    alone = [given["pixels"] for given in _feeds(tmp_path)]
    together = [given["pixels"] for given in _feeds(tmp_path, _model(batch=3))]
    assert [len(array) for array in together] == [3, 3]
    np.testing.assert_array_equal(np.concatenate(together), np.concatenate([*alone, alone[3]]))


def test_a_half_precision_input_gets_half_precision(tmp_path: Path) -> None:
    (given,) = _feeds(_folder(tmp_path, 1), _model(element=TensorProto.FLOAT16))
    assert given["pixels"].dtype == np.float16


def test_an_image_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    feeds = _feeds(_folder(tmp_path, 2))
    _write(tmp_path, "001.png", _photo(50))
    with pytest.raises(SourceError, match=r"The calibration image .*001.png changed while it was used. Start again."):
        list(feeds)


def test_a_model_is_calibrated_and_warnings_travel_with_its_ranges(tmp_path: Path) -> None:
    steps: list[str] = []
    options = CalibrationOptions(images=_folder(tmp_path / "images", 3), method="minmax", cache=tmp_path / "cache")
    found = calibrate_model(_model(), ["pixels", "y"], options, Preprocess(), NETWORK, steps.append)
    assert found.ranges == {"pixels": 1.0, "y": 2.0}
    assert "rest on 3 distinct images" in found.warnings[0]
    assert steps == ["read calibration images", "calibrate 1/3", "calibrate 2/3", "calibrate 3/3"]
    again = calibrate_model(_model(), ["pixels", "y"], options, Preprocess(), NETWORK)
    assert (again.ranges, again.cached) == (found.ranges, 3)
    other = calibrate_model(_model(), ["pixels", "y"], options, Preprocess(color="bgr"), NETWORK)
    assert other.cached == 0
    assert "is of images prepared otherwise" in other.warnings[-1]
