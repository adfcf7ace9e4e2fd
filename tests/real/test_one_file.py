"""One file of one `optimize` in three places: ONNX Runtime, TensorRT-RTX's builder, and plugins on TensorRT."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from architectures import exported
from calibrated import as_input
from real_photos import four_canvases

import trtdeploy
from trtdeploy.attention.kind import DOMAIN
from trtdeploy.attention.operations import is_operation, operations
from trtdeploy.core.types import Precision
from trtdeploy.graph.dispatch import PLUGINS_FIRST, Creator, dispatch, strip_bodies
from trtdeploy.graph.precision.fp16 import ToFp16

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

OPERATIONS = {
    "yolo12n": {"TrtdeployScaledDotProduct": 8},
    "yolo11n+coordatt": {"TrtdeployScaledDotProduct": 1, "TrtdeployCoordPool": 3, "TrtdeployCoordGate": 3},
}
"""Nodes that a plugin takes."""
ALL: list[Creator] = [(op_type, "1", "trtdeploy") for op_type in operations()]


@pytest.fixture(scope="module", params=list(OPERATIONS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def files(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the network as exported, and as one `trtdeploy optimize --fp16` writes it."""
    folder = tmp_path_factory.mktemp("one")
    source = exported(name, folder, photos=four_canvases(320))
    options = trtdeploy.OptimizeOptions(precision=Precision.FP16)
    return source, trtdeploy.optimize(source, folder / "optimized.onnx", options).path


def test_it_runs_in_onnx_runtime_as_exact_as_fp16_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Deep random networks magnify the rounding of FP16; surgery must not add to it."""
    source, optimized = files
    plain = tmp_path / "plain.onnx"
    ir.save(ToFp16().run(ir.load(source)).model, plain)
    images = as_input(four_canvases(320)[:2]).numpy()
    wanted, rounded, got = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]
        for path in (source, plain, optimized)
    )
    for part in (slice(4), slice(4, None)):  # boxes, scores
        gap = np.abs(got - wanted)[:, part].mean()
        assert gap < 1.3 * np.abs(rounded - wanted)[:, part].mean()
        assert gap < 0.25 * np.abs(wanted[0] - wanted[1])[part].mean()  # what another image makes


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform")
def test_it_builds_in_tensorrt_rtx_with_its_attention_fused(name: str, files: tuple[Path, Path]) -> None:
    from trtdeploy.backends.rtx_probe import probe_build

    built = probe_build(files[1], {"images": ((1, 3, 480, 480), (4, 3, 640, 640), (8, 3, 1088, 1088))})
    assert (built.refused, built.mha) == ((), OPERATIONS[name]["TrtdeployScaledDotProduct"])


@pytest.mark.parametrize("version", [(10, 3), (10, 16), (11, 4)], ids=lambda v: f"TensorRT {v[0]}.{v[1]}")
def test_every_operation_goes_to_its_plugin_on_tensorrt(
    name: str, files: tuple[Path, Path], version: tuple[int, int]
) -> None:
    model = ir.load(files[1])
    given = model if version >= PLUGINS_FIRST else strip_bodies(model, list(operations()))
    taken = dispatch(given, ALL, version)
    plugins = [node.op_type for node in taken if node.handler == "plugin"]
    assert {op_type: plugins.count(op_type) for op_type in plugins} == OPERATIONS[name]
    assert not [node.problem for node in taken if node.problem]
    assert {node.handler for node in taken if not node.domain} == {"built-in"}


def test_without_plugins_tensorrt_takes_the_bodies(name: str, files: tuple[Path, Path]) -> None:
    taken = dispatch(ir.load(files[1]), [], (11, 4))
    bodies = [node.op_type for node in taken if is_operation(DOMAIN, node.op_type)]
    assert {op_type: bodies.count(op_type) for op_type in bodies} == OPERATIONS[name]
    assert {node.handler for node in taken if node.domain == DOMAIN} == {"function"}
