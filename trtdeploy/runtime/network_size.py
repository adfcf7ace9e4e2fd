"""Which network size a frame is inferred at, and which frames may share a batch."""

from __future__ import annotations

from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError, UsageError
from trtdeploy.core.preprocess import Letterbox
from trtdeploy.core.types import Size


class SizeChooser:
    """Chooses the input size of each frame. Frames with the same size may share a batch.

    For an engine with the letterbox in the graph that is the frame's own size. Otherwise it is the network size: one
    for all, or with `rect` the smallest one that holds the scaled frame.

    Args:
        info: The engine's metadata.
        size: Network size; None takes the engine's optimum.
        rect: Cut the canvas down to the scaled frame, rounded up to the stride, within the engine's range.

    Raises:
        UsageError: The engine does not accept the size, or has no use for one.
    """

    def __init__(self, info: EngineInfo, size: Size | None = None, rect: bool = False) -> None:
        self._info = info
        self._sizes = info.sizes
        self._frames = info.input_kind == "frames"
        if self._frames and (size is not None or rect):
            raise UsageError(
                "Options size and rect are for engines with the letterbox on the host; this engine takes frames of any "
                "size (built with --frames). Leave them out."
            )
        self._size = size or self._sizes.opt
        if not self._accepts(self._size):
            raise UsageError(
                f"Network size {self._size} is not one of the engine's: it accepts {self._sizes} in multiples of "
                f"{info.stride}. Choose another size, or rebuild with --dynamic."
            )
        self._rect = rect and not self._sizes.is_fixed
        self._fixed_input = _fixed_input(info) if self._frames else (None, None)

    def choose(self, height: int, width: int, stream: str) -> Size:
        """Return the input size for a frame of `height` and `width` pixels.

        Raises:
            EngineError: The engine takes frames of one size only, and not this one.
        """
        if self._frames:
            for actual, allowed in zip((height, width), self._fixed_input, strict=True):
                if allowed is not None and actual != allowed:
                    expected = "x".join(str(side or "any") for side in self._fixed_input)
                    raise EngineError(
                        f"Stream '{stream}': frame of {height}x{width}; the engine accepts frames of {expected}. "
                        "Rebuild it for frames of any size."
                    )
            return Size(height, width)
        return self._rect_size(height, width) if self._rect else self._size

    def _rect_size(self, height: int, width: int) -> Size:
        sizes, stride = self._sizes, self._info.stride
        tight = Letterbox.of(Size(height, width), self._size).scaled.snapped(stride)
        low, high = sizes.min.snapped(stride), sizes.max
        canvas = Size(max(low.height, min(high.height, tight.height)), max(low.width, min(high.width, tight.width)))
        return canvas if self._accepts(canvas) else self._size

    def _accepts(self, size: Size) -> bool:
        """Return whether the engine runs `size`; its own sizes need not be multiples of the stride."""
        sizes = self._sizes
        own = size in (sizes.min, sizes.opt, sizes.max)
        return own or (sizes.contains(size) and size.snapped(self._info.stride) == size)


def _fixed_input(info: EngineInfo) -> tuple[int | None, int | None]:
    shape = info.inputs[0].shape
    if len(shape) != 4:
        raise EngineError(f"Engine input {info.inputs[0].name} has shape {shape}; expected [B,H,W,3]. Rebuild it.")
    height, width = shape[1], shape[2]
    return height if isinstance(height, int) else None, width if isinstance(width, int) else None
