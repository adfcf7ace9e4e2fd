"""`trtdeploy sensitivity`: what INT8 does to each block of a network, and what it brings there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli import model_options
from trtdeploy.cli.attention_text import mebibytes
from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_caches, check_outputs
from trtdeploy.core.errors import UsageError
from trtdeploy.core.files import atomic_write

if TYPE_CHECKING:
    from trtdeploy.api.sensitivity import SensitivityReport


@click.command("sensitivity")
@click.argument("model", type=FilePath)
@model_options.calibration
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Images of --calib on which outputs are compared.",
)
@click.option(
    "--data",
    type=FilePath,
    help="Score every block too: COCO JSON file, YOLO's data.yaml or VOC folder for mAP; a folder of images for the "
    "agreement of boxes with FP32.",
)
@click.option("--split", help="Part of --data, such as val or test.")
@click.option("--limit", type=click.IntRange(min=1), help="Images of --data at most; default: all.")
@click.option(
    "--max-map-drop", type=float, default=0.005, show_default=True, help="Drop that the whole network may have."
)
@click.option("--trial-cache", type=FilePath, help="File of the scores: an interrupted run goes on.")
@click.option("--imgsz", metavar="N|HxW", help="Network size; default: the model's own.")
@click.option("--head", default="auto", metavar="HEAD", show_default=True, help="As in build.")
@click.option("--names", type=FilePath, help="Class names: a text file, one per line, or JSON; default: the model's.")
@click.option(
    "--backend",
    default="auto",
    metavar="NAME",
    show_default=True,
    help="What the engine would be for; decides how attention is in the graph. Trials run in ONNX Runtime.",
)
@click.option(
    "--builder/--no-builder",
    default=False,
    help="Ask TensorRT-RTX's builder for the kernels and memory of FP16 and INT8.",
)
@click.option("-o", "--output", type=FilePath, metavar="FILE.json", help="Write the report as JSON.")
@click.option("--force", is_flag=True, help="Replace an existing report.")
@with_screen
def command(
    screen: Screen, /, model: Path, data: Path | None, output: Path | None, trial_cache: Path | None, **values: Any
) -> None:
    """Measure what INT8 does to each block of a network.

    Each block is put into INT8 alone, the others in FP32.

    The first block of the table is the one to keep out of INT8 first: most damage for what INT8 brings there.

    \b
    trtdeploy sensitivity model.onnx --calib photos/
    trtdeploy sensitivity model.onnx --calib photos/ --data data.yaml --limit 200 -o sensitivity.json

    Without --data no labels are needed and nothing is scored: one run of --images images for each block. With it, the
    network is evaluated on all images once for each block, and twice more.
    """
    from trtdeploy.api import BuildOptions
    from trtdeploy.api.sensitivity import SensitivityOptions, sensitivity
    from trtdeploy.cli.names import read_names
    from trtdeploy.core.types import Precision, SizeRange
    from trtdeploy.evaluate.datasets import read_images
    from trtdeploy.graph.head import HeadOptions
    from trtdeploy.graph.shapes import parse_imgsz

    if data is None and (trial_cache is not None or values["limit"] is not None or values["split"] is not None):
        raise UsageError("--trial-cache, --limit and --split are for scores. Give --data too.")
    outputs = [] if output is None else [("-o", output)]
    check_outputs(outputs, [model], force=values["force"], makes_folders=False)
    check_caches([("--calib-cache", values["calib_cache"]), ("--trial-cache", trial_cache)], outputs, [model])
    how = SensitivityOptions(
        images=values["images"], max_drop=values["max_map_drop"], cache=trial_cache, builder=values["builder"]
    )
    options = BuildOptions(
        precision=Precision.INT8,
        sizes=SizeRange.fixed(parse_imgsz(values["imgsz"]).opt) if values["imgsz"] else None,
        head=HeadOptions.parse(values["head"]),
        class_names=read_names(values["names"]) if values["names"] is not None else None,
        backend=values["backend"],
        calibration=model_options.parse_calibration(values),
    )
    images = None if data is None else read_images(data, None, values["limit"], values["split"])
    screen.note(f"Measuring the sensitivity of {model}")
    with screen.steps() as step:
        report = sensitivity(model, options, images, how, step)
    document = {"model": str(model), **report.to_dict()}
    if output is not None:
        with atomic_write(output) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n")
    screen.document(document)
    if not screen.as_json:
        print_report(screen, report)


def print_report(screen: Screen, report: SensitivityReport) -> None:
    """Print the table of blocks, and what it was measured on."""
    scored = report.fp32 is not None
    headers = ("block", "layers", "MACs", "weights", "SQNR dB", "error", *(("drop", "±") if scored else ()), "advice")
    rows = []
    for block in report.blocks:
        drops = (_number(block.drop), _number(block.drop_error)) if scored else ()
        rows.append((
            block.block, len(block.layers), f"{block.macs_share:.1%}", mebibytes(block.weight_bytes),
            _decibels(block.worst_db), f"{block.damage:.1%}", *drops, _advice(block.action),
        ))  # fmt: skip
    screen.table(headers, rows)
    screen.say()
    screen.say(
        f"SQNR: the head's outputs with this block alone in INT8 against FP32, on {report.images} images; with all "
        f"blocks {_decibels(report.all_db)} dB. error: its share of what all blocks do. MACs: share of the network's."
    )
    if report.fp32 is not None and report.int8 is not None:
        error = report.fp32.drop_error(report.int8)
        screen.say(
            f"drop: of {report.measure} on {report.scored_on} images, with this block alone in INT8; FP32 "
            f"{report.fp32.value:.4f}, all blocks in INT8 {report.int8.value:.4f} (drop "
            f"{_number(report.fp32.drop(report.int8))} ± {_number(error)}). ±: standard error over images."
        )
    for block in report.blocks:
        if block.action == "keep":
            screen.say(f"keep {block.block} out of INT8: {block.reason}")
    if report.advice is not None:
        _print_builder(screen, report)
    for warning in report.warnings:
        screen.say(f"warning: {warning}")


def _print_builder(screen: Screen, report: SensitivityReport) -> None:
    from trtdeploy.api.int8_advice import NOT_MEASURED

    assert report.advice is not None
    screen.say()
    headers = ("block", "launches FP16", "INT8", "separate INT8", "moved FP16", "INT8", "advice")
    screen.table(
        headers,
        [
            (
                block.block, block.fp16.launches, block.int8.launches, block.int8.separate,
                mebibytes(block.fp16.moved_bytes), mebibytes(block.int8.moved_bytes),
                "keep FP16" if block.keep_fp16 else "-",
            )
            for block in report.advice.blocks
        ],
    )  # fmt: skip
    screen.say()
    screen.say(f"{report.advice.verdict} ({NOT_MEASURED})")


def _decibels(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "-" if value > 0 else "broken"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _advice(action: str) -> str:
    return "keep" if action == "keep" else "INT8"
