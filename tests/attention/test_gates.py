"""What the common tests of the catalogue cannot see of the gates: refusals, sizes, weights that start at zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from catalogue_checks import gap, images, make

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import Case
from trtdeploy.core.errors import UsageError


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("se", {"reduction": 0}, "channels=16 and reduction=0 must be at least 1"),
        ("eca", {"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
        ("simam", {"epsilon": 0.0}, "epsilon must be positive, got 0.0"),
        ("channel_attention", {"reduction": -1}, "channels=16 and reduction=-1 must be at least 1"),
        ("spatial_attention", {"kernel_size": 2}, "kernel_size must be odd and positive, got 2"),
        ("ema", {"groups": 5}, "groups must be a positive divisor of channels=16, got 5"),
        ("global_context", {"fusion": "max"}, "fusion must be 'add' or 'multiply', got 'max'"),
        ("local_spatial", {"kernel_size": -3}, "kernel_size must be odd and positive, got -3"),
        ("advanced_channel", {"reduction": 0}, "channels=16 and reduction=0 must be at least 1"),
        ("advanced_spatial", {"kernel_sizes": (3, 4)}, r"kernel_sizes must be odd and positive, got \(3, 4\)"),
        ("advanced_spatial", {"max_length": 1}, "needs channels >= 1 and max_length >= 2, got 16 and 1"),
    ],
)
def test_an_impossible_option_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        catalogue.kind(name).make(16, **options)


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5)])
def test_eca_takes_the_kernel_of_the_paper(channels: int, expected: int) -> None:
    assert catalogue.kind("eca").make(channels).conv.kernel_size == (expected,)


def test_simam_refuses_a_single_position() -> None:
    with pytest.raises(ValueError, match="needs 2 positions or more for its variance, got 1x1"):
        catalogue.kind("simam").make(4)(torch.ones(2, 4, 1, 1))


def test_advanced_spatial_refuses_a_map_without_codes() -> None:
    module = catalogue.kind("advanced_spatial").make(4, max_length=8)
    assert module(torch.ones(1, 4, 8, 8)).shape == (1, 4, 8, 8)
    with pytest.raises(ValueError, match="the map is 3x9, larger than max_length=8"):
        module(torch.ones(1, 4, 3, 9))


@pytest.mark.parametrize("fusion", ["add", "multiply"])
def test_global_context_scales_and_shifts_what_it_normalises(fusion: str) -> None:
    kind, case = catalogue.kind("global_context"), Case(channels=24, options={"reduction": 4, "fusion": fusion})
    module = make(kind, case)
    with torch.no_grad():
        module.norm.weight.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
        module.norm.bias.normal_()  # type: ignore[union-attr, operator]
    (x,) = images(case, (2, 5, 7))
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    expected = kind.naive(weights, x.double().numpy(), **case.options)
    assert isinstance(expected, np.ndarray)
    with torch.no_grad():
        assert gap(expected, module(x).numpy()) <= 1e-5
    for name in ("norm.weight", "norm.bias"):
        wrong = kind.naive({**weights, name: weights[name] * 1.05}, x.double().numpy(), **case.options)
        assert isinstance(wrong, np.ndarray)
        assert gap(expected, wrong) > 1e-4


@pytest.mark.parametrize("name", ["channel_attention", "se"])
def test_linear_layers_compute_what_convolutions_do(name: str) -> None:
    kind = catalogue.kind(name)
    convolutions, linears = kind.make(16, reduction=4), kind.make(16, reduction=4, linear=True)
    state = {key: tensor.reshape(linears.state_dict()[key].shape) for key, tensor in convolutions.state_dict().items()}
    linears.load_state_dict(state)
    (x,) = images(Case(channels=16), (2, 5, 7))
    with torch.no_grad():
        assert torch.allclose(linears(x), convolutions(x), atol=1e-6)
