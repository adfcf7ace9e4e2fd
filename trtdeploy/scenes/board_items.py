"""Name what a circuit board carries: labelled items, parts and the board's layout."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES: tuple[str, ...] = ("pad", "joint", "bridge", "crack", "void", "missing", "chip")
PAD, JOINT, BRIDGE, CRACK, VOID, MISSING, CHIP = range(7)

BOARD_WIDTH = 2000
BOARD_HEIGHT = 1400
EDGE = 90

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Item:
    """Describe one labelled object in board pixels.

    Attributes:
        label: Class id, an index into `CLASS_NAMES`.
        x: Centre, in board pixels.
        y: Centre, in board pixels.
        width: Full width in board pixels.
        height: Full height in board pixels.
        round: True for an ellipse, False for a rectangle with round corners.
        seed: Seed of the item's own random details, so that items do not influence one another.
        pin: Direction from the item to its part (unit vector), or None where no lead enters it.
    """

    label: int
    x: float
    y: float
    width: float
    height: float
    round: bool = False
    seed: int = 0
    pin: Point | None = None

    def outline(self) -> NDArray[np.float32]:
        """Return points on the item's edge.

        Returns:
            `[24, 2]` float32, board pixels.
        """
        angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        power = 1.0 if self.round or self.label in (CHIP, MISSING) else 0.5
        cos, sin = np.cos(angle), np.sin(angle)
        if self.label in (CHIP, MISSING):
            scale = 1.0 / np.maximum(np.abs(cos), np.abs(sin))
            unit = np.stack([cos * scale, sin * scale], axis=1)
        else:
            unit = np.stack([np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], axis=1)
        half = np.array([self.width, self.height]) / 2.0
        return (unit * half + (self.x, self.y)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Describe one part's body; its joints are separate items.

    Attributes:
        kind: `chip`, `resistor`, `capacitor`, `can`, `header` or `testpoints`.
        x: Centre, in board pixels.
        y: Centre, in board pixels.
        width: Width of the body in board pixels.
        height: Height of the body in board pixels.
        name: Text printed beside it, such as `R12`.
        present: False when the part is missing from the board.
        vertical: True when the two ends of a resistor or capacitor are above each other.
        seed: Seed of the part's own random details.
    """

    kind: str
    x: float
    y: float
    width: float
    height: float
    name: str
    present: bool = True
    vertical: bool = False
    seed: int = 0


@dataclass
class Layout:
    """Hold everything a board carries.

    Attributes:
        parts: Bodies, in the order in which they are drawn.
        items: Labelled objects.
        vias: Small unlabelled plated holes, as x and y.
        traces: Copper traces as lists of points.
        taken: Rectangles (x0, y0, x1, y1) that parts occupy.
    """

    parts: list[Part] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    vias: list[Point] = field(default_factory=list)
    traces: list[list[Point]] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)
