"""How a command ended, and what the small detector and the small videos of these tests show."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

CLASS_NAMES = ("red", "blue")


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    def failed(self, code: int, *words: str) -> None:
        """Check a failure: its exit code, the key words of its message, and that it is a message and no traceback."""
        assert self.code == code, self.text
        assert "Traceback" not in self.text
        assert "Unexpected" not in self.text
        for word in words:
            assert word in self.text, f"'{word}' is not in: {self.text}"


def draw_frame(index: int, size: tuple[int, int], color: tuple[int, int, int] = (0, 0, 255)) -> np.ndarray:
    """Draw one frame of `write_video`."""
    height, width = size
    image = np.full((height, width, 3), 90, np.uint8)
    left, side = (4 * index) % (width // 2), min(height, width) // 2
    cv2.rectangle(image, (left, height // 4), (left + side, height // 4 + side), color, -1)
    return image
