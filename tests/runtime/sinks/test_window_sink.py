"""The window: what is shown, how it ends the pipeline, and machines without a display.

cv2's window functions are replaced where there is no display; with Xvfb installed, a real window is opened as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_cases import ENGINE, detections, grey, result, stream

from trtdeploy.core.errors import MissingDependencyError, SinkError
from trtdeploy.runtime.seams import StopPipeline
from trtdeploy.runtime.sinks import CallbackSink, WindowSink


class Screen:
    """Takes the place of the window system."""

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []
        self.key = -1
        self.visible = 1.0
        self.destroyed = 0


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    fake = Screen()

    def destroy(title: str) -> None:
        fake.destroyed += 1

    monkeypatch.setattr("trtdeploy.runtime.sinks.window._check_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
    monkeypatch.setattr(cv2, "resizeWindow", lambda title, width, height: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: fake.shown.append(image.copy()))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: fake.key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, flag: fake.visible)
    monkeypatch.setattr(cv2, "destroyWindow", destroy)
    return fake


def plain(index: int, name: str, level: int) -> object:
    return result(index, stream=name, image=grey(level), found=detections([]))


def test_streams_are_shown_side_by_side(screen: Screen) -> None:
    sink = WindowSink(fps=1e9)
    sink.open([stream("a"), stream("b"), stream("c", height=48, width=128)], ENGINE)
    for name, level in (("a", 60), ("b", 110), ("c", 180)):
        image = grey(level, 48, 128) if name == "c" else grey(level)
        sink.write(result(0, stream=name, image=image, found=detections([])))
    sink.close()
    canvas = screen.shown[-1]
    assert canvas.shape == (192, 256, 3)
    assert np.array_equal(canvas[:96, :128], grey(60))
    assert np.array_equal(canvas[:96, 128:], grey(110))
    assert np.array_equal(canvas[120:168, :128], grey(180, 48, 128))
    assert canvas[96:120].max() == canvas[:, 128:][96:].max() == 0
    assert screen.destroyed == 1


@pytest.mark.parametrize("key", [ord("q"), ord("Q"), 27])
def test_a_key_ends_the_pipeline_in_good_order(screen: Screen, key: int) -> None:
    sink = WindowSink(fps=1e9)
    sink.open([stream()], ENGINE)
    sink.write(result(0))
    screen.key = key
    with pytest.raises(StopPipeline, match="the window was closed"):
        sink.write(result(1))
    sink.close()


def test_closing_the_window_ends_the_pipeline_too(screen: Screen) -> None:
    sink = WindowSink(fps=1e9)
    sink.open([stream()], ENGINE)
    screen.visible = 0.0
    with pytest.raises(StopPipeline):
        sink.write(result(0))
    sink.close()
    sink.close()
    assert screen.destroyed == 0


def test_the_window_is_redrawn_no_more_often_than_asked(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("trtdeploy.runtime.sinks.window.time.monotonic", lambda: now[0])
    sink = WindowSink(fps=10)
    sink.open([stream()], ENGINE)
    for index in range(100):
        sink.write(result(index))
        now[0] += 0.025
    assert 24 <= len(screen.shown) <= 26
    sink.close()


def test_without_a_display_that_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI:   QT5")
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(SinkError, match=r"neither DISPLAY nor WAYLAND_DISPLAY is set\. Write a video instead"):
        WindowSink().open([stream()], ENGINE)


def test_a_display_that_refuses_does_not_take_the_process_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":4567")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI:   QT5")
    with pytest.raises(SinkError, match=r"The display ':4567' takes no window\. Check DISPLAY, or write a video"):
        WindowSink().open([stream()], ENGINE)


def test_an_opencv_without_windows_is_told_with_the_one_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:      NONE\n")
    with pytest.raises(MissingDependencyError, match=r"OpenCV with windows is needed .*opencv-python-headless"):
        WindowSink().open([stream()], ENGINE)


REAL = """
import threading
from sink_cases import *
from trtdeploy.runtime.sinks import WindowSink

def show():
    sink = WindowSink(fps=1e9)
    sink.open([stream("a"), stream("b")], ENGINE)
    for index in range(5):
        sink.write(result(index, stream="a"))
        sink.write(result(index, stream="b"))
    sink.close()
    print("shown")

thread = threading.Thread(target=show)
thread.start()
thread.join()
"""


@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="Xvfb is not installed")
@pytest.mark.skipif("GUI:                           NONE" in cv2.getBuildInformation(), reason="OpenCV without windows")
def test_a_real_window_opens_and_closes_in_a_thread_of_its_own() -> None:
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", textwrap.dedent(REAL)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip().endswith("shown"), done.stderr


def test_a_callback_gets_every_result_and_its_error_passes_through() -> None:
    seen: list[int] = []

    def function(one: object) -> None:
        seen.append(one.frame.index)  # type: ignore[attr-defined]
        if len(seen) == 3:
            raise ZeroDivisionError("mine")

    sink = CallbackSink(function)
    sink.open([stream()], ENGINE)
    sink.write(result(0))
    sink.write(result(1))
    with pytest.raises(ZeroDivisionError, match="mine"):
        sink.write(result(2))
    sink.close()
    assert seen == [0, 1, 2]
