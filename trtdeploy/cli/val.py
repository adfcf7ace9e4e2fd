"""`trtdeploy val`: how accurate an engine is on labelled images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs
from trtdeploy.core.errors import GateError

if TYPE_CHECKING:
    from trtdeploy.api.evaluate import EvaluationReport
    from trtdeploy.evaluate.average_precision import Precision


class _Share(click.FloatRange):
    """A number from 0 to 1; click lets NaN pass, which no comparison finds."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number is not None and math.isnan(number):
            self.fail(f"{value} is not in the range 0<=x<=1.", param, ctx)
        return number


_SHARE = _Share(0, 1)


@click.command("val")
@click.option("--engine", type=FilePath, required=True, help="Engine; or an ONNX model, which runs in FP32.")
@click.option("--data", type=FilePath, required=True, help="COCO JSON file, YOLO's data.yaml, or VOC folder.")
@click.option("--images", type=FilePath, help="Folder of the images; default: as the labels say.")
@click.option("--split", help="Part of the data: a key of data.yaml (default: val), or a list of VOC's ImageSets.")
@click.option("--limit", type=click.IntRange(min=1), help="Images at most; default: all.")
@click.option("--imgsz", metavar="N|HxW", help="Network size, one that the engine takes; default: its optimum.")
@click.option("--conf", type=_SHARE, default=0.001, show_default=True, help="Lowest score that counts.")
@click.option(
    "--max-det", type=click.IntRange(min=1), default=100, show_default=True, help="Detections per image and class."
)
@click.option("--plots", type=FilePath, help="Folder for plots.")
@click.option("--save-detections", type=FilePath, help="File for the detections, in COCO's format of results.")
@click.option("--min-map", type=_SHARE, help="Fail, with exit code 9, when mAP50-95 is lower.")
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@with_screen
def command(
    screen: Screen,
    /,
    engine: Path,
    data: Path,
    images: Path | None,
    split: str | None,
    limit: int | None,
    imgsz: str | None,
    conf: float,
    max_det: int,
    plots: Path | None,
    save_detections: Path | None,
    min_map: float | None,
    force: bool,
) -> None:
    """Measure an engine's accuracy on labelled images.

    COCO's average precision of all objects, by their size and by class.

    \b
    trtdeploy val --engine model.engine --data coco/annotations/instances_val2017.json
    trtdeploy val --engine model.engine --data data.yaml --split test --plots plots
    trtdeploy val --engine model.engine --data VOC2007 --split test --min-map 0.5
    """
    from trtdeploy.api.evaluate import EvaluateOptions, evaluate
    from trtdeploy.engine.sniff import sniff
    from trtdeploy.evaluate.average_precision import check_evaluator
    from trtdeploy.evaluate.datasets import read_images
    from trtdeploy.graph.shapes import parse_imgsz

    options = EvaluateOptions(size=None if imgsz is None else parse_imgsz(imgsz).opt, conf=conf, max_det=max_det)
    _check_outputs(plots, save_detections, [engine, data], force=force)
    check_evaluator()
    sniff(engine)  # labels may take long to read
    labelled = read_images(data, images, limit, split)
    with screen.bar("images", len(labelled.paths)) as advance:
        report = evaluate(engine, labelled, options, advance)
    if save_detections is not None:
        _save(report, save_detections)
    if plots is not None:
        from trtdeploy.evaluate.plots import write_plots

        write_plots(report.for_plots(), plots)
    screen.document({**report.to_dict(), "min_map": min_map, "passed": min_map is None or _reaches(report, min_map)})
    if not screen.as_json:
        print_report(screen, report)
    if min_map is not None and not _reaches(report, min_map):
        raise GateError(f"mAP50-95 is {report.accuracy.map50_95:.4f}, below --min-map {min_map:g}.")


def print_report(screen: Screen, report: EvaluationReport) -> None:
    """Print the figures."""
    info, accuracy, curves = report.info, report.accuracy, report.curves
    screen.fields(
        [
            ("engine", f"{report.engine}, {info.precision} on {info.backend}"),
            ("data", f"{report.data.title}: {accuracy.images} images, {accuracy.by_size['all'].labels} labels"),
            ("speed", f"{report.images_per_s:.1f} images/s, reading the files included"),
        ]
    )
    screen.say()
    best = curves.best
    by_name = dict(zip(curves.names, zip(curves.precision[:, best], curves.recall[:, best], strict=True), strict=True))
    means = (curves.precision[:, best].mean(), curves.recall[:, best].mean())
    rows = [_row(name, figures, means if name == "all" else None) for name, figures in accuracy.by_size.items()]
    rows += [_row(name, figures, by_name.get(name)) for name, figures in accuracy.by_class.items()]
    screen.table(("", "labels", "mAP50-95", "mAP50", "mAP75", "AR", "precision", "recall"), rows)
    screen.say(
        f"\nPrecision and recall at IoU 0.5 and confidence {curves.thresholds[best]:.3f}, where their mean F1 is best: "
        f"{curves.f1[:, best].mean():.3f}."
    )
    for note in report.notes:
        screen.say(f"Note: {note}")


def _row(name: str, figures: Precision, at_best: tuple[float, float] | None) -> list[object]:
    values = (figures.map50_95, figures.map50, figures.map75, figures.recall, *(at_best or (None, None)))
    return [name, figures.labels, *("-" if value is None else f"{value:.4f}" for value in values)]


def _reaches(report: EvaluationReport, least: float) -> bool:
    return report.accuracy.map50_95 >= least


def _check_outputs(plots: Path | None, detections: Path | None, inputs: list[Path], *, force: bool) -> None:
    from trtdeploy.evaluate.plots import PLOTS, check_plots

    outputs = [] if plots is None else [("--plots", plots / name) for name in PLOTS]
    if plots is not None:
        check_plots()
    if detections is not None:
        outputs.append(("--save-detections", detections))
    check_outputs(outputs, inputs, force=force)


def _save(report: EvaluationReport, path: Path) -> None:
    from trtdeploy.api.evaluate import coco_results
    from trtdeploy.evaluate.datasets.label_files import write_file

    write_file(path, json.dumps(coco_results(report)).encode())
