"""Small detectors in torch whose exports bake shapes in the ways that real exporters do."""

# mypy: ignore-errors

from __future__ import annotations

import io
import warnings

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from trtdeploy.graph.prepare import Prepare


class Backbone(nn.Module):
    """Maps at strides 8, 16 and 32 with a top-down path; `upsample` is by factor or to the other map's size."""

    def __init__(self, width: int = 8, upsample: str = "factor") -> None:
        super().__init__()
        self.upsample = upsample
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.SiLU(), nn.Conv2d(width, width, 3, 2, 1), nn.SiLU())
        self.down4 = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.SiLU())
        self.down5 = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.SiLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        p3 = self.stem(x)
        p4 = self.down4(p3)
        p5 = self.down5(p4)
        p4 = torch.cat([p4, self._up(p5, p4)], 1)
        p3 = torch.cat([p3, self._up(p4, p3)], 1)
        return [p3, p4, p5]

    def _up(self, x: Tensor, like: Tensor) -> Tensor:
        if self.upsample == "size":
            return nn.functional.interpolate(x, size=like.shape[2:], mode="nearest")
        return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def cells(maps: list[Tensor], offset: float) -> tuple[Tensor, Tensor]:
    """Return `[A, 2]` cell positions (x, y) in grid units and `[A, 1]` strides."""
    points, strides = [], []
    for level, stride in zip(maps, (8, 16, 32), strict=True):
        h, w = level.shape[2:]
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2).float() + offset)
        strides.append(torch.full((h * w, 1), float(stride)))
    return torch.cat(points), torch.cat(strides)


class V8Like(nn.Module):
    """Distances through a softmax over bins, anchors `[2,A]` and strides `[1,A]`, output `[B,4+nc,A]`."""

    def __init__(self, upsample: str = "factor", gate: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = Backbone(upsample=upsample)
        self.gate = gate or nn.Identity()
        self.heads = nn.ModuleList(nn.Conv2d(c, 4 * 4 + 3, 1) for c in (24, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)
        maps[2] = self.gate(maps[2])
        maps = [head(level) for head, level in zip(self.heads, maps, strict=True)]
        b = x.shape[0]
        box, cls = torch.cat([m.view(b, 19, -1) for m in maps], 2).split((16, 3), 1)
        anchors, strides = (t.transpose(0, 1).to(x.dtype) for t in cells(maps, 0.5))
        bins = box.view(b, 4, 4, box.shape[2]).transpose(2, 1).softmax(1)
        distances = (bins * torch.arange(4.0, dtype=x.dtype).view(1, 4, 1, 1)).sum(1)
        lt, rb = distances.chunk(2, 1)
        x1y1, x2y2 = anchors.unsqueeze(0) - lt, anchors.unsqueeze(0) + rb
        return torch.cat([torch.cat([(x1y1 + x2y2) / 2, x2y2 - x1y1], 1) * strides, cls.sigmoid()], 1)


class V5Like(nn.Module):
    """Per-level grids and anchor grids `[1,3,h,w,2]`, output `[B,A,5+nc]`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * 8, 1) for c in (24, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        out = []
        sizes = torch.tensor(
            [[[10, 13], [17, 30], [33, 23]], [[31, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
        )
        for level, head, stride, wh in zip(self.backbone(x), self.heads, (8, 16, 32), sizes.float(), strict=True):
            y = head(level)
            b, _, h, w = y.shape
            y = y.view(b, 3, 8, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack([gx, gy], 2).expand(1, 3, h, w, 2).float() - 0.5
            anchor_grid = wh.view(1, 3, 1, 1, 2).expand(1, 3, h, w, 2)
            xy, size, conf = y.split((2, 2, 4), 4)
            y = torch.cat([(xy * 2 + grid) * stride, (size * 2) ** 2 * anchor_grid, conf], 4)
            out.append(y.view(b, 3 * h * w, 8))
        return torch.cat(out, 1)


class XLike(nn.Module):
    """YOLOX: grids `[1,A,2]` and strides `[1,A,1]`, output `[B,A,5+nc]`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(upsample="size")
        self.heads = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in (24, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        maps = [head(level) for head, level in zip(self.heads, self.backbone(x), strict=True)]
        y = torch.cat([m.flatten(2) for m in maps], 2).permute(0, 2, 1)
        grid, strides = (t.unsqueeze(0) for t in cells(maps, 0.0))
        return torch.cat([(y[..., :2] + grid) * strides, y[..., 2:4].exp() * strides, y[..., 4:].sigmoid()], -1)


class Attention(nn.Module):
    """Multi-head self-attention over all cells, as in C2PSA."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q = x.view(b, 2, c // 2, h * w)
        weights = (q.transpose(-2, -1) @ q * 0.5).softmax(-1)
        return (q @ weights.transpose(-2, -1)).view(b, c, h, w) + x


class AreaAttention(nn.Module):
    """Cells cut into 2 areas that share the batch axis, as in YOLOv12."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q = x.flatten(2).transpose(1, 2).reshape(b * 2, h * w // 2, c)
        y = (q @ q.transpose(1, 2)).softmax(-1) @ q
        return y.reshape(b, h * w, c).transpose(1, 2).reshape(b, c, h, w) + x


class SimAM(nn.Module):
    """A gate that divides by `H * W - 1`."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean((2, 3), keepdim=True)) ** 2
        return x * torch.sigmoid(d / (4 * (d.sum((2, 3), keepdim=True) / n + 1e-4)) + 0.5)


class SequenceAttention(nn.Module):
    """torch's own attention with the batch in the middle, `[N,B,C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        sequence = x.flatten(2).permute(2, 0, 1)
        y = self.attention(sequence, sequence, sequence, need_weights=False)[0]
        return y.permute(1, 2, 0).reshape(b, c, h, w) + x


class Position(nn.Module):
    """A learned position per cell: its size is a weight."""

    def __init__(self, h: int, w: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 8, h, w))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def export(
    net: nn.Module,
    shape: tuple[int, int, int] = (1, 160, 224),
    opset: int = 17,
    dynamic: bool = False,
    dtype: torch.dtype = torch.float32,
) -> ir.Model:
    """Export with TorchScript, fixed at `(batch, height, width)` or dynamic, and simplify."""
    buffer = io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if dynamic else None
    batch, height, width = shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            (torch.rand(batch, 3, height, width).to(dtype),),
            buffer,
            opset_version=opset,
            dynamo=False,
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes=axes,
        )
    model = ir.from_proto(onnx.load_from_string(buffer.getvalue()))
    return Prepare(verify=False).run(model).model
