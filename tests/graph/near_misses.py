"""Networks that look like attention and are not, or are of no kind of the catalogue."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

C = 16


class Net(nn.Module):
    """A body between two convolutions."""

    def __init__(self, body: Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.one, self.two, self.three = (nn.Conv2d(C, C, 1) for _ in range(3))
        self.narrow = nn.Conv2d(C, 4, 1)
        self.wide = nn.Conv2d(4, C, 1)
        self.local = nn.Conv2d(C, C, 3, padding=1)
        self.plane = nn.Conv2d(2, 1, 7, padding=3)
        self.classes = nn.Linear(C, 5)
        self.scale = nn.Parameter(torch.rand(1, C, 1, 1))
        self.body = body

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.body(self, self.stem(images))


def _squeezed(n: Net, x: Tensor) -> Tensor:
    return n.wide(F.relu(n.narrow(x.mean((2, 3), keepdim=True)))).sigmoid()


def _tokens(n: Net, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in (n.one, n.two, n.three))
    return q, k, v


def _map(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape)


def _standardised(x: Tensor, *axes: int) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.pow(2).mean(axes, keepdim=True) + 1e-5).sqrt()


def _linear_attention(n: Net, x: Tensor) -> Tensor:
    q, k, v = _tokens(n, x)
    return _map(F.relu(q) @ (F.relu(k).transpose(1, 2) @ v), x)


def _efficient_attention(n: Net, x: Tensor) -> Tensor:
    q, k, v = _tokens(n, x)
    return _map(q.softmax(-1) @ (k.softmax(1).transpose(1, 2) @ v), x)


def _sampled(n: Net, x: Tensor) -> Tensor:
    grid = n.narrow(x)[:, :2].permute(0, 2, 3, 1).tanh()
    return F.grid_sample(x, grid, align_corners=False)


def _distribution(n: Net, x: Tensor) -> Tensor:
    bins = n.one(x).flatten(2).reshape(x.shape[0], 4, 4, -1).softmax(2)
    return (bins * torch.arange(4, dtype=x.dtype).reshape(1, 1, 4, 1)).sum(2)


NOTHING: dict[str, Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]]] = {
    "SiLU": lambda n, x: F.silu(n.one(x)),
    "hard swish": lambda n, x: F.hardswish(n.one(x)),
    "hard swish by hand": lambda n, x: x * (x + 3).clamp(0, 6) / 6,
    "GELU": lambda n, x: F.gelu(n.one(x)),
    "Mish": lambda n, x: F.mish(n.one(x)),
    "sigmoid head": lambda n, x: n.one(x).sigmoid(),
    "softmax head over channels": lambda n, x: n.one(x).softmax(1),
    "classifier behind a global pool": lambda n, x: n.classes(x.mean((2, 3))).softmax(-1),
    "multi-label classifier behind a global pool": lambda n, x: n.classes(x.mean((2, 3))).sigmoid(),
    "squeeze without excite": lambda n, x: (x, _squeezed(n, x)),
    "squeeze that is added": lambda n, x: x + n.wide(F.relu(n.narrow(x.mean((2, 3), keepdim=True)))),
    "squeeze that multiplies without a gate": lambda n, x: x * x.mean((2, 3), keepdim=True),
    "gated linear unit": lambda n, x: n.one(x) * n.two(x).sigmoid(),
    "gate by a convolution of the map": lambda n, x: x * n.local(x).sigmoid(),
    "learned constant gate": lambda n, x: x * n.scale.sigmoid(),
    "gates of a recurrent cell": lambda n, x: n.one(x).sigmoid() * n.two(x).tanh(),
    "normalisation over channels": lambda n, x: _standardised(x, 1),
    "normalisation over positions": lambda n, x: _standardised(x, 2, 3),
    "distance bins of a detector head": _distribution,
    "spatial pyramid of pools": lambda n, x: torch.cat([x, F.max_pool2d(x, 5, 1, 2), F.avg_pool2d(x, 3, 1, 1)], 1),
    "channel pools that are added": lambda n, x: x + n.plane(torch.cat([x.mean(1, True), x.amax(1, True)], 1)),
    "products of queries and keys alone": lambda n, x: _tokens(n, x)[0] @ _tokens(n, x)[1].transpose(1, 2),
    "softmax of products without values": lambda n, x: (
        _tokens(n, x)[0] @ _tokens(n, x)[1].transpose(1, 2)
    ).softmax(-1),
    "linear attention without softmax": _linear_attention,
    "softmaxes of queries and of keys apart": _efficient_attention,
    "spatial transformer": _sampled,
    "strip means that multiply": lambda n, x: x * x.mean(3, keepdim=True) * x.mean(2, keepdim=True),
}  # fmt: skip
"""Networks in which nothing may be found."""

UNKNOWN: dict[str, Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]]] = {
    "gate with three hidden layers": lambda n, x: x * n.wide(F.relu(n.narrow(F.relu(n.one(F.relu(
        n.two(x.mean((2, 3), keepdim=True)))))))).sigmoid(),
    "gate by the spread of a map": lambda n, x: x * n.one(
        (x - x.mean((2, 3), keepdim=True)).pow(2).mean((2, 3), keepdim=True).sqrt()).sigmoid(),
    "attention whose values are squared": lambda n, x: _map(
        (_tokens(n, x)[0] @ _tokens(n, x)[1].transpose(1, 2)).softmax(-1) @ _tokens(n, x)[2].pow(2), x),
}  # fmt: skip
"""Attention of no kind of the catalogue: reported as unrecognised, never under a name."""
