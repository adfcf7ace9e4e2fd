"""What a calibration method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.quantize.magnitudes import Magnitudes

LEVELS = 127
"""Steps from zero to the largest magnitude in symmetric INT8: -127 to 127."""


class Method(ABC):
    """Chooses the largest magnitude that a tensor's INT8 form can hold; what is larger is clipped.

    Attributes:
        name: As users write it.
        needs_histogram: Whether it reads more than the largest magnitude.
    """

    name: ClassVar[str]
    needs_histogram: ClassVar[bool] = True

    @classmethod
    def parse(cls, argument: str) -> Method:
        """Return the method for the text after the colon, which may be empty.

        Raises:
            UsageError: The method takes no such text.
        """
        if argument:
            raise UsageError(f"Calibration method {cls.name} takes no number, got {argument!r}. Write {cls.name}.")
        return cls()

    @abstractmethod
    def amax(self, magnitudes: Magnitudes) -> float:
        """Return the magnitude, more than 0 and at most the peak; some element is not zero."""

    def __str__(self) -> str:
        return self.name
