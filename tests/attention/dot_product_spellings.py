"""Dot-product attention as other code writes it, and what only resembles it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from trtdeploy.attention.c2psa.module import C2PSA
from trtdeploy.attention.psa.module import PSABlock
from trtdeploy.attention.self_attention.module import SelfAttention

CHANNELS = 16


class Named(nn.Module):
    """A block in a few words: its layers, and its forward as a function of them and the map."""

    def __init__(self, forward: Callable[[Named, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.gamma = nn.Parameter(torch.full((1,), 0.7))
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(inputs: int = CHANNELS, outputs: int = CHANNELS, *args: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, *(args or (1,)))


def conv1d(outputs: int) -> nn.Conv1d:
    return nn.Conv1d(CHANNELS, outputs, 1)


def conv3() -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def as_map(seen: Tensor, x: Tensor) -> Tensor:
    return seen.transpose(1, 2).reshape(x.shape)


def heads(x: Tensor, count: int = 2) -> Tensor:
    """Return tokens `[B, N, C]` as `[B, heads, N, C / heads]`."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    return (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v


# Found under their names


def sagan_listing(m: Named, x: Tensor) -> Tensor:
    b, c, h, w = x.size()
    query = m.q(x).view(b, -1, h * w).permute(0, 2, 1)
    key = m.k(x).view(b, -1, h * w)
    value = m.v(x).view(b, -1, h * w)
    weights = functional.softmax(torch.bmm(query, key), dim=-1)
    return m.gamma * torch.bmm(value, weights.permute(0, 2, 1)).view(b, c, h, w) + x


def scaled_sagan(m: Named, x: Tensor) -> Tensor:
    query, key, value = tokens(m.q(x)), tokens(m.k(x)), m.v(x).flatten(2)
    weights = (query @ key.transpose(1, 2) * 4**-0.5).softmax(-1)
    return x + m.gamma * (value @ weights.transpose(1, 2)).view(x.shape)


def sagan_in_one_dimension(m: Named, x: Tensor) -> Tensor:
    flat = x.flatten(2)
    scores = m.q(flat).transpose(1, 2) @ m.k(flat)
    return x + m.gamma * (m.v(flat) @ scores.softmax(-1).transpose(1, 2)).reshape(x.shape)


def sagan_keys_first(m: Named, x: Tensor) -> Tensor:
    scores = m.k(x).flatten(2).transpose(1, 2) @ m.q(x).flatten(2)
    return x + (m.v(x).flatten(2) @ scores.softmax(1)).view(x.shape) * m.gamma


def torch_layer(m: Named, x: Tensor) -> Tensor:
    t = tokens(x)
    return as_map(t + m.layer(t, t, t, need_weights=False)[0], x)


def separate_linears(m: Named, x: Tensor) -> Tensor:
    t = tokens(x)
    seen = attend(heads(m.q(t)), heads(m.k(t)), heads(m.v(t)), 8**-0.5)
    return as_map(m.out(joined(seen)), x)


def joined_linear(m: Named, x: Tensor) -> Tensor:
    b, n = x.shape[0], x.shape[2] * x.shape[3]
    q, k, v = m.qkv(tokens(x)).reshape(b, n, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
    return as_map(m.out(joined(attend(q * 8**-0.5, k, v))), x)


def pyramid(m: Named, x: Tensor) -> Tensor:
    t, small = tokens(x), m.norm(tokens(m.reduce(x)))
    seen = attend(heads(m.q(t)), heads(m.k(small)), heads(m.v(small)), 8**-0.5)
    return as_map(m.out(joined(seen)), x) + x


def scaled_non_local(m: Named, x: Tensor) -> Tensor:
    theta, phi, g = tokens(m.q(x)), m.k(x).flatten(2), tokens(m.v(x))
    weights = (torch.matmul(theta, phi) / theta.shape[-1] ** 0.5).softmax(dim=-1)
    seen = torch.matmul(weights, g).permute(0, 2, 1).reshape(x.size(0), -1, *x.size()[2:])
    return x + m.out(seen)


def cut_first(m: Named, x: Tensor) -> Tensor:
    return torch.cat([scaled_non_local(m, strip) for strip in torch.chunk(x, 4, dim=2)], dim=2)


def inverse_temperature(m: Named, x: Tensor) -> Tensor:
    q, k, v = tokens(m.q(x)), tokens(m.k(x)), tokens(m.v(x))
    return x + m.gamma * as_map((m.gamma * (q @ k.transpose(1, 2))).softmax(-1) @ v, x)


def narrow(**more: nn.Module) -> dict[str, nn.Module]:
    return {"q": conv(outputs=4), "k": conv(outputs=4), "v": conv(outputs=4), "out": conv(4), **more}


def sagan_layers() -> dict[str, nn.Module]:
    return {"q": conv(outputs=4), "k": conv(outputs=4), "v": conv()}


def linears(*names: str) -> dict[str, nn.Module]:
    return {name: nn.Linear(CHANNELS, CHANNELS) for name in names}


def dilated() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2),
        nn.BatchNorm2d(CHANNELS),
        awake(SelfAttention(CHANNELS)),
    )


