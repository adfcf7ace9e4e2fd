"""`trtdeploy infer` on a plan of TensorRT writes what it writes on the ONNX engine of the same network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_device import Machine
from simulated_device.backend import SimulatedBackend
from simulated_device.plans import make_plan

from trtdeploy.backends import registry
from trtdeploy.engine.sniff import read_info

Cli = Callable[..., Any]


def _records(path: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda r: (r["stream"], r["frame"]))


@pytest.mark.parametrize("order", ["late", "random"])
def test_the_same_lines_as_onnx_runtime(
    cli_inside: Cli, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    engine = assets / "x.engine"
    info = msgspec.structs.replace(read_info(engine), backend="tensorrt")
    plan = make_plan(tmp_path / "plan.engine", engine.read_bytes(), info)
    videos = [word for name in ("a.mp4", "b.mp4") for word in ("--video", assets / name)]
    with Machine(order) as machine:
        monkeypatch.setitem(registry._MAKERS, "tensorrt", lambda: SimulatedBackend(machine))
        for path, output in ((engine, "onnx.jsonl"), (plan, "plan.jsonl")):
            done = cli_inside("infer", "--engine", path, *videos, "--jsonl", output)
            assert done.code == 0, done.text
        assert machine.faults == []
        assert "cudaGraphLaunch" in machine.calls
    wanted, found = _records(tmp_path / "onnx.jsonl"), _records(tmp_path / "plan.jsonl")
    assert [(r["stream"], r["frame"]) for r in found] == [(r["stream"], r["frame"]) for r in wanted]
    assert sum(len(record["detections"]) for record in wanted) > len(wanted)
    for have, want in zip(found, wanted, strict=True):
        assert [d["class"] for d in have["detections"]] == [d["class"] for d in want["detections"]]
        for key, tolerance in (("box", 1e-2), ("score", 1e-4)):
            values = ([d[key] for d in record["detections"]] for record in (have, want))
            np.testing.assert_allclose(*values, atol=tolerance)
