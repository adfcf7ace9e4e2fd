"""Batcher: policies, fairness, deadline, window, and ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdeploy.core.types import Frame, Size
from trtdeploy.runtime.batcher import Batcher, LaneOptions, Ticket

IMAGE = np.zeros((2, 2, 3), np.uint8)
SIZE = Size(64, 64)
FOREVER_S = 60.0


def ticket(lane: int, index: int, size: Size = SIZE) -> Ticket:
    frame = Frame(stream=f"s{lane}", stream_index=lane, index=index, pts_s=0.0, image=IMAGE)
    return Ticket(frame, size, time.perf_counter())


def batcher(
    policies: list[str], capacity: int = 4, max_batch: int = 1, deadline_s: float = 0.0, window: int = 1000
) -> Batcher:
    lanes = [LaneOptions(policy=policy, capacity=capacity) for policy in policies]
    return Batcher(lanes, max_batch, deadline_s, window)


def names(batch: list[Ticket] | None) -> list[tuple[int, int]]:
    assert batch is not None
    return [(t.lane, t.frame.index) for t in batch]


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_latest_keeps_the_newest_frame_only() -> None:
    b = batcher(["latest"])
    outcomes = [b.put(ticket(0, n)) for n in range(5)]
    assert outcomes == [(True, 0)] + [(True, 1)] * 4
    assert names(b.take()) == [(0, 4)]


def test_drop_oldest_keeps_the_newest_frames() -> None:
    b = batcher(["drop-oldest"], capacity=3)
    assert sum(b.put(ticket(0, n))[1] for n in range(8)) == 5
    b.finish(0)
    assert [names(b.take()) for _ in range(3)] == [[(0, 5)], [(0, 6)], [(0, 7)]]
    assert b.take() is None


def test_block_waits_for_space_and_drops_nothing() -> None:
    b = batcher(["block"], capacity=2)
    done: list[int] = []

    def produce() -> None:
        for n in range(6):
            assert b.put(ticket(0, n)) == (True, 0)
            done.append(n)
        b.finish(0)

    producer = start(produce)
    time.sleep(0.05)
    assert done == [0, 1]
    taken = []
    while (batch := b.take()) is not None:
        taken += names(batch)
    producer.join(5)
    assert taken == [(0, n) for n in range(6)]


def test_numbers_have_no_gaps_where_frames_were_dropped() -> None:
    b = batcher(["latest"])
    numbers = []
    for n in range(9):
        b.put(ticket(0, n))
        if n % 3 == 2:
            batch = b.take()
            assert batch is not None
            numbers.append((batch[0].number, batch[0].frame.index))
    assert numbers == [(0, 2), (1, 5), (2, 8)]


def test_a_batch_takes_from_the_streams_in_turn_oldest_first() -> None:
    b = batcher(["block"] * 3, max_batch=4)
    for lane, count in ((0, 3), (1, 1), (2, 2)):
        for n in range(count):
            b.put(ticket(lane, n))
    assert names(b.take()) == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert names(b.take()) == [(2, 1), (0, 2)]


def test_no_stream_starves_beside_a_full_one() -> None:
    b = batcher(["block", "block"], max_batch=1)
    for n in range(4):
        b.put(ticket(0, n))
    b.put(ticket(1, 0))
    assert [names(b.take())[0][0] for _ in range(3)] == [0, 1, 0]


def test_frames_of_different_size_are_never_in_one_batch() -> None:
    b = batcher(["block", "block"], max_batch=4)
    small, large = Size(32, 32), Size(64, 64)
    for n in range(2):
        b.put(ticket(0, n, small))
        b.put(ticket(1, n, large))
    b.finish_all()
    assert [names(b.take()) for _ in range(2)] == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]


def test_a_size_that_changes_midway_ends_the_batch_and_keeps_the_order() -> None:
    b = batcher(["block"], max_batch=4)
    for n, size in enumerate((SIZE, SIZE, Size(32, 32), SIZE)):
        b.put(ticket(0, n, size))
    b.finish(0)
    assert [names(b.take()) for _ in range(3)] == [[(0, 0), (0, 1)], [(0, 2)], [(0, 3)]]


def test_a_full_batch_does_not_wait_for_the_deadline() -> None:
    b = batcher(["block"] * 2, max_batch=2, deadline_s=FOREVER_S)
    b.put(ticket(0, 0))
    taken: list[object] = []
    worker = start(lambda: taken.append(names(b.take())))
    time.sleep(0.05)
    assert not taken
    b.put(ticket(1, 0))
    worker.join(5)
    assert taken == [[(0, 0), (1, 0)]]


def test_a_batch_that_stays_small_goes_when_its_oldest_frame_is_due() -> None:
    b = batcher(["block"] * 2, max_batch=4, deadline_s=0.08)
    first = ticket(0, 0)
    b.put(first)
    batch = b.take()
    assert names(batch) == [(0, 0)]
    assert first.taken_s - first.arrived_s >= 0.08


def test_a_frame_that_waited_already_does_not_wait_for_the_deadline_again() -> None:
    b = batcher(["block"] * 2, max_batch=4, deadline_s=FOREVER_S)
    late = ticket(0, 0)
    late.arrived_s -= 2 * FOREVER_S
    b.put(late)
    assert names(b.take()) == [(0, 0)]


@pytest.mark.parametrize("why", ["every stream has ended", "every queue is full"])
def test_a_batch_that_cannot_grow_does_not_wait(why: str) -> None:
    b = batcher(["block", "latest"], capacity=2, max_batch=8, deadline_s=FOREVER_S)
    b.put(ticket(0, 0))
    b.put(ticket(1, 0))
    if why == "every stream has ended":
        b.finish_all()
        assert names(b.take()) == [(0, 0), (1, 0)]
    else:
        b.put(ticket(0, 1))
        assert names(b.take()) == [(0, 0), (1, 0), (0, 1)]


def test_a_worker_that_waits_for_more_wakes_a_reader_that_sleeps_for_lack_of_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trtdeploy.runtime.batcher.WAIT_S", FOREVER_S)
    b = batcher(["block"], capacity=4, max_batch=4, deadline_s=FOREVER_S)
    sizes = [SIZE] + [Size(32, 32)] * 4 + [SIZE]
    producer = start(lambda: [b.put(ticket(0, n, size)) for n, size in enumerate(sizes)])
    _until(lambda: b.depth(0) == 4)
    assert names(b.take()) == [(0, 0)]
    taken: list[object] = []
    worker = start(lambda: taken.append(names(b.take())))
    worker.join(5)
    assert taken == [[(0, 1), (0, 2), (0, 3), (0, 4)]]
    producer.join(5)


def test_the_window_stops_workers_until_results_are_delivered() -> None:
    b = batcher(["block"], capacity=8, window=2)
    for n in range(5):
        b.put(ticket(0, n))
    assert [names(b.take()) for _ in range(2)] == [[(0, 0)], [(0, 1)]]
    taken: list[object] = []
    worker = start(lambda: taken.append(names(b.take())))
    time.sleep(0.05)
    assert not taken
    b.delivered(1)
    worker.join(5)
    assert taken == [[(0, 2)]]


def test_the_end_comes_after_everything_that_was_queued() -> None:
    b = batcher(["block"])
    b.put(ticket(0, 0))
    b.finish(0)
    b.finish(0)
    assert names(b.take()) == [(0, 0)]
    assert b.take() is None
    assert b.put(ticket(0, 1)) == (False, 0)


def test_stop_frees_a_blocked_reader_and_idle_workers_at_once() -> None:
    b = batcher(["block"], capacity=1, window=1)
    b.put(ticket(0, 0))
    outcome: list[object] = []
    threads = [start(lambda: outcome.append(b.put(ticket(0, 1))))]
    b.take()
    threads += [start(lambda: outcome.append(b.take())) for _ in range(3)]
    time.sleep(0.05)
    b.stop()
    before = time.monotonic()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - before < 0.5
    assert outcome.count(None) == 3


def test_finishing_frees_a_reader_that_waits_for_space() -> None:
    b = batcher(["block"], capacity=1)
    b.put(ticket(0, 0))
    outcome: list[object] = []
    reader = start(lambda: outcome.append(b.put(ticket(0, 1))))
    time.sleep(0.02)
    b.finish_all()
    reader.join(5)
    assert outcome == [(False, 0)]
    assert names(b.take()) == [(0, 0)]


@given(
    st.lists(st.sampled_from(["block", "drop-oldest", "latest"]), min_size=1, max_size=4),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
)
def test_every_frame_is_taken_once_in_order_or_dropped(
    policies: list[str], max_batch: int, steps: list[tuple[int, bool]]
) -> None:
    b = batcher(policies, capacity=3, max_batch=max_batch)
    sent = [0] * len(policies)
    dropped = 0
    taken: list[list[int]] = [[] for _ in policies]

    def take() -> None:
        batch = b.take()
        assert batch is not None
        assert 1 <= len(batch) <= max_batch
        for t in batch:
            taken[t.lane].append(t.frame.index)
            assert t.number == len(taken[t.lane]) - 1

    for choice, put in steps:
        lane = choice % len(policies)
        if put and (policies[lane] != "block" or b.depth(lane) < 3):
            dropped += b.put(ticket(lane, sent[lane]))[1]
            sent[lane] += 1
        elif any(b.depth(n) for n in range(len(policies))):
            take()
    b.finish_all()
    while any(b.depth(n) for n in range(len(policies))):
        take()
    assert b.take() is None
    assert all(indices == sorted(set(indices)) for indices in taken)
    assert sum(map(len, taken)) + dropped == sum(sent)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
