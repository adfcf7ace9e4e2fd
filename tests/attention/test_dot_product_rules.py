"""Dot-product attention in other people's words is found under its name; what only resembles it is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from catalogue_checks import gap, session_of
from dot_product_spellings import CHANNELS, NEAR_MISSES, SPELLINGS, awake
from torch import nn

from trtdeploy.attention.cross_region.module import CrossRegionAttention
from trtdeploy.attention.dynamic_attention.module import DynamicAttention
from trtdeploy.attention.mhsa.module import MHSA
from trtdeploy.attention.self_attention.module import SelfAttention
from trtdeploy.graph.load import load_model
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate

OURS = {
    "self_attention", "self_attention_module", "dynamic_attention", "mhsa", "emha", "non_local", "cross_region",
    "small_object", "multi_scale", "psa", "c2psa",
}  # fmt: skip


@pytest.mark.parametrize("pad", [False, True], ids=["as-wide", "padded"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_are_found(spelling: str, pad: bool, tmp_path: Path) -> None:
    name, make = SPELLINGS[spelling]
    torch.manual_seed(0)
    found = fused(make(), tmp_path / "model.onnx", pad=pad)
    assert name in found, found


@pytest.mark.parametrize("miss", NEAR_MISSES)
def test_near_misses_are_left_alone(miss: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert not OURS & set(fused(NEAR_MISSES[miss](), tmp_path / "model.onnx"))


class Backbone(nn.Module):
    """Three blocks, each at half the size of the one before; the first two feed the next."""

    def __init__(self, make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(awake(make(CHANNELS)) for _ in range(3))
        self.down = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](x)
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            x = block(down(x))
        return x


def test_blocks_that_feed_each_other_are_no_pyramid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert fused(Backbone(SelfAttention), tmp_path / "model.onnx") == ["self_attention"] * 3


def test_temperatures_tell_the_two_kinds_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    both = nn.Sequential(awake(SelfAttention(CHANNELS)), awake(DynamicAttention(CHANNELS, temperature=2.0)))
    assert fused(both, tmp_path / "model.onnx") == ["dynamic_attention", "self_attention"]


@pytest.mark.parametrize("height", [1, 2, 3, 5, 6, 9, 13])
def test_fused_strips_are_right_where_one_is_missing(height: int, strips: tuple[Any, Any]) -> None:
    x = np.random.default_rng(height).standard_normal((2, CHANNELS, height, 3), dtype=np.float32)
    before, after = (session.run(None, {"x": x})[0] for session in strips)
    assert gap(before, after) <= 1e-5


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return sessions of an attention in strips before and after fusing, exported with open sizes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("strips") / "model.onnx"
    dim = torch.export.Dim.DYNAMIC
    sizes = {"dynamo": True, "dynamic_shapes": ({0: dim, 2: dim, 3: dim},)}
    export(awake(CrossRegionAttention(CHANNELS)).eval(), path, **sizes)
    names, model = surgery(path)
    assert names == ["cross_region"]
    return session_of(path), session_of(model)


def test_the_operator_of_opset_23_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    export(MHSA(CHANNELS, heads=2, residual=True, sdpa=True).eval(), path, dynamo=True, opset_version=23)
    assert "Attention" in [node.op_type for node in onnx.load(path).graph.node]
    assert surgery(path)[0] == ["mhsa"]


def fused(module: nn.Module, path: Path, *, pad: bool = True) -> list[str]:
    """Export a block behind a convolution, fuse, compare the results; return the kinds that were fused."""
    before, after = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, 4, 1)
    export(nn.Sequential(before, nn.ReLU(), module, after).eval(), path, dynamo=False)
    names, model = surgery(path, pad=pad)
    x = np.random.default_rng(0).standard_normal((2, CHANNELS, 8, 12), dtype=np.float32)
    wanted, got = (session_of(graph).run(None, {"x": x})[0] for graph in (path, model))
    assert gap(wanted, got) <= 1e-5
    return names


def export(module: nn.Module, path: Path, **options: Any) -> None:
    options = {"opset_version": 18, "input_names": ["x"], "external_data": False, "verbose": False, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.randn(2, CHANNELS, 8, 12),), str(path), **options)


def surgery(path: Path, *, pad: bool = True) -> tuple[list[str], bytes]:
    """Return the kinds of the fused blocks, sorted, and the model."""
    model, reports = operate(Prepare(verify=False).run(load_model(path).model).model, pad=pad, verify=False)
    blocks = next(report.details["blocks"] for report in reports if "blocks" in report.details)
    return sorted(block["kind"] for block in blocks if block["fused"]), ir.to_proto(model).SerializeToString()
