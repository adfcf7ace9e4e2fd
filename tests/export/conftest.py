"""Keep torch to one thread: the networks here are tiny, and test processes run side by side."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
