"""Canvas: the host letterbox equals OpenCV's resize and copyMakeBorder, in place, without copies."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from trtdeploy.core.preprocess import PAD_VALUE
from trtdeploy.core.types import Size
from trtdeploy.runtime.letterbox import Canvas, OpenCvThreads


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def reference(image: NDArray[np.uint8], side: tuple[int, int], fit: str) -> NDArray[np.uint8]:
    """Letterbox in floating point with OpenCV's own border function."""
    height, width = side
    if fit == "stretch":
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = max(1, int(image.shape[0] * scale + 0.5)), max(1, int(image.shape[1] * scale + 0.5))
    scaled = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    top, left = ((height - h) // 2, (width - w) // 2) if fit == "center" else (0, 0)
    border = (top, height - h - top, left, width - w - left)
    return cv2.copyMakeBorder(scaled, *border, cv2.BORDER_CONSTANT, value=(PAD_VALUE,) * 3)


SIZES = [(48, 64), (64, 48), (64, 64), (63, 97), (1, 200), (200, 1), (130, 131), (32, 640)]


@pytest.mark.parametrize("fit", ["center", "top-left", "stretch"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_frame_lies_on_the_canvas_as_opencv_would_put_it(size: tuple[int, int], fit: str) -> None:
    canvas = Canvas(1, fit)
    canvas.resize(Size(64, 96))
    image = noise(*size)
    canvas.draw(0, image)
    np.testing.assert_array_equal(canvas.batch(1)[0], reference(image, (64, 96), fit))


def test_a_changed_layout_leaves_nothing_of_the_frame_before() -> None:
    canvas = Canvas(1, "center")
    canvas.resize(Size(64, 64))
    for size in [*SIZES, *reversed(SIZES)]:
        image = noise(*size)
        canvas.draw(0, image)
        np.testing.assert_array_equal(canvas.batch(1)[0], reference(image, (64, 64), "center"))


def test_every_slot_keeps_its_own_layout() -> None:
    canvas = Canvas(3, "center")
    canvas.resize(Size(64, 64))
    for round_ in range(3):
        images = [noise(*SIZES[(slot + round_) % 3], seed=slot) for slot in range(3)]
        for slot, image in enumerate(images):
            canvas.draw(slot, image)
        for slot, image in enumerate(images):
            np.testing.assert_array_equal(canvas.batch(3)[slot], reference(image, (64, 64), "center"))


def test_another_network_size_uses_the_same_memory_again() -> None:
    canvas = Canvas(2, "center")
    canvas.resize(Size(96, 96))
    memory = canvas.batch(2)
    for side in (64, 32, 96):
        canvas.resize(Size(side, side))
        image = noise(50, 70, seed=side)
        canvas.draw(1, image)
        assert np.shares_memory(canvas.batch(2), memory)
        assert canvas.batch(2).flags.c_contiguous
        np.testing.assert_array_equal(canvas.batch(2)[1], reference(image, (side, side), "center"))


def test_the_frame_is_written_straight_into_the_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = Canvas(1, "center")
    canvas.resize(Size(64, 96))
    targets = []
    resize = cv2.resize

    def spy(image: NDArray[np.uint8], size: tuple[int, int], dst: NDArray[np.uint8], interpolation: int) -> object:
        targets.append(dst)
        result = resize(image, size, dst=dst, interpolation=interpolation)
        assert np.shares_memory(result, dst), "OpenCV allocated another output"
        return result

    monkeypatch.setattr(cv2, "resize", spy)
    for size in SIZES:
        canvas.draw(0, noise(*size))
    assert targets
    assert all(np.shares_memory(target, canvas.batch(1)) for target in targets)


def test_the_border_is_filled_once_for_a_layout() -> None:
    canvas = Canvas(1, "center")
    canvas.resize(Size(64, 64))
    canvas.draw(0, noise(32, 64))
    canvas.batch(1)[0][0, 0] = 7
    canvas.draw(0, noise(32, 64, seed=1))
    assert canvas.batch(1)[0][0, 0, 0] == 7
    canvas.draw(0, noise(31, 64))
    assert canvas.batch(1)[0][0, 0, 0] == PAD_VALUE


def test_boxes_on_the_canvas_map_back_to_the_frame() -> None:
    canvas = Canvas(1, "center")
    canvas.resize(Size(64, 64))
    layout = canvas.draw(0, noise(120, 200))
    np.testing.assert_allclose(layout.to_frame(np.float32([[0, 13, 64, 51]])), [[0, 0, 200, 120]], atol=1e-4)


def test_boxes_on_a_stretched_canvas_map_back_by_each_sides_own_scale() -> None:
    canvas = Canvas(1, "stretch")
    canvas.resize(Size(64, 64))
    layout = canvas.draw(0, noise(128, 640))
    np.testing.assert_allclose(layout.to_frame(np.float32([[8, 16, 32, 70]])), [[80, 32, 320, 128]], atol=1e-4)


def test_many_frame_sizes_do_not_pile_up() -> None:
    canvas = Canvas(1, "center")
    canvas.resize(Size(32, 32))
    for width in range(1, 300):
        canvas.draw(0, noise(4, width))
    assert len(canvas._layouts) <= 64


def test_opencv_threads_are_limited_while_a_pipeline_runs_and_restored_by_the_last() -> None:
    before = cv2.getNumThreads()
    first, second, leaves_alone = OpenCvThreads(1), OpenCvThreads(1), OpenCvThreads(None)
    first.limit()
    second.limit()
    leaves_alone.limit()
    assert cv2.getNumThreads() == 1
    first.restore()
    first.restore()
    leaves_alone.restore()
    assert cv2.getNumThreads() == 1
    second.restore()
    assert cv2.getNumThreads() == before


def test_opencv_threads_are_restored_once_when_many_threads_close_a_pipeline() -> None:
    before = cv2.getNumThreads()
    for _ in range(50):
        limit, keeper = OpenCvThreads(1), OpenCvThreads(1)
        keeper.limit()
        limit.limit()
        threads = [threading.Thread(target=limit.restore) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert OpenCvThreads._active == 1
        keeper.restore()
    assert cv2.getNumThreads() == before


def test_two_workers_letterbox_at_the_same_time() -> None:
    images = [noise(90, 160, seed) for seed in range(2)]
    expected = [reference(image, (64, 64), "center") for image in images]
    wrong: list[int] = []

    def work(number: int) -> None:
        canvas = Canvas(1, "center")
        canvas.resize(Size(64, 64))
        for _ in range(200):
            canvas.draw(0, images[number])
            if not np.array_equal(canvas.batch(1)[0], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong
