"""Options that say what becomes of a model; `build` and `optimize` share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trtdeploy.cli.options import FilePath
from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.api.calibration import CalibrationOptions
    from trtdeploy.core.types import BatchRange, Precision, SizeRange
    from trtdeploy.graph.head import HeadOptions, NmsOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_HEADS = "auto, yolov5, yolov8, yolov10, yolox, rtdetr, nms, or tensors: boxes=NAME,scores=NAME[,format=cxcywh,...]."


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options as values of the library."""

    precision: Precision
    sizes: SizeRange | None
    batches: BatchRange | None
    head: HeadOptions
    nms: NmsOptions
    class_names: tuple[str, ...] | None
    frames: bool | None


def precision(command: Command) -> Command:
    """Add `--fp16`, `--bf16` and `--int8`."""
    return _added(
        command,
        click.option(
            "--fp16", is_flag=True, help="16-bit floating point; what that means depends on the backend and is said."
        ),
        click.option(
            "--bf16", is_flag=True, help="bfloat16: FP32's range, three binary digits less than --fp16; from Ampere on."
        ),
        click.option("--int8", is_flag=True, help="8-bit integers."),
    )


def shapes(command: Command) -> Command:
    """Add `--dynamic`, `--batch` and `--imgsz`."""
    return _added(
        command,
        click.option(
            "--dynamic",
            metavar="MIN:OPT:MAX",
            help="Range of image sizes, snapped up to the stride: 480:640:1080 (square) or 480x640:640x640:1088x1920 "
            "(HxW).",
        ),
        click.option("--batch", metavar="N|MIN:OPT:MAX", help="Batch size or range of batch sizes: 4, or 1:4:8."),
        click.option("--imgsz", metavar="N|HxW", help="One fixed image size: 640, or 480x640."),
    )


def head(*, nms: str | None) -> Callable[[Command], Command]:
    """Add the options of head, NMS, class names and frames; `nms` is the default of `--nms`."""
    shown = "NMS in the engine." if nms is not None else "Append decoding and NMS; without it the outputs stay."

    def add(command: Command) -> Command:
        return _added(
            command,
            click.option("--head", default="auto", metavar="HEAD", show_default=True, help=_HEADS),
            click.option(
                "--nms", default=nms, metavar="auto|fixpoint|loop|topk|none", show_default=nms is not None, help=shown
            ),
            click.option(
                "--conf", type=float, default=0.25, show_default=True, help="Detections have a score above it."
            ),
            click.option(
                "--iou", type=float, default=0.7, show_default=True, help="IoU above which the weaker box goes."
            ),
            click.option("--max-det", type=int, default=300, show_default=True, help="Detections per image at most."),
            click.option("--nms-candidates", type=int, help="Candidates per image that enter NMS, the best by score."),
            click.option("--nms-steps", type=int, help="Steps of --nms fixpoint."),
            click.option("--class-agnostic", is_flag=True, help="Boxes of different classes suppress each other too."),
            click.option("--multi-label", is_flag=True, help="A box may be detected as several classes."),
            click.option(
                "--names", type=FilePath, help="Class names: a text file, one per line, or JSON; default: the model's."
            ),
            click.option(
                "--frames/--no-frames",
                default=None,
                help="Letterbox in the engine: frames of any size in, boxes in frame pixels, one network size; "
                "default: in engines for a GPU.",
            ),
        )

    return add


def gate(command: Command) -> Command:
    """Add `--gate` and `--gate-images`."""
    return _added(
        command,
        click.option(
            "--gate",
            default="auto",
            metavar="auto|off|warn|enforce|emulated",
            show_default=True,
            help="Compare the engine's detections with the model's: refuse an engine that diverges, or warn; auto "
            "enforces where the engine can run here; emulated checks elsewhere that 16 bits suffice, on the CPU.",
        ),
        click.option("--gate-images", type=FilePath, help="Folder of photos to compare on; default: drawn boards."),
    )


