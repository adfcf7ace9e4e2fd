"""The pipeline with a real network and real sources: the same detections as ONNX Runtime's image by image.

On the simulated device the session of TensorRT runs, with streams that do their work late and in any order.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.types import Size
from trtdeploy.runtime.detect import detect_images
from trtdeploy.runtime.engine_handle import EngineFile, handle_of
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_detector
from simulated_device import Machine
from simulated_device.backend import SimulatedBackend

backend_module = pytest.importorskip("trtdeploy.backends.onnxruntime")

SOURCES = ["synthetic:noise?size=160x120&frames=25&seed=3", "synthetic:bars?size=90x200&frames=17"]


@pytest.fixture(scope="module")
def onnx_engine(tmp_path_factory: pytest.TempPathFactory) -> EngineFile:
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    backend = backend_module.OnnxRuntimeBackend()
    backend.build(tiny_detector.detector(), tiny_detector.info("onnxruntime"), path)
    handle = handle_of(path)
    assert isinstance(handle, EngineFile)
    assert handle.backend.name == "onnxruntime"
    return handle


@pytest.fixture(
    scope="module", params=["ONNX Runtime", "device, late", "device, random", "device that shares the host's memory"]
)
def engine(
    request: pytest.FixtureRequest, onnx_engine: EngineFile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineFile]:
    if request.param == "ONNX Runtime":
        yield onnx_engine
        return
    order = "late" if "late" in request.param else "random"
    with Machine(order, seed=5, integrated="shares" in request.param) as machine:
        backend, info = SimulatedBackend(machine), tiny_detector.info("tensorrt")
        path = tmp_path_factory.mktemp("engine") / "tiny.engine"
        backend.build(tiny_detector.detector(), info, path)
        yield EngineFile(path, info, backend)
        assert machine.faults == []
        gc.collect()
        assert machine.memory.left() == []


@pytest.mark.parametrize(
    "options",
    [
        {"contexts": 1, "threads": 1},
        {"contexts": 3, "threads": 1, "max_batch": 4, "deadline_s": 0.05},
        {"contexts": 2, "threads": 1, "size": Size(96, 160)},
        {"tune": "always"},
    ],
    ids=["one at a time", "batches over streams", "another network size", "measured plan"],
)
def test_the_pipeline_finds_what_a_single_image_gives(
    engine: EngineFile, onnx_engine: EngineFile, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.runtime.tuner.MEASURE_S", 0.05)
    with Pipeline(engine, SOURCES, options=PipelineOptions(**options)) as pipeline:
        results = list(pipeline)
    assert [sum(r.frame.stream_index == n for r in results) for n in (0, 1)] == [25, 17]
    session = onnx_engine.backend.open(onnx_engine.path, onnx_engine.info, SessionOptions(contexts=1, threads=1))
    context = session.create_context()
    found = 0
    for result in results:
        (expected,) = detect_images(context.infer, onnx_engine.info, [result.frame.image], options.get("size"))
        np.testing.assert_allclose(result.detections.xyxy, expected.xyxy, atol=1e-2)
        np.testing.assert_allclose(result.detections.scores, expected.scores, atol=1e-4)
        np.testing.assert_array_equal(result.detections.classes, expected.classes)
        found += len(expected)
    session.close()
    assert found > 42, "a comparison of nothing proves nothing"


def test_rect_runs_every_aspect_at_its_own_size(engine: EngineFile) -> None:
    with Pipeline(engine, SOURCES, options=PipelineOptions(rect=True, contexts=2, threads=1)) as pipeline:
        results = list(pipeline)
    assert len(results) == 42
    for result in results:
        height, width = result.frame.image.shape[:2]
        assert (result.detections.xyxy <= (width, height, width, height)).all()


def test_a_path_is_enough(onnx_engine: EngineFile) -> None:
    metrics = Pipeline(str(onnx_engine.path), [SOURCES[0]], options=PipelineOptions(max_frames=3)).run()
    assert metrics.streams[0].inferred == 3
