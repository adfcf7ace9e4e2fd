"""Training: learns two images by heart, resumes where it stopped, and does not count being stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trtdeploy.models.assign import box_iou
from trtdeploy.models.loss import Loss
from trtdeploy.models.training import Batch, Clock, Trainer, TrainingOptions
from trtdeploy.models.yolo import YOLO, YOLOOptions


def _tiny() -> YOLO:
    torch.manual_seed(0)
    return YOLO(YOLOOptions(class_count=2, width=(8, 16, 16, 32, 32), head_width=16, attention="coordatt"))


def _pair() -> Batch:
    """Return two images with a bright box of class 0 and a dark box of class 1."""
    images = torch.full((2, 3, 64, 64), 0.5)
    boxes = torch.tensor([[[8.0, 8, 32, 28], [36, 32, 60, 60]], [[30, 6, 58, 30], [4, 36, 26, 56]]])
    for image, (first, second) in zip(images, boxes.int().tolist(), strict=True):
        image[:, first[1] : first[3], first[0] : first[2]] = 1.0
        image[:, second[1] : second[3], second[0] : second[2]] = 0.0
    return images, torch.tensor([[0, 1], [0, 1]]), boxes


def _forever(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


class _EnoughError(Exception):
    """Ends a training run from its report."""


def _run(trainer: Trainer, batch: Batch, steps: int) -> list[float]:
    losses: list[float] = []

    def report(at: Trainer, loss: Loss) -> None:
        losses.append(float(loss.total.detach()))
        if len(losses) == steps:
            raise _EnoughError

    with pytest.raises(_EnoughError):
        trainer.run(_forever(batch), report)
    return losses


def test_learns_two_images_by_heart(tmp_path: Path) -> None:
    options = TrainingOptions(budget_s=1e6, learning_rate=5e-3, warmup_steps=5)
    trainer = Trainer(_tiny(), options, tmp_path / "c.pt")
    batch = _pair()
    losses = _run(trainer, batch, 70)
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        # batch statistics: so few steps leave the running ones behind
        out = trainer.model(batch[0])
    for image in range(2):
        for kind in range(2):
            cell = int(out[image, 4 + kind].argmax())
            x, y, w, h = out[image, :4, cell].tolist()
            found = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            assert float(box_iou(found, batch[2][image, kind])) > 0.7
            assert float(out[image, 4 + kind, cell]) > 0.3


def test_resumes_where_it_stopped(tmp_path: Path) -> None:
    options = TrainingOptions(budget_s=1e6)
    trainer = Trainer(_tiny(), options, tmp_path / "c.pt")
    _run(trainer, _pair(), 3)
    trainer.save()
    again = Trainer(_tiny(), options, tmp_path / "c.pt")
    assert (again.step, again.images, again.clock.spent_s) == (3, 6, trainer.clock.spent_s)
    for name, value in trainer.averaged.state_dict().items():
        assert torch.equal(value, again.averaged.state_dict()[name]), name
    assert not list(tmp_path.glob("*.part"))


def test_ends_when_the_budget_is_spent(tmp_path: Path) -> None:
    trainer = Trainer(_tiny(), TrainingOptions(budget_s=1e-6), tmp_path / "c.pt")
    trainer.run(_forever(_pair()))
    assert trainer.step == 1
    assert trainer.progress == 1.0
    assert trainer.checkpoint.exists()


def test_the_clock_does_not_count_being_stopped() -> None:
    clock = Clock()
    for _ in range(10):
        clock.add(1.0)
    clock.add(300.0)
    assert clock.spent_s == 11.0


def test_refuses_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    images, classes, boxes = _pair()
    trainer = Trainer(_tiny(), TrainingOptions(budget_s=60), tmp_path / "c.pt")
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0\. Lower learning_rate"):
        trainer.run(_forever((images * float("nan"), classes, boxes)))
