"""`trtdeploy baseline`: a model beside itself without attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from trtdeploy.cli import attention_text as text
from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen


@click.command("baseline")
@click.argument("model", type=FilePath)
@text.figures_options
@with_screen
def command(screen: Screen, /, model: Path, imgsz: str | None, **values: Any) -> None:
    """Compare an ONNX model with itself without attention.

    One row for the model, for the model without each kind of attention, and without any. Nothing is written.

    \b
    trtdeploy baseline model.onnx --imgsz 640 --seconds 5
    """
    from trtdeploy.api.advise import AdviseOptions, baseline
    from trtdeploy.graph.shapes import parse_imgsz

    options = AdviseOptions(size=None if imgsz is None else parse_imgsz(imgsz).opt, **values)
    screen.note(f"Comparing {model} with itself without attention")
    with screen.steps() as step:
        report = baseline(model, options, step)
    screen.document(report)
    if not screen.as_json:
        print_report(screen, report)


def print_report(screen: Screen, report: Mapping[str, Any]) -> None:
    """Print the table."""
    rows = [
        (
            row["variant"], row["blocks"], text.count(row["parameters"]), text.count(row["flops"]),
            text.mebibytes(row["bytes_fp32"]), text.mebibytes(row["peak_bytes"]),
            "-" if row["images_per_s"] is None else f"{row['images_per_s']:.1f}", _ratio(row), text.builder_text(row),
        )
        for row in report["rows"]
    ]  # fmt: skip
    headers = (
        "variant", "blocks", "parameters", "FLOPs", "moved", "peak", "images/s", "speed", "TensorRT-RTX fp16"
    )  # fmt: skip
    screen.table(headers, rows)
    screen.say()
    for block in report["stay"]:
        screen.say(f"{block['kind']} at {block['place']} stays in every row: {block['reason']}")
    text.say_conditions(screen, report)


def _ratio(row: Mapping[str, Any]) -> str:
    rate = row.get("rate")
    return "1" if rate is None and row["variant"] == "as it is" else "-" if rate is None else f"{rate['ratio']:.3f}"
