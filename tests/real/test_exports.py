"""Detectors of other packages, attention inserted, exported by trtdeploy and run in ONNX Runtime equal to torch."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from calibrated import as_input, calibrate, export, import_ultralytics
from real_photos import four_canvases, package_folder
from torch import nn
from torchvision_operators import import_torchvision

from trtdeploy.core.errors import ModelError
from trtdeploy.export.options import ExportOptions, Shape
from trtdeploy.export.write import export_model
from trtdeploy.models.insert import insert

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SIZE = 320
SEEDS = {"yolov9t.yaml": 3, "yolo12n.yaml": 1}
"""Seeds of networks that magnify rounding less than others, as in `real_cases`."""
YAMLS = [
    "yolov8n.yaml", "yolov9t.yaml", "yolov10n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml", "rtdetr-l.yaml",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Import Ultralytics, and keep to one thread: the images are small."""
    import_ultralytics()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("yaml", YAMLS)
def test_ultralytics_with_attention_equals_torch(tmp_path: Path, yaml: str) -> None:
    from trtdeploy.export.from_ultralytics import ultralytics_model, ultralytics_subject

    torch.manual_seed(SEEDS.get(yaml, 0))
    model = ultralytics_model(yaml)
    places = insert(model, "cbam", "backbone") + insert(model, "coordatt", "neck") + insert(model, "se", "head")
    photos = four_canvases(SIZE)[:2]
    if "rtdetr" not in yaml:
        calibrate(model, photos)
    options = ExportOptions()
    subject = replace(ultralytics_subject(model, options), inputs=_photos)
    report = export_model(subject, tmp_path / "m.onnx", options)
    assert set(places) <= {a.path for a in report.attention if a.node_count > 4}
    images = as_input(photos)
    with torch.no_grad():
        expected = model(images)[0].numpy()
    (got,) = _session(tmp_path / "m.onnx").run(None, {"images": images.numpy()})
    if expected.shape[2] == 6:  # rows in order of their scores
        np.testing.assert_allclose(got[..., 4], expected[..., 4], rtol=5e-3, atol=1e-4)
        return
    np.testing.assert_allclose(got[:, :4], expected[:, :4], atol=0.5)
    np.testing.assert_allclose(got[:, 4:], expected[:, 4:], atol=5e-3)


def _photos(shape: Shape, seed: int) -> tuple[torch.Tensor, ...]:
    """Return photos as the input of a shape: random networks calibrated on photos magnify rounding on noise."""
    canvases = four_canvases(SIZE)
    chosen = [cv2.resize(canvases[(seed + index) % 2], (shape[2], shape[1])) for index in range(shape[0])]
    return (as_input(np.stack(chosen)),)


def _with_cbam() -> Any:
    """YOLOv8n whose C2f blocks are a subclass with CBAM in its forward, calibrated on photos."""
    ultralytics = import_ultralytics()
    torch.manual_seed(0)
    wrapper = ultralytics.YOLO("yolov8n.yaml")
    for layer in wrapper.model.model:
        if type(layer).__name__ == "C2f":
            layer.__class__ = _c2f_cbam()
            layer.cbam = CBAM(layer.cv2.conv.out_channels)
    calibrate(wrapper.model, four_canvases(SIZE)[:2])
    return wrapper


