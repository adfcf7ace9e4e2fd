"""Train a detector on a CPU or GPU within a time budget, resumable at any moment."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from trtdeploy.models.loss import Loss, detection_loss
from trtdeploy.models.yolo import YOLO

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Choose how to train.

    Attributes:
        budget_s: Training time in seconds; the learning rate follows it down a cosine to its end.
        learning_rate: Peak of AdamW's learning rate. Default 2e-3.
        weight_decay: AdamW's decay of convolution weights. Default 0.02.
        warmup_steps: Steps of linear warm-up. Default 100.
        average: Decay of the averaged weights, reached gradually. Default 0.998.
        clip: Limit of the gradient's norm. Default 10.
        save_every_s: Seconds between checkpoints. Default 120.
    """

    budget_s: float
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    average: float = 0.998
    clip: float = 10.0
    save_every_s: float = 120.0


@dataclass
class Clock:
    """Add up step durations; a step during which the process was stopped counts as a usual one.

    Attributes:
        spent_s: Seconds counted so far.
    """

    spent_s: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=51))

    def add(self, seconds: float) -> None:
        """Count one step of so many seconds."""
        usual = median(self._recent) if self._recent else seconds
        self._recent.append(seconds)
        self.spent_s += seconds if seconds < 8 * usual else usual


class Trainer:
    """Train one network and keep its averaged weights.

    Not safe for use from several threads. Checkpoints are written to a neighbour file and renamed.

    Args:
        model: Network to train, changed in place.
        options: How to train.
        checkpoint: File to resume from when it exists, and to write to.
    """

    def __init__(self, model: YOLO, options: TrainingOptions, checkpoint: Path) -> None:
        self.model = model.train().to(memory_format=torch.channels_last)
        self.options = options
        self.checkpoint = checkpoint
        self.averaged = deepcopy(model).eval()
        self.step = 0
        self.images = 0
        self.clock = Clock()
        self.device = next(model.parameters()).device
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.99))
        if checkpoint.exists():
            self._resume()

    @property
    def progress(self) -> float:
        """Return the spent share of the budget, from 0 to 1."""
        return min(1.0, self.clock.spent_s / self.options.budget_s)

    def run(self, batches: Iterator[Batch], report: Callable[[Trainer, Loss], None] | None = None) -> None:
        """Train until the budget is spent.

        Args:
            batches: Endless images `[B, 3, H, W]` float32, classes `[B, M]` int64 and boxes `[B, M, 4]` float32.
            report: Called after every step with the trainer and the step's loss.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        saved = self.clock.spent_s
        while self.progress < 1.0:
            start = time.perf_counter()
            loss = self._step(next(batches))
            self.clock.add(time.perf_counter() - start)
            if report is not None:
                report(self, loss)
            if self.clock.spent_s - saved > self.options.save_every_s:
                saved = self.clock.spent_s
                self.save()
        self.save()

    def _step(self, batch: Batch) -> Loss:
        """Take one optimiser step."""
        options = self.options
        warm = min(1.0, (self.step + 1) / options.warmup_steps)
        rate = options.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * self.progress)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, classes, boxes = (tensor.to(self.device) for tensor in batch)
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            maps = self.model.maps(images)
        loss = detection_loss(maps, classes, boxes, bins=self.model.options.bins)
        if not bool(torch.isfinite(loss.total)):
            raise FloatingPointError(
                f"Trainer: loss is {float(loss.total.detach())} at step {self.step}. Lower learning_rate."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        self.optimizer.step()
        self.step += 1
        self.images += images.shape[0]
        self._average()
        return loss

    @torch.no_grad()
    def _average(self) -> None:
        decay = self.options.average * (1 - math.exp(-self.step / 300))
        for mean, value in zip(self.averaged.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def save(self) -> None:
        """Write everything that resuming needs."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "images": self.images,
            "spent_s": self.clock.spent_s,
        }
        beside = self.checkpoint.with_suffix(".part")
        torch.save(state, beside)
        beside.replace(self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.images = int(state["step"]), int(state["images"])
        self.clock.spent_s = float(state["spent_s"])
