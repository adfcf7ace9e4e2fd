"""The accuracy gate on real architectures and real photographs: right engines pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest
from calibrated import export
from helmet_network import helmet_wrapper
from real_cases import CASES, SIZE
from real_photos import four_canvases, package_folder

import trtdeploy
from trtdeploy.api import BuildOptions, GateOptions
from trtdeploy.core.types import BatchRange, Precision, Size, SizeRange
from trtdeploy.engine.gate import GateReport
from trtdeploy.graph.head import NmsOptions

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return YOLOv12m, trained on helmets, with open batch and sizes."""
    return export(helmet_wrapper(), tmp_path_factory.mktemp("trained") / "helmets.onnx", SIZE, dynamic=True)


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("onnxruntime", Precision.FP32), ("openvino", Precision.FP16)],
    ids=["ONNX Runtime in FP32", "OpenVINO in FP16, or bf16 where the CPU has it"],
)
def test_a_trained_network_passes_on_photographs(
    backend: str, precision: Precision, trained: Path, tmp_path: Path
) -> None:
    photographs = package_folder("gradio_yolov8_det") / "img_examples"
    # No photograph is of helmets; at a low threshold the network finds enough on them all the same.
    report = gated(
        trained, tmp_path, photographs, backend=backend, precision=precision, nms=NmsOptions(conf=0.05),
        sizes=SizeRange.fixed(Size(480, 640)), batches=BatchRange(1, 1, 1),
    )  # fmt: skip
    assert len(report.images) == 6
    assert report.boxes >= 40
    assert report.largest["pixels"] < (0.001 if precision is Precision.FP32 else 0.75)


@pytest.mark.parametrize(
    ("name", "backend"), [("yolo11n", "onnxruntime"), ("yolo12n", "openvino"), ("yolo26n-end-to-end", "onnxruntime")]
)
def test_a_crowded_scene_passes_in_fp32(name: str, backend: str, tmp_path: Path) -> None:
    """Random weights calibrated on these photographs; YOLO26 has boxes without area among its own."""
    case = CASES[name](tmp_path)
    (tmp_path / "photographs").mkdir()
    for index, canvas in enumerate(four_canvases(SIZE)):
        cv2.imwrite(str(tmp_path / "photographs" / f"{index}.png"), canvas)
    report = gated(case.onnx, tmp_path, tmp_path / "photographs", backend=backend)
    assert report.boxes > 400
    assert report.largest["pixels"] < 0.1


def gated(model: Path, folder: Path, photographs: Path, **options: Any) -> GateReport:
    """Build with a gate that refuses, and return its report."""
    gate = GateOptions(mode="enforce", images=photographs)
    report = trtdeploy.build(model, folder / "x.engine", BuildOptions(gate=gate, **options))
    assert report.info.gate.verdict == "passed"
    assert report.gate is not None
    return report.gate
