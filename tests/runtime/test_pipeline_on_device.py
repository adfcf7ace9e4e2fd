"""What only a device brings: its memory ends, it fails in the middle, its profiles do not cover a batch."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_detector
from simulated_device import Machine
from simulated_device.backend import SimulatedBackend
from simulated_device.plans import Traits

from trtdeploy.core.errors import DeviceMemoryError, EngineError
from trtdeploy.core.types import Size
from trtdeploy.runtime.engine_handle import EngineFile
from trtdeploy.runtime.pipeline import Pipeline, PipelineOptions
from trtdeploy.runtime.sinks.jsonl import JsonlSink

MIB = 1 << 20
SOURCES = ["synthetic:noise?size=160x120&frames=40&seed=3", "synthetic:bars?size=90x200&frames=40"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine("random", memory_bytes=8 * MIB) as machine:
        yield machine


def engine_on(machine: Machine, folder: Path, traits: Traits | None = None) -> EngineFile:
    backend, info = SimulatedBackend(machine, traits), tiny_detector.info("tensorrt")
    backend.build(tiny_detector.detector(), info, folder / "tiny.engine")
    return EngineFile(folder / "tiny.engine", info, backend)


def test_fewer_contexts_run_where_memory_ends_and_the_log_says_so(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_on(machine, tmp_path, Traits(scratch_bytes=2 * MIB))
    with (
        caplog.at_level(logging.WARNING, "trtdeploy.runtime"),
        Pipeline(engine, SOURCES, options=PipelineOptions(contexts=6)) as pipeline,
    ):
        assert len(list(pipeline)) == 80
    assert "Running with 3 of 6 contexts: " in caplog.text
    assert "no memory for context 4 (scratch memory of a context: 2.0 MiB)" in caplog.text


def test_without_memory_for_one_context_the_error_is_raised_and_nothing_stays(machine: Machine, tmp_path: Path) -> None:
    engine = engine_on(machine, tmp_path, Traits(scratch_bytes=9 * MIB))
    pipeline = Pipeline(engine, SOURCES, options=PipelineOptions(contexts=2))
    with pytest.raises(DeviceMemoryError, match=r"no memory for context 1 .*Use fewer contexts, a smaller batch"):
        pipeline.run()
    assert [block.kind for block in machine.memory.left() if block.size > MIB] == []


def test_plans_that_do_not_fit_are_measured_with_the_contexts_that_do(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.runtime.tuner.MEASURE_S", 0.05)
    engine = engine_on(machine, tmp_path, Traits(scratch_bytes=2 * MIB))
    with Pipeline(engine, SOURCES, options=PipelineOptions(tune="always")) as pipeline:
        assert len(list(pipeline)) == 80
        plans = pipeline.metrics().plans
    assert plans
    assert all(plan.contexts <= 3 for plan in plans)


def test_plans_are_measured_where_the_weights_have_room_once_only(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.runtime.tuner.MEASURE_S", 0.05)
    engine = engine_on(machine, tmp_path, Traits(weight_bytes=5 * MIB))
    with Pipeline(engine, SOURCES, options=PipelineOptions(tune="always")) as pipeline:
        assert len(list(pipeline)) == 80
        plans = pipeline.metrics().plans
    assert {plan.contexts for plan in plans} == {1, 2, 3}
    assert [plan.error for plan in plans if plan.error] == []


@pytest.mark.parametrize("work", ["network begins", "cudaMemcpyDeviceToHost"])
def test_a_device_that_fails_in_the_middle_ends_the_pipeline_and_the_files_stay_whole(
    machine: Machine, tmp_path: Path, work: str
) -> None:
    engine = engine_on(machine, tmp_path)
    machine.break_at(work, 20)
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    pipeline = Pipeline(engine, SOURCES, [JsonlSink(file) for file in files], PipelineOptions(contexts=2))
    with pytest.raises(EngineError, match=r"Stream '.*' frame \d+: .*tiny\.engine: .*cudaErrorIllegalAddress"):
        pipeline.run()
    for file in files:
        text = file.read_text()
        assert text.endswith("\n")
        records = [json.loads(line) for line in text.splitlines()]
        assert 0 < len(records) < 80, "what was found before is there"
        for stream in {record["stream"] for record in records if "stream" in record}:
            frames = [record["frame"] for record in records if record.get("stream") == stream]
            assert frames == list(range(len(frames)))


def test_a_batch_that_no_profile_allows_names_stream_and_frame(machine: Machine, tmp_path: Path) -> None:
    profiles = [[[1, 96, 96, 3]] * 3, [[4, 128, 128, 3], [4, 128, 128, 3], [4, 160, 192, 3]]]
    engine = engine_on(machine, tmp_path, Traits(profiles=profiles))
    pipeline = Pipeline(engine, SOURCES, options=PipelineOptions(contexts=1, max_batch=1, size=Size(128, 128)))
    with pytest.raises(EngineError) as caught:
        pipeline.run()
    message = str(caught.value)
    assert message.startswith("Stream '")
    assert "' frame 0: " in message
    assert "no optimization profile allows batch 1 of 128x128" in message
    assert "batch 4, height 128 to 160, width 128 to 192" in message
