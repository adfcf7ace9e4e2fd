"""Attention in regions, or over picked places, as other code writes it; and blocks that only look like it."""

# mypy: allow-subclassing-any

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SwinWindows(nn.Module):
    """Windows of tokens, channels last, linear layers, a table of biases, a residual; no padding and no gate."""

    def __init__(self, channels: int, side: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.side, self.heads = side, heads
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.table = nn.Parameter(torch.randn(heads, side * side, side * side))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        s = self.side
        cut = x.permute(0, 2, 3, 1).reshape(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5)
        tokens = cut.reshape(-1, s * s, c)
        q, k, v = self.qkv(tokens).reshape(-1, s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + self.table
        out = self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, s * s, c))
        joined = out.reshape(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + joined.permute(0, 3, 1, 2)


class PlainCascade(nn.Module):
    """Heads in a row with layers of their own for q, k and v, hard swish, no normalisation and no residual."""

    def __init__(self, channels: int, heads: int = 2, key: int = 6) -> None:
        super().__init__()
        self.width, self.key = channels // heads, key
        self.q = nn.ModuleList(nn.Conv2d(self.width, key, 1) for _ in range(heads))
        self.k = nn.ModuleList(nn.Conv2d(self.width, key, 1) for _ in range(heads))
        self.v = nn.ModuleList(nn.Conv2d(self.width, self.width, 1) for _ in range(heads))
        self.dw = nn.ModuleList(nn.Conv2d(key, key, 3, padding=1, groups=key) for _ in range(heads))
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        seen, outputs = x[:, : self.width], []
        for i, (q, k, v, dw) in enumerate(zip(self.q, self.k, self.v, self.dw, strict=True)):
            if i:
                seen = outputs[-1] + x[:, i * self.width : (i + 1) * self.width]
            scores = torch.bmm(dw(q(seen)).flatten(2).transpose(1, 2), k(seen).flatten(2)) / self.key**0.5
            mixed = torch.bmm(scores.softmax(-1), v(seen).flatten(2).transpose(1, 2))
            outputs.append(mixed.transpose(1, 2).reshape(b, self.width, h, w))
        out: Tensor = self.proj(functional.hardswish(torch.cat(outputs, 1)))
        return out


class ProjectThenPick(nn.Module):
    """Sparse attention that projects the whole map, then gathers keys and values; one layer of heat, no residual."""

    def __init__(self, channels: int, keys: int = 7) -> None:
        super().__init__()
        self.keys = keys
        self.heat, self.proj = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, channels, 1)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        _, places = self.heat(x).sigmoid().flatten(1).topk(self.keys)
        places = places[:, None].expand(-1, c, -1)
        k, v = self.k(x).flatten(2).gather(2, places), self.v(x).flatten(2).gather(2, places)
        scores = self.q(x).flatten(2).transpose(1, 2) @ k * c**-0.5
        mixed = v @ scores.softmax(-1).transpose(1, 2)
        out: Tensor = self.proj(mixed.reshape(x.shape))
        return out


