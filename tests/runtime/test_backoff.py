"""The waits between attempts to reconnect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdeploy.core.errors import UsageError
from trtdeploy.runtime.options import ReconnectOptions
from trtdeploy.runtime.streams import backoff_s


def test_waits_double_up_to_the_longest() -> None:
    options = ReconnectOptions(initial_s=0.5, factor=2, max_s=5, jitter=0)
    assert [backoff_s(options, attempt, 0.7) for attempt in range(6)] == [0.5, 1, 2, 4, 5, 5]


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_jitter_only_shortens_and_the_wait_stays_bounded(attempt: int, chance: float) -> None:
    options = ReconnectOptions(jitter=0.5)
    whole = backoff_s(options, attempt, 0.0)
    assert whole / 2 <= backoff_s(options, attempt, chance) <= whole <= options.max_s


@pytest.mark.parametrize(
    "wrong", [{"initial_s": 0}, {"factor": 0.5}, {"max_s": 0.1}, {"jitter": 2}, {"max_attempts": -1}], ids=str
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is"):
        ReconnectOptions(**wrong)
