"""The gate on the simulated device: a plan keeps its bytes, and its verdict stands beside it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from trtdeploy import api
from trtdeploy.api import BuildOptions
from trtdeploy.backends import registry
from trtdeploy.core.plan_file import verify_plan
from trtdeploy.core.types import BatchRange
from trtdeploy.engine.sniff import read_info
from trtdeploy.graph.shapes import parse_imgsz

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_device import Machine
from simulated_device.backend import SimulatedBackend


@pytest.mark.parametrize("frames", [False, True], ids=["canvas", "frames"])
def test_plan_passes_the_gate_and_keeps_its_bytes(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: bool
) -> None:
    hashes = []
    with Machine("late", seed=5) as machine:
        backend = SimulatedBackend(machine)
        build = backend.build

        def watched(*args: object, **options: object) -> None:
            build(*args, **options)  # type: ignore[arg-type]
            target = args[2]
            assert isinstance(target, Path)
            hashes.append(hashlib.sha256(target.read_bytes()).hexdigest())

        monkeypatch.setattr(backend, "build", watched)
        monkeypatch.setitem(registry._MAKERS, "tensorrt", lambda: backend)
        options = BuildOptions(
            backend="tensorrt", sizes=parse_imgsz("320"), batches=BatchRange(1, 2, 4), frames=frames, surgery=False
        )
        report = api.build(demo_model, tmp_path / "x.engine", options)
        assert machine.faults == []
    assert report.info.gate.verdict == "passed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.engine", "x.engine.sha256"]
    assert verify_plan(report.path) == hashes[0]
    assert read_info(report.path).gate.verdict == "passed"
    (tmp_path / "x.engine.sha256").unlink()
    assert "its verdict is beside it" in read_info(report.path).gate.reason