def awake(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in module.parameters():
            if tensor.ndim == 1:
                tensor.add_(0.5)
    return module


SPELLINGS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "the listing, view and bmm": ("self_attention", lambda: Named(sagan_listing, **sagan_layers())),
    "SAGAN with the usual scale": ("self_attention", lambda: Named(scaled_sagan, **sagan_layers())),
    "convolutions of one dimension": (
        "self_attention",
        lambda: Named(sagan_in_one_dimension, q=conv1d(4), k=conv1d(4), v=conv1d(CHANNELS)),
    ),
    "keys times queries, softmax over rows": ("self_attention", lambda: Named(sagan_keys_first, **sagan_layers())),
    "torch's layer": ("mhsa", lambda: Named(torch_layer, layer=nn.MultiheadAttention(CHANNELS, 2, batch_first=True))),
    "linear layers of tokens": ("mhsa", lambda: Named(separate_linears, **linears("q", "k", "v", "out"))),
    "one linear layer, unbound": (
        "mhsa", lambda: Named(joined_linear, qkv=nn.Linear(CHANNELS, 3 * CHANNELS), out=nn.Linear(CHANNELS, CHANNELS))
    ),
    "tiles and layer normalisation": (
        "emha",
        lambda: Named(
            pyramid, reduce=conv(CHANNELS, CHANNELS, 2, 2), norm=nn.LayerNorm(CHANNELS), **linears("q", "k", "v", "out")
        ),
    ),
    "scaled embeddings": ("non_local", lambda: Named(scaled_non_local, **narrow())),
    "strips cut before the layers": ("cross_region", lambda: Named(cut_first, **narrow())),
    "a factor instead of a divisor": ("dynamic_attention", lambda: Named(inverse_temperature, **sagan_layers())),
    "normalisation after the dilated convolution": ("small_object", dilated),
    "the block alone": ("psa", lambda: awake(PSABlock(CHANNELS, heads=2))),
    "one block": ("psa", lambda: awake(C2PSA(CHANNELS))),
}  # fmt: skip


# Resembles


def cross_attention(m: Named, x: Tensor) -> Tensor:
    other = m.other(x)
    return as_map(m.out(joined(attend(heads(m.q(tokens(x))), heads(m.k(tokens(other))), heads(m.v(tokens(other)))))), x)


def over_channels(m: Named, x: Tensor) -> Tensor:
    q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
    return x + m.gamma * attend(q, k, v).reshape(x.shape)


def no_softmax(m: Named, x: Tensor) -> Tensor:
    q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
    return x + m.gamma * (v @ (q.transpose(1, 2) @ k).sigmoid()).reshape(x.shape)


def masked(m: Named, x: Tensor) -> Tensor:
    q, k, v = tokens(m.q(x)), tokens(m.k(x)), tokens(m.v(x))
    mask = tokens(m.mask(x)).transpose(1, 2)
    return x + m.gamma * as_map((q @ k.transpose(1, 2) + mask).softmax(-1) @ v, x)


def other_residual(m: Named, x: Tensor) -> Tensor:
    q, k, v = tokens(m.q(x)), tokens(m.k(x)), tokens(m.v(x))
    return m.other(x) + m.gamma * as_map(attend(q, k, v), x)


def in_rows(m: Named, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    q, k, v = (layer(x).permute(0, 2, 3, 1).reshape(b * h, w, -1) for layer in (m.q, m.k, m.v))
    return x + m.gamma * attend(q, k, v).reshape(b, h, w, c).permute(0, 3, 1, 2)


def values_of_the_map(m: Named, x: Tensor) -> Tensor:
    weights = (tokens(m.q(x)) @ m.k(x).flatten(2)).softmax(-1)
    return x + m.gamma * as_map(weights @ tokens(x), x)


def classifier(m: Named, x: Tensor) -> Tensor:
    return m.out(x).softmax(1) * m.other(x)


def split_without_attention(m: Named, x: Tensor) -> Tensor:
    first, second = functional.silu(m.other(x)).chunk(2, 1)
    second = second + m.two(functional.silu(m.one(second)))
    return functional.silu(m.out(torch.cat([first, second], 1)))


NEAR_MISSES: dict[str, Callable[[], nn.Module]] = {
    "keys of another map": lambda: Named(cross_attention, other=conv3(), **linears("q", "k", "v", "out")),
    "attention over channels": lambda: Named(over_channels, q=conv(), k=conv(), v=conv()),
    "a sigmoid instead of softmax": lambda: Named(no_softmax, **sagan_layers()),
    "a mask on the logits": lambda: Named(masked, mask=conv(outputs=1), **sagan_layers()),
    "the residual of another map": lambda: Named(other_residual, other=conv3(), **sagan_layers()),
    "attention within rows": lambda: Named(in_rows, **sagan_layers()),
    "values that are the map itself": lambda: Named(values_of_the_map, **sagan_layers()),
    "class probabilities": lambda: Named(classifier, out=conv(), other=conv()),
    "split, two layers and join": lambda: Named(
        split_without_attention, other=conv(), one=conv(8, 8), two=conv(8, 8), out=conv()
    ),
}  # fmt: skip
