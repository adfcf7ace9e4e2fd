"""Reports of a comparison: what they show, that nothing in a name becomes markup, and what is drawn where."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from trtdeploy.core.engine_info import NmsInfo
from trtdeploy.core.types import Detections
from trtdeploy.engine.boxes import Box, Judged
from trtdeploy.engine.tolerance import FP16
from trtdeploy.evaluate.compare import BoxComparison
from trtdeploy.evaluate.compare_errors import ErrorSums, Limit, TensorError, TensorReport, block_errors
from trtdeploy.evaluate.report import Picture, ReportContent
from trtdeploy.evaluate.report_chart import chart_svg
from trtdeploy.evaluate.report_html import html_report
from trtdeploy.evaluate.report_pictures import A_COLOUR, B_COLOUR, draw_difference
from trtdeploy.evaluate.report_sheet import sheet_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b[31m"
ALLOWED = frozenset({
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "span", "b", "ul", "li", "table", "thead",
    "tbody", "tr", "th", "td", "figure", "figcaption", "img", "svg", "polyline", "circle", "line", "rect", "text",
    "script",
})  # fmt: skip


class _Tags(HTMLParser):
    """Collects elements, their attributes and text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "elements are closed in order"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _sums(noise: float) -> ErrorSums:
    sums = ErrorSums()
    sums.add(np.ones(10), np.full(10, 1 + noise))
    return sums


def _tensors(name: str) -> TensorReport:
    def tensor(block: str, local: float, *, diverges: bool = False) -> TensorError:
        reason = f"far off, {name}" if diverges else ""
        return TensorError(f"{block}/x", f"{block}/x", "name", "Conv", block, block, _sums(0.01), _sums(local), "",
                           diverges, reason)  # fmt: skip

    tensors = (tensor("stem", 1e-4), tensor(name, 0.5, diverges=True), tensor("head", np.inf))
    blocks = block_errors(tensors, ["stem", name, "head"])
    return TensorReport(blocks, tensors, name, (), Limit.of("fp16"), 2)


@pytest.fixture
def content() -> ReportContent:
    """One image with a box that agrees, one that is missing and one that is new; every name is hostile."""
    comparison = BoxComparison(FP16, NmsInfo(method="loop"), (HOSTILE, "bird"), (300, 300))

    def found(*rows: tuple[float, ...]) -> Detections:
        table = np.array(rows, np.float32)
        return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))

    comparison.add(
        HOSTILE,
        found((10, 10, 60, 60, 0.9, 0), (100, 100, 180, 180, 0.8, 0)),
        found((10, 10, 60, 60, 0.9, 0), (200, 20, 280, 90, 0.7, 1)),
    )
    boxes = comparison.report()
    image = np.full((240, 320, 3), 90, np.uint8)
    return ReportContent(
        verdict=boxes.verdict,
        reasons=[boxes.reason, HOSTILE],
        sides=(HOSTILE, "b.engine"),
        conf=0.25,
        boxes=boxes,
        tensors=_tensors(HOSTILE),
        notes=[HOSTILE],
        class_names=(HOSTILE, "bird"),
        pictures=[Picture(worst=image_, image=image) for image_ in boxes.worst],
    )


def test_names_never_become_markup(content: ReportContent) -> None:
    document = html_report(content)
    found = _Tags(document)
    assert found.open == []
    assert set(found.tags) <= ALLOWED
    assert found.tags.count("script") == 1
    assert found.tags.count("img") == len(content.pictures) == 1
    assert not [item for item in found.attributes if item[1].startswith("on")]
    assert not [
        item
        for item in found.attributes
        if item[1] in {"src", "href"} and not item[2].startswith("data:image/jpeg;base64,")
    ]
    assert "\x1b" not in document
    shown = HOSTILE.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert sum(shown in text for text in found.text) >= 8, "side, reason, class, image, block, chart and note"
    assert "http:" not in document.replace("http-equiv", "")
    assert "https:" not in document


def test_only_its_own_script_may_run(content: ReportContent) -> None:
    import hashlib

    document = html_report(content)
    policy = next(value for tag, name, value in _Tags(document).attributes if tag == "meta" and "default-src" in value)
    script = document[document.index("<script>") + 8 : document.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_picture_in_the_file_is_the_annotated_image(content: ReportContent) -> None:
    (data,) = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html_report(content))
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (720, 960, 3)
    left_of_missing = image[3 * 140, 3 * 100].astype(int)
    assert np.abs(left_of_missing - A_COLOUR).max() < 60, left_of_missing


