"""Reuse the attention maps of an earlier video frame while the scene is still, in a graph with state."""

# mypy: allow-subclassing-any

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trtdeploy.attention.cbam.module import CBAM
from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.self_attention.module import SelfAttention
from trtdeploy.attention.spatial_attention.module import SpatialAttention
from trtdeploy.core.errors import UsageError
from trtdeploy.models.choose import Choose

CELL = 16
"""Side of the squares of pixels whose mean grey is compared between frames."""
_GREY = (0.299, 0.587, 0.114)
_UNKNOWN = -4.0
"""Grey before the first frame: further from any picture than a threshold can be."""
CACHED = (CBAM, ChannelAttention, SpatialAttention, SelfAttention)
"""Modules that have a map: the gate `[B, C, H, W]`, or the weights of queries and keys `[B, H, W, H, W]`."""


class CachedAttention(nn.Module):
    """Run a detector on a video and keep its attention maps where nothing moves.

    The state is, per image of the batch, the small grey frame of which the maps were computed, and the maps. Where no
    cell of the new frame differs from it by more than `threshold`, the maps are used again; otherwise they are computed
    and become the state. As the state keeps the frame of the maps and not the last frame, slow motion adds up until it
    is noticed. If all images of the batch are still, the computation of the maps is skipped (`If`); if one moves, they
    are computed for the batch and each still image keeps its own.

    Args:
        model: Takes images `[B, 3, H, W]`, RGB from 0 to 1, and returns one tensor. It is copied.
        threshold: Largest change of a cell's mean grey, from 0 to 1, that counts as still. Default 0.02.

    Attributes:
        paths: Paths of the attention modules with a cache, in the order of the maps.

    Raises:
        UsageError: The model has no attention with a map, or the threshold is not between 0 and 1.
    """

    def __init__(self, model: nn.Module, threshold: float = 0.02) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise UsageError(f"CachedAttention: threshold must be between 0 and 1, got {threshold}.")
        self.threshold = threshold
        self.model = copy.deepcopy(model)
        self.paths = [path for path, module in self.model.named_modules() if path and isinstance(module, CACHED)]
        if not self.paths:
            names = ", ".join(kind.__name__ for kind in CACHED)
            raise UsageError(f"CachedAttention: the model has no attention with a map. These have one: {names}.")
        self._frame = _Frame()
        for index, path in enumerate(self.paths):
            parent, _, name = path.rpartition(".")
            above = self.model.get_submodule(parent)
            setattr(above, name, _Cached(self.model.get_submodule(path), index, self._frame))
        self.register_buffer("weights", torch.tensor(_GREY).view(1, 3, 1, 1), persistent=False)

    def start(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the state before the first frame, of the shapes that fit `images`: a grey frame, then the maps."""
        self._frame.still = None
        with torch.no_grad():
            self.model(images)
        grey = torch.full_like(self._grey(images), _UNKNOWN)
        return (grey, *(torch.zeros_like(self._frame.fresh[index]) for index in range(len(self.paths))))

    def forward(self, images: Tensor, grey: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """Detect objects on one frame.

        Args:
            images: `[B, 3, H, W]`; sides are multiples of 16 and of what the model asks.
            grey: `[B, 1, H/16, W/16]`, from the call before or from `start`.
            *maps: As many as there are `paths`, from the call before or from `start`.

        Returns:
            What the model returns, the new grey frame and the new maps.
        """
        now = self._grey(images)
        still = (now - grey).abs().amax(dim=(1, 2, 3)) <= self.threshold
        frame = self._frame
        frame.previous, frame.still, frame.fresh = maps, still, {}
        detections: Tensor = self.model(images)
        kept = torch.where(still.view(-1, 1, 1, 1), grey, now)
        return (detections, kept, *(frame.fresh[index] for index in range(len(self.paths))))

    def _grey(self, images: Tensor) -> Tensor:
        grey = (images * self.get_buffer("weights")).sum(1, keepdim=True)
        return nn.functional.avg_pool2d(grey, CELL)


class _Frame:
    """What passes between the model's call and its attention modules during one frame."""

    def __init__(self) -> None:
        self.previous: Sequence[Tensor] = ()
        self.still: Tensor | None = None
        self.fresh: dict[int, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Frame:
        """Return an empty one: what a frame holds belongs to one call."""
        made = memo[id(self)] = _Frame()
        return made


class _Cached(nn.Module):
    """Attend with the map of an earlier frame, or with a new one."""

    def __init__(self, module: nn.Module, index: int, frame: _Frame) -> None:
        super().__init__()
        self.module = module
        self.choose = Choose(_Keep(), _Compute(module))
        self.index = index
        self.frame = frame

    def forward(self, x: Tensor) -> Tensor:
        frame = self.frame
        if frame.still is None:
            weights = map_of(self.module, x)
        else:
            weights = self.choose(frame.still.all(), frame.previous[self.index], frame.still, x)
        frame.fresh[self.index] = weights
        return attend(self.module, x, weights)


class _Keep(nn.Module):
    """Return the earlier map."""

    def forward(self, previous: Tensor, _still: Tensor, _x: Tensor) -> Tensor:
        return previous.clone()


class _Compute(nn.Module):
    """Return the new map, and the earlier one for the images that are still."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, previous: Tensor, still: Tensor, x: Tensor) -> Tensor:
        return torch.where(still.view(-1, *[1] * (previous.ndim - 1)), previous, map_of(self.module, x))


def map_of(module: Any, x: Tensor) -> Tensor:
    """Return the map of an attention module: a gate `[B, C, H, W]`, or SAGAN's weights `[B, H, W, H, W]`."""
    if isinstance(module, SelfAttention):
        batch, _, height, width = x.shape
        query = module.query(x).flatten(2).transpose(1, 2)
        weights = module.energy(query, module.key(x).flatten(2)).softmax(dim=-1)
        return weights.view(batch, height, width, height, width)
    return _gate(module, x)


def attend(module: Any, x: Tensor, weights: Tensor) -> Tensor:
    """Return what the module makes of `x` with a map that is given."""
    if isinstance(module, SelfAttention):
        value = module.value(x).flatten(2)
        flat = weights.flatten(3).flatten(1, 2)
        seen = (value @ flat.transpose(1, 2)).view(x.shape)
        result: Tensor = module.gamma * seen + x
        return result
    return x * weights


def _gate(module: Any, x: Tensor) -> Tensor:
    """Return the gate of a module, in the shape of `x`."""
    if isinstance(module, SpatialAttention):
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        gate: Tensor = module.conv(pooled).sigmoid()
        return gate + torch.zeros_like(x)
    keep = not getattr(module, "linear", False)
    logits = module.mlp(x.mean((2, 3), keepdim=keep)) + module.mlp(x.amax((2, 3), keepdim=keep))
    channels: Tensor = logits.sigmoid() if keep else logits.sigmoid()[:, :, None, None]
    if isinstance(module, ChannelAttention):
        return channels + torch.zeros_like(x)
    x = x * channels
    pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
    spatial: Tensor = module.spatial(pooled).sigmoid()
    return channels * spatial
