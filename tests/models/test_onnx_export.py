"""The written ONNX file equals torch at any batch and size, and carries its metadata."""

from __future__ import annotations

import ast
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from trtdeploy.models.onnx_export import OPSET, verify_onnx, write_onnx
from trtdeploy.models.yolo import AttentionName, yolo_n

NAMES = ("pad", "joint", "it's")


@pytest.mark.parametrize("attention", [None, "cbam", "coordatt"], ids=str)
def test_the_file_equals_torch_at_odd_batches_and_sizes(tmp_path: Path, attention: AttentionName | None) -> None:
    torch.manual_seed(0)
    model = yolo_n(3, attention)
    path = tmp_path / "model.onnx"
    write_onnx(model, path, NAMES)
    assert verify_onnx(model, path, [(1, 32, 32), (3, 96, 160), (2, 224, 64)]) < 1e-4
    assert path.stat().st_size < 8_000_000


def test_names_axes_opset_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(yolo_n(3), path, NAMES, image_size=416)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("images", ["batch", 3, "height", "width"])
    assert (output.name, output.shape[:2]) == ("output0", ["batch", 7])
    metadata = session.get_modelmeta().custom_metadata_map
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(NAMES))
    assert (metadata["stride"], metadata["task"], metadata["imgsz"]) == ("32", "detect", "[416, 416]")
    assert [o.version for o in onnx.load(str(path)).opset_import if o.domain in ("", "ai.onnx")] == [OPSET]


def test_verification_notices_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = yolo_n(3)
    write_onnx(model, path, NAMES)
    torch.nn.init.constant_(model.heads[0].score_out.bias, -4.0)  # type: ignore[union-attr, arg-type]
    assert verify_onnx(model, path, [(1, 64, 64)]) > 1e-4


def test_writing_leaves_the_mode_alone(tmp_path: Path) -> None:
    model = yolo_n(3).train()
    write_onnx(model, tmp_path / "model.onnx", NAMES)
    assert model.training


def test_refuses_too_few_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 3 names for 4 classes"):
        write_onnx(yolo_n(4), tmp_path / "model.onnx", NAMES)
