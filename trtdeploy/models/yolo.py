"""Define an anchor-free YOLO with a decoupled head, optionally with attention."""

# mypy: allow-subclassing-any

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trtdeploy.attention.cbam.module import CBAM
from trtdeploy.attention.coordatt.module import CoordAtt
from trtdeploy.models.blocks import ConvNormAct, PyramidPool, SplitStage

AttentionName = Literal["cbam", "coordatt"]

STRIDES: tuple[int, int, int] = (8, 16, 32)
SCORE_PRIOR = 0.01


@dataclass(frozen=True, kw_only=True)
class YOLOOptions:
    """Choose a network of the family.

    Attributes:
        class_count: Number of classes.
        width: Channels at strides 2, 4, 8, 16 and 32, all even. Default size n.
        depth: Bottlenecks per backbone stage at strides 4, 8, 16 and 32. Default size n.
        head_width: Channels inside the head. Default 32.
        bins: Distance bins per side of a box (DFL). Default 8.
        attention: Kind inserted at the end of the backbone and after each neck stage, or None.
    """

    class_count: int
    width: tuple[int, int, int, int, int] = (16, 32, 64, 128, 160)
    depth: tuple[int, int, int, int] = (1, 1, 1, 1)
    head_width: int = 32
    bins: int = 8
    attention: AttentionName | None = None


def yolo_n(class_count: int, attention: AttentionName | None = None) -> YOLO:
    """Build size n: under 2 million parameters.

    Args:
        class_count: Number of classes.
        attention: Kind of attention, or None.

    Returns:
        The network with fresh weights.
    """
    return YOLO(YOLOOptions(class_count=class_count, attention=attention))


def yolo_s(class_count: int, attention: AttentionName | None = None) -> YOLO:
    """Build size s: twice the width of n and deeper in the middle.

    Args:
        class_count: Number of classes.
        attention: Kind of attention, or None.

    Returns:
        The network with fresh weights.
    """
    width = (32, 64, 128, 256, 320)
    options = YOLOOptions(
        class_count=class_count, width=width, depth=(1, 2, 2, 1), head_width=64, bins=16, attention=attention
    )
    return YOLO(options)


class YOLO(nn.Module):
    """Detect objects at strides 8, 16 and 32.

    Args:
        options: Sizes and kind of attention.

    Raises:
        ValueError: If `options.attention` is not a known kind or `class_count` is less than 1.
    """

    def __init__(self, options: YOLOOptions) -> None:
        super().__init__()
        if options.class_count < 1:
            raise ValueError(f"YOLO: class_count must be at least 1, got {options.class_count}.")
        self.options = options
        w, d = options.width, options.depth
        self.stem = ConvNormAct(3, w[0], 3, 2)
        self.stage2 = nn.Sequential(ConvNormAct(w[0], w[1], 3, 2), SplitStage(w[1], w[1], d[0], residual=True))
        self.stage3 = nn.Sequential(ConvNormAct(w[1], w[2], 3, 2), SplitStage(w[2], w[2], d[1], residual=True))
        self.stage4 = nn.Sequential(ConvNormAct(w[2], w[3], 3, 2), SplitStage(w[3], w[3], d[2], residual=True))
        self.stage5 = nn.Sequential(
            ConvNormAct(w[3], w[4], 3, 2),
            SplitStage(w[4], w[4], d[3], residual=True),
            PyramidPool(w[4]),
            _attention(options.attention, w[4]),
        )
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.down4 = SplitStage(w[4] + w[3], w[3])
        self.out3 = nn.Sequential(SplitStage(w[3] + w[2], w[2]), _attention(options.attention, w[2]))
        self.shrink3 = ConvNormAct(w[2], w[2], 3, 2)
        self.out4 = nn.Sequential(SplitStage(w[2] + w[3], w[3]), _attention(options.attention, w[3]))
        self.shrink4 = ConvNormAct(w[3], w[3], 3, 2)
        self.out5 = nn.Sequential(SplitStage(w[3] + w[4], w[4]), _attention(options.attention, w[4]))
        self.levels = Levels()
        self.heads = nn.ModuleList(
            Head(channels, options.head_width, options.class_count, options.bins) for channels in w[2:]
        )

    def maps(self, images: Tensor) -> list[Tensor]:
        """Compute the head's raw maps, which the loss takes.

        Args:
            images: `[B, 3, H, W]`, RGB from 0 to 1; H and W multiples of 32.

        Returns:
            Per stride `[B, 4 * bins + classes, H / stride, W / stride]`: logits of the distances
            left, top, right, bottom, then logits of the classes.
        """
        p3 = self.stage3(self.stage2(self.stem(images)))
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        n4 = self.down4(torch.cat([self.up(p5), p4], dim=1))
        n3 = self.out3(torch.cat([self.up(n4), p3], dim=1))
        n4 = self.out4(torch.cat([self.shrink3(n3), n4], dim=1))
        n5 = self.out5(torch.cat([self.shrink4(n4), p5], dim=1))
        return [head(level) for head, level in zip(self.heads, self.levels((n3, n4, n5)), strict=True)]

    def places(self) -> dict[str, list[str]]:
        """Return the module paths that `insert` means by `backbone`, `neck` and `head`."""
        return {"backbone": ["stage5"], "neck": ["out3", "out4", "out5"], "head": ["levels"]}

    def forward(self, images: Tensor) -> Tensor:
        """Detect objects.

        Args:
            images: `[B, 3, H, W]`, RGB from 0 to 1; H and W multiples of 32.

        Returns:
            `[B, 4 + classes, N]`: centre x, centre y, width, height in input pixels, then sigmoid
            scores; N counts the cells of all strides, row by row, stride 8 first.
        """
        return decode(self.maps(images), self.options.bins)


