"""Implement multi-scale deformable attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

MOST_LEVELS = 4


class DeformableAttention(nn.Module):
    """Let every position look at a few learned places of every level (Zhu et al., "Deformable DETR", 2021, equation 3).

    Each head samples `points` places per level around the position, bilinearly with zeros outside, and sums them with
    weights that are a softmax over all levels and points. The input is added.

    Args:
        channels: Number of channels of the input; or one number per level, all equal, for up to four maps.
        heads: Number of heads. Default 4.
        points: Places per head and level. Default 4.

    Raises:
        ValueError: If there are too many levels, their channels differ, `heads` does not divide them, or a number is
            less than 1.
    """

    def __init__(self, channels: int | Sequence[int], heads: int = 4, points: int = 4) -> None:
        super().__init__()
        every = (channels,) if isinstance(channels, int) else tuple(channels)
        if len(every) > MOST_LEVELS:
            raise ValueError(f"DeformableAttention: at most {MOST_LEVELS} levels, got {len(every)}.")
        if len(set(every)) != 1:
            raise ValueError(
                f"DeformableAttention: every level must have the same number of channels, got {channels}. "
                f"Project the levels to one width first."
            )
        width = every[0]
        if width < 1 or heads < 1 or width % heads or points < 1:
            raise ValueError(
                f"DeformableAttention: heads={heads} must divide channels={width} and points={points} be at least 1."
            )
        self.heads, self.points, self.levels = heads, points, len(every)
        places = heads * self.levels * points
        self.offsets = nn.Linear(width, 2 * places)
        self.weights = nn.Linear(width, places)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self._spread_places()

    def forward(
        self, x: Tensor, second: Tensor | None = None, third: Tensor | None = None, fourth: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Sample, sum, project and add the input.

        Args:
            x: `[B, C, H, W]`.
            second: The second level, of any height and width, if the module was made for more than one.
            third: The third level.
            fourth: The fourth level.

        Returns:
            As many maps of the same shapes; a single one is not in a tuple.

        Raises:
            ValueError: If the number of maps is not that of the levels.
        """
        # Parameters, not *maps: torch.export names dynamic dimensions by parameter.
        maps = [level for level in (x, second, third, fourth) if level is not None]
        if len(maps) != self.levels:
            raise ValueError(f"DeformableAttention: made for {self.levels} maps, got {len(maps)}.")
        counts = [level.shape[2] * level.shape[3] for level in maps]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        summed = self._sample(tokens, maps, counts)
        parts = (tokens + self.proj(summed)).split(counts, dim=1)
        out = tuple(part.transpose(1, 2).reshape(level.shape) for part, level in zip(parts, maps, strict=True))
        return out if self.levels > 1 else out[0]

    def _sample(self, tokens: Tensor, maps: Sequence[Tensor], counts: list[int]) -> Tensor:
        """Return the weighted sum of sampled values for every token, `[B, N, C]`."""
        batch, count, width = tokens.shape
        values = self.value(tokens).unflatten(2, (self.heads, width // self.heads)).permute(0, 2, 3, 1).flatten(0, 1)
        weights = self.weights(tokens).unflatten(2, (self.heads, self.levels * self.points)).softmax(-1)
        places = self.offsets(tokens).unflatten(2, (self.heads, self.levels * self.points, 2))
        centres = torch.cat([_centres(level) for level in maps])[None, :, None, None, :]
        sampled = []
        for level, own, moved in zip(maps, values.split(counts, dim=2), places.split(self.points, dim=3), strict=True):
            height, breadth = level.shape[2:]
            cell = torch.cat([level.new_ones(1) / size for size in (breadth, height)])
            grid = (2 * (centres + moved * cell) - 1).transpose(1, 2).flatten(0, 1)
            shaped = own.reshape(batch * self.heads, width // self.heads, height, breadth)
            sampled.append(grid_sample(shaped, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        shares = weights.transpose(1, 2).reshape(batch * self.heads, 1, count, self.levels * self.points)
        summed = (torch.cat(sampled, dim=3) * shares).sum(3)
        return summed.reshape(batch, width, count).transpose(1, 2)

    def _spread_places(self) -> None:
        """Start with the heads looking in directions all around, the points ever further, and with equal weights."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        start = directions[:, None, None, :] * steps[None, None, :, None]
        with torch.no_grad():
            self.offsets.weight.mul_(0.1)
            self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())


def _centres(level: Tensor) -> Tensor:
    """Return the centres of the positions of `[B, C, H, W]` as `[H * W, 2]`, x and y between 0 and 1."""
    height, width = level.shape[2:]
    rows = (torch.arange(height, dtype=level.dtype, device=level.device) + 0.5) / height
    columns = (torch.arange(width, dtype=level.dtype, device=level.device) + 0.5) / width
    return torch.stack([columns[None, :].expand(height, -1), rows[:, None].expand(-1, width)], dim=2).flatten(0, 1)