class BoxQueries(nn.Module):
    """Deformable attention of queries with reference boxes, in the six-dimensional form, levels stacked."""

    def __init__(self, channels: int, heads: int = 2, points: int = 3) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.box, self.query = nn.Linear(channels, 4), nn.Linear(channels, channels)
        self.offsets, self.shares = nn.Linear(channels, heads * points * 2), nn.Linear(channels, heads * points)
        self.value, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        query, box = self.query(tokens).relu(), self.box(tokens).sigmoid()[:, :, None, None, None]
        moved = self.offsets(query).view(b, -1, self.heads, 1, self.points, 2)
        places = box[..., :2] + moved / self.points * box[..., 2:] * 0.5
        shares = self.shares(query).view(b, -1, self.heads, self.points).softmax(-1)
        value = self.value(tokens).view(b, -1, self.heads, c // self.heads)
        own = value.flatten(2).transpose(1, 2).reshape(b * self.heads, c // self.heads, h, w)
        grid = (2 * places - 1)[:, :, :, 0].transpose(1, 2).flatten(0, 1)
        sampled = [functional.grid_sample(own, grid, padding_mode="zeros", align_corners=False)]
        weights = shares.transpose(1, 2).reshape(b * self.heads, 1, -1, self.points)
        mixed = (torch.stack(sampled, -2).flatten(-2) * weights).sum(-1).view(b, c, -1)
        out: Tensor = self.out(mixed.transpose(1, 2)).transpose(1, 2).reshape(b, c, h, w)
        return out


class BatchedHyperedges(nn.Module):
    """Hypergraph convolution with batched products of flattened heads."""

    def __init__(self, channels: int, edges: int = 5, heads: int = 4) -> None:
        super().__init__()
        self.edges, self.heads = edges, heads
        self.base = nn.Parameter(torch.randn(edges, channels))
        self.context, self.pre = nn.Linear(2 * channels, edges * channels), nn.Linear(channels, channels)
        self.edge = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.node = nn.Sequential(nn.Linear(channels, channels), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        t = x.flatten(2).transpose(1, 2)
        moved = self.context(torch.cat([t.mean(1), t.max(1).values], -1)).view(b, self.edges, c)
        split = (self.heads, c // self.heads)
        protos = (self.base + moved).view(b, self.edges, *split).permute(0, 2, 3, 1).reshape(-1, split[1], self.edges)
        nodes = self.pre(t).view(b, -1, *split).transpose(1, 2).reshape(b * self.heads, -1, split[1])
        logits = (torch.bmm(nodes, protos) / split[1] ** 0.5).view(b, self.heads, -1, self.edges).mean(1)
        shares = logits.softmax(1)
        gathered = self.edge(torch.bmm(shares.transpose(1, 2), t))
        spread: Tensor = self.node(torch.bmm(shares, gathered)) + t
        return spread.transpose(1, 2).reshape(b, c, h, w)


class TokenAreas(nn.Module):
    """Area attention by torch's own attention function, heads after the areas, one joined linear layer."""

    def __init__(self, channels: int, areas: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.areas, self.heads = areas, heads
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.position = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.qkv(x).flatten(2).transpose(1, 2).reshape(b * self.areas, h * w // self.areas, 3, self.heads, -1)
        q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        back = [m.transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).reshape(b, c, h, w) for m in (mixed, v)]
        out: Tensor = self.proj(back[0] + self.position(back[1]))
        return out


class ParallelGroups(nn.Module):
    """Heads on their own channels like a cascade, but none sees the one before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.qkv = nn.ModuleList(nn.Conv2d(half, 3 * half, 1) for _ in range(2))
        self.dw = nn.ModuleList(nn.Conv2d(half, half, 3, padding=1, groups=half) for _ in range(2))
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for part, qkv, dw in zip(x.chunk(2, 1), self.qkv, self.dw, strict=True):
            q, k, v = qkv(part).chunk(3, 1)
            scores = dw(q).flatten(2).transpose(1, 2) @ k.flatten(2) * 0.3
            outputs.append((v.flatten(2) @ scores.softmax(-1).transpose(1, 2)).reshape(part.shape))
        out: Tensor = x + self.proj(torch.cat(outputs, 1).relu())
        return out


class SelectedQueries(nn.Module):
    """Query selection: the hottest positions attend to each other, and their mean gates the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heat, self.qkv = nn.Conv2d(channels, 1, 1), nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        places = self.heat(x).flatten(1).topk(5).indices[:, :, None].expand(-1, -1, c)
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2).gather(1, places)).chunk(3, 2)
        mixed = (q @ k.transpose(1, 2) * c**-0.5).softmax(-1) @ v
        return x + self.out(mixed).mean(1)[:, :, None, None]


class Warp(nn.Module):
    """A map sampled at places of a convolution's making: no weights over several points."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.places, self.value = nn.Conv2d(channels, 2, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.places(x).tanh().permute(0, 2, 3, 1)
        return x + functional.grid_sample(self.value(x), grid, align_corners=False)


class GatedBranches(nn.Module):
    """Two convolutional branches under the gate that window attention ends with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.other = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        other = self.other(x)
        gate = self.gate(torch.cat([x, other], 1)).sigmoid()
        mixed: Tensor = gate * other + (1 - gate) * x
        return mixed


class WholeMap(nn.Module):
    """Multi-head attention over the whole map, with a depthwise convolution of the values if `position` is given."""

    def __init__(self, channels: int, position: int = 0) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.position = (
            nn.Conv2d(channels, channels, position, padding=position // 2, groups=channels) if position else None
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        mixed = (v @ (q.transpose(1, 2) @ k * 0.2).softmax(-1).transpose(1, 2)).reshape(x.shape)
        if self.position is not None:
            mixed = mixed + self.position(v.reshape(x.shape))
        out: Tensor = x + self.proj(mixed)
        return out


class ConvolutionStage(nn.Module):
    """The stage of A2C2f with convolutions in place of attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.join = nn.Conv2d(channels, channels, 1), nn.Conv2d(2 * channels, channels, 1)
        self.block, self.mlp = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = functional.silu(self.enter(x))
        second = first + self.block(first)
        second = second + self.mlp(functional.silu(self.mlp(second)))
        out: Tensor = functional.silu(self.join(torch.cat([first, second], 1)))
        return out


class Codebook(nn.Module):
    """Positions gathered into groups by a softmax over positions, then pooled away instead of spread again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.assign, self.out = nn.Linear(channels, 6), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        words = self.assign(tokens).softmax(1).transpose(1, 2) @ tokens
        return x + functional.gelu(self.out(words)).mean(1)[:, :, None, None]
