"""Train a published architecture on a VOC data set and export it: `train_detector.py yolo12n VOC -o FOLDER`.

Accuracy is measured on detectors that have learned something. No package carries a trained YOLOv8 or YOLO12 together
with labelled photographs, so `benchmarks/precision_table.py` uses networks that this command trains from random
weights: on two cores and 364 photographs of blood cells (BCCD, MIT licence, github.com/Shenggan/BCCD_Dataset) in about
half an hour. Ultralytics (AGPL-3.0) trains and exports, and needs polars for it (`pip install polars`); nothing that it
made is kept in this repository.

The folder that is written holds `model.onnx` (no NMS, open batch and image sizes), and VOC data: `trained-on/`, for
calibration, and `held-out/`, for measuring.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import torch
from calibrated import import_ultralytics


def main(arguments: list[str] | None = None) -> int:
    """Train, export, and copy the images; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="an architecture of Ultralytics, such as yolov8n or yolo12n")
    parser.add_argument("voc", type=Path, help="folder with Annotations, JPEGImages and ImageSets/Main")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder that is made")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    data = write_yolo(given.voc, given.output / "data")
    shutil.copy(train(given.network, data, given), given.output / "model.onnx")
    for title, name in (("trainval", "trained-on"), ("test", "held-out")):
        copy_part(given.voc, title, given.output / name)
    print(f"{given.output / 'model.onnx'}; labels: {given.output / 'held-out'}")
    return 0


def train(network: str, data: Path, given: argparse.Namespace) -> str:
    """Train `network` from random weights; return the path of its ONNX file."""
    ultralytics = import_ultralytics()
    # the trainer takes NMS alone of torchvision, whose CUDA build does not load beside torch's CPU build
    from ultralytics.utils.nms import TorchNMS

    substitute = types.ModuleType("torchvision")
    substitute.ops = types.SimpleNamespace(nms=TorchNMS.nms)  # type: ignore[attr-defined]
    sys.modules["torchvision"] = substitute
    model = ultralytics.YOLO(f"{network}.yaml")
    model.add_callback("on_train_start", lambda _trainer: torch.set_num_threads(given.threads))
    model.train(
        data=str(data), imgsz=given.imgsz, epochs=given.epochs, batch=16, optimizer="AdamW", lr0=2e-3, cos_lr=True,
        warmup_epochs=2, close_mosaic=10, project=str(given.output.absolute()), name="run", exist_ok=True, device="cpu",
        workers=0, plots=False, verbose=False, amp=False, cache="ram", seed=0, val=False,
    )  # fmt: skip
    trained = ultralytics.YOLO(given.output / "run" / "weights" / "last.pt")
    return str(trained.export(format="onnx", imgsz=given.imgsz, opset=17, dynamic=True, simplify=False))


def write_yolo(voc: Path, folder: Path) -> Path:
    """Write the training part of a VOC data set in YOLO's layout; return the path of its YAML file."""
    parts = {"train": part(voc, "trainval"), "val": part(voc, "test")}
    objects = {name: list(_objects(voc, name)) for names in parts.values() for name in names}
    classes = sorted({label for found in objects.values() for label, _ in found})
    for title, names in parts.items():
        for kind in ("images", "labels"):
            (folder / kind / title).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(voc / "JPEGImages" / f"{name}.jpg", folder / "images" / title)
            rows = [" ".join(map(str, (classes.index(label), *box))) for label, box in objects[name]]
            (folder / "labels" / title / f"{name}.txt").write_text("\n".join(rows) + "\n")
    lines = [f"path: {folder.absolute()}", "train: images/train", "val: images/val", "names:"]
    lines += [f"  {index}: {name}" for index, name in enumerate(classes)]
    path = folder / "data.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def copy_part(voc: Path, title: str, folder: Path) -> None:
    """Copy the images and labels of one part of a VOC data set."""
    for kind, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in part(voc, title):
            shutil.copy(voc / kind / f"{name}.{suffix}", folder / kind)


def part(voc: Path, title: str) -> list[str]:
    """Return the names of the images of one part of a VOC data set."""
    return (voc / "ImageSets" / "Main" / f"{title}.txt").read_text().split()


def _objects(voc: Path, name: str) -> list[tuple[str, tuple[float, ...]]]:
    """Return label and box (centre, width and height as shares of the image) of every object."""
    root = ElementTree.parse(voc / "Annotations" / f"{name}.xml").getroot()
    width, height = (float(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    found = []
    for item in root.iter("object"):
        left, top, right, bottom = (float(item.findtext(f"bndbox/{s}") or 0) for s in ("xmin", "ymin", "xmax", "ymax"))
        box = ((left - 1 + right) / 2 / width, (top - 1 + bottom) / 2 / height)
        found.append((item.findtext("name") or "", (*box, (right - left + 1) / width, (bottom - top + 1) / height)))
    return found


if __name__ == "__main__":
    sys.exit(main())
