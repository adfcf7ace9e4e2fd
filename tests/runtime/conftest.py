"""Every test here must leave no thread of the runtime behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest


def runtime_threads() -> list[str]:
    """Return the names of the runtime's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("trtdeploy-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    end = time.monotonic() + 5
    while runtime_threads() and time.monotonic() < end:
        time.sleep(0.005)
    assert not runtime_threads()
