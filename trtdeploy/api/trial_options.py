"""What the measurements that try networks in INT8 have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trtdeploy.core.errors import UsageError

DEFAULT_DROP = 0.005


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """How networks are tried.

    Attributes:
        images: Calibration images on which outputs are compared, for each block's damage to them.
        max_drop: Largest drop of the score that the whole network may have: of mAP50-95 where there are labels, else of
            the agreement with FP32.
        draws: Bootstrap draws of the images, for standard errors.
        cache: File in which scores are kept, so that an interrupted run goes on; None keeps nothing.

    Raises:
        UsageError: A number is out of range.
    """

    what: ClassVar[str]

    images: int = 8
    max_drop: float = DEFAULT_DROP
    draws: int = 200
    cache: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise UsageError(f"--max-map-drop {self.max_drop:g} is out of range. Expected 0 to 1, such as 0.005.")
        if self.images < 1 or self.draws < 2:
            raise UsageError(f"{self.what} needs an image and two draws, got {self.images} and {self.draws}.")
