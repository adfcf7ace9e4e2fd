"""FramePool: buffers come back by themselves, and never while somebody refers to them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from trtdeploy.runtime import buffers
from trtdeploy.runtime.buffers import TRIM_EVERY, FramePool, references_are_countable


def test_this_interpreter_counts_references() -> None:
    assert references_are_countable()


def test_a_buffer_is_what_the_seam_promises() -> None:
    image = FramePool().take(7, 5)
    assert image.shape == (7, 5, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


def test_a_released_buffer_is_given_out_again() -> None:
    pool = FramePool()
    first = pool.take(4, 4)
    address = first.ctypes.data
    del first
    assert pool.take(4, 4).ctypes.data == address
    assert pool.allocated == 1


@pytest.mark.parametrize(
    "keep",
    [
        lambda image: image,
        lambda image: image[1:3],
        lambda image: image[1:3][:, ::-1][..., 0],
        lambda image: image.reshape(-1),
        memoryview,
        lambda image: [image],
        lambda image: np.frombuffer(image, np.uint8),
    ],
    ids=["the array", "a view", "a view of a view", "a reshape", "a memoryview", "a list", "a foreign array"],
)
def test_a_buffer_is_not_given_out_while_somebody_holds(keep: object) -> None:
    pool = FramePool()
    image = pool.take(4, 4)
    image.fill(1)
    held = keep(image)
    del image
    again = pool.take(4, 4)
    again.fill(2)
    assert not np.shares_memory(np.asarray(again), np.asarray(held[0] if isinstance(held, list) else held))
    del held, again
    pool.take(4, 4)
    assert pool.allocated == 2


def test_a_buffer_held_by_another_thread_is_not_given_out() -> None:
    pool = FramePool()
    image = pool.take(4, 4)
    ready, leave = threading.Event(), threading.Event()

    def hold(mine: np.ndarray) -> None:
        ready.set()
        leave.wait(5)
        assert mine[0, 0, 0] == 9

    image.fill(9)
    thread = threading.Thread(target=hold, args=(image,))
    thread.start()
    ready.wait(5)
    del image
    pool.take(4, 4).fill(0)
    leave.set()
    thread.join(5)
    assert pool.allocated == 2


def test_a_new_size_forgets_free_buffers_of_the_old_one() -> None:
    pool = FramePool()
    old = [pool.take(4, 4) for _ in range(5)]
    held = old[2]
    del old
    pool.take(8, 8)
    assert [b.shape for b in pool._buffers] == [(4, 4, 3), (8, 8, 3)]
    assert pool._buffers[0] is held


def test_a_consumer_that_keeps_everything_does_not_make_the_pool_grow() -> None:
    pool = FramePool(max_buffers=8)
    kept = [pool.take(2, 2) for _ in range(100)]
    assert len(pool._buffers) == 8
    assert len({image.ctypes.data for image in kept}) == 100


def test_buffers_of_a_past_peak_are_forgotten() -> None:
    pool = FramePool()
    peak = [pool.take(2, 2) for _ in range(40)]
    del peak
    for _ in range(2 * TRIM_EVERY):
        pool.take(2, 2)
    assert len(pool._buffers) == 1


def test_without_countable_references_every_buffer_is_new() -> None:
    pool = FramePool(reuse=False)
    address = {pool.take(2, 2).ctypes.data for _ in range(3)}
    assert pool.allocated == 3
    assert not pool._buffers
    assert address


def test_calibration_fails_where_counts_do_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    references_are_countable.cache_clear()
    monkeypatch.setattr(buffers, "_references", lambda _buffers, _index: buffers._FREE)
    assert not references_are_countable()
    monkeypatch.undo()
    references_are_countable.cache_clear()
    assert references_are_countable()


def test_calibration_fails_without_the_interpreter_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    references_are_countable.cache_clear()
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    assert not references_are_countable()
    monkeypatch.undo()
    references_are_countable.cache_clear()
