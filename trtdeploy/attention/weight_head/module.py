"""Implement learned weight heads in torch, as they are at inference."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, narrowed, parts, weighted_sum

HEADS = ("maml", "policy", "actor")
"""Ways in which the head was trained; they differ in its widths."""


class LearnedWeightHead(nn.Module):
    """Add attentions with shares from a small MLP of the pooled input: `y = sum_i softmax(MLP(GAP(x)))_i a_i(x)`.

    Args:
        channels: Number of channels of the input.
        head: `maml` (meta-learned; hidden widths C/4, C/8), `policy` (128, 64, 32) or `actor` (actor-critic; 128, 128,
            64). Default `maml`.
        attentions: Of `channel`, `spatial`, `self`, `global` and `local`. Default the first three.
        hard: Take the attention of the largest share alone. Default False.

    Raises:
        ValueError: If `channels` is less than 1, or the head or an attention is unknown.
    """

    def __init__(
        self,
        channels: int,
        head: str = "maml",
        attentions: Sequence[str] = ("channel", "spatial", "self"),
        hard: bool = False,
    ) -> None:
        super().__init__()
        at_least_one("LearnedWeightHead", channels=channels)
        if head not in HEADS:
            raise ValueError(f"LearnedWeightHead: head must be one of {', '.join(HEADS)}, got {head!r}.")
        self.attentions = parts("LearnedWeightHead", attentions, channels)
        self.convolutional = head == "maml"
        self.hard = hard
        if head == "maml":
            widths = [channels, narrowed(channels, 4), narrowed(channels, 8)]
        else:
            widths = [channels, 128, 64, 32] if head == "policy" else [channels, 128, 128, 64]
        layers: list[nn.Module] = []
        for given, wanted in zip(widths, [*widths[1:], len(attentions)], strict=True):
            layers += [nn.Conv2d(given, wanted, 1) if self.convolutional else nn.Linear(given, wanted), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Compute the shares, apply the attentions and mix them.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        return weighted_sum(self.shares(x), [attention(x) for attention in self.attentions.values()])

    def shares(self, x: Tensor) -> Tensor:
        """Return the attentions' shares for `x [B, C, H, W]`: `[B, n, 1, 1]`, with a sum of 1."""
        pooled = x.mean((2, 3), keepdim=self.convolutional)
        shares: Tensor = self.mlp(pooled).softmax(1)
        if self.hard:
            best = shares.argmax(1, keepdim=True)
            places = torch.arange(len(self.attentions), device=x.device)
            shape = (1, -1, 1, 1) if self.convolutional else (1, -1)
            shares = (places.reshape(shape) == best).to(x.dtype)
        return shares if self.convolutional else shares[:, :, None, None]
