"""New metadata in an ONNX engine: nothing else changes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.core.engine_info import EngineInfo, GateInfo, NmsInfo, SourceInfo, TensorInfo, encode_info
from trtdeploy.core.errors import EngineError
from trtdeploy.engine.sniff import read_info
from trtdeploy.engine.stamp import stamp

_TENSOR = TensorInfo(name="x", dtype="float32", shape=["B"])
INFO = EngineInfo(
    backend="onnxruntime", input_kind="canvas", inputs=[_TENSOR], outputs=[_TENSOR], batch_min=1, batch_opt=1,
    batch_max=4, size_min=(64, 64), size_opt=(64, 64), size_max=(64, 64), stride=32, head="yolov8",
    nms=NmsInfo(method="none"), source=SourceInfo(name="m.onnx", sha256="0" * 64, opset=17),
)  # fmt: skip


def write_engine(path: Path, **props: str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B"])
    weights = numpy_helper.from_array(np.random.default_rng(0).random(70_000).astype(np.float32), "w")
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("y", 1, ["B"])], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, props)
    path.write_bytes(model.SerializeToString())
    return model


@pytest.mark.parametrize("reason", ["short", "long " * 2000], ids=["short text", "long text"])
def test_only_our_entry_changes(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "x.engine"
    before = write_engine(path, author="somebody", trtdeploy=encode_info(INFO), stride="32")
    info = msgspec.structs.replace(INFO, gate=GateInfo(verdict="passed", reason=reason))
    stamp(path, info)
    assert read_info(path) == info
    after = onnx.load(path)
    assert {p.key: p.value for p in after.metadata_props} == {
        "author": "somebody", "trtdeploy": encode_info(info), "stride": "32",
    }  # fmt: skip
    assert after.graph == before.graph
    stamp(path, INFO)
    assert path.read_bytes() == before.SerializeToString()


def test_file_without_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    write_engine(path, author="somebody")
    data = path.read_bytes()
    with pytest.raises(EngineError, match=r"x\.engine: this is no ONNX engine of trtdeploy: it has no metadata"):
        stamp(path, INFO)
    path.write_bytes(data[:-3])
    with pytest.raises(EngineError, match="the engine is damaged: "):
        stamp(path, INFO)
    assert path.read_bytes() == data[:-3]
