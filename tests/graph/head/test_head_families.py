"""Every family of heads: recognised by its structure, decoded and suppressed as a naive reference does it."""

from __future__ import annotations

import greedy_reference as reference
import head_models as models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from trtdeploy.core.errors import HeadNotFoundError
from trtdeploy.graph.head import AppendHead, HeadOptions, NmsOptions

OPSETS = (11, 13, 17, 21, 24)
NMS = NmsOptions(conf=0.4, iou=0.5, max_det=40)


def images(batch, size=(64, 96), seed=3):
    return np.random.default_rng(seed).random((batch, 3, *size), dtype=np.float32)


def build(proto, nms=NMS, options=None, class_names=None):
    result = AppendHead(options, nms, class_names).run(models.load(proto))
    model = ir.to_proto(result.model)
    onnx.checker.check_model(model, full_check=True)
    return model, result.report


def assert_detections(model, inputs, boxes, scores, nms=NMS, suppress=True, multi_label=False):
    """Compare with the reference on decoded `[B, N, 4]` boxes and `[B, N, nc]` scores."""
    out = models.run(model, inputs)
    found = 0
    for image in range(len(inputs)):
        expected = reference.detect(
            boxes[image], scores[image], nms.conf, nms.iou, nms.max_det, suppress=suppress, multi_label=multi_label
        )
        assert out["num_dets"][image, 0] == expected[0]
        np.testing.assert_allclose(out["boxes"][image], expected[1], atol=2e-3)
        np.testing.assert_allclose(out["scores"][image], expected[2], atol=1e-6)
        np.testing.assert_array_equal(out["classes"][image], expected[3])
        found += expected[0]
    assert found > 0, "the case detects nothing and proves nothing"
    return out


def with_objectness(raw):
    return reference.xyxy_of(raw[..., :4]), raw[..., 4:5] * raw[..., 5:]


def yolox_decoded(raw, cells):
    stride = cells[None, :, 2:]
    xy = (raw[..., :2] + cells[None, :, :2]) * stride
    wh = np.exp(raw[..., 2:4]) * stride
    return np.concatenate([xy, wh, raw[..., 4:]], -1)


def decoded(kind, raw, net):
    """Return boxes xyxy and class scores of the raw output, written out naively."""
    if kind in {"yolov5", "yolox decoded"}:
        return with_objectness(raw)
    if kind == "yolox raw":
        return with_objectness(yolox_decoded(raw, net.cells()))
    if kind == "yolov8":
        raw = raw.transpose(0, 2, 1)
    boxes = reference.xyxy_of(raw[..., :4])
    if kind == "rtdetr":
        boxes = boxes * np.array([net.size[1], net.size[0]] * 2, np.float32)
    return boxes, raw[..., 4:]


