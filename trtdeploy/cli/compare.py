"""`trtdeploy compare`: what becomes of an engine's boxes and tensors in another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs

if TYPE_CHECKING:
    from trtdeploy.api.compare import CompareReport
    from trtdeploy.engine.tolerance import Tolerance
    from trtdeploy.evaluate.compare import BoxReport
    from trtdeploy.evaluate.compare_errors import TensorReport

_SHOWN_CLASSES, _SHOWN_IMAGES, _SHOWN_FAILURES = 12, 8, 6


@click.command("compare")
@click.argument("a", type=FilePath)
@click.argument("b", type=FilePath)
@click.option("--images", type=FilePath, required=True, metavar="DIR", help="Folder of images to compare on.")
@click.option("--limit", type=int, metavar="N", help="Images at most, spread evenly over the folder; default: all.")
@click.option("--conf", type=float, help="Compare boxes with a score above it; default: the engines' own threshold.")
@click.option(
    "--tolerance",
    type=click.Choice(["auto", "fp32", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="How far boxes may be apart: the gate's limits; auto: those of the lower precision of both.",
)
@click.option("--tensors", is_flag=True, help="Compare the tensors inside too, and name the first block that diverges.")
@click.option("--report", type=FilePath, metavar="FILE.html|FILE.png", help="Write a report with the worst images.")
@click.option("--enforce", is_flag=True, help="Exit with 9 unless both agree.")
@click.option("--force", is_flag=True, help="Replace an existing report.")
@with_screen
def command(
    screen: Screen,
    /,
    a: Path,
    b: Path,
    images: Path,
    limit: int | None,
    conf: float | None,
    tolerance: str,
    tensors: bool,
    report: Path | None,
    enforce: bool,
    force: bool,
) -> None:
    """Compare the boxes and tensors of two engines on images.

    A is the reference. Boxes are matched image by image and counted by size of object and by class.

    \b
    trtdeploy compare model.onnx fp16.engine --images photos/ --report out.html
    trtdeploy compare fp32.engine int8.engine --images photos/ --tensors --enforce

    Each of them is an engine of any backend that runs here, or an ONNX model, of which an engine is built for the
    comparison. With --tensors both must be ONNX graphs: models, or engines of onnxruntime or emulated.
    """
    from trtdeploy.api.compare import CompareOptions, compare
    from trtdeploy.api.compare_report import check_report, write_report
    from trtdeploy.core.errors import GateError

    if report is not None:
        check_report(report)
        check_outputs([("--report", report)], [a, b], force=force, makes_folders=False)
    options = CompareOptions(images=images, limit=limit, conf=conf, tensors=tensors, tolerance=_tolerance(tolerance))
    screen.note(f"Comparing {b} with {a}")
    with screen.steps() as step:
        found = compare(a, b, options, step)
        if report is not None:
            step(f"write {report}")
            write_report(found, report)
    screen.partial = found.to_dict()
    if not screen.as_json:
        print_report(screen, found, report)
    if enforce and found.verdict != "agree":
        raise GateError(f"{b} does not agree with {a} ({found.verdict}): {'; '.join(found.reasons)}.")
    screen.document(found.to_dict())


def print_report(screen: Screen, found: CompareReport, report: Path | None) -> None:
    """Print what was compared, and what differs."""
    rows: list[tuple[str, object]] = [("A", found.a), ("B", found.b), ("verdict", found.verdict)]
    rows += [("" if index else "why", reason) for index, reason in enumerate(found.reasons)]
    screen.fields(rows)
    if found.boxes is not None:
        _print_boxes(screen, found.boxes, found.conf)
    if found.tensors is not None:
        _print_tensors(screen, found.tensors)
    screen.say()
    for note in found.notes:
        screen.say(note)
    if report is not None:
        screen.say(f"Report: {report}")


def _print_boxes(screen: Screen, boxes: BoxReport, conf: float) -> None:
    from trtdeploy.evaluate.report import ROW_HEADERS, ROWS_NOTE, row_cells

    screen.say(f"\nBoxes above {conf:g} on {boxes.images} images")
    classes = boxes.classes[:_SHOWN_CLASSES]
    screen.table(("group", *ROW_HEADERS[1:]), [row_cells(row) for row in (*boxes.sizes, *classes, boxes.total)])
    screen.say(f"({ROWS_NOTE})")
    if len(boxes.classes) > len(classes):
        screen.say(f"{len(boxes.classes) - len(classes)} more classes, which lose less: see --json or --report")
    if boxes.iou:
        iou, score = (", ".join(f"{v:.3f}" for v in part.values()) for part in (boxes.iou, boxes.score_difference))
        screen.say(f"IoU of boxes found again: {iou} (least, 1%, 5%, median)")
        screen.say(
            f"Their scores are apart: {score} (most, 99%, 95%, median); median of B - A {boxes.score_shift:+.4f}"
        )
    for failure in boxes.failures[1 : _SHOWN_FAILURES + 1]:  # the first is the reason
        screen.say(f"  {failure}")
    if boxes.worst:
        screen.say("Images that differ most:")
    for image in boxes.worst[:_SHOWN_IMAGES]:
        words = ", ".join(f"{count} {fate}" for fate, count in sorted(image.counts().items()))
        screen.say(f"  {image.name}: {words}")


def _print_tensors(screen: Screen, tensors: TensorReport) -> None:
    from trtdeploy.evaluate.report import BLOCK_HEADERS, block_cells

    screen.say(f"\n{len(tensors.tensors)} tensors on {tensors.images} images")
    rows = [(*block_cells(block)[:-1], "diverges" if block.diverges else "") for block in tensors.blocks]
    screen.table(BLOCK_HEADERS, rows)
    for block in tensors.diverging[1:_SHOWN_FAILURES]:  # the first is the reason
        screen.say(f"  {block.name} diverges too: {block.reason}")


def _tolerance(name: str) -> Tolerance | None:
    from trtdeploy.core.types import Precision
    from trtdeploy.engine.tolerance import Tolerance

    return None if name == "auto" else Tolerance.of(Precision(name))
