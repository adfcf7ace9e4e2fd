"""Every kind is found and fused in graphs of both stock exporters, unmarked, with the same results."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalogue_checks import EXPORTERS, export, surgery

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind, Case

CASES = [(kind, case) for kind in catalogue.kinds() for case in kind.cases]
IDS = [f"{kind.name}-{case}" for kind, case in CASES]
TOLERANCE = 1e-5


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("kind", "case"), CASES, ids=IDS)
def test_found_and_fused_between_convolutions(kind: AttentionKind, case: Case, exporter: str, tmp_path: Path) -> None:
    path = export(kind, case, exporter, tmp_path / "model.onnx", inside=True)
    result = surgery(path, case)
    assert kind.name in result.fused, result
    assert result.gap <= TOLERANCE
