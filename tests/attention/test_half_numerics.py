"""Attention in true half arithmetic: every kind within the bounds of docs/fp16.md, and on inputs made to break it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import half_table
import onnx_ir as ir
import pytest
import torch
from half_checks import SHAPE, Maps, fused, half_gaps, images, rounding_gaps, scaled, scaled_gap, usual_gap
from onnx_ir.passes.common import ShapeInferencePass

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind
from trtdeploy.backends.half_sums import sum_in_half
from trtdeploy.graph.inline import inline_functions
from trtdeploy.graph.precision.islands import IslandFinder

by_kind = pytest.mark.parametrize("kind", catalogue.kinds(), ids=catalogue.names())
FIRST = [kind for kind in catalogue.kinds() if kind.tier == 1]
by_common_kind = pytest.mark.parametrize("kind", FIRST, ids=[kind.name for kind in FIRST])


@pytest.fixture(autouse=True)
def _quiet_exporter() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_the_page_has_every_case_and_small_bounds() -> None:
    table = half_table.read()
    assert set(table) == {(kind.name, index) for kind in catalogue.kinds() for index in range(len(kind.cases))}
    assert max(bounds.columns["FP16"] for bounds in table.values()) <= 5e-3
    assert max(bounds.columns["BF16"] for bounds in table.values()) <= 5e-2


@by_kind
def test_fp16_is_within_its_bound(kind: AttentionKind) -> None:
    assert usual_gap(kind, 0, ir.DataType.FLOAT16) <= half_table.read()[kind.name, 0].columns["FP16"]


@by_common_kind
def test_large_maps_cost_what_rounding_costs_and_nothing_overflows(kind: AttentionKind) -> None:
    bound = half_table.read()[kind.name, 0].columns["FP16"]
    large = scaled(images(kind.cases[0], SHAPE), 1e3)
    assert scaled_gap(kind, 0, 1e3) <= half_table.ROUNDING * rounding_gaps(fused(kind.name, 0), [large])[0] + bound


def adversarial(kind: AttentionKind, seed: int) -> dict[str, Maps]:
    """Return maps of zeros, of one constant, of a mean far from zero, with a value at FP16's end, and of subnormals."""
    usual = images(kind.cases[0], SHAPE, seed)
    peaked = tuple(given.clone() for given in usual)
    for given in peaked:
        given[0, 0, 0, 0] = 65504.0
    return {
        "zeros": tuple(torch.zeros_like(given) for given in usual),
        "constant": tuple(torch.full_like(given, 1000.0) for given in usual),
        "far mean": tuple((30000 + 32 * given.round()).half().float() for given in usual),
        "peak": peaked,
        "subnormals": scaled(usual, 1e-7),
    }


@by_common_kind
def test_adversarial_maps_cost_what_rounding_costs_and_nothing_overflows(kind: AttentionKind) -> None:
    model, bound = fused(kind.name, 0), half_table.read()[kind.name, 0].columns["FP16"]
    maps, others = adversarial(kind, 1), adversarial(kind, 2)
    tiny, other_tiny = maps.pop("subnormals"), others.pop("subnormals")
    found = half_gaps(model, list(maps.values()), calibration=list(others.values()))
    found += half_gaps(model, [tiny], calibration=[other_tiny])  # beside the others it may vanish
    maps["subnormals"] = tiny
    allowed = rounding_gaps(model, list(maps.values()))
    for name, gap, rounding in zip(maps, found, allowed, strict=True):
        assert gap <= half_table.ROUNDING * rounding + 2 * bound, name


# Islands are needed: without them a bound breaks


@pytest.mark.parametrize("name", ["ema", "emha", "hierarchical_mixed", "multi_task_mixed", "se"])
def test_without_islands_the_bound_breaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are kept in 16 bits here, as a kernel may do with a 16-bit reduction, and planes are larger."""
    model, case = fused(name, 0), catalogue.kind(name).cases[0]
    maps = tuple(given + 300 for given in scaled(images(case, (1, 40, 41)), 100))
    bound = half_table.read()[name, 0].columns["FP16"]

    def gap() -> float:
        return half_gaps(model, [maps], calibration=[maps], change=_sum_in_half)[0]

    allowed = half_table.ROUNDING * rounding_gaps(model, [maps])[0] + 2 * bound
    assert gap() <= allowed
    monkeypatch.setattr(IslandFinder, "find", lambda self: {})
    assert not gap() <= allowed


def _sum_in_half(lowered: ir.Model) -> None:
    inline_functions(lowered)
    ShapeInferencePass()(lowered)
    sum_in_half(lowered)
