"""Models that carry their own NMS, and heads whose tensors the user names."""

from __future__ import annotations

import greedy_reference as reference
import head_models as models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from trtdeploy.core.errors import HeadNotFoundError, UsageError
from trtdeploy.graph.head import AppendHead, HeadOptions, NmsOptions

NMS = NmsOptions(conf=0.4, iou=0.5, max_det=40)
INPUTS = np.random.default_rng(3).random((3, 3, 64, 96), dtype=np.float32)


def build(proto, nms=NMS, options=None):
    result = AppendHead(options, nms).run(models.load(proto))
    model = ir.to_proto(result.model)
    onnx.checker.check_model(model, full_check=True)
    return model, result.report


def assert_detections(model, boxes, scores, **options):
    out = models.run(model, INPUTS[: len(boxes)])
    for image in range(len(boxes)):
        expected = reference.detect(boxes[image], scores[image], NMS.conf, NMS.iou, NMS.max_det, **options)
        assert out["num_dets"][image, 0] == expected[0] > 0
        np.testing.assert_allclose(out["boxes"][image], expected[1], atol=2e-3)
        np.testing.assert_allclose(out["scores"][image], expected[2], atol=1e-6)
        np.testing.assert_array_equal(out["classes"][image], expected[3])


def raw_of(net_of, names=("boxes", "scores")):
    """Run the same network up to its boxes and scores."""
    net = models.Net()
    return models.run(net.proto(*net_of(net)), INPUTS).values()


def corners(net):
    return models.corner_boxes_and_scores(net, 7)


def non_max_suppression(producer, swap=False, opset=17):
    net = models.Net(opset)
    boxes, scores = corners(net)
    seen = net.Gather(boxes, [1, 0, 3, 2], axis=2) if swap else boxes
    per_class = net.Transpose(scores, perm=[0, 2, 1])
    limit, iou, conf = net.const(np.array([50])), net.number([0.6]), net.number([0.1])
    selected = net.NonMaxSuppression(seen, per_class, limit, iou, conf)
    proto = net.proto((selected, TensorProto.INT64))
    proto.producer_name = producer
    return proto


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 24])
def test_a_non_max_suppression_node_is_replaced_by_nms_of_fixed_size(opset):
    model, report = build(non_max_suppression("pytorch", opset=opset))
    assert report.details["head"] == "nms"
    assert report.details["nms"]["method"] == "loop"
    assert not any(node.op_type == "NonMaxSuppression" for node in model.graph.node)
    assert_detections(model, *raw_of(corners))


def test_the_corner_order_of_a_non_max_suppression_node_follows_its_exporter_or_the_option():
    boxes, scores = raw_of(corners)
    for producer, options in (("tf2onnx", None), ("unknown", HeadOptions.parse("nms,format=yxyx"))):
        model, _ = build(non_max_suppression(producer, swap=True), options=options)
        assert_detections(model, boxes, scores)
    with pytest.raises(HeadNotFoundError, match=r"xyxy or yxyx.*--head nms,format=xyxy"):
        build(non_max_suppression("unknown"))


def test_a_non_max_suppression_node_that_sees_selected_boxes_is_refused():
    net = models.Net()
    boxes, scores = corners(net)
    _, index = net.TopK(net.reduce_max(scores, 2), [30], axis=1, outputs=2)
    rows = net.unsqueeze(index, 2)
    boxes = net.GatherElements(boxes, net.Expand(rows, [1, 1, 4]), axis=1)
    per_class = net.Transpose(net.GatherElements(scores, net.Expand(rows, [1, 1, 7]), axis=1), perm=[0, 2, 1])
    limits = net.const(np.array([50])), net.number([0.6]), net.number([0.1])
    proto = net.proto((net.NonMaxSuppression(boxes, per_class, *limits), TensorProto.INT64))
    with pytest.raises(HeadNotFoundError, match=r"TopK has selected or shifted before.*--head boxes=NAME"):
        build(proto)


def rows_with_own_nms(slots=60, extra=0):
    """`[1, slots, 6 + extra]`: selected rows of box, score, class, padded with zeros, as exporters write them."""
    net = models.Net(batch=1)
    boxes, scores = corners(net)
    label = net.ArgMax(scores, axis=2, keepdims=1)
    best = net.reduce_max(scores, 2)
    limits = net.const(np.array([slots])), net.number([0.5]), net.number([0.45])
    selected = net.NonMaxSuppression(boxes, net.unsqueeze(best, 1), *limits)
    chosen = net.Gather(selected, net.const(np.array(2)), axis=1)
    columns = [net.Gather(boxes, chosen, axis=1), net.Gather(net.unsqueeze(best, 2), chosen, axis=1)]
    columns.append(net.Cast(net.Gather(label, chosen, axis=1), to=TensorProto.FLOAT))
    columns += [net.Gather(net.slice(boxes, 0, extra, 2), chosen, axis=1)] if extra else []
    rows = net.Reshape(net.Concat(*columns, axis=-1), [-1])
    missing = net.Sub(net.const(np.array([slots * (6 + extra)])), net.Shape(rows))
    padded = net.Pad(rows, net.Concat(net.const(np.array([0])), missing, axis=0))
    return net.proto(net.Reshape(padded, [1, slots, 6 + extra]))


