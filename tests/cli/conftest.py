"""Run the command line as a process, with a small real detector and small real videos."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from cli_support import CLASS_NAMES, Done, draw_frame
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.backends import onnx_engine
from trtdeploy.cli.main import main

TIMEOUT_S = 120


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "COLUMNS": "120"}


_ACCEPTING_INTERRUPTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from trtdeploy.cli.main import main
sys.exit(main())
"""
"""A shell's background job ignores SIGINT, and its children inherit that."""


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Done]:
    """Run `trtdeploy` with arguments in `tmp_path` and wait for it."""

    def run(*args: object, cwd: Path = tmp_path, **options: Any) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "trtdeploy", *map(str, args)],
            cwd=cwd,
            env=_environment(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            **options,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def cli_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run `trtdeploy` with arguments in `tmp_path` inside the test's process, where the libraries are loaded."""

    def run(*args: object) -> Done:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def tried_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the seconds that children take to start; what they do is tested with the backends."""

    def run(probe: Callable[..., None], path: str, metadata: str, **_options: object) -> None:
        probe(lambda _step: None, path, metadata)

    monkeypatch.setattr(onnx_engine, "run_in_child", run)


@pytest.fixture
def start_cli(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `trtdeploy` with arguments in `tmp_path`; whatever still runs at the end of the test is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _ACCEPTING_INTERRUPTS, *map(str, args)],
            cwd=tmp_path,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the tests only read: `model.onnx`, `x.engine`, `a.mp4`, `b.mp4`."""
    folder = tmp_path_factory.mktemp("assets")
    onnx.save(make_detector(), folder / "model.onnx")
    write_video(folder / "a.mp4", frames=20)
    write_video(folder / "b.mp4", frames=12, color=(255, 0, 0))
    done = subprocess.run(
        [sys.executable, "-m", "trtdeploy", "build", "model.onnx", "-o", "x.engine", *BUILD_OPTIONS],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return folder


BUILD_OPTIONS = ("--dynamic", "64:96:128", "--batch", "1:2:4", "--backend", "onnxruntime")


@pytest.fixture(scope="session")
def detector() -> Callable[..., onnx.ModelProto]:
    """A function that makes the detector; see `make_detector`."""
    return make_detector


@pytest.fixture(scope="session")
def video() -> Callable[..., Path]:
    """A function that writes a video; see `write_video`."""
    return write_video


def make_detector(opset: int = 17, output: str = "output0") -> onnx.ModelProto:
    """Make a detector of red and blue patches with the outputs of YOLOv8, `[B, 4 + 2, N]`, strides 8, 16 and 32.

    The score of a cell is the sigmoid of `10 x - 5`, where x is the mean of red minus blue (or blue minus red) in it;
    its box is two strides wide.
    """
    nodes, weights, levels = [], [], []
    for stride in (8, 16, 32):
        kernel = np.zeros((2, 3, stride, stride), np.float32)
        kernel[0, 0], kernel[0, 2] = 10 / stride**2, -10 / stride**2
        kernel[1] = -kernel[0]
        names = {key: f"{key}{stride}" for key in ("w", "d", "s", "o", "x", "y", "cx", "cy", "ww", "l", "f")}
        weights += [
            numpy_helper.from_array(kernel, names["w"]),
            numpy_helper.from_array(np.zeros((1, 3, stride, stride), np.float32), f"empty{stride}"),
            numpy_helper.from_array(np.float32(stride), f"stride{stride}"),
            numpy_helper.from_array(np.float32(2 * stride), f"side{stride}"),
        ]
        nodes += [
            helper.make_node("Conv", ["images", names["w"], "bias"], [names["d"]], strides=[stride, stride]),
            helper.make_node("Sigmoid", [names["d"]], [names["s"]]),
            helper.make_node("Conv", ["images", f"empty{stride}"], [f"n{stride}"], strides=[stride, stride]),
            helper.make_node("Add", [f"n{stride}", "one"], [names["o"]]),
            helper.make_node("CumSum", [names["o"], "three"], [names["x"]]),
            helper.make_node("CumSum", [names["o"], "two"], [names["y"]]),
            helper.make_node("Sub", [names["x"], "half"], [f"hx{stride}"]),
            helper.make_node("Sub", [names["y"], "half"], [f"hy{stride}"]),
            helper.make_node("Mul", [f"hx{stride}", f"stride{stride}"], [names["cx"]]),
            helper.make_node("Mul", [f"hy{stride}", f"stride{stride}"], [names["cy"]]),
            helper.make_node("Mul", [names["o"], f"side{stride}"], [names["ww"]]),
            helper.make_node(
                "Concat", [names["cx"], names["cy"], names["ww"], names["ww"], names["s"]], [names["l"]], axis=1
            ),
            helper.make_node("Reshape", [names["l"], "flat"], [names["f"]]),
        ]
        levels.append(names["f"])
    nodes.append(helper.make_node("Concat", levels, [output], axis=2))
    weights += [
        numpy_helper.from_array(np.full(2, -5, np.float32), "bias"),
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(np.float32(0.5), "half"),
        numpy_helper.from_array(np.int64(2), "two"),
        numpy_helper.from_array(np.int64(3), "three"),
        numpy_helper.from_array(np.array([0, 6, -1], np.int64), "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "patches",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 6, "anchors"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    names_text = str(dict(enumerate(CLASS_NAMES)))
    helper.set_model_props(model, {"names": names_text, "stride": "32", "task": "detect"})
    onnx.checker.check_model(model)
    return model


def write_video(
    path: Path,
    frames: int = 20,
    size: tuple[int, int] = (120, 160),
    color: tuple[int, int, int] = (0, 0, 255),
    codec: str = "mp4v",
) -> Path:
    """Write a video of a patch of `color` (BGR) that moves over grey; `size` is height and width."""
    height, width = size
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    assert writer.isOpened(), codec
    for index in range(frames):
        writer.write(draw_frame(index, size, color))
    writer.release()
    return path
