"""`trtdeploy build`: an ONNX model becomes an engine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli import model_options
from trtdeploy.cli.console import Screen, megabytes
from trtdeploy.cli.engine_text import info_rows, print_passes
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_caches, check_outputs
from trtdeploy.cli.tensorrt_options import TENSORRT_NAMES, parse_tensorrt, tensorrt_options
from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.api import BuildOptions, BuildReport
    from trtdeploy.api.mixed_precision import MixedOptions


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
@model_options.calibration
@model_options.keep
@click.option(
    "--max-map-drop",
    type=float,
    metavar="DROP",
    help="With --int8: keep out of INT8 what costs more accuracy than this, such as 0.005.",
)
@click.option(
    "--data",
    type=FilePath,
    metavar="COCO.json|VOC/|DATA.yaml",
    help="Labelled images on which --max-map-drop is measured, other ones than --calib.",
)
@click.option("--split", help="Part of --data, such as val or test.")
@click.option("--trials", type=int, metavar="N", help="Evaluations of the network on --data at most; default: 24.")
@click.option("--trial-cache", type=FilePath, help="File of their scores: an interrupted search goes on.")
@model_options.gate
@click.option("--force", is_flag=True, help="Replace an existing engine.")
@with_screen
def command(screen: Screen, /, model: Path, output: Path | None, **values: Any) -> None:
    """Build an engine from an ONNX model.

    \b
    trtdeploy build model.onnx --fp16 --dynamic 480:640:1080
    trtdeploy build model.onnx -o x.engine --batch 1:4:8 --imgsz 640 --conf 0.4
    trtdeploy build model.onnx --backend tensorrt-rtx --target sm86,sm89 --fp16
    trtdeploy build model.onnx --int8 --calib photos/ --max-map-drop 0.005 --data data.yaml
    trtdeploy build model.onnx --head boxes=bbox,scores=prob,format=xyxy --names classes.txt
    """
    options = make_options(**values)
    target = output if output is not None else model.with_suffix(".engine")
    check_outputs([("-o", target)], [model], force=options.force, makes_folders=False)
    caches = [("--calib-cache", values["calib_cache"]), ("--trial-cache", values["trial_cache"])]
    check_caches(caches, [("-o", target)], [model])
    started_s = time.monotonic()
    report, seconds = build_with_progress(screen, model, target, options), time.monotonic() - started_s
    screen.document(document_of(report, seconds))
    for warning in report.warnings:
        screen.note(f"Warning: {warning}")
    if report.gate is not None and report.gate.verdict != "passed":
        screen.note("\n".join(report.gate.lines()))
    if not screen.as_json:
        print_report(screen, report, options, seconds)


def make_options(
    *, backend: str, surgery: bool, keep: Sequence[str], gate: str, gate_images: Path | None, force: bool, **values: Any
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
        calibration=model_options.parse_calibration(values),
        keep=tuple(keep),
        mixed=_mixed(**{name: values[name] for name in ("max_map_drop", "data", "split", "trials", "trial_cache")}),
        gate=GateOptions(mode=gate, images=gate_images),  # type: ignore[arg-type]  # GateOptions checks it
        force=force,
    )


def _mixed(
    *, max_map_drop: float | None, data: Path | None, split: str | None, trials: int | None, trial_cache: Path | None
) -> MixedOptions | None:
    """Return the search for what stays out of INT8; None where no limit is given.

    Raises:
        UsageError: Something of a search is given without a limit, or a value is out of range.
        SourceError: The labelled images cannot be read.
    """
    from trtdeploy.api.mixed_precision import DEFAULT_BUDGET, MixedOptions, SearchOptions
    from trtdeploy.evaluate.datasets import read_images

    if max_map_drop is None:
        if any(value is not None for value in (data, split, trials, trial_cache)):
            raise UsageError("--data, --split, --trials and --trial-cache are for a search. Give --max-map-drop too.")
        return None
    if data is None and split is not None:
        raise UsageError("--split is a part of --data. Give --data too.")
    return MixedOptions(
        data=None if data is None else read_images(data, split=split),
        search=SearchOptions(
            max_drop=max_map_drop, budget=DEFAULT_BUDGET if trials is None else trials, cache=trial_cache
        ),
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
        "mixed": None if report.mixed is None else report.mixed.to_dict(),
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
    if report.mixed is not None:
        screen.say("\n" + "\n".join(report.mixed.lines()))
    print_passes(screen, report.reports)
    screen.say(f"\nRun it: trtdeploy infer --engine {shlex.quote(str(report.path))} --video VIDEO --save-video out.mp4")
