"""Frames in: the letterbox in the graph against cv2 and `Letterbox`, the folded convolution against numpy."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from graph_shapes_models import V8Like, export
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.core.errors import ModelError
from trtdeploy.core.preprocess import PAD_VALUE, Letterbox, Preprocess
from trtdeploy.core.types import Size, SizeRange
from trtdeploy.graph.frames import FramesIn

CANVAS = Size(96, 160)
SIZES = [
    (240, 320),
    (241, 319),
    (96, 160),
    (48, 80),
    (192, 320),
    (1, 1),
    (1, 700),
    (1080, 1920),
    (2160, 3840),
    (33, 1023),
]
BOXES = np.array([[10, 20, 60.5, 70], [-5, -5, 500, 500], [40, 30, 41, 31], [0, 0, 0, 0]], np.float32)
CLASSES = np.array([0, 2, 1, -1], np.int32)


def _model(
    opset: int, nodes: list[Any], outputs: list[Any], weights: dict[str, Any], dtype: int = TensorProto.FLOAT
) -> ir.Model:
    image = helper.make_tensor_value_info("images", dtype, ["batch", 3, CANVAS.height, CANVAS.width])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", [image], outputs, tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


def _net(opset: int = 17) -> ir.Model:
    """Return the input as `seen`, and constant boxes for every image."""
    nodes = [
        helper.make_node("Identity", ["images"], ["seen"]),
        helper.make_node("ReduceMean", ["images"], ["zero4"], axes=[1, 2, 3], keepdims=1)
        if opset < 18
        else helper.make_node("ReduceMean", ["images", "axes"], ["zero4"], keepdims=1),
        helper.make_node("Reshape", ["zero4", "to3"], ["mean"]),
        helper.make_node("Mul", ["mean", "zero"], ["nil"]),
        helper.make_node("Add", ["nil", "some_boxes"], ["boxes"]),
        helper.make_node("Reshape", ["nil", "to2"], ["nil2"]),
        helper.make_node("Cast", ["nil2"], ["nil_int"], to=TensorProto.INT32),
        helper.make_node("Sub", ["some_classes", "nil_int"], ["classes"]),
    ]  # fmt: skip
    outputs = [
        helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["a", "b", "c", "d"]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 4, 4]),
        helper.make_tensor_value_info("classes", TensorProto.INT32, ["batch", 4]),
    ]
    weights: dict[str, Any] = {
        "to3": np.array([0, 1, 1]), "to2": np.array([0, 1]), "zero": np.float32(0), "some_boxes": BOXES[None],
        "some_classes": CLASSES[None],
    }  # fmt: skip
    if opset >= 18:
        weights["axes"] = np.array([1, 2, 3])
    return _model(opset, nodes, outputs, weights)


def _run(model: ir.Model, name: str, data: NDArray[Any]) -> dict[str, NDArray[Any]]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options)
    values = session.run(None, {name: data})
    return {output.name: value for output, value in zip(session.get_outputs(), values, strict=True)}


def _frame(height: int, width: int) -> NDArray[np.uint8]:
    """Return a frame with smooth parts, edges and noise."""
    rng = np.random.default_rng(height * 10007 + width)
    small = rng.integers(0, 256, (max(1, height // 16), max(1, width // 16), 3), np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(image, (width // 4, height // 4), (width // 2, height // 2), (255, 0, 40), -1)
    noise = rng.integers(0, 30, image.shape, np.uint8)
    return cv2.add(image, noise)


def _host(frame: NDArray[np.uint8], fit: Any) -> tuple[NDArray[np.uint8], Letterbox]:
    layout = Letterbox.of(Size(*frame.shape[:2]), CANVAS, fit)
    canvas = np.full((CANVAS.height, CANVAS.width, 3), PAD_VALUE, np.uint8)
    size = (layout.scaled.width, layout.scaled.height)
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    canvas[layout.top : layout.top + size[1], layout.left : layout.left + size[0]] = resized
    return canvas, layout


@pytest.mark.parametrize("fit", ["center", "top-left", "stretch"])
@pytest.mark.parametrize(("height", "width"), SIZES, ids=[f"{h}x{w}" for h, w in SIZES])
def test_the_graph_letterboxes_like_cv2_and_maps_boxes_back(height: int, width: int, fit: Any) -> None:
    preprocess = Preprocess(fit=fit, color="rgb")
    model = FramesIn("frames", preprocess, SizeRange.fixed(CANVAS)).run(_net()).model
    frame = _frame(height, width)
    got = _run(model, "frames", frame[None])
    canvas, layout = _host(frame, fit)
    expected = canvas[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    assert got["seen"].shape == expected.shape
    gap = np.abs(got["seen"] - expected)
    assert gap.max() <= 1.001 / 255
    assert (gap < 1e-6).mean() > 0.8, "grey levels are rounded as cv2 rounds them"
    boxes = layout.to_frame(BOXES.copy())
    boxes[CLASSES < 0] = 0
    assert np.abs(got["boxes"][0] - boxes).max() <= max(1e-3, 1e-6 * max(height, width))


def test_a_wrong_layout_would_be_seen() -> None:
    """Prove that the comparison can fail: the host's layout is moved by one pixel."""
    model = FramesIn("frames", Preprocess(), SizeRange.fixed(CANVAS)).run(_net()).model
    frame = _frame(241, 319)
    canvas, _ = _host(frame, "center")
    shifted = np.roll(canvas, 1, axis=1)[:, :, ::-1].transpose(2, 0, 1)[None] / 255
    assert np.abs(_run(model, "frames", frame[None])["seen"] - shifted).max() > 10 / 255


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21, 24])
@pytest.mark.parametrize("kind", ["canvas", "frames"])
def test_every_opset_gives_the_same_for_two_images(kind: Any, opset: int) -> None:
    model = FramesIn(kind, Preprocess(), SizeRange.fixed(CANVAS)).run(_net(opset)).model
    frames = np.stack([_host(_frame(120 + i, 200), "center")[0] for i in range(2)])
    got = _run(model, "images" if kind == "canvas" else "frames", frames)
    expected = frames[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_allclose(got["seen"], expected, atol=1e-6)
    assert got["boxes"].shape == (2, 4, 4)


def test_mean_and_std_are_taken_per_channel_in_the_networks_order() -> None:
    preprocess = Preprocess(color="bgr", divisor=1.0, mean=(103.5, 116.3, 123.7), std=(57.4, 57.1, 58.4))
    model = FramesIn("canvas", preprocess, SizeRange.fixed(CANVAS)).run(_net()).model
    canvas = _host(_frame(100, 100), "center")[0]
    got = _run(model, "images", canvas[None])["seen"][0]
    expected = (canvas.astype(np.float64) - preprocess.mean) / preprocess.std
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=1e-5)


