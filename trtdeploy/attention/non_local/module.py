"""Implement the non-local block in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn


class NonLocal(nn.Module):
    """Add what every position sees of all others (Wang et al., "Non-local Neural Networks", 2018).

    The embedded Gaussian (equation 4): `y = softmax(theta(x)^T phi(x)) g(x)`, unscaled, on `C / reduction` channels;
    then `z = bn(W y) + x` (equation 6). The scale of the normalisation starts at 0, so that a new block changes
    nothing.

    Args:
        channels: Number of channels of the input.
        reduction: Ratio between `channels` and the width of the embeddings, which is at least 1. Default 2.

    Raises:
        ValueError: If `channels` or `reduction` is less than 1.
    """

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            name = type(self).__name__
            raise ValueError(f"{name}: channels={channels} and reduction={reduction} must be at least 1.")
        width = max(1, channels // reduction)
        self.theta = nn.Conv2d(channels, width, 1)
        self.phi = nn.Conv2d(channels, width, 1)
        self.g = nn.Conv2d(channels, width, 1)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add what each position sees of the others.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        seen: Tensor = self.norm(self.expand(self.attend(self.theta(x), self.phi(x), self.g(x))))
        return seen + x

    def attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """Return what each position sees, from three embeddings `[B, width, H, W]`, in their shape."""
        batch, width, _, columns = g.shape
        # -1 rather than a product of sizes: those of a strip follow no simple formula
        query = theta.reshape(batch, width, -1).transpose(1, 2)
        key = phi.reshape(batch, width, -1)
        value = g.reshape(batch, width, -1).transpose(1, 2)
        seen: Tensor = (query @ key).softmax(dim=-1) @ value
        return seen.transpose(1, 2).reshape(batch, width, -1, columns)
