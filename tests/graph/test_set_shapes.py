"""Shapes: fixed exports made dynamic, against torch at sizes the export never saw; dynamic ones fixed; refusals."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from graph_shapes_models import (
    AreaAttention,
    Attention,
    Position,
    SequenceAttention,
    SimAM,
    V5Like,
    V8Like,
    XLike,
    export,
)
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trtdeploy.core.errors import ShapeRefusedError
from trtdeploy.core.types import BatchRange, Size, SizeRange
from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.shapes import SetShapes, parse_batch, parse_dynamic, parse_imgsz
from trtdeploy.graph.shapes.grids import Grid

RANGE = parse_dynamic("96:160:320")
BATCHES = parse_batch("1:2:4")
NETS: dict[str, Any] = {
    "v8": V8Like,
    "v8-resized-to-the-other-map": lambda: V8Like("size"),
    "v8-attention": lambda: V8Like(gate=Attention()),
    "v5": V5Like,
    "yolox": XLike,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@functools.cache
def _exported(dynamic: bool) -> ir.Model:
    return export(V8Like(), dynamic=dynamic)


def _v8(dynamic: bool) -> ir.Model:
    """Return a model that the test may change, for tests that do not compare with torch."""
    return _exported(dynamic).clone()


def _session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)


def _images(batch: int, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(batch).random((batch, 3, height, width), np.float32)


def _assert_like_torch(model: ir.Model, net: Any, shapes: list[tuple[int, int, int]]) -> None:
    session = _session(model)
    for batch, height, width in shapes:
        images = _images(batch, height, width)
        with torch.no_grad():
            expected = net(torch.from_numpy(images)).numpy()
        (got,) = session.run(None, {"images": images})
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3, err_msg=f"at {batch}x3x{height}x{width}")


@pytest.mark.parametrize("name", NETS)
def test_a_fixed_export_becomes_dynamic_and_equals_torch_at_other_sizes(name: str) -> None:
    net = NETS[name]()
    shapes = SetShapes(RANGE, BATCHES)
    result = shapes.run(export(net))
    assert "exported with a fixed batch and image size, made dynamic" in result.report.changes
    assert str(result.model.graph.inputs[0].shape) == "[batch,3,height,width]"
    _assert_like_torch(result.model, net, [(1, 160, 224), (3, 96, 96), (2, 320, 128), (1, 128, 320)])


@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_every_opset_becomes_dynamic(opset: int) -> None:
    net = V8Like("size")
    result = SetShapes(RANGE, BATCHES).run(export(net, opset=opset))
    _assert_like_torch(result.model, net, [(2, 96, 128)])


@pytest.mark.parametrize(
    "gate",
    [Attention, AreaAttention, SimAM, SequenceAttention, lambda: Position(4, 6)],
    ids=["plain", "area", "simam", "sequence-first", "position"],
)
def test_a_fixed_batch_becomes_dynamic_for_every_attention(gate: Any) -> None:
    net = V8Like(gate=gate())
    result = SetShapes(None, BATCHES).run(export(net, (1, 128, 192)))
    _assert_like_torch(result.model, net, [(1, 128, 192), (4, 128, 192)])
    assert result.report.details["sizes"] == "128x192"


def test_a_batch_of_four_becomes_dynamic() -> None:
    net = V5Like()
    result = SetShapes(None, BATCHES).run(export(net, (4, 160, 224)))
    _assert_like_torch(result.model, net, [(1, 160, 224), (3, 160, 224)])


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            AreaAttention,
            r"Node '.*Reshape.*' \(Reshape\) reshapes .*is not certain\. The model was exported with the fixed",
        ),
        (SimAM, r"Node '.*Div.*' \(Div\) uses the constant 23, which may be a size"),
        (lambda: Position(4, 6), r"constant of shape \[1, 8, 4, 6\] made for the exported size"),
        (lambda: torch.nn.AvgPool2d((4, 6)), r"pools a whole map of the exported size, \[4, 6\]"),
    ],
    ids=["area-attention", "simam", "learned-position", "whole-map-pool"],
)
def test_a_size_that_is_not_certain_is_refused_with_the_node_and_the_way_out(gate: Any, message: str) -> None:
    model = export(V8Like(gate=_Pooled(gate()) if message.startswith("pools") else gate()), (1, 128, 192))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(ShapeRefusedError, match=message) as caught:
        SetShapes(RANGE).run(model)
    for hint in ("dynamic_axes={'images'", "dynamic=True", "--imgsz 128x192"):
        assert hint in str(caught.value)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


class _Pooled(torch.nn.Module):
    """Multiplies a map by its pooled self."""

    def __init__(self, pool: torch.nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.pool(x).sigmoid()


def test_a_dynamic_export_is_fixed_and_its_shapes_are_folded() -> None:
    net = V8Like()
    model = export(net, dynamic=True)
    result = SetShapes(parse_imgsz("96x128"), parse_batch("2")).run(model)
    assert list(result.model.graph.inputs[0].shape or []) == [2, 3, 96, 128]
    assert not [node for node in result.model.graph if node.op_type == "Shape"]
    assert list(result.model.graph.outputs[0].shape or []) == [2, 7, 96 * 128 * 21 // 1024]
    _assert_like_torch(result.model, net, [(2, 96, 128)])


def test_a_dynamic_export_keeps_a_range() -> None:
    net = V5Like()
    shapes = SetShapes(RANGE, BATCHES)
    result = shapes.run(export(net, dynamic=True))
    assert (shapes.sizes, shapes.batches, shapes.stride, shapes.input_name) == (RANGE, BATCHES, 32, "images")
    _assert_like_torch(result.model, net, [(3, 96, 96), (1, 320, 160)])


def test_sizes_are_rounded_up_to_the_stride_and_the_report_says_so() -> None:
    shapes = SetShapes(parse_dynamic("90:160:310"))
    report = shapes.run(_v8(dynamic=True)).report
    assert shapes.sizes == SizeRange(Size(96, 96), Size(160, 160), Size(320, 320))
    assert "min size 90 -> 96 (the stride is 32)" in report.changes
    assert "max size 310 -> 320 (the stride is 32)" in report.changes
    assert report.details["stride"] == 32


def test_without_options_the_models_own_shapes_stay() -> None:
    shapes = SetShapes()
    result = shapes.run(_v8(dynamic=False))
    assert (shapes.sizes, shapes.batches) == (SizeRange.fixed(Size(160, 224)), BatchRange(1, 1, 1))
    assert not result.modified


def test_without_options_an_open_model_is_fixed_at_its_metadata_or_640() -> None:
    model = _v8(dynamic=True)
    shapes = SetShapes(verify=False)
    report = shapes.run(model).report
    assert shapes.sizes == SizeRange.fixed(Size(640, 640))
    assert any("image size is open in the model; fixed at 640x640" in change for change in report.changes)
    model.metadata_props["imgsz"] = "[320, 416]"
    shapes.run(model)
    assert shapes.sizes == SizeRange.fixed(Size(320, 416))


def test_a_stated_stride_that_the_graph_contradicts_is_reported() -> None:
    model = _v8(dynamic=True)
    model.metadata_props["stride"] = "8"
    shapes = SetShapes(RANGE, verify=False)
    report = shapes.run(model).report
    assert shapes.stride == 32
    assert report.refusals == ("metadata say stride 8, the graph says 32; 32 is used",)


def test_a_model_that_only_claims_to_be_dynamic_is_refused() -> None:
    model = _v8(dynamic=False)
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, "height", "width"])
    with pytest.raises(ShapeRefusedError, match=r"does not run at .* although its input says it is dynamic"):
        SetShapes(RANGE).run(model)


def _with_input(dims: list[Any], dtype: int = TensorProto.FLOAT, *more: Any) -> ir.Model:
    image = helper.make_tensor_value_info("x", dtype, dims)
    out = helper.make_tensor_value_info("y", dtype, dims)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [image, *more], [out])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_with_input([1, 64, 64, 3]), r"'x' float\[1,64,64,3\] is channels-last \(NHWC\)"),
        (_with_input([1, 1, 64, 64]), r"has 1 channels\. Expected 3"),
        (_with_input([1, 4, 64, 64]), r"has 4 channels\. Expected 3"),
        (_with_input([1, 3, 64, 64], TensorProto.UINT8), "is not float32 or float16"),
        (_with_input([1, 64]), r"The model has 0 image inputs \(inputs: 'x' float\[1,64\]\)"),
        (
            _with_input(
                [1, 3, 64, 64],
                TensorProto.FLOAT,
                helper.make_tensor_value_info("x2", TensorProto.FLOAT, ["b", 3, 64, 64]),
            ),
            "has 2 image inputs",
        ),
        (
            _with_input(
                [1, 3, 64, 64], TensorProto.FLOAT, helper.make_tensor_value_info("prompt", TensorProto.INT64, [1, 77])
            ),
            r"second input, 'prompt' int64\[1,77\], whose meaning is not known",
        ),
    ],
    ids=["nhwc", "grey", "four-channels", "uint8", "no-image", "two-images", "prompt"],
)
def test_an_input_that_is_no_colour_image_is_refused(model: ir.Model, message: str) -> None:
    with pytest.raises(ShapeRefusedError, match=message):
        SetShapes().run(model)


def test_rt_detrs_second_input_becomes_the_canvas_size() -> None:
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])
    size = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["N", 2])
    out = helper.make_tensor_value_info("size", TensorProto.INT64, ["N", 2])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["orig_target_sizes"], ["size"])], "g", [image, size], [out]
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    result = SetShapes(RANGE, BATCHES).run(model)
    assert [value.name for value in result.model.graph.inputs] == ["images"]
    (got,) = _session(result.model).run(None, {"images": _images(2, 96, 160)})
    np.testing.assert_array_equal(got, [[160, 96], [160, 96]])


class _MixesImages(torch.nn.Module):
    """Takes the batch's mean off: every shape fits at any batch, and the result is wrong."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 0.5 * x.mean(0, keepdim=True)


def test_a_network_that_mixes_the_images_of_a_batch_is_refused() -> None:
    with pytest.raises(ShapeRefusedError, match=r"gives other outputs than the original at batch 3, image by image"):
        SetShapes(None, BATCHES).run(export(V8Like(gate=_MixesImages()), (1, 128, 192)))


def test_a_wrong_rewrite_is_caught_by_running_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Grid.emit

    def wrong(self: Grid, emit: Emitter, *args: Any) -> ir.Value:
        return emit.add(right(self, emit, *args), 1.0)

    monkeypatch.setattr(Grid, "emit", wrong)
    with pytest.raises(ShapeRefusedError, match=r"other outputs than the original at the exported shape 1x3x160x224"):
        SetShapes(RANGE, BATCHES).run(_v8(dynamic=False))


def test_a_half_precision_export_becomes_dynamic() -> None:
    net = V8Like()
    with torch.no_grad():
        expected = net(torch.from_numpy(_images(2, 96, 128))).numpy()
    result = SetShapes(RANGE, BATCHES).run(export(net.half(), dtype=torch.float16))
    (got,) = _session(result.model).run(None, {"images": _images(2, 96, 128).astype(np.float16)})
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, expected, rtol=2e-2, atol=0.3)
