"""What the tests on a device do alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtdeploy.api import BuildReport
from trtdeploy.core.types import Precision
from trtdeploy.engine.boxes import Found, compare_boxes
from trtdeploy.engine.tolerance import Tolerance

Build = Callable[..., BuildReport]


def program(name: str, *folders: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name) or next((str(p) for f in folders if (p := Path(f) / name).exists()), None)
    if found is None:
        pytest.skip(f"the program {name} is not installed")
    return found


def assert_same_detections(expected: list[Any], got: list[Any], precision: str, info: Any) -> None:
    """Check that detections of the same images agree within the tolerance of the precision."""
    tolerance = Tolerance.of(Precision(precision))
    wrong, total = 0, 0
    for before, after in zip(expected, got, strict=True):
        judged = compare_boxes(_found(before), _found(after), tolerance, info.nms)
        wrong += sum(item.differs for item in judged)
        total += len(judged)
    assert total > 50, "too few boxes prove nothing"
    assert wrong <= tolerance.allowed(total), f"{wrong} of {total} boxes differ"


def _found(detections: Any) -> Found:
    return Found(
        detections.xyxy.astype(np.float64),
        detections.scores.astype(np.float64),
        detections.classes.astype(np.int64),
        False,
    )