def _conv_net(weights: dict[str, Any], extra: list[Any], dtype: int = TensorProto.FLOAT) -> ir.Model:
    conv = helper.make_node("Conv", ["images", "w"], ["out"], strides=[2, 2], pads=[1, 1, 1, 1])
    outputs = [helper.make_tensor_value_info("out", dtype, ["a", "b", "c", "d"])]
    outputs += [helper.make_tensor_value_info(node.output[0], dtype, ["e", "f", "g", "h"]) for node in extra]
    return _model(17, [conv, *extra], outputs, weights, dtype)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_a_first_convolution_takes_order_and_scale(color: Any) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    plain = _conv_net({"w": weight}, [])
    preprocess = Preprocess(color=color, std=(0.5, 0.25, 0.2))
    canvas = _host(_frame(90, 200), "center")[0]
    channels = canvas[:, :, ::-1] if color == "rgb" else canvas
    image = (channels / 255 / preprocess.std).transpose(2, 0, 1)[None].astype(np.float32)
    expected = _run(plain, "images", image)["out"]
    result = FramesIn("canvas", preprocess, SizeRange.fixed(CANVAS)).run(plain)
    assert result.report.details["folded"] is True
    assert [node.op_type for node in result.model.graph] == ["Cast", "Transpose", "Conv"]
    np.testing.assert_allclose(_run(result.model, "images", canvas[None])["out"], expected, rtol=1e-4, atol=1e-4)


def test_a_mean_is_not_folded_because_of_zero_padding() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    plain = _conv_net({"w": weight}, [])
    preprocess = Preprocess(mean=(0.4, 0.5, 0.6))
    canvas = _host(_frame(90, 200), "center")[0]
    image = (canvas[:, :, ::-1] / 255 - preprocess.mean).transpose(2, 0, 1)[None].astype(np.float32)
    expected = _run(plain, "images", image)["out"]
    result = FramesIn("canvas", preprocess, SizeRange.fixed(CANVAS)).run(plain)
    assert result.report.details["folded"] is False
    np.testing.assert_allclose(_run(result.model, "images", canvas[None])["out"], expected, rtol=1e-4, atol=1e-4)


