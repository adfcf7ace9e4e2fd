"""How far tensors are from those of a reference, what a precision explains, and the errors of whole blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Format = Literal["fp32", "fp16", "bf16", "int8"]
EXACT_DB = 200.0
"""Shown for tensors without any error."""


class ErrorSums:
    """Sums from which the errors of a tensor follow, over all images that were added.

    Attributes:
        max_abs: Largest difference of two elements.
        broken: Elements that are NaN or infinite in B and not in A, or the reverse.
        elements: Elements that were compared.
    """

    def __init__(self) -> None:
        self.max_abs = 0.0
        self.broken = 0
        self.elements = 0
        self._aa = self._bb = self._ab = self._dd = 0.0

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Add the tensors of one image; `a` is the reference."""
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        finite = np.isfinite(x) & np.isfinite(y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        self.broken += int(np.count_nonzero(~finite & ~same))
        self.elements += x.size
        if not finite.all():
            x, y = x[finite], y[finite]
        d = y - x
        self.max_abs = max(self.max_abs, float(np.abs(d).max(initial=0.0)))
        self._aa += _dot(x, x)
        self._bb += _dot(y, y)
        self._ab += _dot(x, y)
        self._dd += _dot(d, d)

    @property
    def rms(self) -> float:
        """Root mean square of the difference."""
        return math.sqrt(self._dd / self.elements) if self.elements else 0.0

    @property
    def relative_rms(self) -> float:
        """Root mean square of the difference by that of the reference."""
        if self._dd == 0:
            return 0.0
        return math.sqrt(self._dd / self._aa) if self._aa else math.inf

    @property
    def sqnr_db(self) -> float:
        """Signal to noise ratio of B in dB, at most `EXACT_DB`; minus infinity where an element is broken."""
        if self.broken:
            return -math.inf
        relative = self.relative_rms
        return EXACT_DB if relative == 0 else max(-EXACT_DB, min(EXACT_DB, -20 * math.log10(relative)))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both tensors; 1 where both are zero."""
        if self._aa == 0 or self._bb == 0:
            return float(self._aa == self._bb)
        return max(-1.0, min(1.0, self._ab / math.sqrt(self._aa * self._bb)))

    def to_dict(self) -> dict[str, Any]:
        """Return the errors as JSON values; a broken tensor has no ratio."""
        return {
            "sqnr_db": None if self.broken else round(self.sqnr_db, 2),
            "cosine": round(self.cosine, 7),
            "max_abs": float(f"{self.max_abs:.4g}"),
            "relative_rms": None if math.isinf(self.relative_rms) else float(f"{self.relative_rms:.4g}"),
            "broken": self.broken,
        }


@dataclass(frozen=True)
class Limit:
    """The local error that a precision explains.

    Attributes:
        format: The lowest precision of the two graphs.
        sqnr_db: Least signal to noise ratio of a tensor that is computed from the reference's own tensors.
        floor: Root mean square of a difference that is always explained: the format has no finer numbers.
    """

    format: Format
    sqnr_db: float
    floor: float

    @classmethod
    def of(cls, format: Format) -> Limit:
        """Return the limit of a format: 10 dB or more below the worst measured; see docs/compare.md."""
        return _LIMITS[format]

    def exceeded(self, error: ErrorSums) -> str:
        """Return what rounding does not explain, in words; empty when it explains all."""
        if error.broken:
            return f"{error.broken} of {error.elements} elements are NaN or infinite on one side only"
        if error.rms <= self.floor or error.sqnr_db >= self.sqnr_db:
            return ""
        return f"{error.sqnr_db:.1f} dB from A's own inputs, expected {self.sqnr_db:g} dB or more in {self.format}"


_LIMITS: dict[Format, Limit] = {
    "fp32": Limit("fp32", 60.0, 1e-12),
    "fp16": Limit("fp16", 40.0, 2.0**-24),
    "bf16": Limit("bf16", 24.0, 1e-12),
    "int8": Limit("int8", 10.0, 2.0**-24),
}


@dataclass(frozen=True)
class TensorError:
    """One tensor that both graphs have.

    Attributes:
        name, counterpart: Its name in A and in B.
        how: How they were paired; see `Pair`.
        op: Operator that gives it in A.
        home: Block that gives it in A.
        block: Block in which the graphs begin to differ, where it diverges; else `home`.
        accumulated: B's tensor against A's, both from the image.
        local: What B's operators make of A's tensors against A's; None where that is not judged.
        unjudged: Why not.
        diverges: Whether the local error is more than the precision explains.
        reason: What exceeds it, in words.
    """

    name: str
    counterpart: str
    how: str
    op: str
    home: str
    block: str
    accumulated: ErrorSums
    local: ErrorSums | None
    unjudged: str
    diverges: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the errors as JSON values."""
        names = ("name", "counterpart", "how", "op", "home", "block", "unjudged", "diverges", "reason")
        local = None if self.local is None else self.local.to_dict()
        return {name: getattr(self, name) for name in names} | {
            "accumulated": self.accumulated.to_dict(),
            "local": local,
        }


@dataclass(frozen=True)
class BlockError:
    """The tensors of one block.

    Attributes:
        name: The block.
        tensors: How many.
        last: The last of them in the order of the graph: what leaves the block; None where both graphs share none.
        worst: The one with the largest local error; None where none is judged.
        diverges: Whether one of them diverges.
        reason: Why, for the first that does.
    """

    name: str
    tensors: int
    last: TensorError | None
    worst: TensorError | None
    diverges: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the errors as JSON values."""
        local = self.worst.local if self.worst is not None else None
        return {
            "name": self.name,
            "tensors": self.tensors,
            "accumulated": None if self.last is None else self.last.accumulated.to_dict(),
            "local": None if local is None else local.to_dict(),
            "worst": None if self.worst is None else self.worst.name,
            "diverges": self.diverges,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class TensorReport:
    """What the comparison of two graphs found.

    Attributes:
        blocks: A's blocks in the order of the graph.
        tensors: Tensors that both graphs have, in the order of A.
        first: The first block that diverges; None where none does.
        unpaired: Tensors of A that B does not have, or where B has something else from which the same is computed.
        limit: What the precision explains.
        images: Images shown.
    """

    blocks: tuple[BlockError, ...]
    tensors: tuple[TensorError, ...]
    first: str | None
    unpaired: tuple[str, ...]
    limit: Limit
    images: int

    @property
    def diverging(self) -> tuple[BlockError, ...]:
        """The blocks that diverge."""
        return tuple(block for block in self.blocks if block.diverges)

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        judged = sum(tensor.local is not None for tensor in self.tensors)
        if self.first is None:
            return f"no block diverges: {judged} tensors are what {self.limit.format} rounding of A's inputs gives"
        others = len(self.diverging) - 1
        more = f" ({others} more diverge)" if others else ""
        return f"first diverging block: {self.first}{more}: {self.diverging[0].reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "first_diverging_block": self.first,
            "verdict": self.verdict,
            "limit": {"format": self.limit.format, "sqnr_db": self.limit.sqnr_db},
            "images": self.images,
            "blocks": [block.to_dict() for block in self.blocks],
            "tensors": [tensor.to_dict() for tensor in self.tensors],
            "unpaired": list(self.unpaired),
        }


def block_errors(tensors: Sequence[TensorError], blocks: Sequence[str]) -> tuple[BlockError, ...]:
    """Return the errors of each block, in the order of `blocks`."""
    return tuple(_block(name, tensors) for name in blocks)


def _block(name: str, tensors: Sequence[TensorError]) -> BlockError:
    own = [tensor for tensor in tensors if tensor.home == name]
    judged = [tensor for tensor in own if tensor.local is not None]
    wrong = [tensor for tensor in tensors if tensor.diverges and tensor.block == name]
    return BlockError(
        name=name,
        tensors=len(own),
        last=own[-1] if own else None,
        worst=min(judged, key=_sqnr_of) if judged else None,
        diverges=bool(wrong),
        reason=f"{wrong[0].name}: {wrong[0].reason}" if wrong else "",
    )


def _dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the inner product on this thread: BLAS would wake a pool for it that contends with ONNX Runtime's."""
    return float(np.einsum("i,i->", x, y))


def _sqnr_of(tensor: TensorError) -> float:
    return tensor.local.sqnr_db if tensor.local is not None else math.inf
