"""Mixed attention beyond the cases of the catalogue: every option, other ways of writing, refusals and the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from catalogue_checks import Surgery, export, make, module_gap, surgery
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind, Case
from trtdeploy.core.errors import UsageError

ALL = ("channel", "spatial", "self", "global", "local")
OPTIONS: list[tuple[str, Case]] = [
    ("static_weight", Case(channels=8, options={"spatial_weight": 0.0})),
    ("task_specific", Case(channels=8, options={"task": "generic"})),
    ("task_specific", Case(channels=8, options={"task": "segmentation"})),
    ("recursive_mixed", Case(channels=4, options={"levels": 1})),
    ("adaptive_weight_balancer", Case(channels=8, options={"attentions": ALL})),
    ("advanced_parallel", Case(channels=8, options={"fusion": "simple"})),
    ("advanced_parallel", Case(channels=8, options={"fusion": "gated"})),
    ("advanced_parallel", Case(channels=8, options={"attentions": ("local", "global")})),
    *(("quality_assessor", Case(channels=8, options={"attention": name})) for name in ALL[1:]),
    ("hierarchical_mixed", Case(channels=8, options={"levels": 4})),
    ("weight_head", Case(channels=8, options={"attentions": ALL})),
    ("weight_head", Case(channels=8, options={"head": "actor", "attentions": ("channel", "self", "global")})),
    ("weight_head", Case(channels=8, options={"hard": True})),
    *(
        ("attention_search", Case(channels=8, options={"operations": (operation,), "fusions": (fusion,)}))
        for operation, fusion in zip(
            ("channel", "spatial", "global", "skip"), ("serial", "parallel", "hybrid", "adaptive"), strict=True
        )
    ),
    ("multi_task_mixed", Case(channels=8, options={"tasks": ("generic", "detection", "classification")})),
    ("unified_mixed", Case(channels=8, options={"fusion": "gated", "attentions": ALL})),
    ("unified_mixed", Case(channels=8, options={"fusion": "simple", "attentions": ("global", "local")})),
    ("unified_mixed", Case(channels=8, options={"fusion": "learned"})),
    ("unified_mixed", Case(channels=8, options={"fusion": "hierarchical"})),
]
by_option = pytest.mark.parametrize(("name", "case"), OPTIONS, ids=[f"{name}-{case}" for name, case in OPTIONS])


@by_option
def test_every_option_equals_the_naive_reference(name: str, case: Case) -> None:
    assert module_gap(catalogue.kind(name), case) <= 1e-5


@by_option
def test_every_option_is_found_and_fused(name: str, case: Case, tmp_path: Path) -> None:
    result = surgery(export(catalogue.kind(name), case, "torchscript", tmp_path / "model.onnx", inside=True), case)
    assert name in result.fused, result
    assert result.gap <= 1e-5


# The same blocks in other hands


class ListMixed(nn.Module):
    """Shares per output, multiplied, summed from zero and divided one by one, as lists are written."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        made = make(catalogue.kind("advanced_parallel"), Case(channels=channels, options={"attentions": ALL[:3]}))
        self.made = made
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [attention(x) for attention in self.made.attentions.values()]
        fusion = self.made.fusion
        shares = torch.softmax(fusion.shares(self.pool(x)), dim=1)
        values = [shares[:, i : i + 1] * fusion.quality(x, output) for i, output in enumerate(outputs)]
        total = sum(values)
        mixed = sum(value / (total + 1e-8) * output for value, output in zip(values, outputs, strict=True))
        return self.made.enhance(mixed) + x


class SplitMixed(nn.Module):
    """Linear layers on flattened pools, and shares from `split`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = catalogue.kind("channel_attention").make(channels, linear=True, reduction=4)
        self.second = catalogue.kind("spatial_attention").make(channels, bias=True)
        self.third = catalogue.kind("self_attention_module").make(channels)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(),
            nn.Linear(16, 3), nn.Softmax(dim=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        shares = self.head(x)[:, :, None, None].split(1, dim=1)
        outputs = (self.third(x), self.first(x), self.second(x))
        mixed: Tensor = sum(output * share for share, output in zip(shares, outputs, strict=True))
        return mixed


class Halves(nn.Module):
    """Equal shares factored out, a gate from SiLU layers, and the residual first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = catalogue.kind("channel_attention").make(channels, reduction=4)
        self.spatial = catalogue.kind("spatial_attention").make(channels, kernel_size=3)
        self.fuse = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fuse((self.channel(x) + self.spatial(x)) / 2)


