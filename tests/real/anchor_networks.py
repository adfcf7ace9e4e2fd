"""Small torch networks with heads that Ultralytics does not carry: YOLOv5/v7 anchors, YOLOX, DETR's two outputs.

Each head follows its publication: YOLOv5 release 4.0 and YOLOv7 (arXiv 2207.02696) share one decoding; YOLOX is
arXiv 2107.08430, section 2; the DETR family (arXiv 2005.12872) returns class logits and normalised centre boxes.
The backbone is a stack of strided convolutions: what is tested is the head.
"""

from __future__ import annotations

import torch
from calibrated import LOGIT_SPREAD, Part
from torch import nn

STRIDES = (8, 16, 32)
ANCHORS = (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)), ((116, 90), (156, 198), (373, 326)))
"""Width and height in pixels of three anchors per stride, YOLOv5's for COCO."""


class Backbone(nn.Module):
    """Three feature maps, at strides 8, 16 and 32."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, width, 2), _conv(width, 2 * width, 2), _conv(2 * width, 4 * width, 2))
        self.down4 = _conv(4 * width, 4 * width, 2)
        self.down5 = _conv(4 * width, 4 * width, 2)
        self.channels = 4 * width

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        p3 = self.stem(images)
        p4 = self.down4(p3)
        return [p3, p4, self.down5(p4)]


class AnchorYolo(nn.Module):
    """YOLOv5/v7: `[B, N, 5 + nc]` rows of centre, size, objectness and class scores, decoded in the graph.

    `xy = (2 sigmoid(t) - 0.5 + cell) * stride`, `wh = (2 sigmoid(t))^2 * anchor`.
    """

    def __init__(self, classes: int = 20) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.rows = 5 + classes
        self.heads = nn.ModuleList(nn.Conv2d(self.backbone.channels, 3 * self.rows, 1) for _ in STRIDES)
        self.register_buffer("anchors", torch.tensor(ANCHORS, dtype=torch.float32))

    def calibration_parts(self) -> tuple[list[Part], list[Part]]:
        first = torch.arange(3)[:, None] * self.rows
        boxes, objectness = (first + torch.arange(4)).flatten(), first.flatten() + 4
        # Class by class, so that the first rows are one class of every anchor.
        classes = (first.T + torch.arange(5, self.rows)[:, None]).flatten()
        others = [Part(head, boxes) for head in self.heads]
        others += [Part(head, objectness, centre=3.0, spread=0.5) for head in self.heads]
        return [Part(head, classes, spread=LOGIT_SPREAD) for head in self.heads], others

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels = []
        for index, (features, head) in enumerate(zip(self.backbone(images), self.heads, strict=True)):
            raw = head(features)
            batch, _, height, width = raw.shape
            raw = raw.view(batch, 3, self.rows, height, width).permute(0, 1, 3, 4, 2)
            values = raw.sigmoid()
            xy = (values[..., :2] * 2 - 0.5 + _cells(height, width)) * STRIDES[index]
            wh = (values[..., 2:4] * 2) ** 2 * self.anchors[index].view(1, 3, 1, 1, 2)
            levels.append(torch.cat([xy, wh, values[..., 4:]], -1).reshape(batch, -1, self.rows))
        return torch.cat(levels, 1)


class Yolox(nn.Module):
    """YOLOX: `[B, N, 5 + nc]`, objectness and classes as probabilities, boxes decoded in the graph or left raw.

    `xy = (t + cell) * stride`, `wh = exp(t) * stride`. Its export leaves the boxes raw unless told otherwise.
    """

    def __init__(self, classes: int = 20, decoded: bool = False) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.decoded = decoded
        channels = self.backbone.channels
        self.boxes = nn.ModuleList(nn.Conv2d(channels, 4, 1) for _ in STRIDES)
        self.objectness = nn.ModuleList(nn.Conv2d(channels, 1, 1) for _ in STRIDES)
        self.classes = nn.ModuleList(nn.Conv2d(channels, classes, 1) for _ in STRIDES)

    def calibration_parts(self) -> tuple[list[Part], list[Part]]:
        centre, size = torch.arange(2), torch.arange(2, 4)
        others = [Part(layer, centre, centre=0.5, spread=0.3) for layer in self.boxes]
        others += [Part(layer, size, centre=1.5, spread=0.5) for layer in self.boxes]
        others += [Part(layer, centre=3.0, spread=0.5) for layer in self.objectness]
        return [Part(layer, spread=LOGIT_SPREAD) for layer in self.classes], others

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels, cells, strides = [], [], []
        for index, features in enumerate(self.backbone(images)):
            parts = [self.boxes[index](features)]
            parts += [part[index](features).sigmoid() for part in (self.objectness, self.classes)]
            levels.append(torch.cat(parts, 1).flatten(2))
            height, width = features.shape[2:]
            cells.append(_cells(height, width).reshape(-1, 2))
            strides.append(torch.full((height * width, 1), float(STRIDES[index])))
        rows = torch.cat(levels, 2).transpose(1, 2)
        if not self.decoded:
            return rows
        cell, stride = torch.cat(cells), torch.cat(strides)
        return torch.cat([(rows[..., :2] + cell) * stride, rows[..., 2:4].exp() * stride, rows[..., 4:]], -1)


class TwoOutputDetr(nn.Module):
    """The two outputs of the DETR family: `logits [B, Q, nc]` and `pred_boxes [B, Q, 4]`, centre boxes in 0..1."""

    def __init__(self, classes: int = 20) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.logits = nn.Linear(self.backbone.channels, classes)
        self.boxes = nn.Linear(self.backbone.channels, 4)

    def calibration_parts(self) -> tuple[list[Part], list[Part]]:
        return [Part(self.logits, spread=LOGIT_SPREAD)], [Part(self.boxes)]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries = self.backbone(images)[1].flatten(2).transpose(1, 2)
        return self.logits(queries), self.boxes(queries).sigmoid()


def _conv(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.SiLU())


def _cells(height: int, width: int) -> torch.Tensor:
    """Return the `[height, width, 2]` column and row of each cell."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows], -1).float()
