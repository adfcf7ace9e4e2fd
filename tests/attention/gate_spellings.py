"""Gates as other code writes them: the same mathematics as the catalogue's modules, other operators."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PooledLinearSE(nn.Module):
    """SE with an adaptive pooling, views and bias-free linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.layers = nn.Sequential(
            nn.Linear(channels, channels // 4, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 4, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[0], x.shape[1]
        gate: Tensor = self.layers(self.pool(x).view(batch, channels)).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


class SequentialSE(nn.Module):
    """SE as one sequence whose result comes first in the product."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(x)
        return gate * x


class TwoMeansSE(nn.Module):
    """SE whose mean is taken over one axis after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(self.squeeze(x.mean(3, keepdim=True).mean(2, keepdim=True)).relu())
        return torch.sigmoid(gate) * x


class HardSE(nn.Module):
    """SE with SiLU between the layers and a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.BatchNorm2d(channels // 4),
            nn.SiLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(x)
        return x * gate


class ClippedSE(nn.Module):
    """SE whose hard sigmoid is written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.excite(functional.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1))))
        return x * (functional.relu6(logits + 3) / 6)


class PooledECA(nn.Module):
    """ECA with an adaptive pooling and the sigmoid last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.conv(self.pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * mixed.sigmoid().expand_as(x)


class FlatECA(nn.Module):
    """ECA on a flat vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv1d(1, 1, 5, padding=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * gate.view(-1, self.channels, 1, 1)


class PowSimAM(nn.Module):
    """SimAM with `pow`, the width first and the constant inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.size()
        count = width * height - 1
        squares = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        energy = squares / (4 * (squares.sum(dim=[2, 3], keepdim=True) / count + 1e-4)) + 0.5
        gate: Tensor = self.act(energy)
        return x * gate


class LinearChannelAttention(nn.Module):
    """CBAM's channel half with adaptive poolings, views and linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels // 4, bias=False), nn.ReLU(), nn.Linear(channels // 4, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[0], x.shape[1]
        mean = self.layers(functional.adaptive_avg_pool2d(x, 1).view(batch, channels))
        peak = self.layers(functional.adaptive_max_pool2d(x, 1).view(batch, channels))
        return x * torch.sigmoid(mean + peak).unsqueeze(2).unsqueeze(3)


class PeakFirstChannelAttention(nn.Module):
    """CBAM's channel half with 1x1 convolutions, the maximum first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.excite = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        peak = self.excite(torch.relu(self.squeeze(x.amax((2, 3), keepdim=True))))
        mean = self.excite(torch.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1))))
        return (peak + mean).sigmoid() * x


class IndexedSpatialAttention(nn.Module):
    """CBAM's spatial half with a maximum that also gives indices."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        peak, _ = torch.max(x, dim=1, keepdim=True)
        gate: Tensor = self.conv(torch.cat([torch.mean(x, dim=1, keepdim=True), peak], dim=1)).sigmoid()
        return x * gate


class TwoHalvesCBAM(nn.Module):
    """CBAM from the two halves above."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = LinearChannelAttention(channels)
        self.spatial = IndexedSpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.spatial(self.channel(x))
        return gated


class ClippedCoordAtt(nn.Module):
    """Coordinate attention with the hardswish written out and products in another order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.rows = nn.Conv2d(8, channels, 1, bias=False)
        self.columns = nn.Conv2d(8, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.size()
        pooled = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], dim=2)
        hidden = self.norm(self.squeeze(pooled))
        hidden = hidden * (functional.relu6(hidden + 3) / 6)
        rows, columns = torch.split(hidden, [height, width], dim=2)
        gate_rows = self.rows(rows).sigmoid()
        gate_columns: Tensor = self.columns(columns.permute(0, 1, 3, 2)).sigmoid()
        return x * gate_columns * gate_rows


