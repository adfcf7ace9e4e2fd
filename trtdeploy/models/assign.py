"""Assign grid cells to objects by how well they already predict them."""

# mypy: allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-9


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Hold each cell's target.

    Attributes:
        positive: `[B, N]` bool, whether the cell stands for an object.
        boxes: `[B, N, 4]` target boxes xyxy; meaningless where not positive.
        scores: `[B, N, C]` target scores from 0 to 1.
    """

    positive: Tensor
    boxes: Tensor
    scores: Tensor


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes: Tensor,
    centres: Tensor,
    target_classes: Tensor,
    target_boxes: Tensor,
    *,
    top: int = 10,
    score_power: float = 0.5,
    overlap_power: float = 6.0,
    least_side: float = 8.0,
) -> Assignment:
    """Choose cells by `score^a * IoU^b` (Feng et al., "TOOD", 2021, equation 3).

    Args:
        scores: `[B, N, C]` predicted probabilities.
        boxes: `[B, N, 4]` predicted boxes xyxy.
        centres: `[N, 2]` cell centres.
        target_classes: `[B, M]` int64, -1 in empty slots.
        target_boxes: `[B, M, 4]` xyxy, zeros in empty slots.
        top: Cells per object. Default 10.
        score_power: Exponent a. Default 0.5.
        overlap_power: Exponent b. Default 6.
        least_side: Objects narrower than this many pixels may take cells as if they were that wide. Default 8.

    Returns:
        The targets; a cell that several objects want goes to the one it overlaps most.
    """
    count = target_boxes.shape[1]
    if count == 0:
        positive = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        return Assignment(positive=positive, boxes=torch.zeros_like(boxes), scores=torch.zeros_like(scores))
    real = target_classes >= 0
    overlap = box_iou(target_boxes.unsqueeze(2), boxes.unsqueeze(1))
    inside = _inside(centres, target_boxes, least_side) & real.unsqueeze(2)
    index = target_classes.clamp(min=0).unsqueeze(2).expand(-1, -1, scores.shape[1])
    own_score = scores.transpose(1, 2).gather(1, index)
    quality = own_score.pow(score_power) * overlap.pow(overlap_power) * inside
    # untrained boxes overlap nothing, so a tiny overlap keeps the order meaningful from the first step
    order = quality + inside * EPSILON
    limit, chosen = order.topk(min(top, order.shape[2]), dim=2)
    wanted = torch.zeros_like(inside).scatter_(2, chosen, limit > 0)
    contested = wanted.sum(1, keepdim=True) > 1
    best = torch.zeros_like(wanted).scatter_(1, (overlap * wanted + wanted * EPSILON).argmax(1, keepdim=True), True)
    wanted = torch.where(contested, wanted & best, wanted)
    return _targets(wanted, quality, overlap, target_classes, target_boxes, scores.shape[2])


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Compute intersection over union of boxes xyxy that broadcast.

    Args:
        first: `[..., 4]`.
        second: `[..., 4]`.

    Returns:
        `[...]`, from 0 to 1.
    """
    size = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    common = size[..., 0].clamp(min=0) * size[..., 1].clamp(min=0)
    area1 = (first[..., 2] - first[..., 0]) * (first[..., 3] - first[..., 1])
    area2 = (second[..., 2] - second[..., 0]) * (second[..., 3] - second[..., 1])
    return common / (area1 + area2 - common + EPSILON)


def _inside(centres: Tensor, target_boxes: Tensor, least_side: float) -> Tensor:
    """Say which cell centres `[N, 2]` lie in which boxes `[B, M, 4]`: `[B, M, N]` bool."""
    middle = (target_boxes[..., :2] + target_boxes[..., 2:]) / 2
    half = ((target_boxes[..., 2:] - target_boxes[..., :2]) / 2).clamp(min=least_side / 2)
    distance_x = (centres[:, 0] - middle[..., :1]).abs() < half[..., :1]
    distance_y = (centres[:, 1] - middle[..., 1:]).abs() < half[..., 1:]
    return distance_x & distance_y


def _targets(
    wanted: Tensor, quality: Tensor, overlap: Tensor, target_classes: Tensor, target_boxes: Tensor, class_count: int
) -> Assignment:
    """Turn the choice `[B, M, N]` into targets; scores are quality rescaled to the object's best overlap."""
    positive = wanted.any(1)
    owner = wanted.to(torch.uint8).argmax(1)
    boxes = target_boxes.gather(1, owner.unsqueeze(2).expand(-1, -1, 4))
    quality = quality * wanted
    peak = quality.amax(2, keepdim=True)
    best = (overlap * wanted).amax(2, keepdim=True)
    value = (quality / (peak + EPSILON) * best).amax(1)
    labels = target_classes.clamp(min=0).gather(1, owner)
    scores = torch.nn.functional.one_hot(labels, class_count) * (value * positive).unsqueeze(2)
    return Assignment(positive=positive, boxes=boxes, scores=scores)
