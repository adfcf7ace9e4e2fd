"""The options `--dynamic`, `--imgsz` and `--batch`: what they mean, and a clear message for each mistake."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import BatchRange, Size, SizeRange
from trtdeploy.graph.shapes import parse_batch, parse_dynamic, parse_imgsz


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("480:640:1080", SizeRange(Size(480, 480), Size(640, 640), Size(1080, 1080))),
        ("480x640:640x640:1088x1920", SizeRange(Size(480, 640), Size(640, 640), Size(1088, 1920))),
        (" 320 : 320 : 320 ", SizeRange.fixed(Size(320, 320))),
    ],
)
def test_dynamic_is_min_opt_max(text: str, sizes: SizeRange) -> None:
    assert parse_dynamic(text) == sizes


def test_dynamic_1080_snaps_to_1088() -> None:
    assert str(parse_dynamic("480:640:1080").snapped(32)) == "480x480:640x640:1088x1088"


def test_imgsz_is_square_or_height_by_width() -> None:
    assert parse_imgsz("640") == SizeRange.fixed(Size(640, 640))
    assert parse_imgsz("480X640") == SizeRange.fixed(Size(480, 640))


def test_batch_is_fixed_or_a_range() -> None:
    assert parse_batch("4") == BatchRange(4, 4, 4)
    assert parse_batch("1:4:8") == BatchRange(1, 4, 8)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_dynamic, "640:480:1080", r"--dynamic '640:480:1080': min 640x640 is larger than opt 480x480"),
        (parse_dynamic, "480:1080:640", r"opt 1080x1080 is larger than max 640x640"),
        (parse_dynamic, "480x640:640x480:640x640", r"min 480x640 is larger than opt 640x480"),
        (parse_dynamic, "0:640:1080", r"0 is out of range\. Expected a number from 1"),
        (parse_dynamic, "-480:640:1080", r"-480 is out of range"),
        (parse_dynamic, "480:abc:1080", r"'abc' is not a whole number"),
        (parse_dynamic, "480:640.5:1080", r"'640\.5' is not a whole number"),
        (parse_dynamic, "480:640", r"has 2 sizes\. Expected three, MIN:OPT:MAX"),
        (parse_dynamic, "640", r"has 1 sizes\. .* Use --imgsz for one fixed size"),
        (parse_dynamic, "", r"has 1 sizes"),
        (parse_dynamic, "480::640", r"'' is not a whole number"),
        (parse_dynamic, "1x2x3:640:640", r"'1x2x3' has 3 sides"),
        (parse_dynamic, "480:640:99999999", r"99999999 is out of range"),
        (parse_imgsz, "480:640:1080", r"is a range\. Expected one size"),
        (parse_imgsz, "big", r"--imgsz 'big': 'big' is not a whole number"),
        (parse_imgsz, "640x", r"'' is not a whole number"),
        (parse_batch, "0", r"--batch '0': 0 is out of range"),
        (parse_batch, "-1", r"-1 is out of range"),
        (parse_batch, "1:2", r"has 2 numbers\. Expected one, such as 4, or MIN:OPT:MAX"),
        (parse_batch, "4:1:8", r"is not in order"),
        (parse_batch, "four", r"'four' is not a whole number"),
        (parse_batch, "٤", r"is not a whole number"),
    ],
)
def test_a_wrong_option_is_refused(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)