def calibration(command: Command) -> Command:
    """Add `--calib`, `--calib-method`, `--calib-images` and `--calib-cache`."""
    return _added(
        command,
        click.option(
            "--calib",
            metavar="DIR|COCO.json|VOC/|DATA.yaml",
            type=FilePath,
            help="Images of what the network will see, to measure the ranges of tensors on; labels are not used.",
        ),
        click.option(
            "--calib-method",
            default="mse",
            metavar="mse|entropy|minmax|percentile[:99.99]",
            show_default=True,
            help="Chooses the ranges of INT8 tensors.",
        ),
        click.option(
            "--calib-images",
            type=int,
            default=128,
            metavar="N",
            show_default=True,
            help="Images of --calib at most, spread evenly over all.",
        ),
        click.option(
            "--calib-cache",
            type=FilePath,
            help="File of what was measured: an interrupted calibration goes on, a finished one is reused.",
        ),
    )


def keep(command: Command) -> Command:
    """Add `--keep`."""
    return _added(
        command,
        click.option(
            "--keep",
            multiple=True,
            metavar="NODE",
            help="Node that stays in the next higher precision: FP16 with --int8, FP32 with --fp16. * stands for any "
            "text; several are allowed.",
        ),
    )


def parse_calibration(values: Mapping[str, Any]) -> CalibrationOptions:
    """Turn the texts of `calibration` into values.

    Raises:
        UsageError: A value is wrong, or there is a cache and nothing to measure.
    """
    from trtdeploy.api.calibration import CalibrationOptions

    if values["calib"] is None and values["calib_cache"] is not None:
        raise UsageError("--calib-cache keeps what --calib measures. Give --calib too.")
    return CalibrationOptions(
        images=values["calib"], method=values["calib_method"], limit=values["calib_images"], cache=values["calib_cache"]
    )


def parse(values: Mapping[str, Any]) -> ModelOptions:
    """Turn the options' texts into values.

    Raises:
        UsageError: A value is wrong, or two options exclude each other.
    """
    from trtdeploy.cli.names import read_names
    from trtdeploy.graph.head import HeadOptions, NmsOptions
    from trtdeploy.graph.shapes import parse_batch

    return ModelOptions(
        precision=_precision(values),
        sizes=_sizes(values["dynamic"], values["imgsz"]),
        batches=parse_batch(values["batch"]) if values["batch"] is not None else None,
        head=HeadOptions.parse(values["head"]),
        nms=NmsOptions(
            method=values["nms"] or "auto",  # NmsOptions checks it
            conf=values["conf"],
            iou=values["iou"],
            max_det=values["max_det"],
            class_agnostic=values["class_agnostic"],
            multi_label=values["multi_label"],
            candidates=values["nms_candidates"],
            steps=values["nms_steps"],
        ),
        class_names=read_names(values["names"]) if values["names"] is not None else None,
        frames=values["frames"],
    )


def _added(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Decorate `command` so that the help lists `options` in the order given."""
    for option in reversed(options):
        command = option(command)
    return command


def _precision(values: Mapping[str, Any]) -> Precision:
    from trtdeploy.core.types import Precision

    given = [precision for precision in Precision if values.get(precision.value)]
    if len(given) > 1:
        options = " and ".join(f"--{precision.value}" for precision in given)
        raise UsageError(f"{options} exclude each other. Give one of them.")
    return given[0] if given else Precision.FP32


def _sizes(dynamic: str | None, imgsz: str | None) -> SizeRange | None:
    from trtdeploy.graph.shapes import parse_dynamic, parse_imgsz

    if dynamic is not None and imgsz is not None:
        raise UsageError("--dynamic and --imgsz exclude each other: a range of sizes, or one size.")
    if dynamic is not None:
        return parse_dynamic(dynamic)
    return parse_imgsz(imgsz) if imgsz is not None else None
