"""How the accuracy gate works: options, and the images that it shows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.image_files import images_in, read_image, spread
from trtdeploy.engine.tolerance import Tolerance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GateMode = Literal["auto", "off", "warn", "enforce", "emulated"]

_OPTION = "--gate-images"
_SEED = 2_000_001
"""A board that neither the training nor the held-out images of the packaged model show."""
_DRAWN_SIZES = ((640, 640), (720, 960), (640, 480), (600, 800))


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """Whether and with what an engine is compared with its model before it is written.

    Attributes:
        mode: `enforce`: an engine whose detections diverge is refused. `warn`: it is written, and its metadata say
            `failed`. `off`: nothing is compared. `auto`: `enforce` where the engine can run here; elsewhere it is
            written ungated. `emulated`: `enforce` where the engine can run here; elsewhere its graph is compared, with
            16-bit arithmetic emulated on the CPU, before the engine is built, and refused when it diverges.
        images: Folder of photos; None takes drawings of circuit boards, which come with trtdeploy.
        limit: Photos at most, spread evenly over the folder by name.
        tolerance: How far detections may be apart; None takes the default of the precision.
    """

    mode: GateMode = "auto"
    images: Path | None = None
    limit: int = 8
    tolerance: Tolerance | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(GateMode):
            raise UsageError(f"Gate {self.mode!r} is not known. Choose one of {', '.join(get_args(GateMode))}.")
        if self.limit < 1:
            raise UsageError(f"The gate needs images, and a limit of {self.limit} allows none. Give 1 or more.")
        if self.images is not None:
            images_in(self.images, _OPTION)


@dataclass(frozen=True)
class GateImage:
    """An image and its name in reports; `[H, W, 3]` uint8 BGR."""

    name: str
    image: NDArray[np.uint8]


def gate_images(options: GateOptions, wanted: int) -> list[GateImage]:
    """Return the images that the gate shows: at least two different ones.

    Args:
        options: Where they come from.
        wanted: How many drawings to make where there is no folder.

    Raises:
        UsageError: The folder does not exist or holds no image.
        SourceError: Images cannot be read; all are named.
    """
    if options.images is None:
        return list(_drawn(wanted))
    found = _read(spread(images_in(options.images, _OPTION), options.limit), options.images)
    if len(found) == 1:
        found.append(GateImage(f"{found[0].name} (mirrored)", found[0].image[:, ::-1].copy()))
    return found


def _read(paths: Sequence[Path], folder: Path) -> list[GateImage]:
    found, unreadable = [], []
    for path in paths:
        image = read_image(path)
        if image is None:
            unreadable.append(path.name)
        else:
            found.append(GateImage(path.name, image))
    if unreadable:
        raise SourceError(
            f"{_OPTION} {folder}: {len(unreadable)} of {len(paths)} images cannot be read: "
            f"{', '.join(unreadable)}. Remove them or replace them."
        )
    return found


@functools.cache
def _drawn(count: int) -> tuple[GateImage, ...]:
    from trtdeploy.scenes.circuit_boards import CircuitBoardScene

    scene = CircuitBoardScene(_SEED, width=64, height=64)
    images = []
    for index in range(count):
        height, width = _DRAWN_SIZES[index % len(_DRAWN_SIZES)]
        images.append(GateImage(f"drawing {index + 1}", scene.sample(index, width=width, height=height)[0]))
    return tuple(images)
