"""From slices to a table: medians over undisturbed slices, ratios, and the machine's limit."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quiet_slices import CORES, MAX_FOREIGN, Slice

ENOUGH = 5
"""Undisturbed slices that a figure needs; with fewer, all slices are used and the figure is marked."""
TARGETS = {
    "Ultralytics, ONNX Runtime": 1.28,
    "Ultralytics, OpenVINO": 1.38,
    "Ultralytics, no-op network": 1.6,
    "limit": 0.95,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One mode's medians.

    Attributes:
        fps: Frames per second.
        low, high: Quartiles of `fps`.
        cpu_ms: CPU milliseconds per frame.
        slices: Slices used.
        disturbed: Slices left out.
        noisy: There were too few undisturbed slices, so that all are in.
        detections: Detections per frame.
    """

    fps: float
    low: float
    high: float
    cpu_ms: float
    slices: int
    disturbed: int
    noisy: bool
    detections: float | None


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ours against something, what it should be at least, and whether undisturbed slices stand behind it."""

    name: str
    value: float
    target: float | None
    sound: bool

    @property
    def verdict(self) -> str:
        if self.target is None or not self.sound:
            return ""
        return "met" if self.value >= self.target else "missed"


def figures(slices: Iterable[Slice]) -> dict[str, Figure]:
    """Return the medians of every mode."""
    by_mode: dict[str, list[Slice]] = {}
    for one in slices:
        by_mode.setdefault(one.mode, []).append(one)
    return {mode: _figure(of_mode) for mode, of_mode in by_mode.items()}


def limits(found: dict[str, Figure], single: bool = False) -> dict[str, float]:
    """Return frames per second that the cores could give at most, by backend.

    That is the number of cores over the CPU seconds that decoding, letterbox and inference take for a frame, each
    measured alone: on all cores at once, since two threads of one core are slower than one; with `single`, decoding
    and letterbox on one thread.
    """
    suffix = ", one thread" if single else ""
    stages = [found.get("decode" + suffix), found.get("letterbox" + suffix)]
    result = {}
    for backend in ("onnxruntime", "openvino"):
        parts = [*stages, found.get(f"infer {backend}")]
        if all(parts):
            result[backend] = CORES * 1e3 / sum(part.cpu_ms for part in parts if part is not None)
    return result


def ratios(found: dict[str, Figure]) -> list[Ratio]:
    """Return how the pipeline compares with Ultralytics and with the machine's limit."""
    result = []
    for engine, peer, label in (
        ("onnxruntime", "onnx", "ONNX Runtime"),
        ("openvino", "openvino", "OpenVINO"),
        ("noop", "noop", "no-op network"),
    ):
        for streams in (1, 2, 4):
            ours = found.get(f"ours {engine} x{streams}")
            for rival in (f"ultralytics {peer} x{streams}", f"ultralytics {peer}-nms x{streams}"):
                if ours and rival in found:
                    target = TARGETS[f"Ultralytics, {label}"] if engine != "noop" or streams == 4 else None
                    name = f"{label}, {_streams(streams)}: ours / {rival.rsplit(' ', 1)[0]}"
                    sound = not (ours.noisy or found[rival].noisy)
                    result.append(Ratio(name=name, value=ours.fps / found[rival].fps, target=target, sound=sound))
            limit = limits(found).get(engine)
            if ours and limit:
                sound = not any(found[part].noisy for part in ("decode", "letterbox", f"infer {engine}"))
                name = f"{label}, {_streams(streams)}: ours / machine's limit"
                sound = sound and not ours.noisy
                result.append(Ratio(name=name, value=ours.fps / limit, target=TARGETS["limit"], sound=sound))
    return result


def markdown(found: dict[str, Figure], versions: dict[str, str], machine: str, order: Sequence[str]) -> str:
    """Return the report."""
    lines = [f"Machine: {machine}.", "", "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".", ""]
    lines += [
        "| mode | frames/s | quartiles | CPU ms/frame | detections/frame | slices (left out) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for mode in (m for m in order if m in found):
        f = found[mode]
        seen = "" if f.detections is None else f"{f.detections:.0f}"
        mark = " \\*" if f.noisy else ""
        lines.append(
            f"| {mode} | {f.fps:.1f}{mark} | {f.low:.1f} to {f.high:.1f} | {f.cpu_ms:.2f} | {seen} | "
            f"{f.slices} ({f.disturbed}) |"
        )
    for backend, limit in limits(found).items():
        single = limits(found, single=True).get(backend)
        remark = "" if single is None else f"decoding and letterbox on one thread: {single:.1f}"
        lines.append(f"| machine's limit, {backend} | {limit:.1f} | {remark} | | | |")
    lines += ["", "| comparison | ratio | target | |", "|---|---:|---:|---|"]
    for ratio in ratios(found):
        target = "" if ratio.target is None else f"{ratio.target:.2f}"
        lines.append(f"| {ratio.name} | {ratio.value:.2f} | {target} | {ratio.verdict} |")
    if any(f.noisy for f in found.values()):
        lines += [
            "",
            f"\\* Fewer than {ENOUGH} slices in which other processes took at most {MAX_FOREIGN:.0%} of the cores; "
            "all slices are in, so this figure does not count.",
        ]
    return "\n".join(lines) + "\n"


def _figure(slices: list[Slice]) -> Figure:
    quiet = [s for s in slices if s.is_quiet]
    noisy = len(quiet) < ENOUGH
    used = slices if noisy else quiet
    fps = sorted(s.fps for s in used)
    low, _, high = statistics.quantiles(fps, n=4) if len(fps) > 1 else fps * 3
    return Figure(
        fps=statistics.median(fps),
        low=low,
        high=high,
        cpu_ms=statistics.median(s.cpu_ms for s in used),
        slices=len(used),
        disturbed=len(slices) - len(used),
        noisy=noisy,
        detections=used[-1].detections,
    )


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"
