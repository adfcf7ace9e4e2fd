"""FP16, INT8 and the search for what stays out of INT8 on a trained YOLOv12m with area attention and photographs.

The figures of docs/int8.md are what these tests print: `python -m pytest tests/real/test_real_precision.py -rP`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from calibrated import export
from helmet_network import helmet_wrapper
from real_photos import photo

import trtdeploy
from trtdeploy.api import BuildOptions, BuildReport, GateOptions
from trtdeploy.api.calibration import CalibrationOptions
from trtdeploy.api.compare import CompareOptions, compare
from trtdeploy.api.evaluate import detect_all
from trtdeploy.api.mixed_precision import MixedOptions, SearchOptions
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.types import BatchRange, Detections, Precision, Size, SizeRange
from trtdeploy.evaluate.compare import BoxReport
from trtdeploy.graph.head import NmsOptions

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SIZE = Size(384, 512)
CONF = 0.05
"""No photograph is of helmets; at a low threshold the network finds enough on them all the same."""
LIMIT = 0.05
AREA_ATTENTION = 8
"""Blocks of area attention in a YOLOv12m: four in each of two layers."""

Built = Callable[[str], BuildReport]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the photographs of people, and two parts of the street with most of them."""
    folder = tmp_path_factory.mktemp("photographs")
    street = photo("*Motorcyclists*")
    shown = [street, street[:400, :500], street[100:500, 400:1000], photo("bus*"), photo("Mill*"), photo("zidane*")]
    for index, image in enumerate(shown):
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return YOLOv12m, trained on helmets, with open batch and sizes."""
    return export(helmet_wrapper(), tmp_path_factory.mktemp("trained") / "helmets.onnx", 640, dynamic=True)


@pytest.fixture(scope="module")
def built(trained: Path, photographs: Path) -> Built:
    """Return a function from what was asked for to the report of its engine, each built once."""
    images, few = (CalibrationOptions(images=photographs, limit=limit) for limit in (6, 2))
    rtx = TensorRtOptions(targets=("sm86",))
    asked: dict[str, dict[str, Any]] = {
        "FP32": {"backend": "onnxruntime"},
        "FP16": {"backend": "emulated", "precision": Precision.FP16},
        "FP16 with measured ranges": {"backend": "emulated", "precision": Precision.FP16, "calibration": few},
        "INT8": {"backend": "emulated", "precision": Precision.INT8, "calibration": images},
        "FP16 by NVIDIA's builder": {"backend": "tensorrt-rtx", "precision": Precision.FP16, "tensorrt": rtx},
        "INT8 by NVIDIA's builder": {
            "backend": "tensorrt-rtx", "precision": Precision.INT8, "tensorrt": rtx, "calibration": few,
        },
    }  # fmt: skip

    @functools.cache
    def make(name: str) -> BuildReport:
        return trtdeploy.build(trained, trained.with_name(f"{name}.engine"), options_of(**asked[name]))

    return make


def options_of(size: Size = SIZE, conf: float = CONF, **options: Any) -> BuildOptions:
    return BuildOptions(
        sizes=SizeRange.fixed(size), batches=BatchRange(1, 1, 1), frames=False, nms=NmsOptions(conf=conf),
        gate=GateOptions(mode="off"), **options,
    )  # fmt: skip


def compared(built: Built, name: str, photographs: Path) -> BoxReport:
    report = compare(built("FP32").path, built(name).path, CompareOptions(images=photographs))
    assert report.boxes is not None
    boxes = report.boxes
    print(name, boxes.verdict, boxes.total, "IoU", boxes.iou, "score", boxes.score_difference)
    return boxes


def details_of(report: BuildReport, name: str) -> dict[str, Any]:
    """Return what the pass `name` of a build reports."""
    (found,) = (item for item in report.reports if item.name == name)
    return found.details


@pytest.mark.parametrize("name", ["FP16", "FP16 with measured ranges"])
def test_every_box_of_fp32_is_found_in_fp16(name: str, built: Built, photographs: Path) -> None:
    boxes = compared(built, name, photographs)
    assert boxes.verdict == "agree", boxes.failures
    assert boxes.total.found == boxes.total.boxes >= 40
    assert boxes.total.new_at_threshold + boxes.total.lost_at_threshold <= 2
    # Above 0, or nothing was rounded.
    assert 0 < boxes.score_difference["100"] < 0.005
    assert 0.98 < boxes.iou["0"] < 1


@pytest.mark.parametrize("name", ["FP16", "FP16 with measured ranges"])
def test_only_boxes_and_their_selection_stay_in_fp32(name: str, built: Built) -> None:
    """Nothing in this network comes near the range of FP16 on photographs, attention's scores included."""
    details = details_of(built(name), "fp16")
    assert details["fp16"] > 10 * details["fp32"]
    assert set(details["islands"]) == {"coordinates and selection"}


def test_int8_loses_no_clear_box(built: Built, photographs: Path) -> None:
    boxes = compared(built, "INT8", photographs)
    assert boxes.verdict == "agree", boxes.failures
    total = boxes.total
    assert (total.missing, total.relabelled) == (0, 0)
    assert total.boxes >= 30
    # INT8 is in it: it moves scores by more than FP16 does.
    assert boxes.score_difference["50"] > 0.002


