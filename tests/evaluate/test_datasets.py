"""The layouts are read as their authors mean them, and what is wrong with a file is said with its place."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trtdeploy.core.errors import MissingDependencyError, SourceError, UsageError
from trtdeploy.core.image_files import read_image
from trtdeploy.evaluate.datasets import Label, class_notes, match_classes, read_images
from trtdeploy.evaluate.datasets.yolo import label_file


def _image(path: Path, width: int = 40, height: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    return path


def _coco(path: Path, **changes: object) -> Path:
    document = {
        "images": [{"id": 30, "file_name": "b.png"}, {"id": 20, "file_name": "a.png"}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 3, "bbox": [1, 2.5, 10, 8], "area": 60, "iscrowd": 1},
            {"id": 2, "image_id": 30, "category_id": 7, "bbox": [0, 0, 4, 4]},
        ],
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for name in ("a.png", "b.png"):
        _image(path.parent / name)
    return path


def test_coco_keeps_order_ids_crowds_and_areas(tmp_path: Path) -> None:
    data = read_images(_coco(tmp_path / "labels.json"))
    assert data.paths == (tmp_path / "b.png", tmp_path / "a.png")
    assert data.classes == ("cat", "dog")
    assert data.labels == ((Label(0, (0, 0, 4, 4)),), (Label(1, (1, 2.5, 10, 8), True, 60),))
    assert (data.image_ids, data.class_ids) == ((30, 20), (7, 3))
    assert data.labels[0][0].size == 16
    assert len(read_images(tmp_path / "labels.json", limit=1).labels) == 1


@pytest.mark.parametrize("folder", [".", "images", "val2017", "../val2017", "../images/val2017", "../images"])
def test_coco_images_are_found_in_the_usual_places(folder: str, tmp_path: Path) -> None:
    path = _coco(tmp_path / "annotations" / "instances_val2017.json")
    for name in ("a.png", "b.png"):
        (path.parent / name).unlink()
        _image(path.parent / folder / name)
    assert all(image.is_file() for image in read_images(path).paths)


def test_coco_image_that_is_nowhere_is_named_with_the_places(tmp_path: Path) -> None:
    path = _coco(tmp_path / "x" / "labels.json")
    (path.parent / "b.png").unlink()
    with pytest.raises(SourceError, match=r"b\.png does not exist in .*images.*--images"):
        read_images(path)
    _image(tmp_path / "other" / "b.png")
    with pytest.raises(SourceError, match=r"other/a\.png does not exist"):
        read_images(path, tmp_path / "other")
    document = json.loads(path.read_text())
    document["images"][1]["file_name"] = 300 * "a"
    path.write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"cannot be read: File name too long"):
        read_images(path, tmp_path / "other")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", "[" * 100_000, '{"images": [{}], "categories": [], "annotations": []}']
)
def test_json_that_is_not_coco_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="no labels in COCO's format"):
        read_images(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"image_id": 20, "category_id": 3, "bbox": [1, 2, "3", 4]}, r"str.*annotations\[0\]\.bbox"),
        ({"image_id": 20, "category_id": 3}, r"bbox.*annotations\[0\]"),
        ({"image_id": 20, "category_id": 3, "bbox": [1, 2, -3, 4]}, r"annotations\[0\] has the box \[1.0, 2.0, -3.0"),
        ({"image_id": 20, "category_id": 8, "bbox": [1, 2, 3, 4]}, r"annotations\[0\] has category 8"),
    ],
)
def test_wrong_coco_annotation_is_named_by_its_place(entry: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_images(_coco(tmp_path / "x.json", annotations=[entry]))


def test_odd_coco_labels_are_noted(tmp_path: Path) -> None:
    boxes = {20: [1, 2, 0, 4], 99: [1, 2, 3, 4]}
    entries = [{"image_id": image, "category_id": 3, "bbox": box} for image, box in boxes.items()]
    notes = read_images(_coco(tmp_path / "x.json", annotations=entries)).notes
    assert [note[:20] for note in notes] == ["Annotations of image", "Labels without area,"]
    twice = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]
    with pytest.raises(UsageError, match="same id"):
        read_images(_coco(tmp_path / "y.json", images=twice, annotations=[]))
    with pytest.raises(UsageError, match="--split test: a COCO file is one split"):
        read_images(tmp_path / "x.json", split="test")


def _yolo(folder: Path, lines: str = "1 0.5 0.5 0.5 0.2\n", yaml: str = "val: images/val\nnames: [cat, dog]\n") -> Path:
    _image(folder / "images" / "val" / "a.png")
    (folder / "labels" / "val").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / "val" / "a.txt").write_text(lines)
    (folder / "data.yaml").write_text(yaml)
    return folder / "data.yaml"


def test_yolo_boxes_are_shares_of_the_image(tmp_path: Path) -> None:
    data = read_images(_yolo(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.labels[0][0].box == pytest.approx((10, 8, 20, 4))
    assert data.labels[0][0].class_index == 1


def test_yolo_polygons_become_boxes_and_background_has_no_file(tmp_path: Path) -> None:
    path = _yolo(tmp_path, "0 0.25 0.5 0.5 0.25 0.75 1.0\n\n0 0 0 1 1\n")
    _image(tmp_path / "images" / "val" / "b.png")
    data = read_images(path)
    assert [label.box for label in data.labels[0]] == [
        pytest.approx((10, 5, 20, 15)),
        pytest.approx((-20, -10, 40, 20)),
    ]
    assert data.labels[1] == ()
    assert data.notes == ("Images without a file of labels, which are background: 1.",)


@pytest.mark.parametrize(
    "yaml",
    [
        "path: .\nval: images/val\nnames: {0: cat, 1: dog}\n",
        "path: gone\nval: [images/val]\nnames:\n  - cat\n  - dog\n",
        "val: ../images/val\nnames: [cat, dog]\nnc: 2\n",
        "val: val.txt\nnames: [cat, dog]\n",
        "val: lists/val.txt\nnames: [cat, dog]\n",
        "val: images/val/a.png\nnames: [cat, dog]\n",
        "train: none\ntest: images\nval: images\nnames: [cat, dog]\n",
    ],
)
def test_yolo_splits_are_folders_lists_or_files(yaml: str, tmp_path: Path) -> None:
    path = _yolo(tmp_path / "set", yaml=yaml)
    (path.parent / "val.txt").write_text("./images/val/a.png\n\n")
    (path.parent / "lists").mkdir()
    (path.parent / "lists" / "val.txt").write_text("images/val/a.png\n")
    data = read_images(path)
    assert [image.name for image in data.paths] == ["a.png"]
    assert len(data.labels[0]) == 1


def test_yolo_split_is_chosen_and_images_stand_in_for_path(tmp_path: Path) -> None:
    path = _yolo(tmp_path / "set", yaml="path: /nowhere\ntest: images/val\nnames: [cat, dog]\n")
    with pytest.raises(UsageError, match=r"no split 'val' .*It has test; choose with --split"):
        read_images(path)
    assert read_images(path, split="test").title == "YOLO, test"
    moved = path.rename(tmp_path / "data.yaml")
    with pytest.raises(SourceError, match=r"images/val does not exist\. Give the folder .* --images"):
        read_images(moved, split="test")
    assert len(read_images(moved, tmp_path / "set", split="test").labels[0]) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("0 0.5 0.5 0.1 0.1\n2 0.5 0.5 0.1 0.1\n", r"a\.txt, line 2: the class is 2, and names has 2"),
        ("0.5 0.5 0.5 0.1 0.1", "line 1: the class is 0.5"),
        ("0 0.5 0.5 0.1", "line 1: 4 numbers. Expected 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 1: 6 numbers"),
        ("0 20 10 5 5", "outside of 0 to 1"),
        ("0 0.5 nan 0.1 0.1", "outside of 0 to 1"),
        ("0 0.5 0.5 -0.005 0.1", "is negative"),
        ("cat 0.5 0.5 0.1 0.1", "are no numbers"),
    ],
)
def test_wrong_yolo_line_is_named_by_file_and_number(lines: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_images(_yolo(tmp_path, lines))


def test_yolo_keypoints_behind_the_box_are_left_alone(tmp_path: Path) -> None:
    yaml = "val: images/val\nnames: [cat]\nkpt_shape: [1, 3]\n"
    data = read_images(_yolo(tmp_path, "0 0.5 0.5 0.5 0.2 0.4 0.4 2\n", yaml))
    assert data.labels[0][0].box == pytest.approx((10, 8, 20, 4))


_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\nval: images/val\nnames: [*d, *d]\n"


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("val: images/val\nnames: [cat\n", r"data\.yaml, line 3: this is no YAML"),
        ("- val\n", "is a YAML list"),
        ("val: images/val\n", "names is a NoneType"),
        ("val: images/val\nnames: {0: cat, 2: dog}\n", "names is a dict"),
        ("val: images/val\nnames: [cat]\nnc: 3\n", "nc is 3, and names has 1"),
        (_BOMB, r"names\[0\] is a list"),
        ("val: !!python/object/apply:os.system ['true']\nnames: [cat]\n", "could not determine a constructor"),
        ("val: {a: b}\nnames: [cat]\n", "no split 'val'"),
        ("path: [1]\nval: x\nnames: [cat]\n", "path is a list"),
        ("names: [" * 3000, "no YAML"),
        ("#" * (1 << 20) + "\nval: x\n", "more than 1048576 bytes"),
    ],
)  # fmt: skip
def test_wrong_yaml_is_refused(yaml: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_images(_yolo(tmp_path, yaml=yaml))


def test_yolo_without_any_labels_is_refused(tmp_path: Path) -> None:
    path = _yolo(tmp_path)
    (tmp_path / "labels" / "val" / "a.txt").unlink()
    with pytest.raises(SourceError, match=r"none of the 1 images of val .*labels/val/a\.txt"):
        read_images(path)


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_yolo_size_follows_the_turn_that_opencv_makes(suffix: str, tmp_path: Path) -> None:
    path = _yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = tmp_path / "images" / "val" / "a.png"
    image.unlink()
    Image.new("RGB", (40, 20)).save(image.with_suffix(suffix), exif=exif)
    turned = read_image(image.with_suffix(suffix))
    assert turned is not None
    assert turned.shape == (40, 20, 3)
    assert read_images(path).labels[0][0].box == pytest.approx((5, 16, 10, 8))
    image.with_suffix(suffix).write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"size of the image .*a\.\w+ cannot be read"):
        read_images(path)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("images/val/a.b.jpg", "labels/val/a.b.txt"),
        ("images/x/images/a.jpg", "images/x/labels/a.txt"),
        ("a.jpg", "a.txt"),
    ],
)
def test_yolo_label_file_is_where_ultralytics_looks(image: str, expected: str) -> None:
    assert label_file(Path(image)) == Path(expected)


@pytest.mark.parametrize("module", ["yaml", "PIL"])
def test_missing_library_of_the_layout_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdeploy.core.discovery.is_installed", lambda name: name != module)
    with pytest.raises(MissingDependencyError, match=rf"{module} is needed .*trtdeploy\[eval\]"):
        read_images(_yolo(tmp_path))


_VOC = """<annotation><filename>a.png</filename><object><name>red</name><difficult>0</difficult><bndbox><xmin>1</xmin>
<ymin>2</ymin><xmax>10</xmax><ymax>21</ymax></bndbox></object></annotation>"""


def _voc(folder: Path, text: str = _VOC) -> Path:
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / "a.xml").write_text(text)
    _image(folder / "JPEGImages" / "a.png")
    return folder


def test_voc_counts_pixels_from_1_and_includes_the_last(tmp_path: Path) -> None:
    data = read_images(_voc(tmp_path))
    assert data.classes == ("red",)
    assert data.labels == ((Label(0, (0.0, 1.0, 10.0, 20.0)),),)
    assert data.paths == (tmp_path / "JPEGImages" / "a.png",)


def test_voc_difficult_objects_are_ignored_and_wrong_names_are_found(tmp_path: Path) -> None:
    text = _VOC.replace("<difficult>0", "<difficult>1").replace("a.png", "/home/x/a.jpg")
    data = read_images(_voc(tmp_path, text))
    assert data.labels[0][0].is_ignored
    assert data.paths[0].name == "a.png"
    (tmp_path / "JPEGImages" / "a.png").unlink()
    with pytest.raises(SourceError, match=r"a\.jpg does not exist\. Give its folder with --images"):
        read_images(tmp_path)


def test_voc_splits_are_lists_of_names(tmp_path: Path) -> None:
    lists = _voc(tmp_path) / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("a\n")
    (lists / "red_test.txt").write_text("a  1\n")
    (lists / "gone.txt").write_text("a\nb\n")
    assert len(read_images(tmp_path, split="test").paths) == len(read_images(tmp_path, split="red_test").paths) == 1
    with pytest.raises(UsageError, match=r"--split val: .* has no val\.txt\. The splits there: gone, red_test, test"):
        read_images(tmp_path, split="val")
    with pytest.raises(SourceError, match=r"b\.xml does not exist"):
        read_images(tmp_path, split="gone")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_VOC.replace("<xmin>1</xmin>", ""), r"a\.xml is no VOC annotation: an object has no bndbox/xmin"),
        (_VOC.replace("<xmax>10", "<xmax>-5"), "the box 1, 2, -5, 21 is not"),
        (_VOC.replace("<xmax>10", "<xmax>inf"), "the box 1, 2, inf, 21 is not"),
        (_VOC.replace("<xmax>10", "<xmax>ten"), "could not convert"),
        ("<a\n<b", "line 2"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + _VOC, "entities"),
    ],
)
def test_wrong_voc_annotation_is_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_images(_voc(tmp_path, text))


def test_images_alone_have_no_labels_and_nothing_else_is_data(tmp_path: Path) -> None:
    _image(tmp_path / "b.png")
    _image(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("x")
    assert [path.name for path in read_images(tmp_path).paths] == ["a.png", "b.png"]
    assert read_images(tmp_path / "a.png").labels is None
    for path in (tmp_path / "notes.txt", tmp_path / "gone"):
        with pytest.raises(UsageError, match=r"Expected a COCO JSON file .*, YOLO's data\.yaml .*, a VOC folder"):
            read_images(path)


def test_classes_belong_together_by_name() -> None:
    assert match_classes(["red", "Blue"], ["green", "blue ", "RED"]) == {1: 1, 2: 0}
    notes = class_notes(["red", "blue"], ["green", "Red"])
    assert "do not count: blue." in notes[0]
    assert "do not count: green." in notes[1]
    assert class_notes(["red"], ["RED"]) == []
    assert "only the last counts: red." in class_notes(["red", "Red"], ["red"])[0]
    assert match_classes(["red", "Red"], ["red"]) == {0: 1}
    with pytest.raises(
        UsageError, match=r"No class of the labels \(red\) is one of the model's \(cat, .* and 2 more\)"
    ):
        match_classes(["red"], ["cat"] * 10)
