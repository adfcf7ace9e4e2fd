"""How a frame becomes the network's input, and how boxes find their way back. Integer arithmetic, one place.

The host letterbox (runtime) and the letterbox in the graph (FRAMES pass) both follow `Letterbox.of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from trtdeploy.core.types import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Fit = Literal["center", "top-left", "stretch"]
Color = Literal["rgb", "bgr"]

PAD_VALUE = 114
"""Grey level of the letterbox's border."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What the network expects of its image input.

    `input = (pixel / divisor - mean) / std` for each channel in `color` order.

    Attributes:
        fit: `center`: scaled to fit, border on both sides (YOLOv5 to v12). `top-left`: border right and below (YOLOX).
            `stretch`: both sides scaled to the network size (RT-DETR).
        color: Channel order of the network.
        divisor: 255 for inputs in 0..1, 1 for inputs in 0..255.
        mean, std: Per channel, in the network's channel order, after the division.
    """

    fit: Fit = "center"
    color: Color = "rgb"
    divisor: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Letterbox:
    """Where the scaled frame lies on the canvas.

    Attributes:
        frame: Size of the frame.
        canvas: Network size.
        scaled: Size of the frame on the canvas.
        top, left: Its upper left corner on the canvas.
    """

    frame: Size
    canvas: Size
    scaled: Size
    top: int
    left: int

    @classmethod
    def of(cls, frame: Size, canvas: Size, fit: Fit = "center") -> Letterbox:
        """Lay out `frame` on `canvas`: the largest scale that fits, rounded half up, in integers."""
        if fit == "stretch":
            return cls(frame, canvas, canvas, 0, 0)
        h, w, ch, cw = frame.height, frame.width, canvas.height, canvas.width
        height = max(1, min(ch, (2 * h * cw + w) // (2 * w)))
        width = max(1, min(cw, (2 * w * ch + h) // (2 * h)))
        top, left = ((ch - height) // 2, (cw - width) // 2) if fit == "center" else (0, 0)
        return cls(frame, canvas, Size(height, width), top, left)

    def to_frame(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map `[N, 4]` canvas boxes to frame pixels in place, clipped to the frame, and return them."""
        import numpy as np

        offset, scale, limit = self._way_back
        np.subtract(xyxy, offset, out=xyxy, casting="same_kind")
        np.multiply(xyxy, scale, out=xyxy, casting="same_kind")
        np.maximum(xyxy, 0, out=xyxy)
        return np.minimum(xyxy, limit, out=xyxy, casting="same_kind")

    @cached_property
    def _way_back(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Offset, scale and limit of `to_frame`, made once: this runs for every frame."""
        import numpy as np

        sx = self.frame.width / self.scaled.width
        sy = self.frame.height / self.scaled.height
        offset = np.array((self.left, self.top) * 2, np.float64)
        return offset, np.array((sx, sy) * 2), np.array((self.frame.width, self.frame.height) * 2, np.float64)
