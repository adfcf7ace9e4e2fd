"""Implement task-specific mixed attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, conv_norm_relu
from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.spatial_attention.module import SpatialAttention

SHARES = {"classification": (0.8, 0.2), "detection": (0.5, 0.5), "segmentation": (0.3, 0.7), "generic": (0.5, 0.5)}
"""Shares of channel and spatial attention by task."""


class TaskSpecificMixedAttention(nn.Module):
    """Add channel and spatial attention with the shares of the task, refine, and add the input.

    `y = refine(w_c channel(x) + w_s spatial(x)) + x`.

    Args:
        channels: Number of channels of the input.
        task: `classification` (0.8/0.2; refined by the pooled map), `detection` (0.5/0.5; 3x3 convolution),
            `segmentation` (0.3/0.7; 1x1 and 3x3 convolutions) or `generic` (0.5/0.5; as it is). Default `detection`.

    Raises:
        ValueError: If `channels` is less than 1 or the task is unknown.
    """

    def __init__(self, channels: int, task: str = "detection") -> None:
        super().__init__()
        at_least_one("TaskSpecificMixedAttention", channels=channels)
        if task not in SHARES:
            raise ValueError(f"TaskSpecificMixedAttention: task must be one of {', '.join(SHARES)}, got {task!r}.")
        self.channel_weight, self.spatial_weight = SHARES[task]
        self.pooled = task == "classification"
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention(channels)
        layers: list[nn.Module] = []
        if task == "classification":
            layers = [nn.Conv2d(channels, channels, 1), nn.ReLU()]
        elif task == "detection":
            layers = conv_norm_relu(channels, 3)
        elif task == "segmentation":
            layers = conv_norm_relu(channels, 1) + conv_norm_relu(channels, 3)
        self.refine = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both attentions, mix and refine them.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        mixed = self.channel_weight * self.channel(x) + self.spatial_weight * self.spatial(x)
        if self.pooled:
            mixed = mixed.mean((2, 3), keepdim=True)
        out: Tensor = self.refine(mixed) + x
        return out
