"""`trtdeploy export`: a torch model becomes an ONNX model, checked against torch."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli.console import Screen, megabytes
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs
from trtdeploy.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from trtdeploy.export.options import ExportOptions, ExportReport, Subject


@click.group("export")
def command() -> None:
    """Export a torch model to ONNX, checked against torch.

    The file is written only if ONNX Runtime gives what torch gives at several shapes, and if every attention module
    of the model was run and became operators of the graph.
    """


def _export_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that all exports have."""
    decorators = [
        click.option("-o", "--output", type=FilePath, required=True, help="ONNX file."),
        click.option(
            "--exporter",
            type=click.Choice(["torchscript", "dynamo"]),
            default="torchscript",
            show_default=True,
            help="Which of torch's exporters.",
        ),
        click.option("--opset", type=int, default=17, show_default=True, help="Operator set, 13 to 24."),
        click.option("--fixed", metavar="BxHxW", help="Fix the shape, 1x640x640; default: batch and size stay open."),
        click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Largest relative difference."),
        click.option("--allow-idle", multiple=True, metavar="PATH", help="Attention that may be left out. Repeatable."),
        click.option("--force", is_flag=True, help="Replace an existing file."),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def _attention_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that insert attention."""
    kind = click.option("--attention", metavar="KIND", help="Insert this kind of the catalogue.")
    place = click.option(
        "--at",
        multiple=True,
        metavar="PLACE",
        help="backbone, neck, head or the path of a module; default: backbone. Repeatable.",
    )
    return kind(place(function))


@command.command("yolo")
@click.option("--family", "style", default="v8", metavar="v8|v10|v12", show_default=True, help="Style of the network.")
@click.option("--size", default="n", metavar="n|s|m", show_default=True, help="Size of the network.")
@click.option("--classes", type=int, help="Number of classes; default: that of --names, or 80.")
@click.option("--names", type=FilePath, help="Class names: a text file, one per line, or JSON.")
@click.option("--weights", type=FilePath, help="A state_dict; default: fresh weights.")
@_attention_options
@_export_options
@with_screen
def yolo(
    screen: Screen,
    /,
    style: str,
    size: str,
    classes: int | None,
    names: Path | None,
    weights: Path | None,
    attention: str | None,
    at: Sequence[str],
    **values: Any,
) -> None:
    """Export a network of trtdeploy's own family.

    \b
    trtdeploy export yolo --family v12 --size s --attention coordatt --at neck -o x.onnx
    """

    def subject(_options: ExportOptions) -> Subject:
        from trtdeploy.cli.names import read_names
        from trtdeploy.export.from_family import family_subject
        from trtdeploy.models.family import NetworkOptions

        labels = read_names(names) if names is not None else None
        count = classes if classes is not None else len(labels) if labels is not None else 80
        network = NetworkOptions(style=style, size=size, class_count=count)  # type: ignore[arg-type]
        return family_subject(network, attention=attention, at=at, weights=weights, names=labels)

    _needs_attention(attention, at)
    _export(screen, subject, [weights] if weights is not None else [], **values)


@command.command("ultralytics")
@click.argument("source")
@click.option("--classes", type=int, help="Number of classes of a yaml model.")
@click.option("--allow", multiple=True, metavar="CLASS", help="A class that the checkpoint may name. Repeatable.")
@click.option("--max-det", type=int, default=300, show_default=True, help="Detections per image of an NMS-free head.")
@click.option("--dense", is_flag=True, help="Use the head that needs NMS where there are both.")
@_attention_options
@_export_options
@with_screen
def ultralytics(
    screen: Screen,
    /,
    source: str,
    classes: int | None,
    allow: Sequence[str],
    max_det: int,
    dense: bool,
    attention: str | None,
    at: Sequence[str],
    **values: Any,
) -> None:
    """Export an Ultralytics detector: v8, v9, v10, 11, 12, 26 or RT-DETR, from a .pt checkpoint or a yaml.

    \b
    trtdeploy export ultralytics best.pt -o best.onnx
    trtdeploy export ultralytics yolo11n.yaml --attention cbam --at neck -o x.onnx
    """

    def subject(options: ExportOptions) -> Subject:
        from trtdeploy.export.from_ultralytics import ultralytics_model, ultralytics_subject

        model = ultralytics_model(source, classes=classes, allow=allow)
        _insert(model, attention, at)
        return ultralytics_subject(model, options, max_det=max_det, nms_free=not dense)

    _needs_attention(attention, at)
    _export(screen, subject, [Path(source)], **values)


@command.command("torchvision")
@click.argument("name")
@click.option("--classes", type=int, help="Number of classes with the background; default: 91.")
@click.option("--weights", type=FilePath, help="A state_dict; default: fresh weights.")
@click.option("--min-size", type=int, default=800, show_default=True, help="Shorter side that images are resized to.")
@_attention_options
@_export_options
@with_screen
def torchvision(
    screen: Screen,
    /,
    name: str,
    classes: int | None,
    weights: Path | None,
    min_size: int,
    attention: str | None,
    at: Sequence[str],
    **values: Any,
) -> None:
    """Export a torchvision detector for one image at a time.

    \b
    trtdeploy export torchvision fasterrcnn_resnet50_fpn --attention se --at backbone -o x.onnx
    """

    def subject(options: ExportOptions) -> Subject:
        from trtdeploy.export.from_torchvision import load_weights, torchvision_model, torchvision_subject

        model = torchvision_model(name, classes=classes, min_size=min_size)
        _insert(model, attention, at)
        if weights is not None:
            load_weights(model, weights)
        return torchvision_subject(model, options)

    _needs_attention(attention, at)
    _export(screen, subject, [weights] if weights is not None else [], batch=1, **values)


@command.command("any")
@click.argument("function")
@_attention_options
@_export_options
@with_screen
def any_(screen: Screen, /, function: str, attention: str | None, at: Sequence[str], **values: Any) -> None:
    """Export the model that a Python function returns: package.module:function or file.py:function.

    \b
    trtdeploy export any mymodels.py:build -o x.onnx
    """

    def subject(_options: ExportOptions) -> Subject:
        from trtdeploy.export.from_callable import callable_subject

        made = callable_subject(function)
        _insert(made.model, attention, at)
        return made

    _needs_attention(attention, at)
    _export(screen, subject, [], **values)


def _export(
    screen: Screen,
    subject: Callable[[ExportOptions], Subject],
    inputs: Sequence[Path],
    *,
    output: Path,
    exporter: str,
    opset: int,
    fixed: str | None,
    tolerance: float,
    allow_idle: Sequence[str],
    force: bool,
    batch: int | None = None,
) -> None:
    """Export and print what was exported."""
    check_outputs([("-o", output)], inputs, force=force, makes_folders=False)
    options = _options(
        exporter=exporter, opset=opset, fixed=fixed, tolerance=tolerance, allow_idle=allow_idle, batch=batch
    )
    from trtdeploy.export.write import export_model

    started_s = time.monotonic()
    with screen.steps() as step:
        step("building the model")
        report = export_model(subject(options), output, options, step)
    seconds = time.monotonic() - started_s
    screen.document(document_of(report, seconds))
    if not screen.as_json:
        print_report(screen, report, seconds)


def document_of(report: ExportReport, seconds: float) -> dict[str, Any]:
    """Return what `export --json` prints."""
    return {
        "model": str(report.path),
        "size_bytes": report.path.stat().st_size,
        "seconds": round(seconds, 3),
        "exporter": report.exporter,
        "opset": report.opset,
        "inputs": list(report.inputs),
        "outputs": list(report.outputs),
        "compared": [{"shape": list(shape), "difference": difference} for shape, difference in report.compared],
        "attention": [{"path": a.path, "kind": a.kind, "nodes": a.node_count} for a in report.attention],
        "notes": list(report.notes),
    }


def print_report(screen: Screen, report: ExportReport, seconds: float) -> None:
    """Print what was exported."""
    compared = [f"{'x'.join(map(str, shape))}: {difference:.1g}" for shape, difference in report.compared]
    attention = [f"{a.path} ({a.kind}, {a.node_count} nodes)" for a in report.attention]
    screen.fields(
        [
            ("model", f"{report.path} ({megabytes(report.path.stat().st_size)}, exported in {seconds:.1f} s)"),
            ("exporter", f"{report.exporter}, opset {report.opset}"),
            ("inputs", "\n".join(report.inputs)),
            ("outputs", "\n".join(report.outputs)),
            ("difference", f"from torch, relative, at {', '.join(compared)}"),
            ("attention", "\n".join(attention) or "none"),
            *([("notes", "\n".join(report.notes))] if report.notes else []),
        ]
    )
    screen.say(f"\nBuild an engine: trtdeploy build {shlex.quote(str(report.path))}")


def _options(
    *, exporter: str, opset: int, fixed: str | None, tolerance: float, allow_idle: Sequence[str], batch: int | None
) -> ExportOptions:
    """Turn the command's options into those of the library.

    Raises:
        UsageError: A value is wrong.
        MissingDependencyError: torch is not installed.
    """
    try:
        from trtdeploy.export.options import ExportOptions
    except ImportError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError("torch", "trtdeploy export", "pip install 'trtdeploy[export]'") from error
    given: dict[str, Any] = {
        "exporter": exporter,
        "opset": opset,
        "tolerance": tolerance,
        "allow_idle": tuple(allow_idle),
        "force": True,  # whether the file may be replaced was checked
    }
    if fixed is not None:
        parts = fixed.lower().split("x")
        if len(parts) != 3 or not all(part.isdigit() for part in parts):
            raise UsageError(f"--fixed {fixed!r} is not a shape. Give batch, height and width: 1x640x640.")
        return ExportOptions(dynamic=False, shape=tuple(map(int, parts)), **given)  # type: ignore[arg-type]
    options = ExportOptions(**given)
    if batch is None:
        return options
    shapes = [(batch, height, width) for _, height, width in options.compared]
    return ExportOptions(shape=shapes[0], check_shapes=tuple(shapes[1:]), **given)


def _needs_attention(attention: str | None, at: Sequence[str]) -> None:
    """Refuse a place without a kind.

    Raises:
        UsageError: `--at` was given alone.
    """
    if at and attention is None:
        raise UsageError("--at says where attention goes; say which with --attention.")


def _insert(model: Any, attention: str | None, at: Sequence[str]) -> None:
    if attention is not None:
        from trtdeploy.models.insert import insert

        insert(model, attention, list(at) or ["backbone"])
