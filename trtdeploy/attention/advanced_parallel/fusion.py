"""Fuse the outputs of attentions that looked at the same map."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import narrowed, weighted_sum
from trtdeploy.attention.quality_assessor.module import QualityScore


class AdaptiveFusion(nn.Module):
    """Add the outputs by shares from the content, modulated by the assessed quality of each output.

    `w = softmax(W2 relu(W1 GAP(x)))`, `v_i = w_i q(x, a_i)`, `y = sum_i v_i / (sum_j v_j + 1e-8) a_i`. One assessor `q`
    judges all outputs.

    Args:
        channels: Number of channels of each map.
        count: Number of outputs.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        hidden = narrowed(channels, 4)
        self.shares = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, count, 1))
        self.quality = QualityScore(channels)

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Fuse `outputs`, `[B, C, H, W]` each like `x`."""
        shares = self.shares(x.mean((2, 3), keepdim=True)).softmax(1)
        shares = shares * torch.cat([self.quality(x, output) for output in outputs], dim=1)
        return weighted_sum(shares / (shares.sum(1, keepdim=True) + 1e-8), outputs)


class ConcatenateFusion(nn.Module):
    """Concatenate the outputs and reduce them to the channels of one: `y = relu(bn(conv1x1([a_1; ...; a_n])))`.

    Args:
        channels: Number of channels of each map.
        count: Number of outputs.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels * count, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Fuse `outputs`, `[B, C, H, W]` each like `x`."""
        del x
        fused: Tensor = self.reduce(torch.cat(list(outputs), dim=1))
        return fused


class GatedFusion(nn.Module):
    """Add the outputs, each gated at every element: `y = sum_i s(conv1x1_i([x; a_i])) a_i`.

    Args:
        channels: Number of channels of each map.
        count: Number of outputs.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in range(count))

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Fuse `outputs`, `[B, C, H, W]` each like `x`."""
        gated = [
            gate(torch.cat([x, output], dim=1)).sigmoid() * output
            for gate, output in zip(self.gates, outputs, strict=True)
        ]
        total = gated[0]
        for term in gated[1:]:
            total = total + term
        return total


class SimpleFusion(nn.Module):
    """Average the outputs."""

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Fuse `outputs`, `[B, C, H, W]` each like `x`."""
        del x
        total = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total * (1 / len(outputs))
