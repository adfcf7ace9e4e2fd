"""What the dot-product kinds promise beyond their definitions: other routes to the same numbers, and their errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trtdeploy.attention import catalogue
from trtdeploy.attention.c2psa.module import C2PSA
from trtdeploy.attention.cross_region.module import CrossRegionAttention
from trtdeploy.attention.dynamic_attention.module import DynamicAttention
from trtdeploy.attention.emha.module import EMHA
from trtdeploy.attention.mhsa.module import MHSA
from trtdeploy.attention.non_local.module import NonLocal
from trtdeploy.attention.psa.module import PSA
from trtdeploy.attention.self_attention.module import SelfAttention
from trtdeploy.attention.self_attention_module.module import SelfAttentionModule
from trtdeploy.core.errors import UsageError


def awakened(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module in evaluation mode, with the factors that start at 0 away from it."""
    with torch.no_grad():
        for tensor in module.parameters():
            if tensor.ndim <= 1:
                tensor.add_(0.5)
    return module.eval()


def map_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("height", [1, 2, 5, 6, 8, 9, 11])
def test_strips_are_those_of_torch_chunk(height: int) -> None:
    torch.manual_seed(0)
    module = awakened(CrossRegionAttention(8))
    block = NonLocal(8).eval()
    block.load_state_dict(module.state_dict())
    x = map_of(2, 8, height, 3)
    expected = torch.cat([block(part) for part in torch.chunk(x, 4, dim=2)], dim=2)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)
    if height > 1:
        assert (module(x) - block(x)).abs().max() > 1e-3, "the strips do not matter"


@pytest.mark.parametrize("name", ["self_attention", "dynamic_attention", "non_local", "cross_region"])
def test_a_new_block_changes_nothing(name: str) -> None:
    module = catalogue.kind(name).make(16).eval()
    x = map_of(2, 16, 5, 4)
    assert torch.equal(module(x), x)
    assert not torch.allclose(awakened(module)(x), x, atol=1e-2)


def test_a_temperature_of_one_is_self_attention() -> None:
    torch.manual_seed(0)
    warm = DynamicAttention(16, temperature=1.0)
    plain = SelfAttention(16)
    plain.load_state_dict({name: w for name, w in warm.state_dict().items() if name != "temperature"})
    with torch.no_grad():
        warm.gamma.fill_(1.0)
        plain.gamma.fill_(1.0)
    x = map_of(2, 16, 5, 4)
    torch.testing.assert_close(warm(x), plain(x))
    with torch.no_grad():
        warm.temperature.fill_(0.3)
    assert (warm(x) - plain(x)).abs().max() > 1e-4


def test_scaled_self_attention_is_sagan_with_scaled_queries() -> None:
    torch.manual_seed(0)
    scaled, plain = SelfAttentionModule(16, reduction=2), SelfAttention(16, reduction=2)
    state = dict(scaled.state_dict())
    for name in ("query.weight", "query.bias"):
        state[name] = state[name] / 8**0.5
    plain.load_state_dict({**state, "gamma": torch.ones(1)})
    x = map_of(2, 16, 5, 4)
    torch.testing.assert_close(scaled(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
def test_torchs_own_attention_gives_the_same(residual: bool) -> None:
    torch.manual_seed(0)
    plain = MHSA(24, heads=3, residual=residual)
    other = MHSA(24, heads=3, residual=residual, sdpa=True)
    other.load_state_dict(plain.state_dict())
    x = map_of(2, 24, 5, 7)
    torch.testing.assert_close(other(x), plain(x), rtol=1e-5, atol=1e-5)


def test_mhsa_equals_torchs_layer() -> None:
    torch.manual_seed(0)
    module = MHSA(24, heads=3)
    layer = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    with torch.no_grad():
        layer.in_proj_weight.copy_(module.qkv.weight[:, :, 0, 0])
        layer.in_proj_bias.copy_(module.qkv.bias)
        layer.out_proj.weight.copy_(module.project.weight[:, :, 0, 0])
        layer.out_proj.bias.copy_(module.project.bias)
    x = map_of(2, 24, 5, 7)
    tokens = x.flatten(2).transpose(1, 2)
    expected = layer(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4)])
