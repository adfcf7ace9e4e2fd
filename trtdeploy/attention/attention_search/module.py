"""Implement differentiable attention search in torch, and the block that it found."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trtdeploy.attention.advanced_parallel.parts import NAMES, at_least_one, key, parts, weighted_sum
from trtdeploy.attention.hierarchical_mixed.layers import HybridFusion, ParallelFusion, SerialFusion

OPERATIONS = (*NAMES[:4], "skip")
"""Candidates of the first position."""
FUSIONS = ("serial", "parallel", "hybrid", "adaptive")
"""Candidates of the second position."""


class DifferentiableAttentionSearch(nn.Module):
    """Search one attention and one combination of attentions; in evaluation mode, apply the best of either.

    While training, `y = sum_p softmax(beta)_p sum_i softmax(alpha_p)_i o_{p,i}(x)` over the two positions `p` and their
    candidates `o_{p,i}`. In evaluation mode, and so in exported graphs, each inner sum is its largest term alone, with
    weight 1. The choice is made when the module enters evaluation mode or loads a state; after changing `alpha` or
    `beta` in any other way, call `choose`.

    Args:
        channels: Number of channels of the input.
        operations: Candidates of position 0, of `channel`, `spatial`, `self`, `global`, `skip`. Default all.
        fusions: Candidates of position 1, of `serial`, `parallel`, `hybrid`, `adaptive`. Default all.
        hard: In evaluation mode, apply only the position of the largest `beta`, with weight 1. Default False.

    Raises:
        ValueError: If `channels` is less than 1, or candidates are unknown, repeated or missing.
    """

    def __init__(
        self,
        channels: int,
        operations: Sequence[str] = OPERATIONS,
        fusions: Sequence[str] = FUSIONS,
        hard: bool = False,
    ) -> None:
        super().__init__()
        at_least_one("DifferentiableAttentionSearch", channels=channels)
        for name, given, known in (("operations", operations, OPERATIONS), ("fusions", fusions, FUSIONS)):
            if not given or len(set(given)) != len(given) or not set(given) <= set(known):
                raise ValueError(
                    f"DifferentiableAttentionSearch: {name}={tuple(given)} must be one or more different ones of "
                    f"{', '.join(known)}."
                )
        self.hard = hard
        self.operation_names = tuple(operations)
        self.operations = nn.ModuleDict({key(name): _operation(name, channels) for name in operations})
        self.fusions = nn.ModuleDict({name: _fusion(name, channels) for name in fusions})
        self.operation_logits = nn.Parameter(torch.randn(len(operations)))
        self.fusion_logits = nn.Parameter(torch.randn(len(fusions)))
        self.position_logits = nn.Parameter(torch.randn(2))
        self.chosen: tuple[int, int, int] = (0, 0, 0)
        self.register_load_state_dict_post_hook(_choose_after_loading)
        self.choose()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mixture (training) or the choice (evaluation).

        Args:
            x: `[B, C, H, W]`.

        Returns:
            `[B, C, H, W]`, the type of `x`.
        """
        candidates = (list(self.operations.values()), list(self.fusions.values()))
        if self.training:
            logits = (self.operation_logits, self.fusion_logits)
            positions = [_mixture(own, alpha, x) for own, alpha in zip(candidates, logits, strict=True)]
        elif self.hard:
            position = self.chosen[2]
            out: Tensor = candidates[position][self.chosen[position]](x)
            return out
        else:
            positions = [candidates[p][self.chosen[p]](x) for p in range(2)]
        shares = self.position_logits.softmax(0)
        return shares[0] * positions[0] + shares[1] * positions[1]

    def train(self, mode: bool = True) -> DifferentiableAttentionSearch:
        """Set the mode; entering evaluation mode makes the choice."""
        super().train(mode)
        if not mode:
            self.choose()
        return self

    def choose(self) -> dict[str, str]:
        """Take the candidates of the largest logits, and return them by position."""
        logits = (self.operation_logits, self.fusion_logits, self.position_logits)
        operation, fusion, position = (int(values.detach().argmax()) for values in logits)
        self.chosen = (operation, fusion, position)
        return {
            "operation": self.operation_names[operation],
            "fusion": list(self.fusions)[fusion],
            "position": ("operation", "fusion")[position],
        }


class AdaptiveCombination(nn.Module):
    """Add the serial and the parallel combination of channel and spatial attention with shares from the content.

    `y = w_1 serial(x) + w_2 parallel(x)`, `w = softmax(W GAP(x) + b)`.

    Args:
        channels: Number of channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.serial = SerialFusion(channels)
        self.parallel = ParallelFusion(channels)
        self.shares = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both to `[B, C, H, W]`."""
        shares = self.shares(x.mean((2, 3), keepdim=True)).softmax(1)
        return weighted_sum(shares, [self.serial(x), self.parallel(x)])


def _operation(name: str, channels: int) -> nn.Module:
    if name == "skip":
        return nn.Identity()
    return parts("DifferentiableAttentionSearch", [name], channels)[key(name)]


def _fusion(name: str, channels: int) -> nn.Module:
    forms = {
        "serial": SerialFusion, "parallel": ParallelFusion, "hybrid": HybridFusion, "adaptive": AdaptiveCombination
    }  # fmt: skip
    return forms[name](channels)


def _mixture(candidates: Sequence[nn.Module], logits: Tensor, x: Tensor) -> Tensor:
    outputs = torch.stack([candidate(x) for candidate in candidates])
    return torch.tensordot(logits.softmax(0), outputs, dims=1)


def _choose_after_loading(module: DifferentiableAttentionSearch, incompatible: Any) -> None:
    del incompatible
    module.choose()
