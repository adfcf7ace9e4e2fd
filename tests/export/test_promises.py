"""Attention that a model promises is run, traced and in the graph; where it is not, the export names the module."""

from __future__ import annotations

import types
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from trtdeploy.core.errors import ModelError
from trtdeploy.export.options import ExportOptions, ExportReport, Subject
from trtdeploy.export.promises import promised
from trtdeploy.export.write import export_model
from trtdeploy.models.family import Network, NetworkOptions
from trtdeploy.models.insert import insert


class Block(nn.Module):
    """A block that has a second way to compute the same, as Ultralytics' C2f has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.conv(x).chunk(3, 1), 1)

    def forward_split(self, x: Tensor) -> Tensor:
        return torch.cat(self.conv(x).split(1, 1), 1)


class SpatialGateAttention(nn.Module):
    """Somebody's attention, which no catalogue knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


class AttentiveBlock(Block):
    """A block with attention in its own forward only."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = SpatialGateAttention()

    def forward(self, x: Tensor) -> Tensor:
        return self.gates(super().forward(x))


class WordlessBlock(Block):
    """The same without a module that is named like attention."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x * x.mean((2, 3), keepdim=True).sigmoid()


def _export(model: nn.Module, tmp_path: Path, **options: object) -> ExportReport:
    given = ExportOptions(force=True, **options)  # type: ignore[arg-type]
    return export_model(Subject(model=model.eval()), tmp_path / "m.onnx", given)


def _patched(model: nn.Module) -> nn.Module:
    """Do to every block what Ultralytics' exporter does to every C2f."""
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = module.forward_split  # type: ignore[method-assign]
    return model


def test_the_stock_way_loses_the_attention_without_an_error(tmp_path: Path) -> None:
    path = tmp_path / "stock.onnx"
    torch.onnx.export(
        _patched(nn.Sequential(AttentiveBlock())).eval(), (torch.rand(1, 3, 8, 8),), str(path), dynamo=False
    )
    assert "Sigmoid" not in {node.op_type for node in onnx.load(path).graph.node}


def test_a_block_with_attention_in_its_own_forward_is_exported_with_it(tmp_path: Path) -> None:
    report = _export(nn.Sequential(AttentiveBlock()), tmp_path)
    assert [(a.path, a.kind) for a in report.attention] == [("0.gates", "SpatialGateAttention")]
    assert "Sigmoid" in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


@pytest.mark.parametrize("block", [AttentiveBlock, WordlessBlock])
def test_a_replaced_forward_that_knows_less_is_refused_by_name(tmp_path: Path, block: type[Block]) -> None:
    words = rf"Module 0 \({block.__name__}\): its forward was replaced by Block.forward_split"
    with pytest.raises(ModelError, match=words):
        _export(_patched(nn.Sequential(block(), Block())), tmp_path)
    assert not (tmp_path / "m.onnx").exists()


def test_a_replaced_forward_of_the_class_itself_is_in_order(tmp_path: Path) -> None:
    _export(_patched(nn.Sequential(Block())), tmp_path)


def test_a_replaced_forward_that_the_subclass_overrides_is_in_order(tmp_path: Path) -> None:
    class Whole(AttentiveBlock):
        def forward_split(self, x: Tensor) -> Tensor:
            return self.gates(super().forward_split(x))

    report = _export(_patched(nn.Sequential(Whole())), tmp_path)
    assert report.attention[0].path == "0.gates"


def test_a_foreign_forward_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(Block())
    model[0].forward = types.MethodType(lambda self, x: self.conv(x), model[0])
    with pytest.raises(ModelError, match=r"its forward was replaced by <lambda>, which is not Block.forward"):
        _export(model, tmp_path)


class Skips(nn.Module):
    """A model that leaves its attention out, in torch as in the export."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attn = nn.Conv2d(3, 3, 1), SpatialGateAttention()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SkipsWhenTraced(Skips):
    """A model that leaves its attention out when it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if torch.jit.is_tracing() else self.attn(x)


class Drops(Skips):
    """A model that runs its attention and does not use it."""

    def forward(self, x: Tensor) -> Tensor:
        self.attn(x)
        return self.conv(x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Skips(), r"not run in torch: attn \(SpatialGateAttention\)"),
        (SkipsWhenTraced(), r"not run while it is traced: attn \(SpatialGateAttention\)"),
        (Drops(), r"no operator of attn \(SpatialGateAttention\), although it was run"),
    ],
)
def test_attention_that_gets_lost_is_named(tmp_path: Path, model: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        _export(model, tmp_path)
    assert not (tmp_path / "m.onnx").exists()


def test_idle_attention_can_be_accepted(tmp_path: Path) -> None:
    report = _export(Skips(), tmp_path, allow_idle=("attn",))
    assert report.attention[0].node_count == 0


class Nested(nn.Module):
    """Attention reached in ways that exporters name differently."""

    def __init__(self) -> None:
        super().__init__()
        self.named = nn.ModuleDict({"a": nn.ModuleList([SpatialGateAttention()])})
        self.inner = nn.Module()
        self.inner.attn = SpatialGateAttention()
        self.row = nn.Sequential(nn.Sequential(SpatialGateAttention(), nn.Identity()))
        self.twice = SpatialGateAttention()

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner.attn(self.named["a"][0](x))  # type: ignore[operator, index, union-attr]
        return self.twice(self.twice(self.row(x)))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_attention_is_found_in_the_graph_however_it_is_reached(tmp_path: Path, exporter: str) -> None:
    report = _export(Nested(), tmp_path, exporter=exporter)
    counts = {a.path: a.node_count for a in report.attention}
    assert counts == {"named.a.0": 3, "inner.attn": 3, "row.0.0": 3, "twice": 6}


def test_what_is_promised() -> None:
    model = Network(NetworkOptions(style="v10"))
    insert(model, "coordatt", ["neck", "head"])
    kinds = {path: type(module).__name__ for path, module in promised(model).items()}
    assert kinds == {
        "backbone.stage5.3": "PSA",
        **{f"neck.out{level}.attention": "CoordAtt" for level in (3, 4, 5)},
        **{f"head.inserted_attention.levels.{level}": "CoordAtt" for level in range(3)},
    }
    assert promised(nn.Sequential(nn.Upsample(), nn.PixelShuffle(2), nn.SELU(), nn.ELU())) == {}
    assert list(promised(nn.Sequential(nn.MultiheadAttention(4, 1)))) == ["0"]