def test_emha_shrinks_every_size_to_the_ceiling(stride: int, size: tuple[int, int]) -> None:
    module = EMHA(8, heads=2, stride=stride).eval()
    x = map_of(1, 8, *size)
    assert tuple(module.reduce(x).shape[2:]) == tuple(-(-side // stride) for side in size)
    assert module(x).shape == x.shape


def test_c2psa_of_one_block_is_psa() -> None:
    torch.manual_seed(0)
    one, psa = C2PSA(32), PSA(32)
    one.load_state_dict(psa.state_dict())
    x = map_of(2, 32, 5, 4)
    assert torch.equal(one.eval()(x), psa.eval()(x))
    assert PSA(256).blocks[0].attention.heads == 2, "one head per 64 attending channels"


@pytest.mark.parametrize(
    "name",
    ["self_attention", "self_attention_module", "dynamic_attention", "mhsa", "emha", "non_local", "cross_region",
     "small_object", "multi_scale", "psa", "c2psa"],
)  # fmt: skip
def test_every_weight_is_trained(name: str) -> None:
    kind = catalogue.kind(name)
    torch.manual_seed(0)
    module = kind.make(kind.cases[0].channels, **kind.cases[0].options).train()
    with torch.no_grad():
        for tensor in module.parameters():
            if tensor.ndim <= 1:
                tensor.add_(0.5)
    channels = kind.cases[0].channels
    maps = [map_of(2, count, 6, 5) for count in (channels if isinstance(channels, tuple) else (channels,))]
    out = module(*maps)
    sum((y * y * y).mean() for y in (out if isinstance(out, tuple) else (out,))).backward()
    assert [n for n, tensor in module.named_parameters() if tensor.grad is None] == []


@pytest.mark.parametrize(
    ("name", "channels", "options", "message"),
    [
        ("self_attention", 0, {}, "SelfAttention: channels=0 and reduction=8 must be at least 1."),
        ("self_attention", 8, {"reduction": 0}, "SelfAttention: channels=8 and reduction=0 must be at least 1."),
        ("self_attention_module", 0, {}, "SelfAttentionModule: channels=0 and reduction=8 must be at least 1."),
        ("dynamic_attention", 0, {}, "DynamicAttention: channels=0 and reduction=8 must be at least 1."),
        ("dynamic_attention", 8, {"temperature": 0.0}, "temperature must be above 0, got 0.0."),
        ("mhsa", 30, {}, "MHSA: heads must be at least 1 and divide channels=30, got 4."),
        ("mhsa", 8, {"heads": 0}, "MHSA: heads must be at least 1 and divide channels=8, got 0."),
        ("emha", 30, {}, "EMHA: heads must be at least 1 and divide channels=30, got 4."),
        ("emha", 8, {"stride": 0}, "EMHA: stride must be at least 1, got 0."),
        ("non_local", 8, {"reduction": 0}, "NonLocal: channels=8 and reduction=0 must be at least 1."),
        ("cross_region", 8, {"regions": 0}, "CrossRegionAttention: regions must be at least 1, got 0."),
        ("small_object", 8, {"dilation": 0}, "channels=8, dilation=0 and reduction=8 must be at least 1."),
        ("multi_scale", (8, 8), {}, "MultiScaleAttention: channels must name 3 levels, got 2."),
        ("multi_scale", (8, 0, 8), {}, "SelfAttention: channels=0 and reduction=8 must be at least 1."),
        ("psa", 1, {}, "PSA: channels=1 times expansion=0.5 leaves no channel to attend."),
        ("psa", 32, {"heads": 3}, "Attention: 16 channels cannot be divided among heads=3."),
        ("psa", 32, {"ratio": 2.0}, "Attention: ratio must be above 0 and at most 1, got 2.0."),
        ("c2psa", 32, {"blocks": 0}, "C2PSA: blocks must be at least 1, got 0."),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(name: str, channels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        catalogue.kind(name).make(channels, **options)
    assert message in str(error.value)
