"""`trtdeploy build`: an ONNX model becomes an engine."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli import model_options
from trtdeploy.cli.console import Screen, megabytes
from trtdeploy.cli.engine_text import info_rows, print_passes
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs
from trtdeploy.cli.tensorrt_options import TENSORRT_NAMES, parse_tensorrt, tensorrt_options

if TYPE_CHECKING:
    from trtdeploy.api import BuildOptions, BuildReport


@click.command("build")
@click.argument("model", type=FilePath)
@click.option("-o", "--output", type=FilePath, help="Engine file; default: MODEL.engine beside the model.")
@model_options.precision
@model_options.shapes
@model_options.head(nms="auto")
@click.option("--surgery/--no-surgery", default=True, help="Canonicalise and fuse attention blocks; on by default.")
@click.option(
    "--backend",
    default="auto",
    metavar="auto|tensorrt|tensorrt-rtx|openvino|onnxruntime|emulated",
    show_default=True,
    help="Builds and runs it.",
)
@tensorrt_options
@model_options.gate
@click.option("--force", is_flag=True, help="Replace an existing engine.")
@with_screen
def command(screen: Screen, /, model: Path, output: Path | None, **values: Any) -> None:
    """Build an engine from an ONNX model.

    \b
    trtdeploy build model.onnx --fp16 --dynamic 480:640:1080
    trtdeploy build model.onnx -o x.engine --batch 1:4:8 --imgsz 640 --conf 0.4
    trtdeploy build model.onnx --backend tensorrt-rtx --target sm86,sm89 --fp16
    trtdeploy build model.onnx --head boxes=bbox,scores=prob,format=xyxy --names classes.txt
    """
    options = make_options(**values)
    target = output if output is not None else model.with_suffix(".engine")
    check_outputs([("-o", target)], [model], force=options.force, makes_folders=False)
    started_s = time.monotonic()
    report, seconds = build_with_progress(screen, model, target, options), time.monotonic() - started_s
    screen.document(document_of(report, seconds))
    if report.gate is not None and report.gate.verdict != "passed":
        screen.note("\n".join(report.gate.lines()))
    if not screen.as_json:
        print_report(screen, report, options, seconds)


def make_options(
    *, backend: str, surgery: bool, gate: str, gate_images: Path | None, force: bool, **values: Any
) -> BuildOptions:
    """Turn the command's options into those of the library.

    Raises:
        UsageError: A value is wrong, or two options exclude each other.
    """
    from trtdeploy.api import BuildOptions, GateOptions

    given, tensorrt = model_options.parse(values), parse_tensorrt(**{name: values[name] for name in TENSORRT_NAMES})
    return BuildOptions(
        precision=given.precision,
        sizes=given.sizes,
        batches=given.batches,
        frames=given.frames,
        head=given.head,
        nms=given.nms,
        class_names=given.class_names,
        backend=backend,
        tensorrt=tensorrt,
        surgery=surgery,
        gate=GateOptions(mode=gate, images=gate_images),  # type: ignore[arg-type]  # GateOptions checks it
        force=force,
    )


def build_with_progress(screen: Screen, model: Path, output: Path, options: BuildOptions) -> BuildReport:
    """Build, with progress on standard error."""
    from trtdeploy import api

    screen.note(f"Building an engine from {model}")
    with screen.steps() as step:
        return api.build(model, output, options, step)


def document_of(report: BuildReport, seconds: float) -> dict[str, Any]:
    """Return what `build --json` prints."""
    return {
        "engine": str(report.path),
        "size_bytes": report.path.stat().st_size,
        "seconds": round(seconds, 3),
        "backend_reason": report.backend_reason,
        "info": report.info.to_dict(),
        "gate": None if report.gate is None else report.gate.to_dict(),
    }


def print_report(screen: Screen, report: BuildReport, options: BuildOptions, seconds: float) -> None:
    """Print what was built, and what the passes did and declined."""
    screen.fields(
        [
            ("engine", f"{report.path} ({megabytes(report.path.stat().st_size)}, built in {seconds:.1f} s)"),
            ("backend", report.backend_reason),
            *info_rows(report.info, requested=options.sizes),
        ]
    )
    print_passes(screen, report.reports)
    screen.say(f"\nRun it: trtdeploy infer --engine {shlex.quote(str(report.path))} --video VIDEO --save-video out.mp4")
