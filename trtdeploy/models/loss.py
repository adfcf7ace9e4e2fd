"""Compute the training loss: CIoU and distance bins for boxes, cross-entropy for scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trtdeploy.models.assign import EPSILON, assign, box_iou
from trtdeploy.models.yolo import STRIDES, cell_centres, expected_distances


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Weigh the parts of the loss.

    Attributes:
        box: Weight of `1 - CIoU`. Default 7.5.
        score: Weight of the cross-entropy. Default 0.5.
        bins: Weight of the distance bins. Default 1.5.
    """

    box: float = 7.5
    score: float = 0.5
    bins: float = 1.5


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Hold the loss and its weighted parts.

    Attributes:
        total: Scalar to differentiate.
        box: Part of the boxes.
        score: Part of the scores.
        bins: Part of the distance bins.
    """

    total: Tensor
    box: float
    score: float
    bins: float


def detection_loss(
    maps: list[Tensor], target_classes: Tensor, target_boxes: Tensor, *, bins: int, options: LossOptions | None = None
) -> Loss:
    """Compare raw maps with labelled objects.

    Args:
        maps: What `YOLO.maps` returns.
        target_classes: `[B, M]` int64, -1 in empty slots.
        target_boxes: `[B, M, 4]` xyxy in input pixels, zeros in empty slots.
        bins: Distance bins per side.
        options: Weights. Default `LossOptions()`.

    Returns:
        The loss, averaged over the objects' target scores.
    """
    options = options or LossOptions()
    flat = torch.cat([level.flatten(2) for level in maps], dim=2).float()
    distance_logits, score_logits = flat[:, : 4 * bins], flat[:, 4 * bins :].transpose(1, 2)
    centres = torch.cat([cell_centres(m, s) for m, s in zip(maps, STRIDES, strict=True)], dim=1).T
    sizes = [m.shape[2] * m.shape[3] for m in maps]
    strides = torch.cat([centres.new_full((n, 1), float(s)) for n, s in zip(sizes, STRIDES, strict=True)])
    distances = expected_distances(distance_logits, bins).transpose(1, 2) * strides
    boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=2)
    target = assign(score_logits.detach().sigmoid(), boxes.detach(), centres, target_classes, target_boxes)
    total = target.scores.sum().clamp(min=1.0)
    score = functional.binary_cross_entropy_with_logits(score_logits, target.scores, reduction="sum") / total
    chosen = target.positive
    if not bool(chosen.any()):
        zero = distance_logits.sum() * 0.0
        return Loss(total=options.score * score + zero, box=0.0, score=float(options.score * score.detach()), bins=0.0)
    weight = target.scores.sum(2)[chosen]
    box = ((1.0 - ciou(boxes[chosen], target.boxes[chosen])) * weight).sum() / total
    cells = chosen.nonzero()[:, 1]
    own, truth = centres[cells], target.boxes[chosen]
    sides = torch.cat([own - truth[:, :2], truth[:, 2:] - own], dim=1)
    logits = distance_logits.transpose(1, 2)[chosen].reshape(-1, 4, bins)
    bin_loss = (distribution_loss(logits, sides / strides[cells]).mean(1) * weight).sum() / total
    parts = options.box * box, options.score * score, options.bins * bin_loss
    return Loss(
        total=parts[0] + parts[1] + parts[2],
        box=float(parts[0].detach()),
        score=float(parts[1].detach()),
        bins=float(parts[2].detach()),
    )


def distribution_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Pull the bins' softmax to the two bins beside the true distance (Li et al., 2020, equation 6).

    Args:
        logits: `[K, 4, bins]`.
        distances: `[K, 4]` in cells.

    Returns:
        `[K, 4]`, cross-entropy.
    """
    bins = logits.shape[2]
    distances = distances.clamp(0, bins - 1 - 0.01)
    low = distances.long()
    share = distances - low
    logs = logits.log_softmax(2)
    near = logs.gather(2, low.unsqueeze(2)).squeeze(2)
    far = logs.gather(2, (low + 1).unsqueeze(2)).squeeze(2)
    return -(near * (1 - share) + far * share)


def ciou(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute the complete IoU of boxes xyxy (Zheng et al., "Distance-IoU Loss", 2020, equations 8 to 11).

    Args:
        predicted: `[K, 4]`.
        target: `[K, 4]`.

    Returns:
        `[K]`, at most 1.
    """
    overlap = box_iou(predicted, target)
    size1, size2 = predicted[:, 2:] - predicted[:, :2], target[:, 2:] - target[:, :2]
    hull = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    gap = (predicted[:, :2] + predicted[:, 2:] - target[:, :2] - target[:, 2:]) / 2
    distance = gap.square().sum(1) / (hull.square().sum(1) + EPSILON)
    angle = torch.atan(size1[:, 0] / (size1[:, 1] + 1e-6)) - torch.atan(size2[:, 0] / (size2[:, 1] + 1e-6))
    shape = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = shape / (1 - overlap + shape + 1e-6)
    return overlap - distance - weight * shape