class CBAM(nn.Module):
    """A user's own channel gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()


def _c2f_cbam() -> type[nn.Module]:
    from ultralytics.nn.modules import C2f

    class C2fCBAM(C2f):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cbam(super().forward(x))

    return C2fCBAM


def test_ultralytics_own_exporter_drops_attention_of_c2f_subclasses_and_ours_does_not(tmp_path: Path) -> None:
    from trtdeploy.export.from_ultralytics import ultralytics_subject

    wrapper = _with_cbam()
    images = as_input(four_canvases(SIZE)[:1])
    with torch.no_grad():
        expected = wrapper.model(images)[0].numpy()
    options = ExportOptions()
    report = export_model(ultralytics_subject(wrapper.model, options), tmp_path / "ours.onnx", options)
    assert collections.Counter(a.kind for a in report.attention) == {"CBAM": 8, "C2fCBAM": 8}
    (ours,) = _session(tmp_path / "ours.onnx").run(None, {"images": images.numpy()})
    theirs_path = export(wrapper, tmp_path / "theirs.onnx", SIZE)
    (theirs,) = _session(theirs_path).run(None, {"images": images.numpy()})
    assert _count(tmp_path / "ours.onnx", "ReduceMean", "GlobalAveragePool") == 8
    assert _count(theirs_path, "ReduceMean", "GlobalAveragePool") == 0
    assert np.abs(ours - expected).max() < 0.5
    assert np.abs(theirs - expected).max() > 10


def test_a_model_that_ultralytics_exporter_has_patched_is_refused_by_name(tmp_path: Path) -> None:
    from trtdeploy.export.from_ultralytics import ultralytics_subject

    model = _with_cbam().model
    for layer in model.modules():
        if type(layer).__name__ == "C2fCBAM":
            layer.forward = layer.forward_split
    options = ExportOptions()
    with pytest.raises(ModelError, match=r"Module model.2 \(C2fCBAM\): its forward was replaced by C2f.forward_split"):
        export_model(ultralytics_subject(model, options), tmp_path / "m.onnx", options)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_loaded_by_its_allow_list(tmp_path: Path) -> None:
    from trtdeploy.export.from_ultralytics import ultralytics_model

    wrapper = import_ultralytics().YOLO("yolo11n.yaml")
    insert(wrapper.model, "coordatt", ["backbone", "head"])
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save({"model": wrapper.model.half(), "ema": None, "epoch": 3}, good)
    model = ultralytics_model(str(good))
    assert sum(type(m).__name__ == "CoordAtt" for m in model.modules()) == 4
    assert next(model.parameters()).dtype == torch.float32
    torch.save({"model": wrapper.model, "hook": collections.UserDict()}, bad)
    with pytest.raises(ModelError, match=r"names collections\.UserDict, which is not on the list"):
        ultralytics_model(str(bad))


def test_a_published_checkpoint_names_nothing_that_is_not_on_the_list() -> None:
    from trtdeploy.export.from_ultralytics import ultralytics_model

    path = package_folder("helmet_detector_pkg") / "weights" / "best.pt"
    model = ultralytics_model(str(path))
    assert sum(type(m).__name__ == "AAttn" for m in model.modules()) == 8


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed; run `make test-real`")
def test_torchvision_faster_rcnn_with_attention_exports_and_runs(tmp_path: Path) -> None:
    import_torchvision()
    from trtdeploy.export.from_torchvision import torchvision_model, torchvision_subject

    torch.manual_seed(0)
    model = torchvision_model("fasterrcnn_resnet50_fpn", classes=4, min_size=160)
    model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = {"training": 60, "testing": 60}
    places = insert(model, "cbam", ["backbone", "neck"]) + insert(model, "coordatt", "head")
    assert len(places) == 1 + 4 + 5
    options = ExportOptions(shape=(1, 128, 160), check_shapes=((1, 160, 128), (1, 192, 160)))
    report = export_model(torchvision_subject(model, options), tmp_path / "m.onnx", options)
    assert {f"detector.{place}" for place in places} <= {a.path for a in report.attention if a.node_count > 4}
    images = as_input(four_canvases(SIZE)[:1])
    with torch.no_grad():
        expected = model([images[0]])[0]
    boxes, labels, scores = _session(tmp_path / "m.onnx").run(None, {"images": images.numpy()})
    assert len(boxes) > 10
    np.testing.assert_allclose(np.sort(scores), np.sort(expected["scores"].numpy()), atol=1e-4)
    assert collections.Counter(labels.tolist()) == collections.Counter(expected["labels"].tolist())
    gaps = np.abs(boxes[:, None] - expected["boxes"].numpy()[None]).max(-1).min(1)
    assert gaps.max() < 0.5


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _count(path: Path, *operators: str) -> int:
    return sum(node.op_type in operators for node in onnx.load(path).graph.node)
