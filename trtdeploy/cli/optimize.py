"""`trtdeploy optimize`: attention surgery on an ONNX model; the result is ONNX again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli import model_options
from trtdeploy.cli.attention_plot import check_plot, draw, save
from trtdeploy.cli.console import Screen, megabytes
from trtdeploy.cli.engine_text import print_passes
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_caches, check_outputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trtdeploy.api import OptimizeOptions, OptimizeReport


@click.command("optimize")
@click.argument("model", type=FilePath)
@click.option("-o", "--output", type=FilePath, required=True, help="The optimized ONNX file.")
@model_options.precision
@model_options.shapes
@model_options.head(nms=None)
@model_options.calibration
@model_options.keep
@click.option(
    "--kinds", "kinds_folders", type=FilePath, multiple=True, help="Folder of a kind of your own; repeatable."
)
@click.option("--only", multiple=True, metavar="KIND", help="Look for this kind alone; repeatable.")
@click.option("--pad/--no-pad", default=True, help="Pad attention to the widths that NVIDIA's builder fuses; on.")
@click.option("--verify/--no-verify", default=True, help="Compare the result with the model in ONNX Runtime; on.")
@click.option("--plot", type=FilePath, metavar="FILE.png", help="Draw the network with its blocks and their cost.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@with_screen
def command(screen: Screen, /, model: Path, output: Path, plot: Path | None, **values: Any) -> None:
    """Find, canonicalise and fuse an ONNX model's attention.

    Every block that is found becomes one node with a function body.

    Inputs, outputs and precision stay the model's own, unless options say otherwise.

    \b
    trtdeploy optimize model.onnx -o optimized.onnx
    trtdeploy optimize model.onnx -o optimized.onnx --plot network.png
    trtdeploy optimize model.onnx -o optimized.onnx --fp16 --nms auto --frames --imgsz 640
    """
    from trtdeploy import api

    options = make_options(**values)
    check_plot(plot)
    outputs = [("-o", output)] if plot is None else [("-o", output), ("--plot", plot)]
    check_outputs(outputs, [model], force=options.force, makes_folders=False)
    check_caches([("--calib-cache", values["calib_cache"])], outputs, [model])
    screen.note(f"Optimizing {model}")
    started_s = time.monotonic()
    with screen.steps() as step:
        figure = None if plot is None else _plotted(model, options, step)
        report = api.optimize(model, output, options, step)
        if figure is not None and plot is not None:
            save(figure, plot)
    seconds = time.monotonic() - started_s
    document = {**report.to_dict(), "seconds": round(seconds, 3), "plot": None if plot is None else str(plot)}
    screen.document(document)
    if not screen.as_json:
        print_report(screen, report, seconds)


def make_options(
    *,
    nms: str | None,
    kinds_folders: tuple[Path, ...],
    only: tuple[str, ...],
    pad: bool,
    verify: bool,
    force: bool,
    keep: tuple[str, ...],
    **values: Any,
) -> OptimizeOptions:
    """Turn the command's options into those of the library.

    Raises:
        UsageError: A value is wrong, or two options exclude each other.
    """
    from trtdeploy.api import OptimizeOptions
    from trtdeploy.attention import catalogue

    for folder in kinds_folders:
        catalogue.add(folder)
    given = model_options.parse({**values, "nms": nms})
    return OptimizeOptions(
        precision=given.precision,
        calibration=model_options.parse_calibration(values),
        keep=keep,
        sizes=given.sizes,
        batches=given.batches,
        nms=given.nms if nms is not None else None,
        head=given.head,
        class_names=given.class_names,
        frames=bool(given.frames),
        kinds=[catalogue.kind(name) for name in only] if only else None,
        pad=pad,
        verify=verify,
        force=force,
    )


def _plotted(model: Path, options: OptimizeOptions, step: Callable[[str], None]) -> Figure:
    """Draw the model as it was given, at the sizes that are asked for."""
    from trtdeploy.api.attention import AttentionModel

    batch = None if options.batches is None else options.batches.opt
    size = None if options.sizes is None else options.sizes.opt
    whole = AttentionModel(model, batch, size, step, fits=False)
    step("plot")
    return draw(whole.analysis, model.name)


def print_report(screen: Screen, report: OptimizeReport, seconds: float) -> None:
    """Print the blocks that were found, and what the passes did and declined."""
    size = megabytes(report.path.stat().st_size)
    screen.fields(
        [
            ("model", f"{report.path} ({size}, {seconds:.1f} s)"),
            ("nodes", f"{report.nodes_before} -> {report.nodes_after}"),
            ("attention", f"{sum(b['fused'] for b in report.blocks)} blocks fused, {len(report.blocks)} found"),
        ]
    )
    if report.blocks:
        screen.say()
        rows = [
            (b["title"], b["place"], b.get("op_type") or f"left alone: {b['reason'] or 'no kind of the catalogue'}")
            for b in report.blocks
        ]
        screen.table(("attention", "place", "result"), rows)
        screen.say()
    print_passes(screen, report.reports)
