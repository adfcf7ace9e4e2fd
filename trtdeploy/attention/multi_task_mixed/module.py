"""Implement multi-task mixed attention in torch."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import at_least_one, conv_norm_relu, narrowed, weighted_sum
from trtdeploy.attention.cbam.module import CBAM
from trtdeploy.attention.channel_attention.module import ChannelAttention
from trtdeploy.attention.spatial_attention.module import SpatialAttention

TASKS = ("classification", "detection", "segmentation", "generic")
"""Kinds of tasks."""


class MultiTaskMixedAttention(nn.Module):
    """Apply a shared attention, a branch per task, and add the branches with learned task weights.

    `y = sum_t w_t task_t(cbam(x))`, `w = softmax(MLP(GAP(x)) / T)` with a learned temperature `T`.

    Args:
        channels: Number of channels of the input.
        tasks: Kinds of the tasks, each at most once: `classification`, `detection`, `segmentation`, `generic`.
            Default the first three.

    Raises:
        ValueError: If `channels` is less than 1, or tasks are unknown, repeated or missing.
    """

    def __init__(self, channels: int, tasks: Sequence[str] = TASKS[:3]) -> None:
        super().__init__()
        at_least_one("MultiTaskMixedAttention", channels=channels)
        if not tasks or len(set(tasks)) != len(tasks) or not set(tasks) <= set(TASKS):
            raise ValueError(
                f"MultiTaskMixedAttention: tasks={tuple(tasks)} must be different ones of {', '.join(TASKS)}."
            )
        self.pooled = set(tasks) == {"classification"}
        self.shared = CBAM(channels)
        self.tasks = nn.ModuleDict({task: TaskBranch(channels, task) for task in tasks})
        self.weights = TaskWeights(channels, len(tasks))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the shared attention and the branches, and balance the tasks.

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        shared = self.shared(x)
        out = weighted_sum(self.weights(x), [branch(shared) for branch in self.tasks.values()])
        return out.expand_as(x) if self.pooled else out


class TaskBranch(nn.Module):
    """Transform the map as the task needs, then attend.

    Args:
        channels: Number of channels of the input.
        task: `classification` (pooled, 1x1, channel attention), `detection` (3x3, 1x1, CBAM), `segmentation` (1x1, 3x3,
            spatial attention) or `generic` (channel attention alone).
    """

    def __init__(self, channels: int, task: str) -> None:
        super().__init__()
        kernels = {"classification": [1], "detection": [3, 1], "segmentation": [1, 3], "generic": []}[task]
        self.pooled = task == "classification"
        self.transform = nn.Sequential(*(layer for kernel in kernels for layer in conv_norm_relu(channels, kernel)))
        self.attention: nn.Module = ChannelAttention(channels)
        if task == "detection":
            self.attention = CBAM(channels)
        elif task == "segmentation":
            self.attention = SpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, C, H, W]`, or `[B, C, 1, 1]` for classification."""
        if self.pooled:
            x = x.mean((2, 3), keepdim=True)
        out: Tensor = self.attention(self.transform(x))
        return out


class TaskWeights(nn.Module):
    """Compute the tasks' weights from the pooled input: `softmax(W3 relu(W2 relu(W1 GAP(x))) / T)`.

    Args:
        channels: Number of channels of the input.
        count: Number of tasks.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        wide, narrow = narrowed(channels, 4), narrowed(channels, 8)
        self.mlp = nn.Sequential(
            nn.Linear(channels, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, count)
        )
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights for `[B, C, H, W]`: `[B, n, 1, 1]`."""
        weights: Tensor = (self.mlp(x.mean((2, 3))) / self.temperature).softmax(1)
        return weights[:, :, None, None]
