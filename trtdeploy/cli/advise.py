"""`trtdeploy advise`: keep, drop or replace each attention block, with figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from trtdeploy.cli import attention_text as text
from trtdeploy.cli.attention_plot import check_plot, write_plot
from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs

_DEVICES = ("orin-nx", "orin-agx", "t4", "l4", "a100", "cpu")


@click.command("advise")
@click.argument("model", type=FilePath)
@click.option("--device", type=click.Choice(_DEVICES), help="Where the network will run.")
@click.option("--fps", type=float, help="Images per second that are needed there.")
@click.option(
    "--hard-scenes", is_flag=True, help="Scenes have small objects, occlusion or objects of very different sizes."
)
@text.figures_options
@click.option("--plot", type=FilePath, metavar="FILE.png", help="Draw the network with its blocks and their cost.")
@click.option("--force", is_flag=True, help="Replace an existing picture.")
@with_screen
def command(
    screen: Screen, /, model: Path, device: str | None, imgsz: str | None, plot: Path | None, force: bool, **values: Any
) -> None:
    """Advise to keep, drop or replace each attention block.

    Every line gives its reason, and what the model costs without the block. Nothing is written but the picture.

    \b
    trtdeploy advise model.onnx --device orin-nx --fps 120
    trtdeploy advise model.onnx --hard-scenes --plot network.png
    """
    from trtdeploy.api.advice import DEVICES
    from trtdeploy.api.advise import AdviseOptions, advise
    from trtdeploy.graph.shapes import parse_imgsz

    size = None if imgsz is None else parse_imgsz(imgsz).opt
    options = AdviseOptions(device=None if device is None else DEVICES[device], size=size, **values)
    check_plot(plot)
    check_outputs([] if plot is None else [("--plot", plot)], [model], force=force, makes_folders=False)
    screen.note(f"Advising on {model}")
    with screen.steps() as step:
        report, whole = advise(model, options, step)
        if plot is not None:
            step("plot")
            write_plot(whole.analysis, model.name, plot)
    report["plot"] = None if plot is None else str(plot)
    screen.document(report)
    if not screen.as_json:
        print_report(screen, report)


def print_report(screen: Screen, report: Mapping[str, Any]) -> None:
    """Print the advice, the figures behind it, and what following it would bring."""
    figures = report["figures"]
    screen.fields(
        [
            ("model", report["model"]),
            ("parameters", text.count(figures["parameters"])),
            ("FLOPs", text.count(figures["flops"])),
            ("moved", f"{text.mebibytes(figures['bytes_fp32'])} fp32, {text.mebibytes(figures['bytes_fp16'])} fp16"),
            ("peak", f"{text.mebibytes(figures['peak_bytes'])} of activations, fp32; "
                     f"{text.mebibytes(figures['peak_bytes_fused'])} with attention fused"),
            ("TensorRT-RTX", text.builder_text(figures)),
            ("measured here", "-" if report["fps_here"] is None else f"{report['fps_here']:.1f} images/s"),
        ]
    )  # fmt: skip
    _say_estimate(screen, report["estimate"])
    screen.say()
    if not report["blocks"]:
        screen.say("No attention block was found: there is nothing to advise.")
    for block in report["blocks"]:
        _say_block(screen, block, figures)
    if report["advised"] is not None:
        screen.say("\nAll advice followed")
        screen.table(("", "now", "then", "change"), text.compare_rows(figures, report["advised"]))
        screen.say(f"speed: {text.rate_text(report['advised']['rate'])}")
    screen.say()
    for line in report["advice"]:
        screen.say(line)
    text.say_conditions(screen, report)


def _say_block(screen: Screen, block: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    action = block["action"] + (f" by {block['replacement']}" if block["replacement"] else "")
    stage = "" if block["stage"] is None else f", stage {block['stage']}"
    screen.say(f"{action.upper()}  {block['title']} at {block['place']} ({block['part']}{stage})")
    screen.say(f"  because: {block['reason']}")
    share = block["flops"] / max(1, whole["flops"]), block["bytes_fp32"] / max(1, whole["bytes_fp32"])
    screen.say(
        f"  block: {text.count(block['parameters'])} parameters, {100 * share[0]:.1f} % of FLOPs, "
        f"{100 * share[1]:.1f} % of bytes, its tensors {100 * block['peak_share']:.1f} % of peak activations"
    )
    if block["kept"]:
        held = max(block["kept"], key=lambda k: k["bytes"] * (min(k["to"], block["last_node"]) - k["from"] + 1))
        screen.say(
            f"  keeps {held['tensor']} ({text.mebibytes(held['bytes'])}) from node {held['from']} to {held['to']}"
        )
    variants = {"without it": block["without"], **{f"with {k}": v for k, v in block["replaced"].items()}}
    for title, found in variants.items():
        if found:
            screen.say(f"  {title}: {_variant(found, whole)}")


def _variant(found: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {text.change(whole[key], found[key])}"
        for name, key in (
            ("parameters", "parameters"), ("FLOPs", "flops"), ("bytes", "bytes_fp32"), ("peak", "peak_bytes")
        )
    ]  # fmt: skip
    if found.get("rate"):
        parts.append(f"speed {text.rate_text(found['rate'])}")
    if "builder" in found:
        parts.append(f"TensorRT-RTX {text.builder_text(found)}")
    return ", ".join(parts)


def _say_estimate(screen: Screen, estimate: Mapping[str, Any] | None) -> None:
    if estimate is not None:
        screen.say(
            f"{estimate['device']}: at least {estimate['least_ms']:.2f} ms for weights, input and output, "
            f"{estimate['unfused_ms']:.2f} ms if nothing is fused, at {estimate['bandwidth_gb_s']:g} GB/s in fp16 "
            f"({estimate['what']})"
        )
