"""CBAM equals its definition, written again in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trtdeploy.attention.cbam.module import CBAM

SHAPES = [(1, 16, 1, 1), (2, 33, 7, 5), (1, 64, 20, 13)]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _reference(module: CBAM, x: np.ndarray, mean_scale: float = 1.0) -> np.ndarray:
    first = module.mlp[0].weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
    second = module.mlp[2].weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
    kernel = module.spatial.weight.detach().numpy()[0].astype(np.float64)
    out = np.full(x.shape, np.nan)
    for b, image in enumerate(x.astype(np.float64)):
        mean, peak = image.mean((1, 2)) * mean_scale, image.max((1, 2))
        gate = _sigmoid(second @ np.maximum(first @ mean, 0) + second @ np.maximum(first @ peak, 0))
        gated = image * gate[:, None, None]
        pooled = np.pad(np.stack([gated.mean(0), gated.max(0)]), ((0, 0), (3, 3), (3, 3)))
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                out[b, :, i, j] = gated[:, i, j] * _sigmoid((pooled[:, i : i + 7, j : j + 7] * kernel).sum())
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "B{}-C{}-H{}-W{}".format(*s))
def test_equals_the_definition(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    module = CBAM(shape[1], reduction=4)
    x = torch.randn(shape)
    actual = module(x).detach().numpy()
    np.testing.assert_allclose(actual, _reference(module, x.numpy()), atol=1e-5)


def test_the_tolerance_notices_a_wrong_scale() -> None:
    torch.manual_seed(0)
    module = CBAM(32, reduction=4)
    x = torch.randn(1, 32, 6, 5) + 1
    wrong = _reference(module, x.numpy(), mean_scale=1.02)
    assert np.abs(module(x).detach().numpy() - wrong).max() > 1e-5


def test_refuses_an_even_kernel() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        CBAM(8, kernel_size=4)


def test_refuses_no_channels() -> None:
    with pytest.raises(ValueError, match="channels=0 and reduction=16 must be at least 1"):
        CBAM(0)
