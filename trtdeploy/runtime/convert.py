"""Results as other libraries' types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.core.discovery import require
from trtdeploy.core.types import Detections, Result

if TYPE_CHECKING:
    import supervision


def to_supervision(result: Result | Detections, class_names: Sequence[str] = ()) -> supervision.Detections:
    """Return detections as `supervision.Detections`.

    Args:
        result: A result of a pipeline, or the detections of an image.
        class_names: Names by class index, such as `engine.info.class_names`; supervision's annotators show them.

    Returns:
        The detections with `confidence`, `class_id`, `tracker_id` when tracking is on, and `data["class_name"]` when
        names were given. The arrays are copies.

    Raises:
        MissingDependencyError: The extra `viz` is not installed.
    """
    require("supervision", "conversion to supervision.Detections", "viz")
    import supervision

    found = result.detections if isinstance(result, Result) else result
    classes = found.classes.astype(int)
    data: dict[str, Any] = {}
    if class_names:
        known = range(len(class_names))
        data["class_name"] = np.array([class_names[c] if c in known else f"class{c}" for c in classes], dtype=str)
    return supervision.Detections(
        xyxy=found.xyxy.copy(),
        confidence=found.scores.copy(),
        class_id=classes,
        tracker_id=None if found.track_ids is None else found.track_ids.astype(int),
        data=data,
    )