@pytest.mark.parametrize("extra", [0, 3], ids=["boxes only", "with further columns"])
def test_rows_of_a_model_with_its_own_nms_pass_above_the_threshold(extra):
    proto = rows_with_own_nms(extra=extra)
    model, report = build(proto, NmsOptions(conf=0.7, max_det=80))
    assert report.details["head"] == "nms"
    assert report.details["nms"]["method"] == "model"
    assert any("further columns" in change for change in report.changes) == bool(extra)
    (raw,) = models.run(proto, INPUTS[:1]).values()
    rows = raw[0][raw[0, :, 4] > np.float32(0.7)]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    out = models.run(model, INPUTS[:1])
    assert out["num_dets"][0, 0] == len(rows) > 5
    np.testing.assert_allclose(out["boxes"][0, : len(rows)], rows[:, :4], atol=1e-4)
    np.testing.assert_array_equal(out["classes"][0, : len(rows)], rows[:, 5])
    assert (out["classes"][0, len(rows) :] == -1).all()


def efficient_nms(box_coding, activate):
    net = models.Net()
    if box_coding:
        raw = net.Transpose(models.yolov8_output(net, 7), perm=[0, 2, 1])
        boxes, scores = net.slice(raw, 0, 4, 2), net.slice(raw, 4, 11, 2)
    else:
        boxes, scores = corners(net)
    if activate:
        scores = net.Log(net.Div(scores, net.Sub(net.number(1), scores)))
    proto = net.proto(boxes, scores)
    names = ("num_dets", "boxes", "scores", "classes")
    node = helper.make_node("EfficientNMS_TRT", [boxes, scores], names, name="nms", domain="TRT")
    node.attribute.extend(
        helper.make_attribute(k, v)
        for k, v in {"box_coding": box_coding, "score_activation": activate, "iou_threshold": 0.6}.items()
    )
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("TRT", 1))
    del proto.graph.output[:]
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    for name, kind, shape in zip(names, kinds, ([1], [100, 4], [100], [100]), strict=True):
        proto.graph.output.append(helper.make_tensor_value_info(name, kind, ["batch", *shape]))
    return proto


@pytest.mark.parametrize("box_coding", [0, 1], ids=["corners", "centres"])
@pytest.mark.parametrize("activate", [0, 1], ids=["scores", "logits"])
def test_efficient_nms_is_replaced_so_that_the_model_runs_anywhere(box_coding, activate):
    model, report = build(efficient_nms(box_coding, activate))
    assert report.details["head"] == "nms"
    assert {node.domain for node in model.graph.node} == {""}
    if box_coding:
        net = models.Net()
        (raw,) = models.run(net.proto(models.yolov8_output(net, 7)), INPUTS).values()
        boxes, scores = reference.xyxy_of(raw.transpose(0, 2, 1)[..., :4]), raw.transpose(0, 2, 1)[..., 4:]
    else:
        boxes, scores = raw_of(corners)
    assert_detections(model, boxes, scores)


def test_four_fixed_outputs_pass_through_whatever_their_names():
    """A model with our own tail is such a model: appended twice, the detections stay."""
    once, _ = build(models.yolov8(models.Net()), NmsOptions(conf=0.3, iou=0.5, max_det=60))
    again = onnx.ModelProto()
    again.CopyFrom(once)
    for output in again.graph.output:
        old, output.name = output.name, f"result_{output.name}"
        for node in again.graph.node:
            node.output[:] = [output.name if name == old else name for name in node.output]
            node.input[:] = [output.name if name == old else name for name in node.input]
    again = onnx.shape_inference.infer_shapes(again)
    model, report = build(again, NmsOptions(conf=0.3, max_det=80))
    assert report.details["head"] == "nms"
    assert report.details["nms"]["method"] == "model"
    assert any("its own IoU threshold" in change for change in report.changes)
    first, second = models.run(once, INPUTS), models.run(model, INPUTS)
    np.testing.assert_array_equal(second["num_dets"], first["num_dets"])
    assert first["num_dets"].min() > 0
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(second[name][:, :60], first[name])
    assert (second["classes"][:, 60:] == -1).all()