def test_tables_say_what_was_lost(content: ReportContent) -> None:
    text = " ".join(_Tags(html_report(content)).text)
    assert "boxes of A found in B" in text
    assert "50.00%" in text
    assert "first diverging block" in text


def test_a_report_without_boxes_or_without_tensors_leaves_them_out(content: ReportContent) -> None:
    bare = html_report(replace(content, boxes=None, pictures=[]))
    assert "Tensors by block" in bare
    assert "Size of object" not in bare
    assert "Tensors by block" not in html_report(replace(content, tensors=None))


def test_a_is_drawn_solid_and_b_dashed() -> None:
    image = np.full((200, 400, 3), 90, np.uint8)
    judged = [
        Judged("missing", Box((20, 50, 120, 150), 0.9, 0), None),
        Judged("extra", None, Box((220, 50, 320, 150), 0.8, 0)),
    ]
    drawn = draw_difference(image, judged, ("part",), 400)
    solid = [tuple(int(v) for v in drawn[y, 20]) == A_COLOUR for y in range(55, 146)]
    dashed = [tuple(int(v) for v in drawn[y, 220]) == B_COLOUR for y in range(55, 146)]
    assert all(solid)
    assert 0.3 < np.mean(dashed) < 0.8
    assert (image == 90).all(), "the image itself is not drawn on"


def test_boxes_that_agree_are_thin_and_grey() -> None:
    box = Box((20, 20, 80, 80), 0.9, 0)
    drawn = draw_difference(np.full((100, 100, 3), 90, np.uint8), [Judged("same", box, box, 1.0)], ("part",), 100)
    changed = (drawn != 90).any(axis=-1)
    assert set(drawn[changed].std(axis=-1)) == {0.0}, "grey"
    assert changed[50].sum() == 2


@pytest.mark.parametrize("xyxy", [(-50, -50, 5000, 5000), (10, 10, 10, 10)], ids=["beyond the image", "without area"])
def test_odd_boxes_are_drawn_within_the_image(xyxy: tuple[int, int, int, int]) -> None:
    box = Box(xyxy, 0.9, 77)
    drawn = draw_difference(np.zeros((40, 30, 3), np.uint8), [Judged("missing", box, None)], (), 300)
    assert drawn.shape == (400, 300, 3)
    assert drawn.any()


def test_a_tall_image_gives_no_endless_picture(content: ReportContent) -> None:
    missing = [Judged("missing", Box((0, 900, 10, 950), 0.9, 0), None)]
    drawn = draw_difference(np.zeros((1000, 10, 3), np.uint8), missing, ("part",), 100)
    assert drawn.shape == (200, 2, 3)
    tall = replace(content.pictures[0], image=np.zeros((4000, 4, 3), np.uint8))
    assert len(sheet_report(replace(content, pictures=[tall]))) < 3000


def test_thousands_of_failures_are_cut(content: ReportContent) -> None:
    assert content.boxes is not None
    boxes = replace(content.boxes, failures=tuple(f"image {i}" for i in range(3000)))
    page = html_report(replace(content, boxes=boxes))
    assert "<li>image 39</li><li>and 2960 more, which --json lists</li>" in page


def test_the_sheet_grows_with_what_it_shows(content: ReportContent) -> None:
    whole = sheet_report(content)
    assert whole.shape[1:] == (1320, 3)
    heights = [
        sheet_report(other).shape[0]
        for other in (replace(content, pictures=[]), replace(content, tensors=None), replace(content, boxes=None))
    ]
    assert all(height < whole.shape[0] for height in heights)
    assert (whole == np.array(A_COLOUR, np.uint8)).all(axis=-1).any()
    assert (whole == np.array(B_COLOUR, np.uint8)).all(axis=-1).any()


def test_the_chart_marks_what_diverges() -> None:
    drawn = chart_svg(_tensors("model.7"))
    circles = re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)" r="([\d.]+)"', drawn)
    assert [radius for _, radius in circles] == ["3.5", "6", "3.5"]
    heights = [float(y) for y, _ in circles]
    assert heights[0] < heights[1] <= heights[2], "a broken tensor is at the bottom"


def test_the_chart_of_many_blocks_names_some_of_them_and_all_that_diverge() -> None:
    one = _tensors("model.7")
    many = replace(one, blocks=(*[one.blocks[0]] * 97, one.blocks[1], *[one.blocks[0]] * 102))
    names = re.findall(r"rotate\(-50[^>]*>([^<]+)</text>", chart_svg(many))
    assert 40 <= len(names) <= 49
    assert "model.7" in names
