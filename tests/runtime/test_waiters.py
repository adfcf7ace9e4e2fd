"""Waiters: the last to wait is woken first, and no wake-up is lost."""

from __future__ import annotations

import threading
import time

from trtdeploy.runtime.waiting import Waiters


def test_the_last_to_wait_is_woken_first() -> None:
    lock = threading.Lock()
    waiters = Waiters(lock)
    woken: list[int] = []

    def sleep(number: int) -> None:
        with lock:
            waiters.wait(5)
            woken.append(number)

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=sleep, args=(number,)))
        threads[-1].start()
        _until(lambda n=number: len(waiters._sleeping) == n + 1)
    for count in range(4):
        with lock:
            waiters.wake()
        _until(lambda c=count: len(woken) == c + 1)
    assert woken == [3, 2, 1, 0]


def test_a_wait_ends_when_its_time_is_over_and_leaves_nothing_behind() -> None:
    lock = threading.Lock()
    waiters = Waiters(lock)
    with lock:
        before = time.monotonic()
        waiters.wait(0.02)
        assert time.monotonic() - before >= 0.02
        assert not waiters._sleeping
        waiters.wake_all()
        before = time.monotonic()
        waiters.wait(0.02)
        assert time.monotonic() - before >= 0.02, "a wake-up without a sleeper must not be remembered"


def test_no_wake_up_is_lost_between_two_threads_that_take_turns() -> None:
    lock = threading.Lock()
    waiters = Waiters(lock)
    turn, rounds = 0, 2000

    def play(me: int) -> None:
        nonlocal turn
        for _ in range(rounds):
            with lock:
                while turn != me:
                    waiters.wait(5)
                turn = 1 - me
                waiters.wake()

    threads = [threading.Thread(target=play, args=(me,)) for me in (0, 1)]
    before = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - before < 5, "a lost wake-up costs the whole wait"


def _until(condition: object) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
