"""`trtdeploy doctor`: what is installed, what is missing, how to get it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import click

from trtdeploy import __version__
from trtdeploy.cli.console import Screen
from trtdeploy.cli.machine import LIBRARIES, machine
from trtdeploy.cli.nvidia import nvidia
from trtdeploy.cli.options import with_screen
from trtdeploy.cli.system import run_quietly
from trtdeploy.core.discovery import version_of
from trtdeploy.core.errors import MissingDependencyError

EXTRAS = {
    "eval": ({"faster_coco_eval": "faster-coco-eval", "PIL": "pillow", "yaml": "pyyaml"}, "mAP of an engine"),
    "export": ({"torch": "torch"}, "torch models to ONNX"),
    "metrics": ({"prometheus_client": "prometheus-client"}, "infer --metrics-port"),
    "openvino": ({"openvino": "openvino"}, "about twice the speed on x86"),
    "rtx": ({"tensorrt_rtx": "tensorrt-rtx"}, "TensorRT-RTX engines, and what NVIDIA's builder makes of a model"),
    "tensorrt": ({"tensorrt": "tensorrt-cu13", "cuda": "cuda-bindings"}, "TensorRT engines on an NVIDIA GPU"),
    "track": ({"trackers": "trackers", "supervision": "supervision"}, "infer --track"),
    "viz": (
        {"matplotlib": "matplotlib", "supervision": "supervision"},
        "--plot, and conversion to supervision.Detections",
    ),
}
"""Extras of trtdeploy: the modules and distributions they bring, and what for."""

_VIDEO_PROBE = """
import json, os, sys, tempfile
import cv2
info = cv2.getBuildInformation()
def has(name):
    return any(line.strip().startswith(name + ":") and "YES" in line for line in info.splitlines())
encoders = {}
with tempfile.TemporaryDirectory() as folder:
    for code, suffix in (("mp4v", ".mp4"), ("avc1", ".mp4"), ("hvc1", ".mp4"), ("MJPG", ".avi"), ("VP80", ".webm")):
        writer = cv2.VideoWriter(os.path.join(folder, code + suffix), cv2.VideoWriter_fourcc(*code), 25, (64, 64))
        encoders[code] = bool(writer.isOpened())
        writer.release()
gui = not any(line.strip().startswith("GUI:") and line.split(":")[1].strip() == "NONE" for line in info.splitlines())
print(json.dumps({"version": cv2.__version__, "ffmpeg": has("FFMPEG"), "gstreamer": has("GStreamer"),
                  "v4l": has("v4l/v4l2"), "window": gui, "encoders": encoders}))
"""


@click.command("doctor")
@with_screen
def command(screen: Screen, /) -> None:
    """Say what is installed, what is missing and how to get it.

    Ends with exit code 0 when engines can be built and run here, 8 when something necessary is missing.
    """
    report = examine()
    screen.document(report)
    if not screen.as_json:
        _print(screen, report)
    if report["problems"]:
        message = " ".join(report["problems"])
        if screen.as_json:
            screen.note(message)
        click.get_current_context().exit(MissingDependencyError.exit_code)


def examine() -> dict[str, Any]:
    """Return everything that `doctor` reports, as plain JSON types."""
    libraries = {module: _library(module, names) for module, names in LIBRARIES.items()}
    backends = _backends() if all(facts["error"] is None for facts in libraries.values()) else {}
    video = _video()
    report = {
        "trtdeploy": __version__,
        "machine": machine(),
        "libraries": libraries,
        "backends": backends,
        "extras": {name: _extra(name) for name in EXTRAS},
        "video": video,
        "gstreamer_program": (run_quietly("gst-launch-1.0", "--version") or "").split("\n")[0] or None,
        "nvidia": nvidia(),
    }
    return {**report, "problems": _problems(report), "advice": _advice(report)}


def _library(module: str, distributions: tuple[str, ...]) -> dict[str, Any]:
    """Import a necessary library, because one that is installed may still not load."""
    facts: dict[str, Any] = {"version": version_of(*distributions), "error": None}
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken installation fails in any way, and saying so is the point
        facts["error"] = f"{type(error).__name__}: {error}"
    return facts


def _backends() -> dict[str, Any]:
    from trtdeploy.backends import registry

    found = {}
    for name in registry.backend_names():
        availability = registry.get(name).availability()
        found[name] = {"usable": availability.usable, "version": availability.version, "reason": availability.reason}
    return found


def _extra(name: str) -> dict[str, Any]:
    modules, purpose = EXTRAS[name]
    versions = {distribution: version_of(distribution) for distribution in modules.values()}
    installed = all(version is not None for version in versions.values())
    return {
        "installed": installed,
        "versions": versions,
        "needed_for": purpose,
        "install": None if installed else f"pip install 'trtdeploy[{name}]'",
    }


def _video() -> dict[str, Any]:
    """Ask OpenCV in a child process what it reads and writes; its libraries print about codecs they lack."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _VIDEO_PROBE],
            capture_output=True,
            timeout=60,
            check=False,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
        facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return {"version": None}
    return facts


def _problems(report: dict[str, Any]) -> list[str]:
    """Return what keeps trtdeploy from building and running engines, with the remedy."""
    problems = []
    for module, facts in report["libraries"].items():
        if facts["error"] is not None:
            remedy = f"pip install --force-reinstall {LIBRARIES[module][0]}"
            if "libGL" in facts["error"]:
                remedy = "apt install libgl1, or pip install opencv-python-headless in place of opencv-python"
            problems.append(f"The library {module} does not load ({facts['error']}). Remedy: {remedy}.")
    if not problems and not any(backend["usable"] for backend in report["backends"].values()):
        problems.append("No backend is usable. Remedy: pip install onnxruntime.")
    return problems


