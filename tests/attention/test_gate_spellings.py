"""Gates that other code wrote are found and fused with the same results; what only resembles a gate is not."""

# mypy: allow-subclassing-any

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from catalogue_checks import EXPORTERS, Between, surgery
from gate_spellings import SPELLINGS
from torch import Tensor, nn

from trtdeploy.attention.kind import Case

CHANNELS = 16
FOUND = [(kind, spelling) for kind, spellings in SPELLINGS.items() for spelling in spellings]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("kind", "spelling"), FOUND, ids=[f"{kind}-{s.__name__}" for kind, s in FOUND])
def test_a_spelling_is_found_and_fused(kind: str, spelling: type[nn.Module], exporter: str, tmp_path: Path) -> None:
    path = export(spelling(CHANNELS), exporter, tmp_path / "model.onnx")
    result = surgery(path, Case(channels=CHANNELS))
    assert result.fused == (kind,), result
    assert result.gap <= 1e-5


class NearMiss(nn.Module):
    """One layer that resembles a gate.

    Args:
        which: Name of one of the methods below.
    """

    def __init__(self, which: str) -> None:
        super().__init__()
        self.which = which
        self.first = nn.Conv2d(CHANNELS, 4, 1)
        self.second = nn.Conv2d(4, CHANNELS, 1)
        self.confidence = nn.Conv2d(4, 1, 1)
        self.wide = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.pooled = nn.Conv2d(2, 1, 7, padding=3)
        self.line = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = getattr(self, self.which)(x)
        return result

    def silu(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()

    def gated_by_a_convolution(self, x: Tensor) -> Tensor:
        return x * self.wide(x).sigmoid()

    def gate_of_all_channels_at_every_place(self, x: Tensor) -> Tensor:
        return x * self.second(self.first(self.wide(x)).relu()).sigmoid()

    def squeeze_without_excite(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()

    def excite_without_squeeze(self, x: Tensor) -> Tensor:
        return x * self.second(self.first(x).relu()).sigmoid()

    def gate_of_another_map(self, x: Tensor) -> Tensor:
        other = self.wide(x)
        return x * self.second(self.first(other.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def gate_of_the_whole_image(self, x: Tensor) -> Tensor:
        return x * self.second(self.first(x.mean((2, 3), keepdim=True)).relu()).sum(1, keepdim=True).sigmoid()

    def confidence_of_the_image(self, x: Tensor) -> Tensor:
        return x * self.confidence(self.first(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def squeeze_along_one_axis(self, x: Tensor) -> Tensor:
        return x * self.second(self.first(x.mean(3, keepdim=True)).relu()).sigmoid()

    def gate_that_is_added(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def softmax_instead_of_sigmoid(self, x: Tensor) -> Tensor:
        return x * self.second(self.first(x.mean((2, 3), keepdim=True)).relu()).softmax(1)

    def two_means_as_spatial_gate(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        return x * self.pooled(torch.cat([mean, x.sum(1, keepdim=True)], 1)).sigmoid()

    def instance_normalisation(self, x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-4).sqrt()

    def energy_of_another_centre(self, x: Tensor) -> Tensor:
        squares = (x - x.amax((2, 3), keepdim=True)).square()
        return x * (squares / (4 * (squares.mean((2, 3), keepdim=True) + 1e-4)) + 0.5).sigmoid()

    def line_without_a_gate(self, x: Tensor) -> Tensor:
        return x * self.line(x.mean((2, 3)).unsqueeze(1)).squeeze(1)[:, :, None, None]


NEAR_MISSES = [name for name in vars(NearMiss) if not name.startswith("_") and name != "forward"]


@pytest.mark.parametrize("which", NEAR_MISSES)
def test_a_near_miss_is_left_alone(which: str, tmp_path: Path) -> None:
    path = export(NearMiss(which), "torchscript", tmp_path / "model.onnx")
    result = surgery(path, Case(channels=CHANNELS))
    assert result.fused == ()
    assert result.gap == 0


def export(module: nn.Module, exporter: str, path: Path) -> Path:
    """Export a module between convolutions with a stock exporter; batch, height and width are dynamic."""
    torch.manual_seed(0)
    model, example = Between(module, (CHANNELS,)).eval(), torch.randn(2, CHANNELS, 8, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            torch.onnx.export(
                model, (example,), str(path), dynamo=False, opset_version=18, input_names=["x"],
                dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}},
            )  # fmt: skip
        else:
            auto = torch.export.Dim.DYNAMIC
            torch.onnx.export(
                model, (example,), str(path), dynamo=True, opset_version=18, external_data=False, verbose=False,
                dynamic_shapes=(({0: auto, 2: auto, 3: auto},),),
            )  # fmt: skip
    return path
