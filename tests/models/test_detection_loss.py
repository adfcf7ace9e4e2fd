"""Loss and assignment against formulas written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trtdeploy.models.assign import assign, box_iou
from trtdeploy.models.loss import LossOptions, ciou, detection_loss, distribution_loss
from trtdeploy.models.yolo import STRIDES

side = st.floats(1, 50, allow_nan=False)
place = st.floats(-40, 40, allow_nan=False)
a_box = st.tuples(place, place, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def _naive_ciou(p: tuple[float, ...], t: tuple[float, ...]) -> float:
    width = max(0.0, min(p[2], t[2]) - max(p[0], t[0]))
    height = max(0.0, min(p[3], t[3]) - max(p[1], t[1]))
    union = (p[2] - p[0]) * (p[3] - p[1]) + (t[2] - t[0]) * (t[3] - t[1]) - width * height
    iou = width * height / union
    rho = ((p[0] + p[2]) / 2 - (t[0] + t[2]) / 2) ** 2 + ((p[1] + p[3]) / 2 - (t[1] + t[3]) / 2) ** 2
    diagonal = (max(p[2], t[2]) - min(p[0], t[0])) ** 2 + (max(p[3], t[3]) - min(p[1], t[1])) ** 2
    angle = math.atan((t[2] - t[0]) / (t[3] - t[1])) - math.atan((p[2] - p[0]) / (p[3] - p[1]))
    v = 4 / math.pi**2 * angle**2
    alpha = v / (1 - iou + v) if v > 0 else 0.0
    return iou - rho / diagonal - alpha * v


@given(a_box, a_box)
def test_ciou_equals_the_formula(p: tuple[float, ...], t: tuple[float, ...]) -> None:
    actual = float(ciou(torch.tensor([p], dtype=torch.float64), torch.tensor([t], dtype=torch.float64)))
    # near-equal boxes make alpha a quotient of two tiny numbers, hence not tighter
    assert math.isclose(actual, _naive_ciou(p, t), abs_tol=2e-4)


def test_ciou_of_equal_boxes_is_one() -> None:
    box = torch.tensor([[3.0, 4.0, 10.0, 30.0]])
    assert math.isclose(float(ciou(box, box)), 1.0, abs_tol=1e-5)


def test_the_distribution_loss_splits_between_two_bins() -> None:
    logits = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    logs = logits.log_softmax(2)[0, 0]
    actual = distribution_loss(logits, torch.tensor([[2.3, 0.0, 6.0, 99.0]]))[0]
    assert math.isclose(float(actual[0]), float(-(0.7 * logs[2] + 0.3 * logs[3])), abs_tol=1e-5)
    # a distance beyond the last bin counts as (almost) the last bin
    far = logits.log_softmax(2)[0, 3]
    assert math.isclose(float(actual[3]), float(-(0.01 * far[6] + 0.99 * far[7])), abs_tol=1e-4)


def _scene(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return scores, boxes, centres, target classes and target boxes of one 64x64 image."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.stack(torch.meshgrid(torch.arange(4, 64, 8), torch.arange(4, 64, 8), indexing="xy"), -1)
    centres = centres.reshape(-1, 2).float()
    sides = torch.rand(1, 64, 4, generator=g) * 14 + 1
    boxes = torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], dim=2)
    start = torch.rand(1, 3, 2, generator=g) * 40
    targets = torch.cat([start, start + 10 + torch.rand(1, 3, 2, generator=g) * 14], dim=2)
    classes = torch.tensor([[0, 2, -1]])
    targets[0, 2] = 0
    return torch.rand(1, 64, 3, generator=g), boxes, centres, classes, targets


def _naive_assign(
    scores: np.ndarray, boxes: torch.Tensor, centres: np.ndarray, classes: list[int], targets: torch.Tensor, top: int
) -> tuple[dict[int, int], np.ndarray]:
    wanted: dict[int, list[int]] = {}
    overlap = box_iou(targets[:, None], boxes[None]).numpy()
    quality = np.zeros((len(classes), len(centres)))
    for m, kind in enumerate(classes):
        if kind < 0:
            continue
        x0, y0, x1, y1 = targets[m].tolist()
        inside = [n for n, (x, y) in enumerate(centres.tolist()) if x0 < x < x1 and y0 < y < y1]
        for n in inside:
            quality[m, n] = scores[n, kind] ** 0.5 * overlap[m, n] ** 6
        for n in sorted(inside, key=lambda n: -(quality[m, n] + 1e-9))[:top]:
            wanted.setdefault(n, []).append(m)
    owner = {n: max(ms, key=lambda m: overlap[m, n]) for n, ms in wanted.items()}
    target = np.zeros_like(scores)
    for m, kind in enumerate(classes):
        own = [n for n, o in owner.items() if o == m]
        for n in own:
            target[n, kind] = quality[m, n] / (quality[m, own].max() + 1e-9) * overlap[m, own].max()
    return owner, target


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("top", [1, 3, 10], ids=lambda t: f"top-{t}")
def test_assignment_equals_the_naive_one(seed: int, top: int) -> None:
    scores, boxes, centres, classes, targets = _scene(seed)
    actual = assign(scores, boxes, centres, classes, targets, top=top)
    owner, expected = _naive_assign(scores[0].numpy(), boxes[0], centres.numpy(), classes[0].tolist(), targets[0], top)
    assert actual.positive[0].nonzero().flatten().tolist() == sorted(owner)
    np.testing.assert_allclose(actual.scores[0].numpy(), expected, atol=1e-5)
    for n, m in owner.items():
        assert torch.equal(actual.boxes[0, n], targets[0, m])


def test_an_object_smaller_than_a_cell_still_gets_one() -> None:
    scores, boxes, centres, _, _ = _scene(0)
    target = torch.tensor([[[7.0, 7.0, 10.0, 10.0]]])
    assert int(assign(scores, boxes, centres, torch.tensor([[1]]), target).positive.sum()) >= 1


def test_an_image_without_objects_trains_its_scores_only() -> None:
    maps = [torch.zeros(2, 4 * 8 + 3, 64 // s, 64 // s, requires_grad=True) for s in STRIDES]
    for slots in (0, 4):
        classes = torch.full((2, slots), -1, dtype=torch.int64)
        loss = detection_loss(maps, classes, torch.zeros(2, slots, 4), bins=8, options=LossOptions(score=0.5))
        assert (loss.box, loss.bins) == (0.0, 0.0)
        cells = 2 * (64 + 16 + 4)
        assert math.isclose(float(loss.total.detach()), 0.5 * cells * 3 * math.log(2), rel_tol=1e-5)


def test_a_perfect_prediction_has_a_smaller_loss_than_a_shifted_one() -> None:
    target = torch.tensor([[[8.0, 8.0, 32.0, 40.0]]])
    values = []
    for shift in (0.0, 8.0):
        maps = []
        for stride in STRIDES:
            size = 64 // stride
            level = torch.full((1, 4 * 8 + 2, size, size), -8.0)
            for i in range(size):
                for j in range(size):
                    x, y = (j + 0.5) * stride, (i + 0.5) * stride
                    box = (x - 8 - shift, y - 8 - shift, 32 + shift - x, 40 + shift - y)
                    for k, distance in enumerate(box):
                        cell = min(max(distance / stride, 0.0), 6.99)
                        level[0, k * 8 + int(cell), i, j] = 8 + math.log(1 - cell % 1 + 1e-6)
                        level[0, k * 8 + int(cell) + 1, i, j] = 8 + math.log(cell % 1 + 1e-6)
            maps.append(level)
        values.append(detection_loss(maps, torch.tensor([[1]]), target, bins=8).box)
    assert values[0] < 0.05 < values[1]
