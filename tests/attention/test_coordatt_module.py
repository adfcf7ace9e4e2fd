"""CoordAtt equals its definition, written again in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trtdeploy.attention.coordatt.module import CoordAtt

SHAPES = [(1, 8, 1, 1), (2, 33, 7, 5), (1, 320, 4, 9)]


def _linear(layer: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    assert layer.bias is not None
    weight = layer.weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
    return np.asarray(weight @ x + layer.bias.detach().numpy()[:, None])


def _hidden(module: CoordAtt, x: np.ndarray) -> np.ndarray:
    norm = module.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    z = _linear(module.squeeze, x) - norm.running_mean.numpy()[:, None]
    z = z / np.sqrt(norm.running_var.numpy()[:, None] + norm.eps)
    z = z * norm.weight.detach().numpy()[:, None] + norm.bias.detach().numpy()[:, None]
    return np.asarray(z * np.clip(z + 3, 0, 6) / 6)


def _reference(module: CoordAtt, x: np.ndarray, scale: float = 1.0) -> np.ndarray:
    out = np.full(x.shape, np.nan)
    for b, image in enumerate(x.astype(np.float64)):
        rows = 1 / (1 + np.exp(-_linear(module.gate_h, _hidden(module, image.mean(2) * scale))))
        columns = 1 / (1 + np.exp(-_linear(module.gate_w, _hidden(module, image.mean(1)))))
        out[b] = image * rows[:, :, None] * columns[:, None, :]
    return out


def _module(channels: int) -> CoordAtt:
    torch.manual_seed(0)
    module = CoordAtt(channels).eval()
    nn.init.normal_(module.norm.weight, 1.0, 0.3)
    nn.init.normal_(module.norm.bias)
    module.norm.running_mean = torch.randn(module.norm.num_features)
    module.norm.running_var = torch.rand(module.norm.num_features) + 0.5
    return module


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "B{}-C{}-H{}-W{}".format(*s))
def test_equals_the_definition(shape: tuple[int, int, int, int]) -> None:
    module = _module(shape[1])
    x = torch.randn(shape)
    np.testing.assert_allclose(module(x).detach().numpy(), _reference(module, x.numpy()), atol=1e-5)


def test_the_tolerance_notices_a_wrong_scale() -> None:
    module = _module(32)
    x = torch.randn(1, 32, 6, 5) + 1
    wrong = _reference(module, x.numpy(), scale=1.02)
    assert np.abs(module(x).detach().numpy() - wrong).max() > 1e-5


@pytest.mark.parametrize(("channels", "hidden"), [(16, 8), (256, 8), (512, 16)])
def test_the_hidden_width_is_at_least_eight(channels: int, hidden: int) -> None:
    assert CoordAtt(channels).squeeze.out_channels == hidden


def test_refuses_no_reduction() -> None:
    with pytest.raises(ValueError, match="channels=8 and reduction=0 must be at least 1"):
        CoordAtt(8, reduction=0)