def _advice(report: dict[str, Any]) -> list[str]:
    """Return what would make things better, none of it necessary."""
    advice = []
    architecture = report["machine"]["architecture"]
    if architecture in {"x86_64", "AMD64"} and not report["extras"]["openvino"]["installed"]:
        advice.append("OpenVINO runs networks about twice as fast on x86: pip install 'trtdeploy[openvino]'.")
    opencv = [name for name in LIBRARIES["cv2"] if version_of(name) is not None]
    if len(opencv) > 1:
        advice.append(
            f"{' and '.join(opencv)} overwrite one another's files. Uninstall all but one, then reinstall it."
        )
    video = report["video"]
    if video["version"] is not None and not video["gstreamer"] and report["gstreamer_program"] is None:
        advice.append(
            "Sources gst: and csi:// need GStreamer: apt install gstreamer1.0-tools gstreamer1.0-plugins-good."
        )
    advice += report["nvidia"]["mismatches"]
    if report["nvidia"]["install"]:
        advice.append("For TensorRT on this machine:\n    " + "\n    ".join(report["nvidia"]["install"]))
    return advice


def _print(screen: Screen, report: dict[str, Any]) -> None:
    """Print the report for people."""
    host = report["machine"]
    features = [name for name, present in host["cpu_features"].items() if present]
    memory = f"{host['memory_bytes'] / 2**30:.1f} GiB" if host["memory_bytes"] else "unknown"
    screen.say(f"trtdeploy {report['trtdeploy']}\n")
    screen.fields(
        [
            ("Python", f"{host['python']} ({host['python_path']})"),
            ("System", host["system"]),
            ("Processor", f"{host['cpu']}, {host['usable_cores']} of {host['cores']} cores usable"),
            ("", ", ".join(features) or "instruction sets unknown"),
            ("Memory", memory),
        ]
    )
    screen.say("\nBackends")
    backends = [
        (name, facts["version"] or "-", "yes" if facts["usable"] else "no", facts["reason"])
        for name, facts in report["backends"].items()
    ]
    screen.table(("name", "version", "usable", "why"), backends)
    screen.say("\nLibraries")
    libraries = [
        (name, facts["version"] or "missing", facts["error"] or "loads") for name, facts in report["libraries"].items()
    ]
    screen.table(("module", "version", "state"), libraries)
    screen.say("\nExtras")
    extras = [
        (name, facts["needed_for"], facts["install"] or _versions(facts["versions"]))
        for name, facts in report["extras"].items()
    ]
    screen.table(("name", "for", "installed, or how to get it"), extras)
    screen.say("\nVideo")
    screen.fields(_video_rows(report))
    screen.say("\nNVIDIA")
    screen.fields(_nvidia_rows(report["nvidia"]))
    routes = report["nvidia"]["routes"]
    screen.table(("route", "works", "why"), [(r["name"], "yes" if r["works"] else "no", r["why"]) for r in routes])
    for line in report["advice"]:
        screen.say(f"\nAdvice: {line}")
    for line in report["problems"]:
        screen.say(f"\nProblem: {line}")
    if not report["problems"]:
        screen.say("\nEverything necessary is here.")


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _video_rows(report: dict[str, Any]) -> list[tuple[str, object]]:
    video = report["video"]
    gstreamer = report["gstreamer_program"] or "not installed"
    if video["version"] is None:
        return [("OpenCV", "does not load"), ("GStreamer", gstreamer)]
    inputs = [name for name, key in (("FFmpeg", "ffmpeg"), ("GStreamer", "gstreamer"), ("V4L2", "v4l")) if video[key]]
    encoders = [code for code, works in video["encoders"].items() if works]
    return [
        ("OpenCV", video["version"]),
        ("reads through", ", ".join(inputs) or "nothing"),
        ("writes", ", ".join(encoders) or "no video"),
        ("windows (--show)", "yes" if video["window"] else "no: opencv-python-headless has none"),
        ("GStreamer", gstreamer),
    ]


def _nvidia_rows(facts: dict[str, Any]) -> list[tuple[str, object]]:
    jetson = facts["jetson"]
    return [
        ("driver", facts["driver"] or "none"),
        ("GPUs", "\n".join(facts["gpus"]) or "none found"),
        ("Jetson", _jetson_text(jetson) if jetson else "no"),
        ("CUDA", _cuda_text(facts)),
        ("TensorRT", facts["tensorrt"] or "not installed"),
        ("libnvinfer", facts["libnvinfer"] or "not in the system"),
        ("TensorRT for RTX", facts["tensorrt_rtx"] or "not installed"),
        ("cuda-bindings", facts["cuda_python"] or "not installed"),
        ("pycuda", facts["pycuda"] or "not installed (not needed)"),
    ]


def _jetson_text(jetson: dict[str, str]) -> str:
    release = jetson["linux_for_tegra"]
    return f"{jetson['board']}, Linux for Tegra {release} (JetPack {jetson['jetpack_of_release']}), {jetson['jetpack']}"


def _cuda_text(facts: dict[str, Any]) -> str:
    toolkit, newest = facts["cuda_toolkit"], facts["cuda_of_driver"]
    return f"toolkit {toolkit or 'not installed'}, driver runs up to {newest or 'unknown'}"
