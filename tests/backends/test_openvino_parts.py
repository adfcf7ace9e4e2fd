"""The cut of an OpenVINO model: where it falls, and that the parts in order equal the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import openvino as ov
import pytest
import tiny_detector as tiny
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.backends.fp16_storage import store_weights_as_fp16
from trtdeploy.backends.openvino_parts import IMAGES, Part, split

F32 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
OUTPUTS = ["num_dets", "boxes", "scores", "classes"]


def run(parts: list[Part], images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Run every part in FP32, so that nothing but the wiring can differ from the whole."""
    core, values = ov.Core(), {IMAGES: images}
    for part in parts:
        results = core.compile_model(part.model, "CPU", F32)([values[name] for name in part.inputs])
        values |= {name: results[port].copy() for port, name in enumerate(part.outputs)}
    return values


def whole(model: ov.Model, images: NDArray[Any]) -> list[NDArray[Any]]:
    results = ov.Core().compile_model(model, "CPU", F32)([images])
    return [results[port].copy() for port in range(len(model.outputs))]


def read(model: ir.Model, folder: Path) -> ov.Model:
    path = folder / "model.onnx"
    ir.save(model, path)
    return ov.Core().read_model(str(path))


def types(part: Part) -> list[str]:
    return [op.get_type_name() for op in part.model.get_ops()]


@pytest.mark.parametrize("fp16", [False, True], ids=["fp32 weights", "fp16 weights"])
@pytest.mark.parametrize("resampling", [False, True], ids=["canvas", "frames"])
def test_parts_in_order_equal_the_whole(resampling: bool, fp16: bool, tmp_path: Path) -> None:
    model = tiny.detector()
    if fp16:
        assert store_weights_as_fp16(model) > 0
    images = tiny.images(3, 2, 96, 160)
    want = whole(read(model, tmp_path), images)
    parts = split(read(model, tmp_path), OUTPUTS, resampling=resampling)
    assert [part.half for part in parts] == ([False] if resampling else []) + [True, False]
    got = run(parts, images)
    for name, value in zip(OUTPUTS, want, strict=True):
        np.testing.assert_allclose(got[name], value, atol=1e-4, err_msg=name)


def test_network_runs_in_16_bits_and_decoding_and_nms_do_not(tmp_path: Path) -> None:
    network, tail = split(read(tiny.detector(), tmp_path), OUTPUTS, resampling=False)
    assert types(network).count("Convolution") == 4
    assert "Softmax" not in types(network)
    assert types(tail).count("Convolution") == 1, "the mean of the boxes' distributions"
    assert {"Softmax", "TopK", "MatMul"} <= set(types(tail))
    assert network.inputs == [IMAGES]
    assert network.outputs == tail.inputs


def test_pixels_are_resampled_in_fp32(tmp_path: Path) -> None:
    first, network, _ = split(read(tiny.detector(), tmp_path), OUTPUTS, resampling=True)
    assert "Transpose" in types(first)
    assert "Convolution" not in types(first)
    assert types(network).count("Convolution") == 4


def test_graph_without_layers_stays_whole_and_fp32(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["y"])],
        "g",
        [value("images", TensorProto.FLOAT, [1, 8])],
        [value("y", TensorProto.FLOAT, [1, 8])],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    (part,) = split(read(model, tmp_path), ["y"], resampling=False)
    assert not part.half


def test_raw_outputs_and_an_output_that_depends_on_the_input_alone(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    weights = np.random.default_rng(0).normal(size=(16, 8, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["y"], kernel_shape=[3, 3]),
        helper.make_node("Shape", ["images"], ["s"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.FLOAT, ["B", 8, "H", "W"])],
        [value("y", TensorProto.FLOAT, ["B", 16, "h", "w"]), value("s", TensorProto.INT64, [4])],
        [numpy_helper.from_array(weights, "w")],
    )
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = ir.from_proto(proto)
    images = np.random.default_rng(1).normal(size=(2, 8, 9, 7)).astype(np.float32)
    want = whole(read(model, tmp_path), images)
    got = run(split(read(model, tmp_path), ["y", "s"], resampling=False), images)
    np.testing.assert_allclose(got["y"], want[0], atol=1e-5)
    np.testing.assert_array_equal(got["s"], [2, 8, 9, 7])
