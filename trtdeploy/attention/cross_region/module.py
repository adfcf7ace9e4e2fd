"""Implement cross-region attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor

from trtdeploy.attention.non_local.module import NonLocal


class CrossRegionAttention(NonLocal):
    """Apply one non-local block to each of several horizontal strips of the map.

    The map is cut along H into strips of `ceil(H / regions)` rows; the last one has what remains, and where nothing
    remains there are fewer. All strips share the weights. The 1x1 convolutions see no neighbours, so they run once over
    the whole map and only their outputs are cut.

    Args:
        channels: Number of channels of the input.
        regions: Number of strips. Default 4.
        reduction: Ratio between `channels` and the width of the embeddings, which is at least 1. Default 2.

    Raises:
        ValueError: If `channels`, `regions` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, regions: int = 4, reduction: int = 2) -> None:
        super().__init__(channels, reduction)
        if regions < 1:
            raise ValueError(f"CrossRegionAttention: regions must be at least 1, got {regions}.")
        self.regions = regions

    def attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """Return what each position sees of its strip, from three embeddings `[B, width, H, W]`, in their shape."""
        rows = (g.shape[2] + self.regions - 1) // self.regions
        strips = []
        for i in range(self.regions):
            cut = [map_[:, :, i * rows : (i + 1) * rows] for map_ in (theta, phi, g)]
            strips.append(super().attend(*cut))
        return torch.cat(strips, dim=2)