class TestExplicit:
    def test_named_outputs_are_decoded_as_told(self):
        net = models.Net()
        boxes, scores = corners(net)
        proto = net.proto(boxes, scores)
        options = HeadOptions.parse(f"boxes={boxes},scores={scores},format=xyxy")
        model, report = build(proto, options=options)
        assert report.details["head"] == "explicit"
        assert any("read as xyxy in pixels" in change for change in report.changes)
        assert_detections(model, *raw_of(corners))

    def test_the_corner_format_is_proved_from_a_point_minus_and_plus_a_distance(self):
        net = models.Net()
        boxes, scores = corners(net)
        model, _ = build(net.proto(boxes, scores), options=HeadOptions(boxes=boxes, scores=scores))
        assert_detections(model, *raw_of(corners))

    def test_a_format_that_cannot_be_proved_is_asked_for(self):
        net = models.Net()
        boxes, scores = net.Reshape(net.conv(4, 8), [0, 4, -1]), net.Reshape(net.Sigmoid(net.conv(7, 8)), [0, 7, -1])
        with pytest.raises(UsageError, match=r"format of the boxes .* cannot be told.*format=xyxy"):
            build(net.proto(boxes, scores), options=HeadOptions(boxes=boxes, scores=scores))

    @pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
    def test_logits_need_their_activation_named(self, activation):
        net = models.Net(opset=11 if activation == "softmax" else 17)
        boxes, logits = corners(net)[0], net.Transpose(net.Reshape(net.conv(6, 8), [0, 6, -1]), perm=[0, 2, 1])
        boxes = net.slice(boxes, 0, 96, 1)
        proto = net.proto(boxes, logits)
        named = {"boxes": boxes, "scores": logits, "format": "xyxy"}
        with pytest.raises(UsageError, match=r"may be logits.*activation=sigmoid"):
            build(proto, options=HeadOptions(**named))
        model, _ = build(proto, options=HeadOptions(**named, activation=activation))
        raw_boxes, raw = models.run(proto, INPUTS).values()
        if activation == "sigmoid":
            scores = 1 / (1 + np.exp(-raw.astype(np.float64)))
        else:
            scores = np.exp(raw.astype(np.float64)) / np.exp(raw.astype(np.float64)).sum(2, keepdims=True)
        assert_detections(model, raw_boxes, scores.astype(np.float32))

    def test_objectness_multiplies_and_inner_tensors_may_be_named(self):
        net = models.Net()
        raw = net.Transpose(models.yolov8_output(net, 7), perm=[0, 2, 1])
        boxes, objectness, scores = net.slice(raw, 0, 4, 2), net.slice(raw, 4, 5, 2), net.slice(raw, 5, 11, 2)
        proto = net.proto(net.Concat(scores, boxes, objectness, axis=2))
        options = HeadOptions(boxes=boxes, scores=scores, objectness=objectness, format="cxcywh", normalized=False)
        nms = NmsOptions(conf=0.4, iou=0.5, max_det=40)
        model, _ = build(proto, nms, options)
        (table,) = models.run(proto, INPUTS).values()
        assert_detections(model, reference.xyxy_of(table[..., 6:10]), table[..., 10:] * table[..., :6])

    def test_classes_may_be_chosen_already(self):
        net = models.Net()
        boxes, scores = corners(net)
        best, label = net.reduce_max(scores, 2), net.ArgMax(scores, axis=2, keepdims=0)
        proto = net.proto(boxes, best, (label, TensorProto.INT64))
        model, report = build(proto, options=HeadOptions(boxes=boxes, scores=best, classes=label, format="xyxy"))
        assert report.details["num_classes"] is None
        assert_detections(model, *raw_of(corners))

    @pytest.mark.parametrize(
        ("named", "message"),
        [
            ({"boxes": "nothing"}, r"'nothing' for boxes is not in the model. Its outputs are: "),
            ({"boxes": "scores"}, r"does not fit boxes. Expected \[B,N,4\]"),
            ({"scores": "boxes_short"}, r"does not fit scores beside boxes"),
            ({"classes": "scores"}, r"does not fit scores beside boxes .* Expected \[B,N\]"),
            ({"objectness": "scores"}, r"does not fit objectness beside boxes"),
        ],
        ids=["unknown name", "wrong boxes", "other rows", "scores of many classes", "wide objectness"],
    )
    def test_tensors_that_do_not_fit_are_named(self, named, message):
        net = models.Net()
        boxes, scores = corners(net)
        short = net.slice(boxes, 0, 10, 1)
        real = {"boxes": boxes, "scores": scores, "boxes_short": short}
        options = {"boxes": boxes, "scores": scores, "format": "xyxy"} | {k: real.get(v, v) for k, v in named.items()}
        with pytest.raises(UsageError, match=message):
            build(net.proto(boxes, scores, short), options=HeadOptions(**options))
