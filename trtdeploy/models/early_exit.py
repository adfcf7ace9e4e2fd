"""Leave a detector early where a light head behind the backbone is already sure of what it sees."""

# mypy: allow-subclassing-any

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trtdeploy.core.errors import UsageError
from trtdeploy.models.choose import Choose
from trtdeploy.models.family import Neck, Network
from trtdeploy.models.family_heads import BINS, DenseHead
from trtdeploy.models.inserted import CHILD
from trtdeploy.models.yolo import STRIDES, cell_centres, expected_distances

_NEVER = 1e4
"""Logit that no score reaches."""


class EarlyExit(nn.Module):
    """Detect with an auxiliary head after the backbone, and run the rest of the network only where that is not sure.

    The auxiliary head's answer is given when in every image of the batch its best score is at least `threshold`; one
    decision per batch, as a graph runs one branch at a time. Otherwise the rest of the network runs. Boxes are decoded
    after the choice, once. In training both raw answers are returned, so that both learn.

    Args:
        backbone: Maps images to one map or a sequence of maps.
        exit_head: Maps those to raw answers `[B, D, N]`.
        rest: Maps those to raw answers of the same shape.
        finish: Turns raw answers and the backbone's maps into detections.
        first_score: Position in D of the first class; logits of the classes follow to the end.
        threshold: Score from 0 to 1. Default 0.9.

    Raises:
        UsageError: The threshold is not between 0 and 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        exit_head: nn.Module,
        rest: nn.Module,
        finish: nn.Module,
        first_score: int,
        threshold: float = 0.9,
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise UsageError(f"EarlyExit: threshold must be between 0 and 1, got {threshold}.")
        self.threshold = threshold
        self.first_score = first_score
        self.backbone = backbone
        self.exit_head = exit_head
        self.choose = Choose(_Passed(), rest)
        self.finish = finish

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Detect objects.

        Args:
            images: `[B, 3, H, W]`.

        Returns:
            What `finish` returns; in training the raw answers of the exit head and of the rest.
        """
        found = self.backbone(images)
        maps = [found] if isinstance(found, Tensor) else list(found)
        early = self.exit_head(*maps)
        if self.training:
            return early, self.choose.second(early, *maps)
        result: Tensor = self.finish(self.choose(self.is_sure(early), early, *maps), *maps)
        return result

    def is_sure(self, early: Tensor) -> Tensor:
        """Return whether every image of the batch has a score of at least the threshold, a boolean scalar."""
        share = self.threshold
        logit = math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(_NEVER, share - 0.5)
        best = early[:, self.first_score :].amax(dim=(1, 2))
        return best.amin(dim=0) >= logit


def with_early_exit(network: Network, threshold: float = 0.9) -> EarlyExit:
    """Return a network of the family with an early exit; it shares the network's modules.

    The exit head is fresh: a light dense head on the backbone's three maps. It needs training, with the network frozen
    or not. The neck and the head run only when it is not sure.

    Args:
        network: Style v8 or v12; the NMS-free head of v10 returns another shape.
        threshold: Score from 0 to 1. Default 0.9.

    Raises:
        UsageError: The network's style is v10, its head has attention, or the threshold is not between 0 and 1.
    """
    options = network.options
    if options.style == "v10":
        raise UsageError(
            "with_early_exit: a v10 network chooses its detections itself, so that the exit would return another "
            "shape. Use style v8 or v12."
        )
    if hasattr(network.head, CHILD):
        raise UsageError(
            "with_early_exit: the head has attention on its maps, which an exit would pass by. Insert it at the neck."
        )
    channels = [_channels(branch) for branch in network.head.boxes]
    head = _Raw(DenseHead(channels, options.class_count, light=True))
    rest = _Rest(network.neck, _Raw(network.head))
    made = EarlyExit(network.backbone, head, rest, _Decode(options.class_count), 4 * BINS, threshold)
    made.train(network.training)
    return made


def _channels(branch: nn.Module) -> int:
    """Return the input channels of a branch: those of its first convolution."""
    first = next(module for module in branch.modules() if isinstance(module, nn.Conv2d))
    return int(first.in_channels)


class _Passed(nn.Module):
    """Return the early answer."""

    def forward(self, early: Tensor, *_maps: Tensor) -> Tensor:
        return early.clone()  # torch.cond takes no branch that returns its input itself


class _Raw(nn.Module):
    """Return a head's raw maps, flat: `[B, 4 * bins + classes, N]`."""

    def __init__(self, head: DenseHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat([level.flatten(2) for level in self.head.maps(maps)], dim=2)


class _Rest(nn.Module):
    """Run the neck and the head.

    What `Neck.forward` does, with the sizes of upsampled maps named: TensorRT-RTX 1.7 builds no Resize by a factor
    inside a branch where batch and image size are both open.
    """

    def __init__(self, neck: Neck, head: nn.Module) -> None:
        super().__init__()
        self.neck = neck
        self.head = head

    def forward(self, _early: Tensor, p3: Tensor, p4: Tensor, p5: Tensor) -> Tensor:
        neck = self.neck
        n4 = neck.down4(torch.cat([_grown(p5, p4), p4], dim=1))
        n3 = neck.out3(torch.cat([_grown(n4, p3), p3], dim=1))
        n4 = neck.out4(torch.cat([neck.shrink3(n3), n4], dim=1))
        n5 = neck.out5(torch.cat([neck.shrink4(n4), p5], dim=1))
        result: Tensor = self.head(n3, n4, n5)
        return result


def _grown(x: Tensor, like: Tensor) -> Tensor:
    """Return a map in the size of another."""
    return nn.functional.interpolate(x, size=like.shape[2:], mode="nearest")


class _Decode(nn.Module):
    """Turn flat raw maps into boxes and scores, as `DenseHead.forward` does: `[B, 4 + classes, N]`."""

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.class_count = class_count

    def forward(self, flat: Tensor, *maps: Tensor) -> Tensor:
        # shape inference does not look through If: the reshape says what comes out of it
        flat = flat.reshape(maps[0].shape[0], 4 * BINS + self.class_count, -1)
        centres = [cell_centres(level, stride) for level, stride in zip(maps, STRIDES, strict=True)]
        strides = [torch.full_like(at[..., :1, :], stride) for at, stride in zip(centres, STRIDES, strict=True)]
        distances = expected_distances(flat[:, : 4 * BINS], BINS) * torch.cat(strides, dim=-1)
        before, after = distances[:, :2], distances[:, 2:]
        boxes = torch.cat([torch.cat(centres, dim=-1) + (after - before) / 2, before + after], dim=1)
        return torch.cat([boxes, flat[:, 4 * BINS :].sigmoid()], dim=1)
