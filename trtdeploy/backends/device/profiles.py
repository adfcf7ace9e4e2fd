"""The optimization profiles of an engine, and the one for a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trtdeploy.core.errors import EngineError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """The input shapes `[B, H, W, 3]` that one profile allows.

    Attributes:
        index: Its number in the engine.
        name: What the user called it, or its number.
    """

    index: int
    name: str
    min: Shape
    opt: Shape
    max: Shape

    def allows(self, shape: Shape) -> bool:
        """Return whether `shape` lies within the profile."""
        return len(shape) == len(self.min) and all(
            low <= have <= high for low, have, high in zip(self.min, shape, self.max, strict=True)
        )

    def __str__(self) -> str:
        batch, height, width = (
            f"{low}" if low == high else f"{low} to {high}"
            for low, high in zip(self.min[:3], self.max[:3], strict=True)
        )
        return f"profile {self.name!r}: batch {batch}, height {height}, width {width}"


class Profiles:
    """All profiles of an engine.

    Args:
        name: The engine's path, for messages.
        engine: The `ICudaEngine`.
        tensor: Name of its input.
        names: Names of the profiles as far as they are known.
    """

    def __init__(self, name: str, engine: Any, tensor: str, names: Sequence[str] = ()) -> None:
        self._name = name
        self._profiles = [
            Profile(
                index,
                names[index] if index < len(names) else str(index),
                *(tuple(shape) for shape in engine.get_tensor_profile_shape(tensor, index)),
            )
            for index in range(engine.num_optimization_profiles)
        ]

    def choose(self, shape: Shape) -> Profile:
        """Return the profile for input shape `[B, H, W, 3]`: the one tuned for just it, or else the narrowest.

        Raises:
            EngineError: No profile allows it.
        """
        fitting = [profile for profile in self._profiles if profile.allows(shape)]
        if not fitting:
            raise EngineError(
                f"{self._name}: no optimization profile allows batch {shape[0]} of {shape[1]}x{shape[2]}. The engine "
                f"has {'; '.join(map(str, self._profiles))}. Send what a profile allows, or rebuild with another one."
            )
        return min(fitting, key=lambda profile: (profile.opt != shape, math.prod(profile.max), profile.index))
