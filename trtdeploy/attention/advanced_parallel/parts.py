"""Build the parts that mixed attention is made of, by name, and the small layers between them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.global_context.module import GlobalContext
from trtdeploy.attention.local_spatial.module import LocalSpatial
from trtdeploy.attention.self_attention_module.module import SelfAttentionModule
from trtdeploy.attention.spatial_attention.module import SpatialAttention

_PARTS = {
    "channel": ChannelAttention,
    "spatial": SpatialAttention,
    "self": SelfAttentionModule,
    "global": GlobalContext,
    "local": LocalSpatial,
}
NAMES = tuple(_PARTS)
"""Names of the parts."""


def parts(owner: str, names: Sequence[str], channels: int) -> nn.ModuleDict:
    """Return one part per name, in the order of `names`; `key` gives their keys.

    Args:
        owner: Class that wants them, for the error message.
        names: Of `NAMES`, each at most once, at least one.
        channels: Number of channels of the map.

    Raises:
        ValueError: A name is unknown or repeated, or there is none.
    """
    if not names or len(set(names)) != len(names) or not set(names) <= set(NAMES):
        raise ValueError(
            f"{owner}: attentions={tuple(names)} must be one or more different ones of {', '.join(NAMES)}."
        )
    return nn.ModuleDict({key(name): _PARTS[name](channels) for name in names})


def key(name: str) -> str:
    """Return the submodule's name of the part `name`: torch.export writes code in which `global` is a keyword."""
    return "global_" if name == "global" else name


def at_least_one(owner: str, **values: int) -> None:
    """Check that every value is 1 or more.

    Raises:
        ValueError: One is not; the message names it.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{owner}: {name} must be at least 1, got {value}.")


def narrowed(channels: int, ratio: int) -> int:
    """Return `channels / ratio`, at least 1."""
    return max(1, channels // ratio)


def conv_norm_relu(channels: int, kernel_size: int) -> list[nn.Module]:
    """Return a convolution that keeps the shape, batch normalisation and ReLU."""
    return [
        nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2), nn.BatchNorm2d(channels), nn.ReLU()
    ]  # fmt: skip


def weighted_sum(weights: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """Return the sum of `outputs` (`[B, C, H, W]` each), the i-th times `weights[:, i]` (`[B, n, 1, 1]`)."""
    total = weights[:, 0:1] * outputs[0]
    for i, output in enumerate(outputs[1:], start=1):
        total = total + weights[:, i : i + 1] * output
    return total
