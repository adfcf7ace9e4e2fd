"""Implement squeeze and excitation in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn


class SE(nn.Module):
    """Gate channels by their means (Hu et al., "Squeeze-and-Excitation Networks", 2018, equations 2 to 4).

    The gate is `sigmoid(W2 relu(W1 mean_HW(x)))`.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the hidden width, which is at least 1. Default 16.
        bias: Whether both layers have biases. Default True.
        linear: Whether the layers are `nn.Linear` on `[B, C]` instead of 1x1 convolutions. Default False.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 16, bias: bool = True, linear: bool = False) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"SE: channels={channels} and reduction={reduction} must be at least 1.")
        hidden = max(1, channels // reduction)
        self.linear = linear
        if linear:
            self.squeeze: nn.Module = nn.Linear(channels, hidden, bias=bias)
            self.excite: nn.Module = nn.Linear(hidden, channels, bias=bias)
        else:
            self.squeeze = nn.Conv2d(channels, hidden, 1, bias=bias)
            self.excite = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        pooled = x.mean((2, 3)) if self.linear else x.mean((2, 3), keepdim=True)
        gate: Tensor = self.excite(self.squeeze(pooled).relu()).sigmoid()
        return x * (gate[:, :, None, None] if self.linear else gate)
