"""Presentation times grow whatever a decoder reports."""

from __future__ import annotations

import pytest

from trtdeploy.runtime.sources.clock import PresentationClock


class Now:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


def file_clock(fps: float | None) -> PresentationClock:
    clock = PresentationClock(live=False)
    clock.start(fps)
    return clock


def test_times_start_at_zero_wherever_positions_start() -> None:
    clock = file_clock(25)
    assert [clock.stamp(7.0 + i / 25) for i in range(3)] == pytest.approx([0, 0.04, 0.08])


def test_variable_frame_rates_are_kept() -> None:
    clock = file_clock(25)
    assert [clock.stamp(t) for t in (0, 0.1, 0.13, 0.5)] == pytest.approx([0, 0.1, 0.13, 0.5])


def test_without_timestamps_the_frame_rate_counts() -> None:
    clock = file_clock(50)
    assert [clock.stamp(0.0) for _ in range(4)] == pytest.approx([0, 0.02, 0.04, 0.06])


def test_without_a_frame_rate_25_is_assumed() -> None:
    clock = file_clock(None)
    assert [clock.stamp(0.0) for _ in range(2)] == pytest.approx([0, 0.04])


def test_joined_files_go_on_after_the_jump_back() -> None:
    clock = file_clock(10)
    assert [clock.stamp(t) for t in (0, 0.1, 0.2, 0, 0.15, 0.5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.45, 0.8])


def test_a_file_that_is_opened_again_starts_at_zero() -> None:
    clock = file_clock(10)
    assert [clock.stamp(t) for t in (3, 3.1)] == pytest.approx([0, 0.1])
    clock.start(10)
    assert clock.stamp(3.0) == 0.0


def test_a_live_stream_goes_on_by_the_wall_clock_after_a_reconnection() -> None:
    now = Now()
    clock = PresentationClock(live=True, now=now)
    clock.start(30)
    assert [clock.stamp(t) for t in (0, 0.033)] == pytest.approx([0, 0.033])
    now.time_s += 12.5
    clock.start(30)
    assert [clock.stamp(t) for t in (0, 0.033)] == pytest.approx([12.5, 12.533])


def test_a_live_stream_without_timestamps_follows_the_wall_clock() -> None:
    now = Now()
    clock = PresentationClock(live=True, now=now)
    clock.start(30)
    times = []
    for _ in range(3):
        times.append(clock.stamp(0.0))
        now.time_s += 0.25
    assert times == pytest.approx([0, 0.25, 0.5])


def test_times_of_a_live_stream_grow_even_when_the_wall_clock_stands_still() -> None:
    clock = PresentationClock(live=True, now=Now())
    clock.start(30)
    times = [clock.stamp(0.0) for _ in range(3)]
    assert times[0] < times[1] < times[2]
