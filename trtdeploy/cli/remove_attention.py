"""`trtdeploy remove-attention`: an ONNX model without some of its attention blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli import attention_text as text
from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs
from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.api.remove_attention import RemoveReport


@click.command("remove-attention")
@click.argument("model", type=FilePath)
@click.option("-o", "--output", type=FilePath, help="The new ONNX file.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Blocks of this kind; repeatable.")
@click.option("--at", multiple=True, metavar="PATTERN", help="Blocks at these places, such as 'model.4*'; repeatable.")
@click.option(
    "--stage", type=click.IntRange(min=0), help="Blocks of the backbone at this stage and shallower; 2 has stride 4."
)
@click.option("--all", "everything", is_flag=True, help="Every block.")
@click.option("--list", "only_list", is_flag=True, help="List the blocks and their cost; write nothing.")
@click.option(
    "--data", type=FilePath, help="COCO JSON or VOC folder: mAP before and after. Images alone: agreement of boxes."
)
@click.option("--images", type=FilePath, help="Folder of the images of --data; default: as the labels say.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Images of --data at most.")
@text.figures_options
@click.option("--force", is_flag=True, help="Replace an existing output.")
@with_screen
def command(screen: Screen, /, model: Path, output: Path | None, only_list: bool, **values: Any) -> None:
    """Remove attention blocks from an ONNX model.

    It says what that changes in parameters, operations, memory, speed and, with --data, in accuracy.

    Inputs and outputs stay. A block that cannot be taken out stays too, with the reason.

    \b
    trtdeploy remove-attention model.onnx --list
    trtdeploy remove-attention model.onnx -o fewer.onnx --stage 2
    trtdeploy remove-attention model.onnx -o fewer.onnx --kind cbam --at 'model.4*' --data coco/val.json
    """
    if only_list:
        _list(screen, model, values["batch"], values["imgsz"])
    elif output is None:
        raise UsageError("Where shall the new model go? Give a file with -o, or --list to see the blocks.")
    else:
        _remove(screen, model, output, **values)


def _remove(
    screen: Screen,
    model: Path,
    output: Path,
    *,
    data: Path | None,
    images: Path | None,
    limit: int,
    imgsz: str | None,
    builder: bool | None,
    **values: Any,
) -> None:
    from trtdeploy.api.remove_attention import RemoveOptions, remove_attention
    from trtdeploy.cli.detector_score import compare_detectors
    from trtdeploy.evaluate.average_precision import check_evaluator
    from trtdeploy.evaluate.datasets import read_images

    options = RemoveOptions(size=_size(imgsz), builder=builder, **values)
    check_outputs([("-o", output)], [model], force=options.force, makes_folders=False)
    scored = None if data is None else read_images(data, images, limit)
    if scored is not None and scored.labels is not None:
        check_evaluator()
    screen.note(f"Removing attention from {model}")
    with screen.steps() as step:
        report = remove_attention(
            model, output, options, step,
            None if scored is None else lambda new, size: compare_detectors(model, new, size, scored, step),
        )  # fmt: skip
    screen.document(report.to_dict())
    if not screen.as_json:
        print_report(screen, report)


def _list(screen: Screen, model: Path, batch: int | None, imgsz: str | None) -> None:
    from trtdeploy.api.remove_attention import list_blocks

    with screen.steps() as step:
        blocks = list_blocks(model, batch, _size(imgsz), step)
    screen.document({"model": str(model), "blocks": blocks})
    if screen.as_json:
        return
    if not blocks:
        screen.say(f"{model} has no attention block that is recognised.")
        return
    rows = [
        (
            b["kind"] if b["principal"] else f"({b['kind']})", b["place"], b["part"],
            "-" if b["stage"] is None else b["stage"], text.count(b["parameters"]), text.count(b["flops"]),
            text.mebibytes(b["bytes_fp32"]), f"{100 * b['peak_share']:.1f} %",
            f"no: {b['stays']}" if b["stays"] else "yes",
        )
        for b in blocks
    ]  # fmt: skip
    headers = ("kind", "place", "part", "stage", "parameters", "FLOPs", "moved", "of peak", "can go")
    screen.table(headers, rows)
    if any(not b["principal"] for b in blocks):
        screen.say("\nKinds in brackets hold or belong to another block; they go only when --kind names them.")


def print_report(screen: Screen, report: RemoveReport) -> None:
    """Print what was removed, and figures before and after."""
    screen.fields([("model", report.path), ("removed", len(report.removed)), ("left alone", len(report.refused))])
    screen.say()
    for block in report.removed:
        screen.say(f"removed {block['title']} at {block['place']}: {block['how']}")
    for block in report.refused:
        screen.say(f"left alone {block['title']} at {block['place']}: {block['reason']}")
    screen.say()
    rows = text.compare_rows(report.before, report.after)
    rate = report.rate
    if rate is not None:
        rows.append(("one run here", f"{rate.first_ms:.1f} ms", f"{rate.second_ms:.1f} ms", ""))
    screen.table(("", "before", "after", "change"), rows)
    screen.say()
    if rate is not None:
        screen.say(f"Speed after, of before: {text.rate_text(rate.to_dict())}")
    _say_score(screen, report.score)
    screen.say(f"The new model: {report.checked}.")
    text.say_conditions(screen, report.to_dict())


def _say_score(screen: Screen, score: dict[str, Any] | None) -> None:
    if score is None:
        screen.say("Accuracy was not compared: give --data. Train the model again before it is used.")
    elif "before" in score:
        before, after = score["before"], score["after"]
        screen.say(
            f"mAP50-95 {before['map50_95']:.4f} -> {after['map50_95']:.4f}, mAP50 {before['map50']:.4f} -> "
            f"{after['map50']:.4f} on {score['images']} images"
        )
    else:
        screen.say(
            f"Boxes on {score['images']} images without labels: {score['boxes_before']} before, {score['boxes_after']} "
            f"after, {score['matched']} of them match at IoU 0.5. That is agreement, not accuracy."
        )


def _size(imgsz: str | None) -> Any:
    from trtdeploy.graph.shapes import parse_imgsz

    return None if imgsz is None else parse_imgsz(imgsz).opt
