"""Implement CBAM's channel attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """Gate channels by their means and maxima (Woo et al., "CBAM", 2018, equation 2).

    The gate is `sigmoid(MLP(mean_HW(x)) + MLP(max_HW(x)))` with `MLP(v) = W2 relu(W1 v)`, without biases.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the hidden width, which is at least 1. Default 16.
        linear: Whether the layers are `nn.Linear` on `[B, C]` instead of 1x1 convolutions. Default False.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 16, linear: bool = False) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"ChannelAttention: channels={channels} and reduction={reduction} must be at least 1.")
        hidden = max(1, channels // reduction)
        self.linear = linear
        if linear:
            layers: list[nn.Module] = [nn.Linear(channels, hidden, bias=False), nn.Linear(hidden, channels, bias=False)]
        else:
            layers = [nn.Conv2d(channels, hidden, 1, bias=False), nn.Conv2d(hidden, channels, 1, bias=False)]
        self.mlp = nn.Sequential(layers[0], nn.ReLU(), layers[1])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        keep = not self.linear
        logits = self.mlp(x.mean((2, 3), keepdim=keep)) + self.mlp(x.amax((2, 3), keepdim=keep))
        gate: Tensor = logits.sigmoid()
        return x * (gate if keep else gate[:, :, None, None])