class BehindConvolution(nn.Module):
    """A block that adds its scaled input, right behind a convolution without activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.block = make(catalogue.kind("enhanced_serial"), Case(channels=channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.convolution(x))
        return out


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (ListMixed, "advanced_parallel"),
        (SplitMixed, "weight_head"),
        (Halves, "static_weight"),
        (BehindConvolution, "enhanced_serial"),
    ],
    ids=["written-as-lists", "linear-layers-and-split", "factored-halves", "behind-a-bare-convolution"],
)
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_other_ways_of_writing_are_found(
    module: Callable[[int], nn.Module], name: str, exporter: str, tmp_path: Path
) -> None:
    result = _operated(module, exporter, tmp_path / "model.onnx")
    assert name in result.fused, result
    assert result.gap <= 1e-5


@dataclass(frozen=True, kw_only=True)
class Written(AttentionKind):
    """A block that is no kind of the catalogue."""

    module: Callable[[int], nn.Module]

    def make(self, channels: int | Sequence[int], **options: Any) -> nn.Module:
        assert isinstance(channels, int)
        return self.module(channels)


def _operated(module: Callable[[int], nn.Module], exporter: str, path: Path) -> Surgery:
    block = Written(
        package="", class_name="", title="", tier=2, family="mixed", paper="", cases=(), module=module
    )  # fmt: skip
    case = Case(channels=16)
    return surgery(export(block, case, exporter, path, inside=True), case)


class PlainMixture(nn.Module):
    """Convolutions mixed by a softmax of the pooled input, as in selective kernels: no attention inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.head = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.head(x.mean((2, 3), keepdim=True)).softmax(1)
        return shares[:, 0:1] * self.branches[0](x) + shares[:, 1:2] * self.branches[1](x)


class TwoGates(nn.Module):
    """SiLU branches with constant shares and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (nn.functional.silu(branch(x)) for branch in self.branches)
        return 0.6 * first + 0.4 * second + x


@pytest.mark.parametrize("module", [PlainMixture, TwoGates])
def test_mixtures_of_anything_else_are_not_taken(module: Callable[[int], nn.Module], tmp_path: Path) -> None:
    assert _operated(module, "torchscript", tmp_path / "model.onnx").fused == ()


# Search, balancing, messages


def test_search_trains_the_mixture_and_exports_the_choice() -> None:
    search = catalogue.kind("attention_search").make(8)
    x = torch.randn(2, 8, 6, 5)
    search.train()(x).square().sum().backward()
    assert all(
        p.grad is not None and bool((p.grad != 0).any()) for p in (search.operation_logits, search.fusion_logits)
    )
    with torch.no_grad():
        search.operation_logits.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0]))
        search.fusion_logits.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
        search.position_logits.copy_(torch.tensor([9.0, 0.0]))
    assert search.choose() == {"operation": "skip", "fusion": "serial", "position": "operation"}
    search.hard = True
    assert torch.equal(search.eval()(x), x)


def test_search_mixture_tends_to_the_choice_as_the_logits_part() -> None:
    search = catalogue.kind("attention_search").make(8)
    with torch.no_grad():
        for logits in (search.operation_logits, search.fusion_logits):
            logits.zero_()[1] = 60.0
    x = torch.randn(2, 8, 6, 5)
    search.eval()
    with torch.no_grad():
        chosen = search(x)
        search.training = True  # the mixture; the parts stay in evaluation mode
        assert torch.allclose(search(x), chosen, atol=1e-5)


def test_loading_a_state_in_evaluation_mode_renews_the_choice() -> None:
    first, second = (catalogue.kind("attention_search").make(8).eval() for _ in range(2))
    with torch.no_grad():
        first.fusion_logits.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    second.load_state_dict(first.state_dict())
    assert second.chosen == (int(first.operation_logits.argmax()), 2, int(first.position_logits.argmax()))


def test_balancer_moves_its_shares_with_the_performance_and_stays_in_bounds() -> None:
    balancer = catalogue.kind("adaptive_weight_balancer").make(8, rate=0.5)
    before = balancer.adjust(0.5)
    assert torch.allclose(before, torch.full((3,), 1 / 3))
    for step in range(40):
        after = balancer.adjust(0.5 + 0.01 * step)
    assert not torch.allclose(after, before)
    assert float(balancer.base_weights.detach().abs().max()) <= 2.0
    assert float(after.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("enhanced_serial", {"reduction": 0}, "reduction must be at least 1, got 0"),
        ("parallel_mixed", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ("recursive_mixed", {"levels": 11}, "levels must be from 1 to 10, got 11"),
        ("static_weight", {"channel_weight": -1.0}, "must not be negative"),
        ("task_specific", {"task": "detecting"}, "got 'detecting'"),
        ("adaptive_weight_balancer", {"rate": 0.0}, "rate must be positive"),
        ("advanced_parallel", {"fusion": "sum"}, "fusion must be one of adaptive, concatenate, gated, simple"),
        ("advanced_parallel", {"attentions": ()}, "one or more different ones of channel, spatial"),
        ("quality_assessor", {"attention": "temporal"}, r"attentions=\('temporal',\)"),
        ("hierarchical_mixed", {"levels": 1}, "levels must be at least 2"),
        ("weight_head", {"head": "ppo"}, "head must be one of maml, policy, actor"),
        ("attention_search", {"operations": ("local",)}, r"operations=\('local',\)"),
        ("multi_task_mixed", {"tasks": ("detection", "detection")}, "must be different ones of"),
        ("unified_mixed", {"fusion": "concatenate"}, "fusion must be one of adaptive, hierarchical"),
    ],
)
def test_wrong_options_are_refused_by_name(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        catalogue.kind(name).make(8, **options)


@pytest.mark.parametrize("name", [kind.name for kind in catalogue.kinds() if kind.family == "mixed"])
def test_training_reaches_every_parameter_that_inference_uses(name: str) -> None:
    kind = catalogue.kind(name)
    module = make(kind, kind.cases[0]).train()
    x = torch.randn(2, kind.cases[0].channels, 6, 5)
    module(x).square().sum().backward()
    missing = [n for n, p in module.named_parameters() if p.grad is None and not n.startswith("adjuster")]
    assert missing == []
