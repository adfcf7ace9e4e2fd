"""Every kind of the catalogue: its row in the table, its module's contract and its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from catalogue_checks import ODD, gap, images, make
from catalogue_table import read, run

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind, Case

CASES = [(kind, case) for kind in catalogue.kinds() for case in kind.cases]
IDS = [f"{kind.name}-{case}" for kind, case in CASES]
by_kind = pytest.mark.parametrize("kind", catalogue.kinds(), ids=catalogue.names())
by_case = pytest.mark.parametrize(("kind", "case"), CASES, ids=IDS)


@by_case
def test_the_comparison_notices_a_weight_that_is_one_percent_off(kind: AttentionKind, case: Case) -> None:
    module = make(kind, case)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    maps = [m.double().numpy() for m in images(case, ODD[1])]
    right = kind.naive(weights, *maps, **case.options)
    wrong = kind.naive(weights, *(m * 1.01 for m in maps), **case.options)
    pairs = zip(right, wrong, strict=True) if isinstance(right, tuple) else [(right, wrong)]
    assert max(gap(a, b) for a, b in pairs) > 1e-4


@by_kind
def test_the_row_of_the_table_is_what_the_checks_give(kind: AttentionKind) -> None:
    assert run(kind) == read().get(kind.name), "run `make attention-table` and look at what changed"


def test_the_table_has_no_rows_of_other_kinds() -> None:
    assert set(read()) == set(catalogue.names())


def test_every_cell_of_the_table_passes_or_gives_a_reason() -> None:
    cells = [cell for row in read().values() for cell in row.values()]
    assert all(cell.startswith("pass") or ": " in cell for cell in cells)


@by_kind
def test_a_kind_keeps_the_maps_shapes_and_types(kind: AttentionKind) -> None:
    case = kind.cases[0]
    maps = images(case, (2, 6, 4))
    out = make(kind, case)(*maps)
    for got, given in zip(out if isinstance(out, tuple) else (out,), maps, strict=True):
        assert got.shape == given.shape
        assert got.dtype == given.dtype
        assert np.isfinite(got.detach().numpy()).all()


@by_kind
def test_a_kind_has_its_page(kind: AttentionKind) -> None:
    import importlib

    folder = Path(importlib.import_module(kind.package).__file__ or "").parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert kind.title.lower() in text.lower()
    assert len(text) > 300
