"""Area, window, cascaded, sparse, deformable and hypergraph attention: refusals, other spellings, near misses."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import region_spellings as spelled
import torch
from catalogue_checks import export, gap, images, make, session_of, surgery

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import Case
from trtdeploy.core.errors import UsageError

CHANNELS = 16
REGIONAL = {"area", "a2c2f", "window", "cga", "dsa", "deformable", "hyperace"}


def exported(module: torch.nn.Module, path: Path) -> Path:
    """Export a module between convolutions with open sizes."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), torch.nn.ReLU(), module, torch.nn.Conv2d(CHANNELS, 4, 1)
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(2, CHANNELS, 8, 6),), str(path), dynamo=False, opset_version=17,
            input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "b", 2: "h", 3: "w"}},
        )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("name", "module", "multiple"),
    [
        ("window", spelled.SwinWindows, 2),
        ("cga", spelled.PlainCascade, 1),
        ("dsa", spelled.ProjectThenPick, 1),
        ("deformable", spelled.BoxQueries, 1),
        ("hyperace", spelled.BatchedHyperedges, 1),
        ("area", spelled.TokenAreas, 2),
    ],
)
def test_other_spellings_are_found_and_fused(name: str, module: Any, multiple: int, tmp_path: Path) -> None:
    path = exported(module(CHANNELS), tmp_path / "model.onnx")
    result = surgery(path, Case(channels=CHANNELS, multiple=multiple))
    assert result.fused.count(name) == 1, result
    assert result.gap <= 1e-5


@pytest.mark.parametrize(
    "module",
    [
        spelled.ParallelGroups,
        spelled.SelectedQueries,
        spelled.Warp,
        spelled.GatedBranches,
        spelled.WholeMap,
        partial(spelled.WholeMap, position=3),
        spelled.ConvolutionStage,
        spelled.Codebook,
    ],
    ids=lambda value: getattr(value, "__name__", "WholeMapWithPosition"),
)
def test_near_misses_are_not_taken_for_these_kinds(module: Any, tmp_path: Path) -> None:
    result = surgery(exported(module(CHANNELS), tmp_path / "model.onnx"), Case(channels=CHANNELS))
    assert not REGIONAL & {block["kind"] for block in result.blocks}, result
    assert result.gap <= 1e-5


@pytest.mark.parametrize(
    ("name", "channels", "options", "message"),
    [
        ("area", 16, {"heads": 3}, "heads=3 must be at least 1 and divide channels=16"),
        ("area", 16, {"area": 0}, "area must be at least 1, got 0"),
        ("area", 16, {"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ("a2c2f", 16, {}, "blocks of width 8, which must be a positive multiple of head_width=32"),
        ("a2c2f", 64, {"stages": 0}, "stages=0 must be at least 1"),
        ("window", 16, {"heads": 5}, "heads=5 must be at least 1 and divide channels=16"),
        ("window", 16, {"window": 0}, "window=0 and expansion=2 must be at least 1"),
        ("cga", 16, {"heads": 3}, "heads=3 must divide channels=16"),
        ("cga", 16, {"key_width": 0}, "key_width=0 must be at least 1"),
        ("cga", 16, {"kernel_sizes": (3, 5)}, r"kernel_sizes must be odd, one or 4 of them, got \(3, 5\)"),
        ("dsa", 16, {"keys": 129}, "keys must be between 1 and 128, got 129"),
        ("dsa", 16, {"ratio": 1.5}, "ratio must be more than 0 and at most 1, got 1.5"),
        ("dsa", 16, {"ratio": 1e-5}, "ratio must be at least 0.001, got 1e-05"),
        ("deformable", (16, 32), {}, "every level must have the same number of channels"),
        ("deformable", (16,) * 5, {}, "at most 4 levels, got 5"),
        ("deformable", 16, {"points": 0}, "points=0 be at least 1"),
        ("hyperace", 16, {}, "a width of 8, which must be a positive multiple of head_width=16"),
        ("hyperace", 32, {"hyperedges": 0}, "hyperedges=0 and branches=2 must be at least 1"),
        ("hyperace", 32, {"context": "min"}, "context must be one of both, mean, max, got 'min'"),
    ],
)
def test_an_impossible_option_is_refused(name: str, channels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        catalogue.kind(name).make(channels, **options)


def test_area_attention_refuses_a_map_that_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="3 x 5 positions cannot be cut into 4 equal areas"):
        catalogue.kind("area").make(16)(torch.ones(1, 16, 3, 5))


def test_deformable_attention_refuses_another_number_of_maps() -> None:
    with pytest.raises(ValueError, match="made for 2 maps, got 1"):
        catalogue.kind("deformable").make((16, 16))(torch.ones(1, 16, 3, 5))


@pytest.mark.parametrize("separate_values", [False, True])
def test_one_area_is_attention_over_the_map(separate_values: bool) -> None:
    case = Case(channels=16, options={"heads": 2, "area": 1, "separate_values": separate_values})
    whole, cut = make(catalogue.kind("area"), case), catalogue.kind("area").make(16, **{**case.options, "area": 2})
    cut.load_state_dict(whole.state_dict())
    cut.eval()
    (x,) = images(case, (1, 4, 6))
    with torch.no_grad():
        both = torch.cat([x, x], dim=2)  # the second area repeats the first: each sees what the whole of one map shows
        expected, actual = whole(x), cut(both)
    rows = slice(0, 1)  # the positional kernel of 7 rows sees the seam beyond the first row
    assert gap(expected[:, :, rows].numpy(), actual[:, :, rows].numpy()) <= 1e-5
    assert gap(expected.numpy(), whole(x * 1.01).detach().numpy()) > 1e-4


def test_sparse_attention_with_all_keys_does_not_depend_on_the_order_of_positions() -> None:
    case = Case(channels=16, options={"ratio": 1.0})
    module = make(catalogue.kind("dsa"), case)
    (x,) = images(case, (1, 5, 7))
    with torch.no_grad():
        turned = module(x.flip(3))
        module.heat[0].weight.copy_(module.heat[0].weight.flip(3))
        assert gap(module(x).numpy(), turned.flip(3).numpy()) <= 1e-5


def test_exported_sparse_attention_takes_all_positions_of_a_small_map(tmp_path: Path) -> None:
    kind, case = catalogue.kind("dsa"), Case(channels=CHANNELS, options={"keys": 20})
    module = make(kind, case)
    session = session_of(export(kind, case, "torchscript", tmp_path / "model.onnx"))
    for height, width in ((2, 3), (4, 5), (9, 9)):
        (x,) = images(case, (1, height, width))
        with torch.no_grad():
            assert gap(module(x).numpy(), session.run(None, {"x0": x.numpy()})[0]) <= 1e-5
