"""Plain value types shared by every room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Precision(str, Enum):
    """Precision that the user asked for. What it means on a backend is in `EngineInfo.precision_note`."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    def snapped(self, stride: int) -> Size:
        """Return the size with both sides rounded up to a multiple of `stride`."""
        return Size(-(-self.height // stride) * stride, -(-self.width // stride) * stride)

    def fits(self, other: Size) -> bool:
        """Return whether both sides are at most those of `other`."""
        return self.height <= other.height and self.width <= other.width


@dataclass(frozen=True)
class SizeRange:
    """Minimum, optimum and maximum network size of one optimization profile."""

    min: Size
    opt: Size
    max: Size

    def __post_init__(self) -> None:
        for size in (self.min, self.opt, self.max):
            if size.height < 1 or size.width < 1:
                raise UsageError(f"Image size {size} is not positive. Expected heights and widths of 1 or more.")
        if not (self.min.fits(self.opt) and self.opt.fits(self.max)):
            raise UsageError(f"Image sizes {self} are not in order. Expected min <= opt <= max in height and in width.")

    @classmethod
    def fixed(cls, size: Size) -> SizeRange:
        """Return the range that holds `size` alone."""
        return cls(size, size, size)

    @property
    def is_fixed(self) -> bool:
        return self.min == self.max

    def snapped(self, stride: int) -> SizeRange:
        """Return the range with every side rounded up to a multiple of `stride`."""
        return SizeRange(self.min.snapped(stride), self.opt.snapped(stride), self.max.snapped(stride))

    def contains(self, size: Size) -> bool:
        return self.min.fits(size) and size.fits(self.max)

    def __str__(self) -> str:
        return str(self.min) if self.is_fixed else f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True)
class BatchRange:
    """Minimum, optimum and maximum batch of one optimization profile."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if self.min < 1:
            raise UsageError(f"Batch {self.min} is not positive. Expected 1 or more.")
        if not self.min <= self.opt <= self.max:
            raise UsageError(f"Batch sizes {self} are not in order. Expected min <= opt <= max.")

    @property
    def is_fixed(self) -> bool:
        return self.min == self.max

    def __str__(self) -> str:
        return str(self.min) if self.is_fixed else f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one engine input or output. A string in `shape` is a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded frame of one stream.

    Attributes:
        stream: Name of the stream, unique in a pipeline.
        stream_index: Position of the stream among the pipeline's sources.
        index: Number of the frame in its stream, from 0, counting frames that were skipped or dropped.
        pts_s: Presentation time in seconds since the start of the stream.
        image: `[H, W, 3]` uint8 BGR. Owned by the receiver.
    """

    stream: str
    stream_index: int
    index: int
    pts_s: float
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Detections:
    """Detections of one frame, best score first.

    Attributes:
        xyxy: `[N, 4]` float32 boxes, left, top, right, bottom in frame pixels.
        scores: `[N]` float32 in 0..1.
        classes: `[N]` int32 class indices.
        track_ids: `[N]` int32, or None when tracking is off. -1 is a detection without a track yet.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    track_ids: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a pipeline yields for one frame.

    Attributes:
        frame: The frame, image included.
        detections: Its detections in frame pixels.
        latency_s: Seconds from decoding to detections, by stage: `queue`, `letterbox`, `infer`, `total`.
    """

    frame: Frame
    detections: Detections
    latency_s: dict[str, float] = field(default_factory=dict)

    def with_detections(self, detections: Detections) -> Result:
        return replace(self, detections=detections)


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What one graph pass did.

    Attributes:
        name: Name of the pass.
        stage: PREPARE, CANONICALISE, FUSE, HEAD, FRAMES, PRECISION, SHAPES or FINISH.
        changes: One sentence per change, empty when the pass left the model alone.
        refusals: One sentence per thing that the pass declined, with node and reason.
        details: Machine-readable facts that later stages and `inspect --json` use.
    """

    name: str
    stage: str
    changes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
