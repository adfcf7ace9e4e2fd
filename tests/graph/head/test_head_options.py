"""Options, class names and the report of the HEAD pass."""

from __future__ import annotations

import contextlib

import head_models as models
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.graph.head import AppendHead, HeadOptions, NmsOptions
from trtdeploy.graph.head.class_names import parse_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yolov8", HeadOptions(family="yolov8")),
        ("family=yolox", HeadOptions(family="yolox")),
        ("boxes=a,scores=b", HeadOptions(boxes="a", scores="b")),
        (" boxes = /m/a:0 , scores=b , format=xyxy", HeadOptions(boxes="/m/a:0", scores="b", format="xyxy")),
        ("boxes=a,scores=b,normalized=yes", HeadOptions(boxes="a", scores="b", normalized=True)),
        ("rtdetr,mean=0.5/0.5/0.25,divisor=1", HeadOptions(family="rtdetr", mean=(0.5, 0.5, 0.25), divisor=1.0)),
    ],
)
def test_the_command_line_form_is_parsed(text, expected):
    assert HeadOptions.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "family='' is unknown|has no value"),
        ("yolov99", "family='yolov99' is unknown. Expected auto | yolov5"),
        ("boxes=a", "boxes and scores belong together"),
        ("scores=a", "boxes and scores belong together"),
        ("explicit", "needs the tensors' names"),
        ("boxes=,scores=b", "'boxes' .* has no value"),
        ("boxes=a,boxes=b,scores=c", "boxes is given twice"),
        ("bboxes=a,scores=b", "'bboxes' .* is unknown. Expected one of family, boxes"),
        ("boxes=a,scores=b,format=ltrb", "format='ltrb' is unknown. Expected xyxy"),
        ("boxes=a,scores=b,normalized=maybe", "normalized='maybe' is not a flag"),
        ("boxes=a,scores=b,classes=c,activation=sigmoid", "classes excludes objectness and activation"),
        ("yolov8,boxes=a,scores=b", "exclude family=yolov8"),
        ("rtdetr,mean=1/2", "mean='1/2' has 2 numbers"),
        ("rtdetr,std=0/1/1", r"std=\(0.0, 1.0, 1.0\) is not positive"),
        ("rtdetr,divisor=no", "divisor='no' is not a number"),
        ("rtdetr,divisor=0", "divisor=0 is not positive"),
        ("rtdetr,divisor=nan", "divisor=nan is not positive"),
    ],
)
def test_a_wrong_head_option_is_explained(text, message):
    with pytest.raises(UsageError, match=message.replace(" | ", r" \| ")):
        HeadOptions.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_as_usage(text):
    with contextlib.suppress(UsageError):
        HeadOptions.parse(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": -0.1}, "Score threshold -0.1 is out of range. Expected 0 <= conf < 1"),
        ({"conf": 1.0}, "Score threshold 1 is out of range"),
        ({"conf": float("nan")}, "Score threshold nan is out of range"),
        ({"iou": 0.0}, "IoU threshold 0 is out of range. Expected 0 < iou <= 1"),
        ({"iou": 1.5}, "IoU threshold 1.5 is out of range"),
        ({"max_det": 0}, "Maximum of detections 0 is out of range. Expected 1 to 3840"),
        ({"max_det": 4000}, "Maximum of detections 4000 is out of range"),
        ({"candidates": 200}, r"NMS candidates 200 is out of range. Expected max_det \(300\) to 3840"),
        ({"candidates": 4000}, "NMS candidates 4000 is out of range"),
        ({"steps": 0}, "NMS steps 0 is out of range. Expected 1 to 512"),
        ({"method": "soft"}, "NMS method 'soft' is unknown. Expected auto"),
    ],
)
def test_a_wrong_nms_option_is_explained(options, message):
    with pytest.raises(UsageError, match=message):
        NmsOptions(**options)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'person', 1: 'car'}", ("person", "car")),
        ('{"1": "car", "0": "person"}', ("person", "car")),
        ("['a', 'b']", ("a", "b")),
        ('["a"]', ("a",)),
        ("{0: 'it\\'s'}", ("it's",)),
    ],
    ids=["python dictionary", "JSON out of order", "python list", "JSON list", "escaped quote"],
)
def test_class_names_of_metadata_are_read(text, names):
    assert parse_names(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "no dictionary or list of names"),
        ("{0: 'a', 2: 'b'}", "do not count from 0 without gaps"),
        ("{'a': 'b'}", "keys that are no indices"),
        ("[[1], 2]", "are no names"),
        ("42", "are no names"),
        ("[]", "has 0 class names"),
        ("(" * 5000, "no dictionary or list of names"),
        ("[" * 100000, "no dictionary or list of names"),
        ("x" * (1 << 21), "have 2097152 characters"),
    ],
    ids=["code", "gap", "text keys", "nested", "number", "empty", "deep", "deeper", "long"],
)
def test_hostile_or_broken_class_names_are_refused(text, message):
    with pytest.raises(ModelError, match=message):
        parse_names(text)


class TestClassNames:
    def run(self, names=None, metadata=None):
        net = models.Net()
        net.metadata = {} if metadata is None else {"names": metadata}
        return AppendHead(class_names=names).run(models.load(models.yolov8(net, nc=3))).report

    def test_the_users_names_win_over_the_metadata(self):
        report = self.run(("x", "y", "z"), models.names_of(3))
        assert report.details["class_names"] == ["x", "y", "z"]

    def test_the_metadata_name_the_classes(self):
        assert self.run(metadata=models.names_of(3)).details["class_names"] == ["thing0", "thing1", "thing2"]

    def test_without_names_the_list_is_empty_and_the_number_known(self):
        details = self.run().details
        assert details["class_names"] == []
        assert details["num_classes"] == 3

    def test_a_wrong_number_of_given_names_says_both_counts(self):
        with pytest.raises(UsageError, match="2 class names were given, and the head scores 3 classes"):
            self.run(("x", "y"))

    def test_a_wrong_number_of_stored_names_says_both_counts(self):
        with pytest.raises(ModelError, match="names 4 classes, and its head scores 3 classes"):
            self.run(metadata=models.names_of(4))


def test_the_report_tells_what_was_done():
    report = AppendHead(nms=NmsOptions(conf=0.3, max_det=100)).run(models.load(models.yolov8(models.Net()))).report
    assert (report.name, report.stage) == ("append-head", "HEAD")
    assert report.changes[0].startswith("Recognised a yolov8 head at ")
    assert "exact greedy NMS in a Loop over the best 3840 candidates, 100 slots, conf 0.3" in report.changes[0]
    assert report.details["nms"] == {
        "method": "loop",
        "conf": 0.3,
        "iou": 0.7,
        "max_det": 100,
        "candidates": 3840,
        "steps": 0,
        "class_agnostic": False,
        "multi_label": False,
    }


def test_the_fixpoint_states_its_bound():
    nms = NmsOptions(method="fixpoint", steps=12)
    report = AppendHead(nms=nms).run(models.load(models.yolov8(models.Net()))).report
    assert "12 fixpoint steps, exact for chains of up to 12 suppressions" in report.changes[0]
    assert (report.details["nms"]["candidates"], report.details["nms"]["steps"]) == (512, 12)


def test_a_model_without_one_image_input_is_refused():
    proto = models.yolov8(models.Net())
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    with pytest.raises(ModelError, match=r"Expected one image input \[B,3,H,W\], found: images"):
        AppendHead().run(models.load(proto))
