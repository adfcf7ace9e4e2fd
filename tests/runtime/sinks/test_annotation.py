"""Drawing: boxes where they are, labels within the image, colours that can be told apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sink_cases import NAMES, detections, grey

from trtdeploy.core.types import Detections
from trtdeploy.runtime.draw import PALETTE, Annotator, DrawOptions, colour_of, fit_image

PLAIN = DrawOptions(labels=False, line_width=1)


def test_a_box_is_drawn_on_its_edges_in_the_colour_of_its_class_and_nowhere_else() -> None:
    image = grey(128)
    drawn = Annotator(NAMES, PLAIN).annotate(image, detections([[10, 20, 60, 80]]))
    expected = image.copy()
    expected[[20, 80], 10:61] = colour_of(0)
    expected[20:81, [10, 60]] = colour_of(0)
    assert np.array_equal(drawn, expected)


def test_the_image_is_copied_once_and_left_alone() -> None:
    image = grey(128)
    before = image.copy()
    drawn = Annotator(NAMES).annotate(image, detections([[10, 20, 60, 80]]))
    assert np.array_equal(image, before)
    assert not np.shares_memory(image, drawn)


def test_the_best_detection_is_drawn_on_top() -> None:
    drawn = Annotator(NAMES, PLAIN).annotate(grey(128), detections([[10, 20, 60, 80], [10, 20, 90, 80]]))
    assert tuple(drawn[20, 30]) == colour_of(0)
    assert tuple(drawn[20, 80]) == colour_of(1)


def test_nothing_found_draws_nothing() -> None:
    image = grey(50)
    assert np.array_equal(Annotator(NAMES).annotate(image, detections([])), image)


@pytest.mark.parametrize(
    "box",
    [[-50, -50, 5000, 5000], [127, 95, 128, 96], [0, 0, 0, 0], [120, 2, 127, 10], [float("nan"), 0, float("inf"), 10]],
)
def test_boxes_at_and_beyond_the_border_do_no_harm(box: list[float]) -> None:
    drawn = Annotator(NAMES).annotate(grey(128), detections([box]))
    assert drawn.shape == (96, 128, 3)


def test_a_label_wider_than_the_image_is_cut_off() -> None:
    Annotator(["a very long name " * 20]).annotate(grey(128, 8, 16), detections([[0, 0, 16, 8]]))


def label_area(image: np.ndarray, drawn: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero((image != drawn).any(axis=2))
    return int(rows.min()), int(columns.min())


def test_a_label_stands_above_its_box_or_inside_at_the_top_of_the_image() -> None:
    image = grey(128, 400, 600)
    annotator = Annotator(NAMES)
    above = label_area(image, annotator.annotate(image, detections([[100, 200, 300, 300]])))
    assert 170 < above[0] < 195
    inside = label_area(image, annotator.annotate(image, detections([[100, 2, 300, 300]])))
    assert inside[0] in {1, 2}


def test_a_label_at_the_right_border_is_moved_into_the_image() -> None:
    image = grey(128, 400, 600)
    drawn = Annotator(NAMES).annotate(image, detections([[590, 200, 599, 300]]))
    assert label_area(image, drawn)[1] < 575


def test_labels_tell_name_track_and_score() -> None:
    found = detections([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]], tracks=[5, -1, 0, 1])
    annotator = Annotator(NAMES)
    texts = [annotator._text(found, index) for index in range(4)]
    assert texts == ["cat #5 0.90", "dog 0.70", "größe #0 0.50", "class3 #1 0.30"]
    assert Annotator(NAMES, DrawOptions(scores=False))._text(found, 0) == "cat #5"


def test_labels_with_other_texts_look_different() -> None:
    image = grey(128, 400, 600)
    found = detections([[100, 200, 300, 300]])
    other = Detections(found.xyxy, found.scores - 0.5, found.classes)
    assert not np.array_equal(Annotator(NAMES).annotate(image, found), Annotator(NAMES).annotate(image, other))


def test_lines_and_labels_grow_with_the_image() -> None:
    heights = []
    for scale in (1, 3):
        image = grey(128, 480 * scale, 640 * scale)
        drawn = Annotator(NAMES).annotate(image, detections([[100, 300 * scale, 300, 400 * scale]]))
        heights.append(300 * scale - label_area(image, drawn)[0])
    assert heights[1] > 1.8 * heights[0]


def least_distance(colours: np.ndarray) -> float:
    """Return the least distance of sRGB colours as the red-green blind see them.

    Viénot, Brettel and Mollon, "Digital video colourmaps for checking the legibility of displays by dichromats" (1999),
    deuteranopia, on linear RGB.
    """
    rgb = colours / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = linear @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * np.clip(seen, 0, 1) ** (1 / 2.4) - 0.055)
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


def test_colours_differ_also_to_the_colour_blind() -> None:
    assert least_distance(np.array(PALETTE, float)[:, ::-1]) > 0.1
    purple_and_grey = np.array([[204.0, 121, 167], [153, 153, 153]])
    assert least_distance(purple_and_grey) < 0.1, "the measure must see what the colour-blind do not"


def test_an_image_of_the_right_size_is_not_scaled() -> None:
    image = grey(1)
    assert fit_image(image, 96, 128) is image


@pytest.mark.parametrize("size", [(50, 50), (300, 20), (1, 1), (7, 999)])
def test_an_image_of_another_size_is_fitted_with_borders(size: tuple[int, int]) -> None:
    fitted = fit_image(np.full((*size, 3), 255, np.uint8), 96, 128)
    rows, columns = np.nonzero(fitted[..., 0])
    inner = (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)
    scale = min(96 / size[0], 128 / size[1])
    assert inner == tuple(max(1, round(side * scale)) for side in size)
    assert abs(rows.min() + rows.max() - 95) <= 1
    assert abs(columns.min() + columns.max() - 127) <= 1
