"""Finish: stale metadata goes, and the last check finds an invalid model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.core.engine_info import METADATA_KEY
from trtdeploy.core.errors import ModelError
from trtdeploy.graph.finish import Finish


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
