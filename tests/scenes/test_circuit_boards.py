"""Circuit boards: deterministic, labelled exactly, smooth as a video and fast enough to be one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from trtdeploy.scenes.board_items import BRIDGE, CHIP, CLASS_NAMES, CRACK, JOINT, MISSING, PAD, VOID, Item
from trtdeploy.scenes.board_layout import make_layout
from trtdeploy.scenes.board_paint import BoardPainter
from trtdeploy.scenes.circuit_boards import CircuitBoardScene


@pytest.fixture(scope="module")
def scene() -> CircuitBoardScene:
    return CircuitBoardScene(7, width=640, height=360)


def test_equal_seeds_give_equal_frames(scene: CircuitBoardScene) -> None:
    again = CircuitBoardScene(7, width=640, height=360)
    for drawn, redrawn in zip((*scene.frame(3), *scene.sample(5)), (*again.frame(3), *again.sample(5)), strict=True):
        np.testing.assert_array_equal(drawn, redrawn)


def test_frames_do_not_depend_on_the_order_of_asking(scene: CircuitBoardScene) -> None:
    first = scene.frame(10)[0]
    scene.frame(99)
    np.testing.assert_array_equal(first, scene.frame(10)[0])


def test_other_seeds_give_other_boards(scene: CircuitBoardScene) -> None:
    assert (CircuitBoardScene(8, width=640, height=360).frame(0)[0] != scene.frame(0)[0]).mean() > 0.5


@pytest.mark.parametrize("size", [(640, 360), (333, 257), (64, 48)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_types_shapes_and_ranges(scene: CircuitBoardScene, size: tuple[int, int]) -> None:
    image, boxes, classes = scene.sample(0, width=size[0], height=size[1])
    assert (image.shape, image.dtype) == ((size[1], size[0], 3), np.uint8)
    assert (boxes.shape, boxes.dtype) == ((len(classes), 4), np.float32)
    assert classes.dtype == np.int32
    assert set(classes.tolist()) <= set(range(len(CLASS_NAMES)))
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= size[0]).all()
    assert (boxes[:, [1, 3]] <= size[1]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_boards_carry_every_class() -> None:
    rng = np.random.default_rng(0)
    found = {item.label for _ in range(4) for item in make_layout(rng, 0.1).items}
    assert found == {PAD, JOINT, BRIDGE, CRACK, VOID, MISSING, CHIP}


def test_no_defects_where_none_are_wanted() -> None:
    labels = {item.label for item in make_layout(np.random.default_rng(1), 0.0).items}
    assert labels == {PAD, JOINT, CHIP}


def _changed(with_item: np.ndarray, without: np.ndarray, item: Item) -> np.ndarray:
    """Return the box of the pixels that the item changes: x0, y0, x1, y1."""
    difference = np.abs(with_item.astype(int) - without.astype(int)).max(2) > 24
    ys, xs = np.nonzero(difference)
    assert len(xs), f"{item} leaves no trace"
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize("label", [PAD, JOINT, BRIDGE, CRACK, VOID], ids=lambda k: CLASS_NAMES[k])
def test_a_box_holds_what_the_object_changes(label: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # flux around a joint is no part of it
    monkeypatch.setattr("trtdeploy.scenes.board_paint.stain", lambda *_: None)
    layout = make_layout(np.random.default_rng(3), 0.1)
    item = next(item for item in layout.items if item.label == label)
    whole = BoardPainter(layout, np.random.default_rng(4)).paint()
    rest = replace(layout, items=[other for other in layout.items if other is not item])
    box = _changed(whole, BoardPainter(rest, np.random.default_rng(4)).paint(), item)
    outline = item.outline()
    expected = np.concatenate([outline.min(0), outline.max(0)])
    # light blurs the relief by a pixel or two around the drawn shape; a lead may hide a little inside it
    assert (box[:2] >= expected[:2] - 4).all()
    assert (box[2:] <= expected[2:] + 5).all()
    assert np.prod(box[2:] - box[:2]) >= 0.75 * np.prod(expected[2:] - expected[:2])


@pytest.mark.parametrize("label", [CRACK, VOID], ids=lambda k: CLASS_NAMES[k])
def test_a_defect_is_visible_inside_its_joint(label: int) -> None:
    layout = make_layout(np.random.default_rng(3), 0.1)
    item = next(item for item in layout.items if item.label == label)
    good = [replace(other, label=JOINT) if other is item else other for other in layout.items]
    broken = BoardPainter(layout, np.random.default_rng(4)).paint()
    whole = BoardPainter(replace(layout, items=good), np.random.default_rng(4)).paint()
    box = _changed(broken, whole, item)
    outline = item.outline()
    assert (box[:2] >= outline.min(0) - 4).all()
    assert (box[2:] <= outline.max(0) + 5).all()


def test_boxes_follow_the_camera(scene: CircuitBoardScene) -> None:
    matrix = np.array([[2.0, 0.0, -1000.0], [0.0, 2.0, -600.0]])
    boxes, keep = scene._boxes(matrix, 640, 360)
    items = [item for item, kept in zip(scene.layout.items, keep, strict=True) if kept]
    whole = [i for i, b in enumerate(boxes) if b.min() > 0 and b[2] < 640 and b[3] < 360]
    assert whole
    for i in whole:
        item = items[i]
        expected = np.array([item.x, item.y, item.x, item.y]) * 2 - (1000, 600, 1000, 600) + 0.5
        expected += np.array([-item.width, -item.height, item.width, item.height])
        np.testing.assert_allclose(boxes[i], expected, atol=1e-3)


def test_objects_mostly_out_of_view_are_left_out(scene: CircuitBoardScene) -> None:
    item = scene.layout.items[0]
    for share, expected in ((0.6, True), (0.4, False)):
        left = item.x + item.width / 2 - share * item.width + 0.5
        matrix = np.array([[1.0, 0.0, -left], [0.0, 1.0, -item.y + 180]])
        assert bool(scene._boxes(matrix, 640, 360)[1][0]) is expected


def test_consecutive_frames_move_smoothly() -> None:
    scene = CircuitBoardScene(5)
    cameras = [scene._camera(i) for i in range(200)]
    steps = [np.hypot(b.x - a.x, b.y - a.y) for a, b in pairwise(cameras)]
    turns = [abs(b.angle - a.angle) for a, b in pairwise(cameras)]
    assert max(steps) < 20
    assert max(turns) < 0.01
    assert max(steps) > 1


@pytest.mark.parametrize("size", [(31, 100), (100, 31)])
def test_refuses_a_tiny_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"size must be at least 32x32 pixels, got {size[0]}x{size[1]}"):
        CircuitBoardScene(0, width=size[0], height=size[1])


def test_refuses_an_impossible_defect_rate() -> None:
    with pytest.raises(ValueError, match=r"defect_rate must be between 0 and 0\.3, got 0\.5"):
        CircuitBoardScene(0, defect_rate=0.5)
