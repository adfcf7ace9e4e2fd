"""Provide the detection heads: one for NMS afterwards, and one that chooses its detections itself."""

# mypy: allow-subclassing-any

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trtdeploy.models.blocks import ConvNormAct
from trtdeploy.models.yolo import SCORE_PRIOR, decode

BINS = 16


class DenseHead(nn.Module):
    """Predict distances and classes per cell in two branches per level; NMS chooses among them afterwards.

    Args:
        channels: Channels of the maps at strides 8, 16 and 32.
        class_count: Number of classes.
        light: Make the class branch of depthwise and pointwise convolutions, as YOLOv10 and YOLOv12 do.
    """

    def __init__(self, channels: Sequence[int], class_count: int, *, light: bool) -> None:
        super().__init__()
        wide = max(16, channels[0] // 4, 4 * BINS)
        deep = max(channels[0], min(class_count, 100))
        branch = _light_branch if light else _plain_branch
        self.class_count = class_count
        self.boxes = nn.ModuleList(_plain_branch(c, wide, 4 * BINS) for c in channels)
        self.scores = nn.ModuleList(branch(c, deep, class_count) for c in channels)
        for scores in self.scores:
            last = list(scores.children())[-1]
            nn.init.constant_(last.get_parameter("bias"), -math.log((1 - SCORE_PRIOR) / SCORE_PRIOR))

    def maps(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return per level `[B, 4 * bins + classes, H, W]`: logits of the distances, then of the classes."""
        branches = zip(levels, self.boxes, self.scores, strict=True)
        return [torch.cat([boxes(level), scores(level)], dim=1) for level, boxes, scores in branches]

    def forward(self, levels: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Detect objects.

        Args:
            levels: `[B, C, H, W]` at strides 8, 16 and 32.

        Returns:
            In training the raw maps. Otherwise `[B, 4 + classes, N]`: centre x, centre y, width and height in input
            pixels, then sigmoid scores.
        """
        maps = self.maps(levels)
        return maps if self.training else decode(maps, BINS)


class OneToOneHead(DenseHead):
    """Choose the best detections without NMS (YOLOv10's one-to-one head).

    The one-to-many branch, which YOLOv10 trains beside it and drops afterwards, is not part of the network.

    Args:
        channels: Channels of the maps at strides 8, 16 and 32.
        class_count: Number of classes.
        max_det: Detections per image; fewer on images with fewer cells.
    """

    def __init__(self, channels: Sequence[int], class_count: int, max_det: int) -> None:
        super().__init__(channels, class_count, light=True)
        self.max_det = max_det

    def forward(self, levels: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Detect objects.

        Args:
            levels: `[B, C, H, W]` at strides 8, 16 and 32.

        Returns:
            In training the raw maps. Otherwise `[B, K, 6]`, best first: left, top, right, bottom in input pixels,
            score, class.
        """
        maps = self.maps(levels)
        return maps if self.training else choose(decode(maps, BINS), self.class_count, self.max_det)


def choose(dense: Tensor, class_count: int, max_det: int) -> Tensor:
    """Take the `max_det` best pairs of cell and class.

    First the best cells by their best class are kept, then the best pairs among them, so that the second choice is
    among `max_det * classes` and not among all.

    Args:
        dense: `[B, 4 + classes, N]` as `decode` returns it.
        class_count: Number of classes.
        max_det: Number of pairs.

    Returns:
        `[B, min(max_det, N), 6]`: left, top, right, bottom, score, class.
    """
    rows = dense.transpose(1, 2)
    boxes, scores = rows.split([4, class_count], dim=2)
    count = _at_most(max_det, scores)
    best = scores.amax(dim=2).topk(count, dim=1).indices.unsqueeze(2)
    boxes, scores = boxes.gather(1, best.expand(-1, -1, 4)), scores.gather(1, best.expand(-1, -1, class_count))
    values, index = scores.flatten(1).topk(count, dim=1)
    row = torch.div(index, class_count, rounding_mode="floor")
    boxes = boxes.gather(1, row.unsqueeze(2).expand(-1, -1, 4))
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    classes = (index % class_count).to(values.dtype)
    return torch.cat([centres - halves, centres + halves, values.unsqueeze(2), classes.unsqueeze(2)], dim=2)


def _at_most(max_det: int, scores: Tensor) -> Any:
    """Return the smaller of `max_det` and the number of cells, in a way that a traced graph keeps as a choice."""
    if torch.jit.is_tracing():
        return torch._shape_as_tensor(scores)[1].clamp(max=max_det)
    return min(max_det, scores.shape[1])


def _plain_branch(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(inputs, width, 3), ConvNormAct(width, width, 3), nn.Conv2d(width, outputs, 1))


def _light_branch(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(inputs, inputs, 3, groups=inputs), ConvNormAct(inputs, width),
        ConvNormAct(width, width, 3, groups=width), ConvNormAct(width, width), nn.Conv2d(width, outputs, 1),
    )  # fmt: skip