class PooledEMA(nn.Module):
    """EMA with adaptive poolings, reshapes with `-1` and permutations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = 4
        width = channels // 4
        self.norm = nn.GroupNorm(width, width)
        self.mix = nn.Conv2d(width, width, 1)
        self.local = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        grouped = x.reshape(batch * self.groups, -1, height, width)
        rows = grouped.mean(3, keepdim=True)
        columns = grouped.mean(2, keepdim=True).permute(0, 1, 3, 2)
        rows, columns = torch.split(self.mix(torch.cat([rows, columns], dim=2)), [height, width], dim=2)
        first = self.norm(grouped * rows.sigmoid() * columns.permute(0, 1, 3, 2).sigmoid())
        second = self.local(grouped)
        a = self._pooled(first).reshape(batch * self.groups, -1, 1).permute(0, 2, 1).softmax(-1)
        b = self._pooled(second).reshape(batch * self.groups, -1, 1).permute(0, 2, 1).softmax(-1)
        flat_first = first.reshape(batch * self.groups, channels // self.groups, -1)
        flat_second = second.reshape(batch * self.groups, channels // self.groups, -1)
        logits = torch.matmul(a, flat_second) + torch.matmul(b, flat_first)
        gate = logits.reshape(batch * self.groups, 1, height, width).sigmoid()
        return (grouped * gate).reshape(batch, channels, height, width)

    def _pooled(self, branch: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(branch, 1)


class ViewedGlobalContext(nn.Module):
    """GCNet's block with views and squeezes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1),
            nn.LayerNorm([channels // 4, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        flat = x.view(batch, channels, height * width).unsqueeze(1)
        weights = self.score(x).view(batch, 1, height * width).softmax(2).unsqueeze(-1)
        context = torch.matmul(flat, weights).view(batch, channels, 1, 1)
        term: Tensor = self.layers(context)
        return x + term


class PlainGlobalContext(nn.Module):
    """A global context without normalisation that multiplies."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        weights = self.score(x).reshape(batch, -1, 1).softmax(1)
        context = torch.bmm(x.flatten(2), weights).unsqueeze(-1)
        gate: Tensor = torch.sigmoid(self.excite(torch.relu(self.squeeze(context))))
        return gate * x


class NormalisedLocalSpatial(nn.Module):
    """Local spatial attention with a depthwise convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels), nn.BatchNorm2d(channels), nn.GELU()
        )
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = torch.sigmoid(self.score(self.local(x)))
        return gate * x


class SummedAdvancedChannel(nn.Module):
    """Advanced channel attention with a pooling per use, a split and a sum that begins with zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)
        self.pool_weights = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.Softmax(dim=1))
        self.mlp = self._layers(channels, bias=False)
        self.base = nn.Sequential(nn.AdaptiveAvgPool2d(1), self._layers(channels), nn.Sigmoid())
        self.dynamic = nn.Sequential(nn.AdaptiveAvgPool2d(1), self._layers(channels), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).flatten(2).softmax(2)
        pools = [
            functional.adaptive_avg_pool2d(x, 1),
            functional.adaptive_max_pool2d(x, 1),
            x.norm(dim=(2, 3), keepdim=True),
            torch.matmul(x.flatten(2), weights.transpose(1, 2)).unsqueeze(-1),
        ]
        mixed = sum(w * pool for w, pool in zip(self.pool_weights(x).split(1, dim=1), pools, strict=True))
        importance = self.base(x) * (1 + self.dynamic(x))
        gate: Tensor = torch.sigmoid(self.mlp(mixed) * importance)
        return x * gate

    def _layers(self, channels: int, bias: bool = True) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1, bias=bias),
        )


class RepeatedAdvancedSpatial(nn.Module):
    """Advanced spatial attention that joins the pools again for every scale and adds a table of the place."""

    table: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2, 1, k, padding=k // 2, bias=False), nn.BatchNorm2d(1), nn.ReLU())
            for k in (3, 5, 7)
        )
        self.fusion = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Sigmoid())
        self.importance = nn.Sequential(
            nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1), nn.Sigmoid()
        )
        self.register_buffer("table", torch.randn(1, 128, 128))

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.mean(x, dim=1, keepdim=True)
        peak, _ = torch.max(x, dim=1, keepdim=True)
        scales = [branch(torch.cat([mean, peak], dim=1)) for branch in self.branches]
        gate: Tensor = self.fusion(torch.cat(scales, dim=1)) * self.importance(x)
        return x * (gate + 0.1 * self.table[:, : x.shape[2], : x.shape[3]].unsqueeze(0))


SPELLINGS: dict[str, tuple[type[nn.Module], ...]] = {
    "se": (PooledLinearSE, SequentialSE, TwoMeansSE, HardSE, ClippedSE),
    "eca": (PooledECA, FlatECA),
    "simam": (PowSimAM,),
    "channel_attention": (LinearChannelAttention, PeakFirstChannelAttention),
    "spatial_attention": (IndexedSpatialAttention,),
    "cbam": (TwoHalvesCBAM,),
    "coordatt": (ClippedCoordAtt,),
    "ema": (PooledEMA,),
    "global_context": (ViewedGlobalContext, PlainGlobalContext),
    "local_spatial": (NormalisedLocalSpatial,),
    "advanced_channel": (SummedAdvancedChannel,),
    "advanced_spatial": (RepeatedAdvancedSpatial,),
}
"""Spellings by the kind that they are."""
