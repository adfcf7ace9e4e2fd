"""Implement YOLO11's C2PSA in torch."""

from __future__ import annotations

from trtdeploy.attention.psa.module import PSA


class C2PSA(PSA):
    """Attend on a part of the channels with several blocks one after another, as YOLO11 does.

    The layout is that of `PSA`, which it equals with one block.

    Args:
        channels: Number of channels of the input.
        blocks: Number of attention blocks. Default 1, as in YOLO11n.
        expansion: Share of the channels that attend. Default 0.5.
        heads: Number of heads; default: one per 64 attending channels, at least one.
        ratio: Ratio between the widths of keys and values. Default 0.5.

    Raises:
        ValueError: As `PSA`.
    """

    def __init__(
        self, channels: int, blocks: int = 1, expansion: float = 0.5, heads: int | None = None, ratio: float = 0.5
    ) -> None:
        super().__init__(channels, expansion, heads, ratio, blocks)
