"""`trtdeploy build`: an ONNX model becomes an engine."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli.console import Screen, megabytes
from trtdeploy.cli.engine_text import info_rows, print_passes
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs
from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.api import BuildOptions, BuildReport
    from trtdeploy.core.types import Precision, SizeRange


@click.command("build")
@click.argument("model", type=FilePath)
@click.option("-o", "--output", type=FilePath, help="Engine file; default: MODEL.engine beside the model.")
@click.option("--fp16", is_flag=True, help="16-bit floating point; what that means depends on the backend and is said.")
@click.option("--int8", is_flag=True, help="8-bit integers.")
@click.option(
    "--dynamic",
    metavar="MIN:OPT:MAX",
    help="Range of image sizes, snapped up to the stride: 480:640:1080 (square) or 480x640:640x640:1088x1920 (HxW).",
)
@click.option("--batch", metavar="N|MIN:OPT:MAX", help="Batch size or range of batch sizes: 4, or 1:4:8.")
@click.option("--imgsz", metavar="N|HxW", help="One fixed image size: 640, or 480x640.")
@click.option(
    "--head",
    default="auto",
    metavar="HEAD",
    show_default=True,
    help="auto, yolov5, yolov8, yolov10, yolox, rtdetr, nms, or tensors: boxes=NAME,scores=NAME[,format=cxcywh,...].",
)
@click.option(
    "--nms", default="auto", metavar="auto|fixpoint|loop|topk|none", show_default=True, help="NMS in the engine."
)
@click.option("--conf", type=float, default=0.25, show_default=True, help="Detections have a score above it.")
@click.option("--iou", type=float, default=0.7, show_default=True, help="IoU above which the weaker box goes.")
@click.option("--max-det", type=int, default=300, show_default=True, help="Detections per image at most.")
@click.option("--nms-candidates", type=int, help="Candidates per image that enter NMS, the best by score.")
@click.option("--nms-steps", type=int, help="Steps of --nms fixpoint.")
@click.option("--class-agnostic", is_flag=True, help="Boxes of different classes suppress each other too.")
@click.option("--multi-label", is_flag=True, help="A box may be detected as several classes.")
@click.option("--names", type=FilePath, help="Class names: a text file, one per line, or JSON; default: the model's.")
@click.option("--frames", is_flag=True, help="Letterbox in the engine: frames of any size in, boxes in frame pixels.")
@click.option(
    "--backend", default="auto", metavar="auto|onnxruntime|openvino", show_default=True, help="Builds and runs it."
)
@click.option("--force", is_flag=True, help="Replace an existing engine.")
@with_screen
def command(screen: Screen, /, model: Path, output: Path | None, **values: Any) -> None:
    """Build an engine from an ONNX model.

    \b
    trtdeploy build model.onnx --fp16 --dynamic 480:640:1080
    trtdeploy build model.onnx -o x.engine --batch 1:4:8 --imgsz 640 --conf 0.4
    trtdeploy build model.onnx --head boxes=bbox,scores=prob,format=xyxy --names classes.txt
    """
    options = make_options(**values)
    target = output if output is not None else model.with_suffix(".engine")
    check_outputs([("-o", target)], [model], force=options.force, makes_folders=False)
    started_s = time.monotonic()
    report, seconds = build_with_progress(screen, model, target, options), time.monotonic() - started_s
    screen.document(document_of(report, seconds))
    if not screen.as_json:
        print_report(screen, report, options, seconds)


def make_options(
    *,
    fp16: bool,
    int8: bool,
    dynamic: str | None,
    batch: str | None,
    imgsz: str | None,
    head: str,
    nms: str,
    conf: float,
    iou: float,
    max_det: int,
    nms_candidates: int | None,
    nms_steps: int | None,
    class_agnostic: bool,
    multi_label: bool,
    names: Path | None,
    frames: bool,
    backend: str,
    force: bool,
) -> BuildOptions:
    """Turn the command's options into those of the library.

    Raises:
        UsageError: A value is wrong, or two options exclude each other.
    """
    from trtdeploy.api import BuildOptions
    from trtdeploy.cli.names import read_names
    from trtdeploy.graph.head import HeadOptions, NmsOptions
    from trtdeploy.graph.shapes import parse_batch

    return BuildOptions(
        precision=_precision(fp16=fp16, int8=int8),
        sizes=_sizes(dynamic, imgsz),
        batches=parse_batch(batch) if batch is not None else None,
        frames=frames,
        head=HeadOptions.parse(head),
        nms=NmsOptions(
            method=nms,  # type: ignore[arg-type]  # NmsOptions checks it
            conf=conf,
            iou=iou,
            max_det=max_det,
            class_agnostic=class_agnostic,
            multi_label=multi_label,
            candidates=nms_candidates,
            steps=nms_steps,
        ),
        class_names=read_names(names) if names is not None else None,
        backend=backend,
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


def _precision(*, fp16: bool, int8: bool) -> Precision:
    from trtdeploy.core.types import Precision

    if fp16 and int8:
        raise UsageError("--fp16 and --int8 exclude each other. Give one of them.")
    return Precision.FP16 if fp16 else Precision.INT8 if int8 else Precision.FP32


def _sizes(dynamic: str | None, imgsz: str | None) -> SizeRange | None:
    from trtdeploy.graph.shapes import parse_dynamic, parse_imgsz

    if dynamic is not None and imgsz is not None:
        raise UsageError("--dynamic and --imgsz exclude each other: a range of sizes, or one size.")
    if dynamic is not None:
        return parse_dynamic(dynamic)
    return parse_imgsz(imgsz) if imgsz is not None else None
