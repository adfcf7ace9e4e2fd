"""Measure what FP32, FP16, INT8 and mixed INT8 do to detectors' accuracy, and what NVIDIA's builder makes of each.

    python benchmarks/precision_table.py                       # the packaged model on drawn boards
    python benchmarks/precision_table.py --trained work/yolo12n work/yolov8n

`--trained` takes folders that `benchmarks/train_detector.py` made. Accuracy is that of the graph which a GPU engine is
built of, run by the backend `emulated`: every FP16 tensor is rounded to half after each operator, INT8 is exact integer
arithmetic. Figures of the engine are what TensorRT-RTX's builder says on a CPU. No latency is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trtdeploy

ROOT = Path(__file__).parents[1]
DEMO = Path(trtdeploy.__file__).parent / "demo_data" / "circuit_boards.onnx"
MIB = 1 << 20
MAX_MAP_DROP = 0.005
FIGURES = (("all", "map50_95"), ("all", "map50"), ("small", "map50_95"))
BOARDS = (("data", 120, 5_000_000), ("calib", 64, 6_000_000))
"""Name, images and seed of the drawn sets; neither overlaps with training."""
HEADER = """# Accuracy and engines by precision

Written by `make precision-table TRAINED="work/yolov8n work/yolo12n"` with tensorrt-rtx {version}. mAP: COCO's, over the
held-out images, of the graph that the GPU engine is built of, run by the backend `emulated` (each FP16 tensor rounded
to half after every operator, products accumulated in FP32, INT8 in exact integers). Engine: what TensorRT-RTX's builder
says on a CPU for sm86, batch 1, NMS and letterbox inside: size of the plan, kernels, launches, peak of activations at
the largest frame. Nothing here was measured on a GPU, and fewer kernels or bytes are no latency.

FP16 and INT8 are what `--fp16` and `--int8 --calib DIR` give; mixed is `--int8 --max-map-drop {drop} --data DATA`,
searched on the calibration images with their labels, and measured on the others.

| model | images | precision | mAP50-95 | mAP50 | small | change | plan, MiB | kernels | launches | activations, MiB |
|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Subject:
    """A model, labelled images that it was not trained on, others for calibration and search, and its image size."""

    name: str
    model: Path
    data: Path
    calib: Path
    size: str


FOOTER = """
Reading it: mAP differences below about 0.005 are noise of 72 photographs (five small objects in all), below about
0.0025 noise of 120 boards. YOLOv8n and YOLO12n were trained from random weights by `benchmarks/train_detector.py
yolo12n BCCD -o work/yolo12n --epochs 60 --threads 1` on the 292 photographs of BCCD's trainval list, and measured on
its test list. Mixed engines keep FP16 where NVIDIA's builder makes more of INT8 than it saves, although the accuracy
would allow more: that is why they have fewer kernels than INT8."""


def main(arguments: list[str] | None = None) -> int:
    """Print the page; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", nargs="*", type=Path, default=[], help="folders of benchmarks/train_detector.py")
    given = parser.parse_args(arguments)
    print(HEADER.format(version=version("tensorrt-rtx"), drop=MAX_MAP_DROP), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for subject in [demo(folder), *(trained(path) for path in given.trained)]:
            for line in rows(subject, folder):
                print(line, flush=True)
    print(FOOTER)
    return 0


def demo(folder: Path) -> Subject:
    """Draw the boards for the packaged model."""
    for name, images, seed in BOARDS:
        sample = ROOT / "samples" / "labelled_boards.py"
        command = [sys.executable, str(sample), str(folder / name), "--images", str(images), "--seed", str(seed)]
        subprocess.run([*command, "--layout", "voc"], check=True, stdout=subprocess.DEVNULL)
    return Subject("circuit_boards (CoordAtt)", DEMO, folder / "data", folder / "calib", "384x640")


def trained(folder: Path) -> Subject:
    """Describe a network that `benchmarks/train_detector.py` trained."""
    return Subject(folder.name, folder / "model.onnx", folder / "held-out", folder / "trained-on", "320")


def rows(subject: Subject, folder: Path) -> list[str]:
    """Return a line of the table for each precision."""
    calibrated = ["--int8", "--calib", str(subject.calib), "--calib-images", "64"]
    mixed = [*calibrated, "--max-map-drop", str(MAX_MAP_DROP), "--data", str(subject.calib)]
    lines, before = [], 0.0
    for precision, options in (("FP32", []), ("FP16", ["--fp16"]), ("INT8", calibrated), ("INT8 mixed", mixed)):
        plan = build(subject, [*options, "--backend", "tensorrt-rtx", "--target", "sm86"], folder)
        # the same layers stay out of INT8 in the engine that is measured
        kept = [f"--keep={pattern}" for pattern in (plan["mixed"] or {"keep": ()})["keep"]]
        backend = "onnxruntime" if precision == "FP32" else "emulated"
        engine = build(subject, [*(calibrated if kept else options), *kept, "--backend", backend], folder)
        scores = run("val", "--engine", engine["engine"], "--data", str(subject.data))
        accuracy = scores["sizes"]["all"]["map50_95"]
        before = accuracy if precision == "FP32" else before
        lines.append(row(subject, named(precision, plan["mixed"]), scores, before, plan))
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def named(precision: str, mixed: dict[str, Any] | None) -> str:
    """Return the precision's name, for a mixed one with the number of blocks in INT8."""
    if mixed is None:
        return precision
    return f"{precision}, {len(mixed['int8_blocks'])} of {len(mixed['int8_blocks']) + len(mixed['blocks'])} blocks"


def build(subject: Subject, options: list[str], folder: Path) -> dict[str, Any]:
    """Build an engine and return what `build --json` says."""
    fixed = ["--imgsz", subject.size, "--conf", "0.001", "--gate", "off", "-o", str(folder / "x.engine"), "--force"]
    return run("build", str(subject.model), *options, *fixed)


def run(*arguments: str) -> dict[str, Any]:
    """Run a command of trtdeploy and return its document."""
    done = subprocess.run(
        [sys.executable, "-m", "trtdeploy", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"trtdeploy {' '.join(arguments)}: {done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def row(subject: Subject, precision: str, scores: dict[str, Any], before: float, plan: dict[str, Any]) -> str:
    """Return a line of the table."""
    facts = plan["info"]["plan"]
    cells = [
        subject.name,
        str(scores["images"]),
        precision,
        *(f"{scores['sizes'][size][key]:.4f}" for size, key in FIGURES),
        f"{scores['sizes']['all']['map50_95'] - before:+.4f}",
        f"{plan['size_bytes'] / MIB:.1f}",
        *(str(facts[figure]) for figure in ("kernels", "launches")),
        f"{facts['activation_bytes'] / MIB:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