class Levels(nn.Module):
    """Return the maps that the heads take: where attention over all of them goes."""

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps as they are."""
        return maps


class Head(nn.Module):
    """Predict distances and classes in two separate branches.

    Args:
        channels: Number of input channels.
        width: Number of channels inside each branch.
        class_count: Number of classes.
        bins: Distance bins per side.
    """

    def __init__(self, channels: int, width: int, class_count: int, bins: int) -> None:
        super().__init__()
        self.box = nn.Sequential(ConvNormAct(channels, width, 3), ConvNormAct(width, width, 3))
        self.box_out = nn.Conv2d(width, 4 * bins, 1)
        self.score = nn.Sequential(ConvNormAct(channels, width, 3), ConvNormAct(width, width, 3))
        self.score_out = nn.Conv2d(width, class_count, 1)
        nn.init.constant_(self.score_out.get_parameter("bias"), -math.log((1 - SCORE_PRIOR) / SCORE_PRIOR))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, 4 * bins + classes, H, W]`."""
        return torch.cat([self.box_out(self.box(x)), self.score_out(self.score(x))], dim=1)


def cell_centres(level: Tensor, stride: int) -> Tensor:
    """Return the centres of a map's cells in input pixels, from its shape, so that a graph stays dynamic.

    Args:
        level: `[B, C, H, W]`.
        stride: Input pixels per cell.

    Returns:
        `[2, H * W]` float32: x, then y.
    """
    height, width = level.shape[2], level.shape[3]
    x = (torch.arange(width, device=level.device, dtype=torch.float32) + 0.5) * stride
    y = (torch.arange(height, device=level.device, dtype=torch.float32) + 0.5) * stride
    return torch.stack([x.repeat(height), y.unsqueeze(1).repeat(1, width).flatten()])


def expected_distances(logits: Tensor, bins: int) -> Tensor:
    """Average the distance bins under their softmax (Li et al., "Generalized Focal Loss", 2020).

    Args:
        logits: `[B, 4 * bins, N]`.
        bins: Distance bins per side.

    Returns:
        `[B, 4, N]`, in cells: left, top, right, bottom.
    """
    batch, cells = logits.shape[0], logits.shape[2]
    weights = logits.reshape(batch, 4, bins, cells).softmax(dim=2)
    steps = torch.arange(bins, device=logits.device, dtype=logits.dtype).reshape(1, 1, bins, 1)
    return (weights * steps).sum(dim=2)


def decode(maps: list[Tensor], bins: int) -> Tensor:
    """Turn raw maps into boxes and scores.

    Args:
        maps: What `YOLO.maps` returns.
        bins: Distance bins per side.

    Returns:
        `[B, 4 + classes, N]`, as `YOLO.forward` returns it.
    """
    boxes, scores = [], []
    for level, stride in zip(maps, STRIDES, strict=True):
        flat = level.flatten(2)
        distances = expected_distances(flat[:, : 4 * bins], bins) * stride
        before, after = distances[:, :2], distances[:, 2:]
        boxes.append(torch.cat([cell_centres(level, stride) + (after - before) / 2, before + after], dim=1))
        scores.append(flat[:, 4 * bins :])
    return torch.cat([torch.cat(boxes, dim=2), torch.cat(scores, dim=2).sigmoid()], dim=1)


def _attention(name: AttentionName | None, channels: int) -> nn.Module:
    if name is None:
        return nn.Identity()
    if name == "cbam":
        return CBAM(channels)
    if name == "coordatt":
        return CoordAtt(channels)
    raise ValueError(f"YOLO: attention must be 'cbam', 'coordatt' or None, got {name!r}.")
