"""Engines of both libraries on the device: they pass the gate, detect what ONNX Runtime detects, and load elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpu_support import Build, assert_same_detections, program

import trtdeploy
from trtdeploy.backends.device import time_plan
from trtdeploy.core.errors import TrtdeployError
from trtdeploy.engine.sniff import read_info

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "fp16"])
INPUTS = pytest.mark.parametrize("frames", [False, True], ids=["canvas", "frames"])


@PRECISIONS
@INPUTS
def test_engine_passes_the_gate(build: Build, backend: str, precision: str, frames: bool, note: Any) -> None:
    report = build(backend, precision, frames)
    assert report.gate is not None
    assert report.info.gate.verdict == "passed"
    assert read_info(report.path).gate == report.info.gate
    note(gate=str(report.info.gate), largest=report.gate.largest, counts=report.gate.counts)


@PRECISIONS
@INPUTS
def test_detections_are_those_of_onnx_runtime(
    build: Build, backend: str, precision: str, frames: bool, photos: list[np.ndarray]
) -> None:
    reference = build("onnxruntime", "fp32", frames)
    report = build(backend, precision, frames)
    found = []
    for path in (reference.path, report.path):
        with trtdeploy.open(path) as engine:
            found.append([engine.detect([photo])[0] for photo in photos])
    assert_same_detections(found[0], found[1], precision, report.info)


@PRECISIONS
def test_time_of_the_network(build: Build, backend: str, precision: str, note: Any) -> None:
    report = build(backend, precision)
    seconds = time_plan(report.path, report.info, backend.replace("-", "_"))  # type: ignore[arg-type]
    assert seconds > 0
    note(median_ms=seconds * 1000, batch=report.info.batch_opt, size=str(report.info.sizes.opt), precision=precision)


def test_layers_are_reported(build: Build, backend: str, note: Any) -> None:
    plan = build(backend, "fp16").info.plan
    assert plan is not None
    assert plan.kernels, "the inspector gave no layers"
    note(kernels=plan.kernels, launches=plan.launches, mha=plan.mha, activation_bytes=plan.activation_bytes)


@pytest.mark.usefixtures("tensorrt")
def test_trtexec_loads_the_plan(build: Build) -> None:
    trtexec = program("trtexec", "/usr/src/tensorrt/bin")
    report = build("tensorrt", "fp16")
    command = [trtexec, f"--loadEngine={report.path}", "--shapes=images:4x640x640x3", "--duration=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "PASSED" in done.stdout


@pytest.mark.usefixtures("tensorrt")
def test_dla_runs_the_layers_it_can(build: Build, note: Any) -> None:
    tensorrt = pytest.importorskip("tensorrt")
    cores = tensorrt.Builder(tensorrt.Logger()).num_DLA_cores
    if cores < 1:
        pytest.skip("this device has no DLA, or this TensorRT does not use it")
    report = build("tensorrt", "fp16", dla=0)
    assert report.info.gate.verdict == "passed"
    note(dla_cores=cores, gate=str(report.info.gate))


def test_damaged_plan_is_refused_and_the_device_lives_on(
    build: Build, backend: str, photos: list[np.ndarray], tmp_path: Any
) -> None:
    report = build(backend)
    data = bytearray(report.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged = tmp_path / report.path.name
    damaged.write_bytes(data)
    damaged.with_name(damaged.name + ".sha256").write_bytes(
        report.path.with_name(report.path.name + ".sha256").read_bytes()
    )
    with pytest.raises(TrtdeployError):
        trtdeploy.open(damaged)
    with trtdeploy.open(report.path) as engine:
        assert len(engine.detect(photos[:1])[0]) > 0


@pytest.mark.usefixtures("tensorrt")
def test_plugin_and_native_attention_detect_the_same(build: Build, photos: list[np.ndarray], note: Any) -> None:
    found: dict[str, list[Any]] = {}
    seconds: dict[str, float] = {}
    for attention in ("native", "plugin"):
        report = build("tensorrt", "fp16", attention=attention)
        assert report.info.plan is not None
        assert report.info.plan.attention == attention
        seconds[attention] = time_plan(report.path, report.info, "tensorrt")
        with trtdeploy.open(report.path) as engine:
            found[attention] = [engine.detect([photo])[0] for photo in photos]
    assert_same_detections(found["native"], found["plugin"], "fp16", report.info)
    auto = build("tensorrt", "fp16", attention="auto").info.plan
    assert auto is not None
    faster = min(seconds, key=seconds.__getitem__)
    note(milliseconds={name: value * 1000 for name, value in seconds.items()}, auto=auto.attention)
    margin = abs(seconds["native"] - seconds["plugin"]) / max(seconds.values())
    assert auto.attention == faster or margin < 0.05, auto.attention_reason


def test_command_line_from_model_to_detections(demo_model: Any, backend: str, tmp_path: Any) -> None:
    run: Callable[..., Any] = subprocess.run
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 3000}
    done = run(
        ["trtdeploy", "build", demo_model, "-o", "x.engine", "--backend", backend, "--fp16", "--gate", "enforce"],
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    done = run(
        [
            "trtdeploy",
            "infer",
            "--engine",
            "x.engine",
            "--video",
            "synthetic:boards?frames=30&seed=1",
            "--jsonl",
            "out.jsonl",
        ],
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 30