def test_an_input_with_two_readers_is_not_folded() -> None:
    weight = np.ones((4, 3, 3, 3), np.float32)
    model = _conv_net({"w": weight}, [helper.make_node("Relu", ["images"], ["other"])])
    result = FramesIn("canvas", Preprocess(), SizeRange.fixed(CANVAS)).run(model)
    assert result.report.details["folded"] is False
    assert _run(result.model, "images", np.full((1, 96, 160, 3), 255, np.uint8))["other"].max() == pytest.approx(1)


def test_a_reader_of_the_shape_alone_does_not_hinder_folding() -> None:
    nodes = [helper.make_node("Conv", ["images", "w"], ["out"]), helper.make_node("Shape", ["images"], ["shape"])]
    outputs = [
        helper.make_tensor_value_info("out", TensorProto.FLOAT, ["a", "b", "c", "d"]),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [4]),
    ]
    model = _model(17, nodes, outputs, {"w": np.ones((4, 3, 3, 3), np.float32)})
    result = FramesIn("canvas", Preprocess(), SizeRange.fixed(CANVAS)).run(model)
    assert result.report.details["folded"] is True
    assert _run(result.model, "images", np.zeros((2, 96, 160, 3), np.uint8))["shape"].tolist() == [2, 3, 96, 160]


def test_a_weight_used_twice_keeps_its_other_use() -> None:
    weight = np.ones((4, 3, 3, 3), np.float32)
    model = _conv_net({"w": weight}, [helper.make_node("ReduceSum", ["w"], ["total"])])
    result = FramesIn("canvas", Preprocess(), SizeRange.fixed(CANVAS)).run(model)
    assert result.report.details["folded"] is True
    assert _run(result.model, "images", np.zeros((1, 96, 160, 3), np.uint8))["total"].item() == weight.sum()


def test_a_half_precision_input_is_cast() -> None:
    model = _conv_net({"w": np.ones((4, 3, 3, 3), np.float16)}, [], TensorProto.FLOAT16)
    result = FramesIn("canvas", Preprocess(), SizeRange.fixed(CANVAS)).run(model)
    assert _run(result.model, "images", np.full((1, 96, 160, 3), 255, np.uint8))["out"].max() == pytest.approx(27)


def test_raw_outputs_stay_in_network_pixels_and_the_report_says_so() -> None:
    model = _conv_net({"w": np.ones((4, 3, 3, 3), np.float32)}, [])
    report = FramesIn("frames", Preprocess(), SizeRange.fixed(CANVAS)).run(model).report
    assert report.refusals == ("the outputs are raw, so their boxes stay in network pixels, not in frame pixels",)


def test_an_output_named_like_the_new_input_is_refused() -> None:
    node = helper.make_node("Identity", ["images"], ["frames"])
    model = _model(17, [node], [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["a", "b", "c", "d"])], {})
    with pytest.raises(ModelError, match="output named 'frames'"):
        FramesIn("frames", Preprocess(), SizeRange.fixed(CANVAS)).run(model)


@pytest.mark.parametrize(
    ("height", "width"), [(240, 320), (241, 319), (721, 1281), (2160, 3840)], ids=["240x320", "odd", "odd-hd", "4k"]
)
def test_a_network_sees_the_same_boxes_through_the_graph_and_through_the_host(height: int, width: int) -> None:
    torch.manual_seed(0)
    net = export(V8Like(), (1, CANVAS.height, CANVAS.width))
    frame = _frame(height, width)
    sizes = SizeRange.fixed(CANVAS)
    graph = _run(FramesIn("frames", Preprocess(), sizes).run(net.clone()).model, "frames", frame[None])["output0"]
    host = _run(FramesIn("canvas", Preprocess(), sizes).run(net).model, "images", _host(frame, "center")[0][None])
    gap = np.abs(graph - host["output0"])
    assert gap[:, :4].max() < 0.5, "pixels of the canvas"
    assert gap[:, 4:].max() < 0.01, "scores"
    assert host["output0"][:, 4:].std() > 0.01, "the network does react to its input"