def test_int8_keeps_area_attention_out_and_takes_the_rest(built: Built) -> None:
    report = built("INT8")
    layers = details_of(report, "int8")["layers"]
    kept = {entry["block"] for entry in layers if entry["reason"] == "attention block"}
    modules = {name: type(module).__name__ for name, module in helmet_wrapper().model.named_modules()}
    attention = {name for name, kind in modules.items() if kind == "ABlock"}
    assert len(attention) == AREA_ATTENTION
    assert kept == {name.split(".m.")[0] for name in attention}
    graph = Graph(report.path)
    assert len(graph.of_type("Softmax", inside="ScaledDotProduct")) == AREA_ATTENTION
    for softmax in graph.of_type("Softmax", inside="ScaledDotProduct"):
        projections = list(graph.behind(softmax, "Conv"))
        assert projections
        assert not any(map(graph.is_int8, projections))
    # Of as many layers, the weights are dequantised too; one pair may serve several readers.
    layers_in_int8 = [node for node in graph.of_type("Conv") if graph.is_int8(node)]
    assert len(layers_in_int8) == sum(entry["int8"] for entry in layers) == 74
    pairs = len(graph.of_type("QuantizeLinear"))
    assert 70 <= pairs <= details_of(report, "int8")["tensors"]
    assert len(graph.of_type("DequantizeLinear")) == pairs + len(layers_in_int8)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform")
def test_nvidias_builder_takes_fp16_and_int8_and_fuses_the_attention_of_both(built: Built) -> None:
    fp16, int8 = (built(f"{precision} by NVIDIA's builder").info.plan for precision in ("FP16", "INT8"))
    assert fp16 is not None
    assert int8 is not None
    for plan, precision in ((fp16, "FP16"), (int8, "INT8")):
        size = built(f"{precision} by NVIDIA's builder").path.stat().st_size
        print(precision, f"{plan.kernels} kernels, {plan.launches} launches, {plan.mha} fused attention,", end=" ")
        print(", ".join(f"{b / 2**20:.1f} MiB" for b in (plan.activation_bytes, plan.weights_bytes, size)))
    assert fp16.mha == int8.mha == AREA_ATTENTION
    assert fp16.launches < int8.launches < 1.5 * fp16.launches
    assert int8.weights_bytes < 0.75 * fp16.weights_bytes
    assert int8.activation_bytes < 1.2 * fp16.activation_bytes


def test_a_search_without_labels_saves_an_int8_that_loses_most_boxes(
    trained: Path, photographs: Path, tmp_path: Path
) -> None:
    """Ranges that cut off two percent of all numbers spoil some layers; the others stay in INT8."""
    small = {"size": Size(320, 320), "conf": 0.05}
    search = SearchOptions(max_drop=LIMIT, budget=5, images=1)
    options = options_of(
        **small, backend="emulated", precision=Precision.INT8, mixed=MixedOptions(search=search),
        calibration=CalibrationOptions(images=photographs, method="percentile:98"),
    )  # fmt: skip
    report = trtdeploy.build(trained, tmp_path / "mixed.engine", options)
    plan = report.mixed
    assert plan is not None
    print("\n".join([*plan.lines(), *plan.log]))
    assert plan.outcome == "mixed"
    assert plan.int8.value < 0.5
    assert plan.drop <= LIMIT
    assert 1 <= len(plan.int8_blocks) < len(plan.blocks) + len(plan.int8_blocks)
    assert any("no labels" in warning for warning in plan.warnings)
    assert 0 < details_of(report, "int8")["int8"] < 74
    # Measured again on the engine itself, by another count of the boxes.
    fp32 = trtdeploy.build(trained, tmp_path / "fp32.engine", options_of(**small, backend="onnxruntime"))
    paths = sorted(photographs.glob("*.png"))
    expected, found = (detect_all(path, paths) for path in (fp32.path, report.path))
    clear = [(one, other) for e, f in zip(expected, found, strict=True) for one, other in overlaps(e, f, 0.05 + 0.05)]
    assert len(clear) >= 10
    assert np.mean([other >= 0.5 for _, other in clear]) >= 1 - LIMIT


def overlaps(expected: Detections, found: Detections, score: float) -> Iterator[tuple[float, float]]:
    """Yield the score of each box above `score`, and its largest IoU with a box of the same class in `found`."""
    for box, value, label in zip(expected.xyxy, expected.scores, expected.classes, strict=True):
        if value <= score:
            continue
        others = found.xyxy[found.classes == label]
        inside = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None).prod(axis=1)
        areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
        yield float(value), float((inside / (areas - inside)).max(initial=0))


class Graph:
    """The nodes of an engine that is an ONNX file, and what they read."""

    def __init__(self, path: Path) -> None:
        self._nodes = list(onnx.load(path).graph.node)
        self._producer = {name: node for node in self._nodes for name in node.output}

    def of_type(self, op_type: str, inside: str = "") -> list[onnx.NodeProto]:
        return [node for node in self._nodes if node.op_type == op_type and inside in node.name]

    def behind(self, node: onnx.NodeProto, op_type: str) -> Iterator[onnx.NodeProto]:
        """Yield the nearest nodes of a type that `node` is computed from."""
        seen, left = set(), list(node.input)
        while left:
            name = left.pop()
            source = self._producer.get(name)
            if source is None or name in seen:
                continue
            seen.add(name)
            if source.op_type == op_type:
                yield source
            else:
                left += source.input

    def is_int8(self, layer: onnx.NodeProto) -> bool:
        """Return whether a layer's weights are dequantised."""
        source = self._producer.get(layer.input[1])
        while source is not None and source.op_type == "Cast":
            source = self._producer.get(source.input[0])
        return source is not None and source.op_type == "DequantizeLinear"
