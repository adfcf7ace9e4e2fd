"""The benchmark's own arithmetic and its slices; no speed is asserted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from peer_table import ENOUGH, figures, limits, markdown, ratios
from quiet_slices import CORES, Child, Slice, measure

TOY = """
import sys, time
sys.path.insert(0, {folder!r})
from quiet_slices import serve

class Toy:
    warm_frames, notes, frames = 3, {{"about": "toy"}}, 0
    def refresh(self): pass
    def advance(self):
        time.sleep(0.01)
        self.frames += 2
        return 2
    def detections(self): return float(self.frames)

if {fails}: raise SystemExit(7)
serve(Toy(), "toy", int(sys.argv[-1]))
"""


def test_a_child_runs_slices_and_is_stopped_between_them(tmp_path: Path) -> None:
    child = _toy(tmp_path)
    try:
        assert child.notes == {"about": "toy"}
        assert _state(child) == "T"
        told: list[str] = []
        slices = measure([child], minutes=0.5 / 60, slice_s=0.1, patience_s=0, tell=told.append)
        assert _state(child) == "T"
    finally:
        child.close()
    assert slices
    assert all(one.mode == "toy" and one.wall_s >= 0.1 and 2 <= one.frames <= 22 for one in slices)
    assert "round 1" in told[0]


def test_warm_up_frames_are_not_counted(tmp_path: Path) -> None:
    child = _toy(tmp_path)
    try:
        one = child.run(0.05)
    finally:
        child.close()
    assert one.detections is not None
    assert one.detections >= one.frames + 3


def test_a_child_that_does_not_start_says_where_its_log_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"toy did not start \(it ended with exit code 7\); see .*toy.log"):
        _toy(tmp_path, fails=True)


def test_medians_leave_disturbed_slices_out() -> None:
    quiet = [_slice("decode", 100.0) for _ in range(ENOUGH)]
    figure = figures([*quiet, _slice("decode", 10.0, foreign=0.5)])["decode"]
    assert (figure.fps, figure.slices, figure.disturbed, figure.noisy) == (100.0, ENOUGH, 1, False)


def test_too_few_quiet_slices_give_no_verdict() -> None:
    slices = _slices({"ours onnxruntime x1": 30.0, "ultralytics onnx x1": 20.0}, foreign=0.5)
    (ratio,) = ratios(figures(slices))
    assert ratio.value == pytest.approx(1.5)
    assert ratio.verdict == ""
    assert "does not count" in markdown(figures(slices), {}, "machine", ["ours onnxruntime x1"])


@pytest.mark.parametrize(("ours", "verdict"), [(25.7, "met"), (25.5, "missed")], ids=["above 1.28", "below 1.28"])
def test_a_ratio_is_held_against_its_target(ours: float, verdict: str) -> None:
    (ratio,) = ratios(figures(_slices({"ours onnxruntime x1": ours, "ultralytics onnx x1": 20.0})))
    assert ratio.verdict == verdict


def test_the_limit_is_cores_over_the_sum_of_the_stages() -> None:
    cpu_ms = {"decode": 2.0, "letterbox": 0.5, "infer onnxruntime": 47.5}
    found = figures(_slice(name, 10.0, cpu_ms=ms) for name, ms in cpu_ms.items() for _ in range(ENOUGH))
    assert limits(found) == {"onnxruntime": pytest.approx(CORES / 0.05)}


def _toy(folder: Path, fails: bool = False) -> Child:
    program = folder / "toy.py"
    program.write_text(TOY.format(folder=str(Path(__file__).parents[2] / "benchmarks"), fails=fails))
    return Child("toy", [sys.executable, str(program)], folder / "toy.log")


def _state(child: Child) -> str:
    return Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _slices(fps: dict[str, float], foreign: float = 0.0) -> list[Slice]:
    return [_slice(mode, value, foreign=foreign) for mode, value in fps.items() for _ in range(ENOUGH)]


def _slice(mode: str, fps: float, foreign: float = 0.0, cpu_ms: float = 50.0) -> Slice:
    frames = 1000
    return Slice(
        mode=mode, frames=frames, wall_s=frames / fps, cpu_s=frames * cpu_ms / 1e3, foreign=foreign, detections=None
    )