BUILDERS = {
    "yolov5": models.yolov5,
    "yolov8": models.yolov8,
    "yolov8 transposed": lambda net: models.yolov8(net, transposed=True),
    "yolox decoded": models.yolox,
    "yolox raw": lambda net: models.yolox(net, decoded=False),
    "rtdetr": models.rtdetr,
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_head_is_recognised_and_detects_like_the_reference(kind, opset):
    net = models.Net(opset)
    proto = BUILDERS[kind](net)
    model, report = build(proto)
    assert report.details["head"] == kind.split()[0]
    assert report.details["num_classes"] == 7
    assert model.opset_import[0].version == opset
    for batch in (1, 4):
        inputs = images(batch)
        raw = next(iter(models.run(proto, inputs).values()))
        boxes, scores = decoded(kind, raw, net)
        assert_detections(model, inputs, boxes, scores, suppress=kind != "rtdetr")


def assert_rows(model, inputs, raw, boxes):
    """Compare with rows that the model has chosen itself, best first."""
    out = models.run(model, inputs)
    for image in range(len(inputs)):
        chosen = raw[image, :, 4] > np.float32(NMS.conf)
        rows, expected = raw[image][chosen][: NMS.max_det], boxes[image][chosen][: NMS.max_det]
        assert out["num_dets"][image, 0] == len(rows) > 0
        np.testing.assert_allclose(out["boxes"][image, : len(rows)], expected, atol=1e-3)
        np.testing.assert_array_equal(out["classes"][image, : len(rows)], rows[:, 5])
        np.testing.assert_array_equal(out["scores"][image, : len(rows)], rows[:, 4])


@pytest.mark.parametrize("kind", BUILDERS)
def test_multi_label_scores_every_pair_of_box_and_class(kind):
    net = models.Net()
    proto = BUILDERS[kind](net)
    nms = NmsOptions(conf=0.7, iou=0.5, max_det=200, multi_label=True)
    model, _ = build(proto, nms)
    inputs = images(2)
    boxes, scores = decoded(kind, next(iter(models.run(proto, inputs).values())), net)
    assert_detections(model, inputs, boxes, scores, nms, suppress=kind != "rtdetr", multi_label=True)


@pytest.mark.parametrize("opset", OPSETS)
def test_rows_of_normalised_centres_are_rtdetrs(opset):
    proto = models.rtdetr_rows(models.Net(opset))
    model, report = build(proto)
    assert report.details["head"] == "rtdetr"
    assert report.details["preprocess"]["fit"] == "stretch"
    inputs = images(4)
    (raw,) = models.run(proto, inputs).values()
    assert_rows(model, inputs, raw, reference.xyxy_of(raw[..., :4]) * np.array([96, 64, 96, 64], np.float32))


@pytest.mark.parametrize("opset", OPSETS)
def test_an_end_to_end_head_keeps_its_rows_above_the_threshold(opset):
    proto = models.yolov10(models.Net(opset))
    model, report = build(proto)
    assert report.details["head"] == "yolov10"
    assert report.details["num_classes"] == 7
    assert report.details["nms"]["method"] == "topk"
    inputs = images(4)
    (raw,) = models.run(proto, inputs).values()
    assert_rows(model, inputs, raw, raw[..., :4])


@pytest.mark.parametrize("opset", OPSETS)
def test_split_outputs_score_every_pair_of_query_and_class(opset):
    proto = models.rtdetr_split(models.Net(opset))
    model, report = build(proto)
    assert report.details["head"] == "rtdetr"
    assert report.details["preprocess"]["fit"] == "stretch"
    assert any("logits and go through a sigmoid" in change for change in report.changes)
    inputs = images(2)
    logits, boxes = models.run(proto, inputs).values()
    boxes = reference.xyxy_of(boxes) * np.array([96, 64, 96, 64], np.float32)
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert_detections(model, inputs, boxes, scores.astype(np.float32), suppress=False, multi_label=True)


def test_boxes_decoded_by_assignments_are_followed():
    proto = models.yolox_in_place(models.Net(batch=1))
    model, report = build(proto)
    assert report.details["head"] == "yolox"
    assert report.details["preprocess"]["color"] == "bgr"
    (raw,) = models.run(proto, images(1)).values()
    assert_detections(model, images(1), *with_objectness(raw))


def test_what_the_user_says_of_boxes_and_scores_wins():
    net = models.Net()
    low, high, strides, scores, _ = models.yolov8_boxes(net, 0, 7)
    logits = net.nodes[[n.output[0] for n in net.nodes].index(scores)].input[0]
    boxes = net.Div(net.Mul(net.Concat(low, high, axis=1), strides), np.array([96, 64, 96, 64], "f4").reshape(1, 4, 1))
    proto = net.proto(net.Concat(boxes, logits, axis=1))
    with pytest.raises(HeadNotFoundError):
        build(proto)
    options = HeadOptions.parse("yolov8,format=xyxy,normalized=true,activation=sigmoid")
    model, report = build(proto, options=options)
    assert any("As told, read with box_format xyxy, normalized True, activation sigmoid" in c for c in report.changes)
    raw = next(iter(models.run(proto, images(2)).values())).transpose(0, 2, 1)
    scores = (1 / (1 + np.exp(-raw[..., 4:].astype(np.float64)))).astype(np.float32)
    assert_detections(model, images(2), raw[..., :4] * np.array([96, 64, 96, 64], np.float32), scores)


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_same_image_in_every_slot_gives_the_same_detections(kind):
    model, _ = build(BUILDERS[kind](models.Net()))
    out = models.run(model, np.repeat(images(1), 4, axis=0))
    for name, value in out.items():
        for image in range(1, 4):
            np.testing.assert_array_equal(value[image], value[0], err_msg=name)


@pytest.mark.parametrize("kind", BUILDERS)
def test_outputs_have_fixed_shapes_and_the_batch_of_the_input(kind):
    for batch in ("batch", 4):
        model, _ = build(BUILDERS[kind](models.Net(batch=batch)))
        found = {
            o.name: (o.type.tensor_type.elem_type, [d.dim_value or d.dim_param for d in o.type.tensor_type.shape.dim])
            for o in model.graph.output
        }
        assert found == {
            "num_dets": (TensorProto.INT32, [batch, 1]),
            "boxes": (TensorProto.FLOAT, [batch, 40, 4]),
            "scores": (TensorProto.FLOAT, [batch, 40]),
            "classes": (TensorProto.INT32, [batch, 40]),
        }


CONFUSABLE = {
    "B-84-8400 v8": ("yolov8", [84, 8400], lambda net: models.yolov8(net, nc=80)),
    "B-8400-84 v8 transposed": ("yolov8", [8400, 84], lambda net: models.yolov8(net, nc=80, transposed=True)),
    "B-8400-84 YOLOX of 79": ("yolox", [8400, 84], lambda net: models.yolox(net, nc=79)),
    "B-8400-85 YOLOX decoded": ("yolox", [8400, 85], lambda net: models.yolox(net, nc=80)),
    "B-8400-85 YOLOX raw": ("yolox", [8400, 85], lambda net: models.yolox(net, nc=80, decoded=False)),
    "B-8400-85 v8 of 81": ("yolov8", [8400, 85], lambda net: models.yolov8(net, nc=81, transposed=True)),
    "B-25200-85 v5": ("yolov5", [25200, 85], lambda net: models.yolov5(net, nc=80)),
    "B-5-8400 v8 of one class": ("yolov8", [5, 8400], lambda net: models.yolov8(net, nc=1)),
    "B-25200-6 v5 of one class": ("yolov5", [25200, 6], lambda net: models.yolov5(net, nc=1)),
    "B-8400-6 YOLOX of one class": ("yolox", [8400, 6], lambda net: models.yolox(net, nc=1)),
    "B-6-8400 v8 of two classes": ("yolov8", [6, 8400], lambda net: models.yolov8(net, nc=2)),
    "B-8400-6 v8 of two classes": ("yolov8", [8400, 6], lambda net: models.yolov8(net, nc=2, transposed=True)),
    "B-20-6 RT-DETR of two classes": ("rtdetr", [20, 6], lambda net: models.rtdetr(net, nc=2)),
    "B-300-6 end to end": ("yolov10", [300, 6], lambda net: models.yolov10(net, nc=80, slots=300)),
}


@pytest.mark.parametrize("case", CONFUSABLE)
def test_heads_of_like_shape_are_told_apart_without_metadata(case):
    family, shape, builder = CONFUSABLE[case]
    proto = builder(models.Net(size=(640, 640), batch=1))
    assert [d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim][1:] == shape
    report = AppendHead(nms=NMS).run(models.load(proto)).report
    assert report.details["head"] == family


@pytest.mark.parametrize("kind", ["yolox raw", "rtdetr"])
def test_a_head_that_needs_the_input_size_follows_it_when_it_is_dynamic(kind):
    small, large = models.Net(size=(64, 96)), models.Net(size=(96, 160))
    reference_protos = [BUILDERS[kind](net) for net in (small, large)]
    dynamic = BUILDERS[kind](models.Net(size=(64, 96)))
    for dim, name in zip(dynamic.graph.input[0].type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
        dim.dim_param = name
    for output in dynamic.graph.output:
        output.type.tensor_type.ClearField("shape")
    del dynamic.graph.value_info[:]
    dynamic = onnx.shape_inference.infer_shapes(dynamic)
    model, report = build(dynamic)
    assert report.details["head"] == kind.split()[0]
    for net, proto in zip((small, large), reference_protos, strict=True):
        inputs = images(2, net.size)
        (raw,) = models.run(proto, inputs).values()
        boxes, scores = decoded(kind, raw, net)
        assert_detections(model, inputs, boxes, scores, suppress=kind != "rtdetr")


@pytest.mark.parametrize(
    ("builder", "family"),
    [
        (lambda: models.yolov5(models.Net(), extra_outputs=True), "yolov5"),
        (lambda: models.yolov8(models.Net(), extra_outputs=True), "yolov8"),
    ],
    ids=["v5 with raw features", "v8 with raw features"],
)
def test_outputs_that_are_no_detections_are_dropped_and_named(builder, family):
    proto = builder()
    model, report = build(proto)
    assert report.details["head"] == family
    assert len(model.graph.output) == 4
    (note,) = [change for change in report.changes if "are dropped" in change]
    for output in proto.graph.output[1:]:
        assert output.name in note
        assert not any(output.name == o.name for o in model.graph.output)


@pytest.mark.parametrize(
    ("builder", "classes", "metadata"),
    [
        (models.yolov8_segment, 3, {}),
        (models.yolov8_segment, 3, {"task": "segment", "names": models.names_of(3)}),
        (models.yolov8_pose, 1, {"task": "pose"}),
        (models.yolov8_pose, 1, {}),
    ],
    ids=["masks", "masks with metadata", "key points with metadata", "key points"],
)
def test_masks_and_key_points_are_reduced_to_boxes_and_said_so(builder, classes, metadata):
    net = models.Net()
    net.metadata = metadata
    proto = builder(net)
    model, report = build(proto)
    assert report.details["num_classes"] == classes
    assert any("the engine detects boxes only" in change for change in report.changes)
    inputs = images(2)
    raw = next(iter(models.run(proto, inputs).values())).transpose(0, 2, 1)
    assert_detections(model, inputs, reference.xyxy_of(raw[..., :4]), raw[..., 4 : 4 + classes])


@pytest.mark.parametrize("kind", BUILDERS)
def test_sixteen_bit_outputs_are_decoded_in_float32(kind):
    net = models.Net(dtype=np.float16)
    cast, net.number = models.Net.number, lambda value: net.const(np.array(value, np.float16))
    assert cast is not None
    proto = BUILDERS[kind](net)
    model, _ = build(proto)
    tail = [node for node in model.graph.node if node.name.startswith("trtdeploy_head")]
    assert tail[0].op_type == "Cast"
    assert helper.get_node_attr_value(tail[0], "to") == TensorProto.FLOAT
    inputs = images(2).astype(np.float16)
    raw = next(iter(models.run(proto, inputs).values())).astype(np.float32)
    boxes, scores = decoded(kind, raw, net)
    assert_detections(model, inputs, boxes, scores, suppress=kind != "rtdetr")


def test_weights_named_like_the_new_outputs_make_way():
    net = models.Net()
    proto = models.yolov8(net)
    raw = models.run(proto, images(1))
    for weight, name in zip(proto.graph.initializer, ("num_dets", "boxes", "scores", "classes"), strict=False):
        for node in proto.graph.node:
            node.input[:] = [name if i == weight.name else i for i in node.input]
        weight.name = name
    model, _ = build(proto)
    boxes, scores = decoded("yolov8", next(iter(raw.values())), net)
    assert_detections(model, images(1), boxes, scores)


def test_preprocessing_follows_the_family():
    expected = {
        "yolov5": ("center", "rgb", 255.0),
        "yolov8": ("center", "rgb", 255.0),
        "yolox raw": ("top-left", "bgr", 1.0),
        "yolox decoded": ("top-left", "bgr", 1.0),
        "rtdetr": ("stretch", "rgb", 255.0),
    }
    for kind, (fit, color, divisor) in expected.items():
        details = build(BUILDERS[kind](models.Net()))[1].details["preprocess"]
        assert (details["fit"], details["color"], details["divisor"]) == (fit, color, divisor), kind
    options = HeadOptions.parse("rtdetr,fit=center,mean=0.485/0.456/0.406,std=0.229/0.224/0.225")
    details = build(models.rtdetr(models.Net()), options=options)[1].details["preprocess"]
    assert details["fit"] == "center"
    assert details["mean"] == (0.485, 0.456, 0.406)


def test_a_wrong_stride_in_the_reference_would_be_noticed():
    net = models.Net()
    proto = models.yolox(net, decoded=False)
    model, _ = build(proto)
    inputs = images(1)
    (raw,) = models.run(proto, inputs).values()
    boxes, scores = decoded("yolox raw", raw, net)
    with pytest.raises(AssertionError):
        assert_detections(model, inputs, boxes * np.float32(1.01), scores)


class TestRefusals:
    def test_a_network_without_a_head_lists_its_outputs_and_the_option(self):
        net = models.Net()
        proto = net.proto(net.conv(10, 4), net.conv(1, 4))
        with pytest.raises(HeadNotFoundError, match=r"Conv_0_0 float\[batch,10,16,24\].*Conv_1_0.*--head boxes=NAME"):
            build(proto)

    def test_scores_that_are_logits_are_not_read_by_guessing(self):
        net = models.Net()
        proto = net.proto(net.Reshape(net.conv(11, 8), [0, 11, -1]))
        with pytest.raises(HeadNotFoundError, match="no output looks like a detector head"):
            build(proto)

    def test_two_heads_are_ambiguous(self):
        net = models.Net()
        low = models.yolov8_output(net, 7)
        proto = net.proto(low, models.yolov8_output(net, 3))
        with pytest.raises(HeadNotFoundError, match="more than one reading fits"):
            build(proto)

    def test_a_family_that_does_not_fit_is_refused(self):
        with pytest.raises(HeadNotFoundError, match="no output fits family=rtdetr"):
            build(models.yolov8(models.Net()), options=HeadOptions(family="rtdetr"))

    @pytest.mark.parametrize(
        ("task", "reason"), [("obb", "rotated boxes"), ("classify", "classifies whole images")], ids=["OBB", "classify"]
    )
    def test_tasks_that_are_no_boxes_are_refused(self, task, reason):
        net = models.Net()
        net.metadata = {"task": task}
        with pytest.raises(HeadNotFoundError, match=reason):
            build(models.yolov8(net))

    def test_the_angle_of_rotated_boxes_is_noticed_without_metadata(self):
        net = models.Net()
        with pytest.raises(HeadNotFoundError, match="no output looks like a detector head"):
            build(net.proto(models.yolov8_output(net, 3, extra=1)))

    def test_a_refusal_leaves_the_model_as_it_was(self):
        net = models.Net()
        model = models.load(net.proto(net.conv(10, 4)))
        before = ir.to_proto(model).SerializeToString(deterministic=True)
        with pytest.raises(HeadNotFoundError):
            AppendHead().run(model)
        assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_method_none_leaves_the_outputs_and_still_tells_the_family():
    proto = models.yolox(models.Net())
    result = AppendHead(nms=NmsOptions(method="none")).run(models.load(proto))
    assert not result.modified
    assert [o.name for o in result.model.graph.outputs] == [o.name for o in proto.graph.output]
    assert result.report.details["head"] == "yolox"
    assert result.report.details["nms"]["method"] == "none"
    net = models.Net()
    unknown = AppendHead(nms=NmsOptions(method="none")).run(models.load(net.proto(net.conv(10, 4))))
    assert unknown.report.details["head"] == "unknown"


@pytest.mark.parametrize("method", ["loop", "fixpoint", "topk"])
@pytest.mark.parametrize("batch", ["batch", 2], ids=["dynamic batch", "fixed batch"])
def test_openvino_detects_what_onnxruntime_detects(method, batch):
    openvino = pytest.importorskip("openvino")
    nms = NmsOptions(method=method, conf=0.4, iou=0.5, max_det=40)
    model, _ = build(models.yolov8(models.Net(batch=batch)), nms)
    hints = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", hints)
    found, expected = compiled(images(2)), models.run(model, images(2))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-3, err_msg=name)
    assert expected["num_dets"].min() > 0
