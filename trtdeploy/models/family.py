"""Define the YOLO family: networks in the style of YOLOv8, YOLOv10 and YOLOv12 in sizes n, s and m.

The styles share one skeleton, five strides and a two-way pyramid, and differ in blocks and head. Weights of other
implementations do not fit. The network that the package's demo was trained with is `trtdeploy.models.yolo.YOLO`.
"""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.core.errors import UsageError
from trtdeploy.models.blocks import ConvNormAct, PyramidPool, SplitStage
from trtdeploy.models.family_blocks import AreaStage, InvertedStage, SpatialDown
from trtdeploy.models.family_heads import DenseHead, OneToOneHead

Style = Literal["v8", "v10", "v12"]
Size = Literal["n", "s", "m"]
STYLES: tuple[Style, ...] = get_args(Style)
SIZES: tuple[Size, ...] = get_args(Size)
_WIDTHS: dict[Size, tuple[int, int, int, int, int]] = {
    "n": (16, 32, 64, 128, 256),
    "s": (32, 64, 128, 256, 512),
    "m": (48, 96, 192, 384, 576),
}
_DEPTHS: dict[Size, tuple[int, int, int, int]] = {"n": (1, 2, 2, 1), "s": (1, 2, 2, 1), "m": (2, 4, 4, 2)}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Choose a network.

    Attributes:
        style: `v8` (split stages, dense head), `v10` (depthwise blocks, partial self-attention after the pyramid
            pooling, NMS-free head) or `v12` (area attention at strides 16 and 32, dense head).
        size: `n`, `s` or `m`.
        class_count: Number of classes.
        max_det: Detections per image of an NMS-free head. Default 300.

    Raises:
        UsageError: A value is not one of these.
    """

    style: Style = "v8"
    size: Size = "n"
    class_count: int = 80
    max_det: int = 300

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UsageError(f"There is no style {self.style!r}. The styles are: {', '.join(STYLES)}.")
        if self.size not in SIZES:
            raise UsageError(f"There is no size {self.size!r}. The sizes are: {', '.join(SIZES)}.")
        for name in ("class_count", "max_det"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")


class Network(nn.Module):
    """Detect objects at strides 8, 16 and 32.

    Args:
        options: Style and size.
    """

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        self.options = options
        self.backbone = Backbone(options.style, options.size)
        channels = _WIDTHS[options.size][2:]
        self.neck = Neck(options.style, channels, _DEPTHS[options.size][0])
        if options.style == "v10":
            self.head: DenseHead = OneToOneHead(channels, options.class_count, options.max_det)
        else:
            self.head = DenseHead(channels, options.class_count, light=options.style == "v12")

    def places(self) -> dict[str, list[str]]:
        """Return the module paths that `insert` means by `backbone`, `neck` and `head`."""
        return {"backbone": ["backbone.stage5"], "neck": ["neck.out3", "neck.out4", "neck.out5"], "head": ["head"]}

    def maps(self, images: Tensor) -> list[Tensor]:
        """Compute the head's raw maps, which the loss takes; see `DenseHead.maps`."""
        return self.head.maps(self.neck(*self.backbone(images)))

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Detect objects.

        Args:
            images: `[B, 3, H, W]`, RGB from 0 to 1; H and W multiples of 32.

        Returns:
            What the head returns: see `DenseHead.forward` and `OneToOneHead.forward`.
        """
        out: Tensor | list[Tensor] = self.head(self.neck(*self.backbone(images)))
        return out


class Backbone(nn.Module):
    """Compute the maps at strides 8, 16 and 32.

    Args:
        style: Which blocks.
        size: How wide and deep.
    """

    def __init__(self, style: Style, size: Size) -> None:
        super().__init__()
        w, d = _WIDTHS[size], _DEPTHS[size]
        self.stem = ConvNormAct(3, w[0], 3, 2)
        self.stage2 = nn.Sequential(ConvNormAct(w[0], w[1], 3, 2), SplitStage(w[1], w[1], d[0], residual=True))
        self.stage3 = nn.Sequential(ConvNormAct(w[1], w[2], 3, 2), SplitStage(w[2], w[2], d[1], residual=True))
        down4, down5 = _down(style, w[2], w[3]), _down(style, w[3], w[4])
        if style == "v12":
            self.stage4 = nn.Sequential(down4, AreaStage(w[3], w[3], d[2], area=4))
            self.stage5 = nn.Sequential(down5, AreaStage(w[4], w[4], d[3]))
            return
        self.stage4 = nn.Sequential(down4, SplitStage(w[3], w[3], d[2], residual=True))
        last: nn.Module = SplitStage(w[4], w[4], d[3], residual=True)
        if style == "v8":
            self.stage5 = nn.Sequential(down5, last, PyramidPool(w[4]))
            return
        last = last if size == "n" else InvertedStage(w[4], w[4], d[3], residual=True)
        self.stage5 = nn.Sequential(down5, last, PyramidPool(w[4]), catalogue.kind("psa").make(w[4]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map `[B, 3, H, W]` to the maps at strides 8, 16 and 32."""
        p3 = self.stage3(self.stage2(self.stem(images)))
        p4 = self.stage4(p3)
        return p3, p4, self.stage5(p4)


class Neck(nn.Module):
    """Mix the maps downwards, then upwards (a path-aggregation pyramid).

    Args:
        style: Which blocks.
        channels: Channels of the maps at strides 8, 16 and 32, in and out.
        depth: Blocks per stage.
    """

    def __init__(self, style: Style, channels: Sequence[int], depth: int) -> None:
        super().__init__()
        c3, c4, c5 = channels
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        if style == "v12":
            self.down4: nn.Module = AreaStage(c5 + c4, c4, depth)
        else:
            self.down4 = SplitStage(c5 + c4, c4, depth)
        self.out3 = SplitStage(c4 + c3, c3, depth)
        self.shrink3 = ConvNormAct(c3, c3, 3, 2)
        self.out4 = SplitStage(c3 + c4, c4, depth)
        self.shrink4 = _down(style, c4, c4)
        self.out5 = (
            InvertedStage(c4 + c5, c5, depth, residual=True) if style == "v10" else SplitStage(c4 + c5, c5, depth)
        )

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map the maps at strides 8, 16 and 32 to maps of the same shapes."""
        n4 = self.down4(torch.cat([self.up(p5), p4], dim=1))
        n3 = self.out3(torch.cat([self.up(n4), p3], dim=1))
        n4 = self.out4(torch.cat([self.shrink3(n3), n4], dim=1))
        n5 = self.out5(torch.cat([self.shrink4(n4), p5], dim=1))
        return n3, n4, n5


def _down(style: Style, inputs: int, outputs: int) -> nn.Module:
    return SpatialDown(inputs, outputs) if style == "v10" else ConvNormAct(inputs, outputs, 3, 2)
