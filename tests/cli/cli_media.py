"""What the CLI tests read back with OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2


def count_frames(path: Path) -> int:
    """Return how many frames of a video can be read."""
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count
