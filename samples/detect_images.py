"""Detect objects in images: build an engine once, open it, hand it images.

    python samples/detect_images.py board1.jpg board2.jpg
    python samples/detect_images.py --model model.onnx photo.jpg

Without images it draws a circuit board. Without a model it uses the packaged one.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import cv2

import trtdeploy
from trtdeploy.scenes.circuit_boards import CircuitBoardScene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", help="image files")
    parser.add_argument("--model", type=Path, help="ONNX model")
    arguments = parser.parse_args()

    if arguments.images:
        images = {name: cv2.imread(name) for name in arguments.images}
        unreadable = [name for name, image in images.items() if image is None]
        if unreadable:
            parser.error(f"not images: {', '.join(unreadable)}")
    else:
        images = {"drawn board": CircuitBoardScene(seed=7).frame(0)[0]}

    packaged = as_file(files("trtdeploy.demo_data") / "circuit_boards.onnx")
    with tempfile.TemporaryDirectory() as folder, packaged as demo_model:
        report = trtdeploy.build(arguments.model or demo_model, Path(folder) / "model.engine")
        print(f"Engine for {report.info.backend}: {report.backend_reason}")
        with trtdeploy.open(report.path) as engine:
            for name, found in zip(images, engine.detect(list(images.values())), strict=True):
                print(f"{name}: {len(found)} objects")
                for box, score, index in zip(found.xyxy[:5], found.scores, found.classes, strict=False):
                    print(f"  {engine.info.class_name(index)} {score:.2f} at {box.round().astype(int).tolist()}")


if __name__ == "__main__":
    main()
