"""Leaves out the opsets that the installed ONNX Runtime is too old for: Python 3.10 gets 1.23, which ends at 23."""

from __future__ import annotations

from functools import cache

import onnxruntime as ort
import pytest
from onnx import TensorProto, helper


@pytest.fixture(autouse=True)
def _opset_is_known_to_onnx_runtime(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    opset = callspec.params.get("opset", 0) if callspec else 0
    runs_the_model = request.path.name != "test_load_model.py"
    if runs_the_model and opset > 17 and not _is_known(opset):
        pytest.skip(f"ONNX Runtime {ort.__version__} does not know opset {opset}")


@cache
def _is_known(opset: int) -> bool:
    """Return whether ONNX Runtime loads a model of this opset."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        if "onnx opset versions. Opset" not in str(error):
            raise
        return False
    return True
