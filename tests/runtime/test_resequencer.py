"""Resequencer: stream order out of any order in, one thread at a time."""

from __future__ import annotations

import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdeploy.runtime.ordering import Resequencer


@given(st.data())
def test_any_order_in_gives_stream_order_out(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
    items = data.draw(st.permutations([(stream, n) for stream, count in enumerate(counts) for n in range(count)]))
    out: list[tuple[int, int]] = []
    ordering = Resequencer(len(counts), out.append)
    rest = list(items)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        ordering.add([(stream, n, (stream, n)) for stream, n in rest[:size]])
        rest = rest[size:]
    for stream, count in enumerate(counts):
        assert [n for s, n in out if s == stream] == list(range(count))
    assert ordering.waiting == 0


@given(st.permutations(range(10)))
def test_an_item_is_delivered_as_soon_as_all_before_it_are_there(order: list[int]) -> None:
    out: list[int] = []
    ordering = Resequencer(1, out.append)
    seen: set[int] = set()
    for number in order:
        ordering.add([(0, number, number)])
        seen.add(number)
        complete = next(n for n in range(11) if n not in seen)
        assert out == list(range(complete))


def test_many_threads_deliver_in_order_and_never_two_at_once() -> None:
    out: list[int] = []
    delivering = threading.Lock()

    def emit(number: int) -> None:
        assert delivering.acquire(blocking=False), "two threads deliver"
        if number % 7 == 0:
            time.sleep(0.0005)
        out.append(number)
        delivering.release()

    ordering = Resequencer(1, emit)
    numbers, lock = iter(range(400)), threading.Lock()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            time.sleep(chance.random() * 0.0005)
            ordering.add([(0, number, number)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert out == list(range(400))


def test_other_workers_do_not_wait_while_one_delivers_slowly() -> None:
    first_inside, go_on = threading.Event(), threading.Event()
    out: list[int] = []

    def emit(number: int) -> None:
        if number == 0:
            first_inside.set()
            assert go_on.wait(5)
        out.append(number)

    ordering = Resequencer(1, emit)
    slow = threading.Thread(target=ordering.add, args=([(0, 0, 0)],))
    slow.start()
    assert first_inside.wait(5)
    ordering.add([(0, 1, 1)])
    ordering.add([(0, 2, 2)])
    assert out == []
    assert ordering.waiting == 2
    go_on.set()
    slow.join(5)
    assert out == [0, 1, 2]


def test_nothing_is_delivered_after_an_error() -> None:
    out: list[int] = []

    def emit(number: int) -> None:
        if number == 1:
            raise ValueError("no")
        out.append(number)

    ordering = Resequencer(1, emit)
    with pytest.raises(ValueError, match="no"):
        ordering.add([(0, n, n) for n in range(3)])
    ordering.add([(0, 3, 3)])
    assert out == [0]
