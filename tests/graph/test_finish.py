"""Finish: metadata, the last check, and files that are whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.core.engine_info import METADATA_KEY, EngineInfo, NmsInfo, SourceInfo, TensorInfo, decode_info
from trtdeploy.core.errors import ModelError, SinkError
from trtdeploy.graph import finish
from trtdeploy.graph.finish import Finish, attach_info, save_model


def _model() -> ir.Model:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])
    weight = numpy_helper.from_array(np.arange(4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "net", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="pytorch")
    for key, value in {"stride": "32", "imgsz": "[640, 640]", "names": "{0: 'a'}", METADATA_KEY: "old"}.items():
        proto.metadata_props.add(key=key, value=value)
    return ir.from_proto(proto)


def _info() -> EngineInfo:
    tensor = TensorInfo(name="images", dtype="uint8", shape=["batch", 64, 64, 3])
    sizes: dict[str, Any] = {f"size_{name}": (64, 64) for name in ("min", "opt", "max")}
    sizes |= {f"batch_{name}": 1 for name in ("min", "opt", "max")}
    source = SourceInfo(name="m.onnx", sha256="0" * 64, opset=17)
    return EngineInfo(
        backend="onnxruntime", input_kind="canvas", inputs=[tensor], outputs=[tensor], stride=32, head="v8",
        nms=NmsInfo(method="none"), source=source, versions={"trtdeploy": "1.2"}, **sizes,
    )  # fmt: skip


def test_the_metadata_go_in_and_the_exporters_go_out() -> None:
    model = _model()
    attach_info(model, _info())
    proto = ir.to_proto(model)
    props = {entry.key: entry.value for entry in proto.metadata_props}
    assert props.keys() == {"names", METADATA_KEY}
    assert decode_info(props[METADATA_KEY], "x") == _info()
    assert (proto.producer_name, proto.producer_version) == ("trtdeploy", "1.2")


def test_finish_drops_what_is_stale_and_says_so() -> None:
    result = Finish().run(_model())
    assert result.report.changes == (
        "metadata of the exporter removed: imgsz, stride",
        "unused operator domain com.microsoft removed",
    )
    assert set(result.model.opset_imports) == {""}


def test_finish_finds_an_invalid_model() -> None:
    model = _model()
    next(iter(model.graph)).op_type = "Convolve"
    with pytest.raises(ModelError, match=r"The graph passes left an invalid model: .*Convolve"):
        Finish().run(model)


def test_a_saved_model_loads(tmp_path: Path) -> None:
    assert save_model(_model(), tmp_path / "x.engine") is None
    onnx.checker.check_model(onnx.load_from_string((tmp_path / "x.engine").read_bytes()))
    assert os.listdir(tmp_path) == ["x.engine"]


def test_large_weights_go_beside_and_old_ones_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MAX_EMBEDDED_BYTES", 100)
    monkeypatch.setattr(finish, "_EXTERNAL_FROM_BYTES", 16)
    path = tmp_path / "x.onnx"
    first, second = save_model(_model(), path), save_model(_model(), path)
    assert first is not None
    assert second is not None
    assert sorted(os.listdir(tmp_path)) == ["x.onnx", second.name]
    model = onnx.load(path)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]).ravel(), np.arange(108))


def test_a_model_with_mapped_weights_survives_being_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MAX_EMBEDDED_BYTES", 100)
    monkeypatch.setattr(finish, "_EXTERNAL_FROM_BYTES", 16)
    save_model(_model(), tmp_path / "x.onnx")
    model = ir.load(tmp_path / "x.onnx")
    save_model(model, tmp_path / "x.onnx")
    again = onnx.load(tmp_path / "x.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(again.graph.initializer[0]).ravel(), np.arange(108))


def test_a_full_disk_leaves_the_old_model_and_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MAX_EMBEDDED_BYTES", 100)
    monkeypatch.setattr(finish, "_EXTERNAL_FROM_BYTES", 16)
    save_model(_model(), tmp_path / "x.onnx")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match="No space left on device"):
        save_model(_model(), tmp_path / "x.onnx")
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
