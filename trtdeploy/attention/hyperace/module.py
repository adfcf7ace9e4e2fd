"""Implement hypergraph correlation (HyperACE) in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trtdeploy.attention.area.module import ConvNorm

CONTEXTS = ("both", "mean", "max")
Context = Literal["both", "mean", "max"]


class HyperACE(nn.Module):
    """Correlate positions through soft hyperedges beside local convolutions (Lei et al., "YOLOv13", 2025, section 3.3).

    A third of the hidden channels passes parallel hypergraph branches, a third depthwise-separable convolutions, and a
    third goes straight on; all are joined.

    Args:
        channels: Number of channels of the input.
        hyperedges: Number of hyperedges. Default 8.
        head_width: Channels of a head of the similarities. Default 16.
        branches: Number of parallel hypergraph branches. Default 2.
        low_order: Number of local blocks in a row. Default 1.
        expansion: Width of each third over `channels`. Default 0.5.
        context: What the prototypes are adapted to: the positions' `mean`, `max` or `both`. Default `both`.

    Raises:
        ValueError: If the width is not a multiple of `head_width`, `context` is unknown, or a number is too small.
    """

    def __init__(
        self,
        channels: int,
        hyperedges: int = 8,
        head_width: int = 16,
        branches: int = 2,
        low_order: int = 1,
        expansion: float = 0.5,
        context: Context = "both",
    ) -> None:
        super().__init__()
        width = int(channels * expansion)
        if head_width < 1 or width < 1 or width % head_width:
            raise ValueError(
                f"HyperACE: channels={channels} times expansion={expansion} gives a width of {width}, "
                f"which must be a positive multiple of head_width={head_width}."
            )
        if hyperedges < 1 or branches < 1 or low_order < 0:
            raise ValueError(
                f"HyperACE: hyperedges={hyperedges} and branches={branches} must be at least 1, "
                f"low_order={low_order} at least 0."
            )
        self.enter = ConvNorm(channels, 3 * width, act=True)
        self.high = nn.ModuleList(HypergraphBranch(width, hyperedges, head_width, context) for _ in range(branches))
        self.low = nn.Sequential(*(LocalBlock(width) for _ in range(low_order)))
        self.join = ConvNorm((2 + branches) * width, channels, act=True)

    def forward(self, x: Tensor) -> Tensor:
        """Correlate and join.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        straight, high, low = self.enter(x).chunk(3, dim=1)
        out: Tensor = self.join(torch.cat([straight, *(branch(high) for branch in self.high), self.low(low)], dim=1))
        return out


class HypergraphBranch(nn.Module):
    """Join hypergraph convolution of one projection with another projection.

    Args:
        width: Number of channels.
        hyperedges, head_width, context: As for `HyperACE`.
    """

    def __init__(self, width: int, hyperedges: int, head_width: int, context: Context) -> None:
        super().__init__()
        self.enter = ConvNorm(width, width, act=True)
        self.beside = ConvNorm(width, width, act=True)
        self.correlate = HypergraphConv(width, hyperedges, head_width, context)
        self.join = ConvNorm(2 * width, width, act=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        tokens = self.enter(x).flatten(2).transpose(1, 2)
        correlated = self.correlate(tokens).transpose(1, 2).reshape(x.shape)
        out: Tensor = self.join(torch.cat([correlated, self.beside(x)], dim=1))
        return out


class HypergraphConv(nn.Module):
    """Gather positions into hyperedges and spread them again, by how much each takes part (section 3.2).

    Args:
        width: Number of channels.
        hyperedges, head_width, context: As for `HyperACE`.
    """

    def __init__(self, width: int, hyperedges: int, head_width: int, context: Context = "both") -> None:
        super().__init__()
        if context not in CONTEXTS:
            raise ValueError(f"HyperACE: context must be one of {', '.join(CONTEXTS)}, got {context!r}.")
        self.head_width, self.kind = head_width, context
        self.prototypes = nn.Parameter(torch.randn(hyperedges, width) * width**-0.5)
        self.adapt = nn.Linear((2 if context == "both" else 1) * width, hyperedges * width)
        self.vertices = nn.Linear(width, width)
        self.edges_out = nn.Linear(width, width)
        self.vertices_out = nn.Linear(width, width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `[B, N, C]` to the same shape."""
        shares = self._participation(x)
        edges = self.act(self.edges_out(shares.transpose(1, 2) @ x))
        out: Tensor = x + self.act(self.vertices_out(shares @ edges))
        return out

    def _participation(self, x: Tensor) -> Tensor:
        """Return how much each position takes part in each hyperedge, `[B, N, M]`; over positions the sum is 1."""
        pooled = [x.mean(1)] if self.kind != "max" else []
        pooled += [x.amax(1)] if self.kind != "mean" else []
        moved = self.adapt(torch.cat(pooled, dim=1)).unflatten(1, self.prototypes.shape)
        prototypes, vertices = (
            t.unflatten(2, (-1, self.head_width)).transpose(1, 2) for t in (self.prototypes + moved, self.vertices(x))
        )
        logits = vertices @ prototypes.transpose(2, 3) / self.head_width**0.5
        return logits.mean(1).softmax(1)


class LocalBlock(nn.Module):
    """Convolve twice, depthwise then pointwise, with a residual.

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNorm(width, width, 3, groups=width),
            ConvNorm(width, width, act=True),
            ConvNorm(width, width, 7, groups=width),
            ConvNorm(width, width, act=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        out: Tensor = x + self.layers(x)
        return out
