"""How the commands around attention print figures, and the options they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from trtdeploy.cli.console import Screen

Command = TypeVar("Command", bound=Callable[..., Any])


def figures_options(command: Command) -> Command:
    """Add `--batch`, `--imgsz`, `--seconds` and `--builder`."""
    options = (
        click.option("--batch", type=click.IntRange(min=1), help="Images at once; default: the model's own, else 1."),
        click.option("--imgsz", metavar="N|HxW", help="Image size; default: the model's own, else 640."),
        click.option(
            "--seconds", type=float, default=2.0, show_default=True,
            help="How long each variant is measured in turn with the model; 0 measures nothing.",
        ),
        click.option(
            "--builder/--no-builder", default=None,
            help="Ask TensorRT-RTX's builder for kernels and memory; on where it is installed.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def count(number: float) -> str:
    """Return a number with a prefix of three digits or so: 2.61 M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:g}"


def mebibytes(size: float) -> str:
    """Return a size in memory in a unit that suits it."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def change(before: float, after: float) -> str:
    """Return how much `after` differs, in percent."""
    return "-" if not before else f"{100 * (after - before) / before:+.1f} %"


def rate_text(rate: Mapping[str, Any] | None) -> str:
    """Return a measured ratio with its quartiles, `-` where nothing was measured."""
    if rate is None:
        return "-"
    return f"{rate['ratio']:.3f}x ({rate['ratio_low']:.3f} to {rate['ratio_high']:.3f}, {rate['pairs']} pairs)"


def builder_text(figures: Mapping[str, Any]) -> str:
    """Return what the builder made, `-` where it was not asked."""
    builder = figures.get("builder")
    if builder is None:
        return "-"
    if "refused" in builder:
        return f"refused: {str(builder['refused']).splitlines()[0][:80]}"
    return f"{builder['kernels']} kernels, {builder['mha']} MHA, {mebibytes(builder['activation_bytes'])}"


def compare_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the rows of a table of figures before and after."""
    rows = [
        (title, show(before[key]), show(after[key]), change(before[key], after[key]))
        for title, key, show in (
            ("parameters", "parameters", count),
            ("FLOPs", "flops", count),
            ("bytes moved, fp32", "bytes_fp32", mebibytes),
            ("bytes moved, fp16", "bytes_fp16", mebibytes),
            ("peak activations, fp32", "peak_bytes", mebibytes),
            ("the same, attention fused", "peak_bytes_fused", mebibytes),
            ("nodes", "nodes", str),
        )
    ]
    if "builder" in before:
        rows.append(("TensorRT-RTX, fp16", builder_text(before), builder_text(after), ""))
    return rows


def say_conditions(screen: Screen, report: Mapping[str, Any]) -> None:
    """Say what the figures are for and how they were found."""
    screen.say(
        f"Figures at {report['batch']}x{report['height']}x{report['width']}: FLOPs, bytes and memory are counted from "
        "shapes, node by node; rates are measured here in ONNX Runtime, in turn with the model."
    )
