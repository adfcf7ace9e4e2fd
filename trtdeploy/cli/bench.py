"""`trtdeploy bench`: how fast an engine is on this machine, alone and in the whole pipeline."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli.console import Screen
from trtdeploy.cli.machine import library_versions, machine
from trtdeploy.cli.measure import PlanFigures, measure_plan
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.core.types import Size
    from trtdeploy.runtime.engine_handle import EngineFile
    from trtdeploy.runtime.options import PipelineOptions

SYNTHETIC = "synthetic:bars?size=1280x720&frames=0"
"""The video of the pipeline's measurement, without an end and cheap to draw, unless `--video` gives others."""

KEPT = ("frames", "seconds", "fps", "detections", "streams", "latency_ms", "plan")
"""What the report keeps of the pipeline's summary."""


@click.command("bench")
@click.option("--engine", type=FilePath, required=True, help="Engine file, made by trtdeploy build.")
@click.option(
    "--video", "videos", multiple=True, metavar="SOURCE", help="Sources of the pipeline; default: drawn bars."
)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True, help="Time for each half."
)
@click.option("--batch", type=click.IntRange(min=1), help="Measure this batch only.")
@click.option("--imgsz", metavar="N|HxW", help="Network size; default: the engine's optimum.")
@click.option("--backend", metavar="onnxruntime|openvino", help="Runs the engine; default: the one that built it.")
@with_screen
def command(screen: Screen, /, **values: Any) -> None:
    """Measure an engine on this machine.

    First the network alone, for each way of spreading it over the cores and each batch: images per second, and the
    latency of one inference. Then the whole pipeline, from decoding to detections. Other programs disturb the figures.
    """
    report = bench(screen, **values)
    screen.document(report)
    if not screen.as_json:
        _print(screen, report)


def bench(
    screen: Screen,
    *,
    engine: Path,
    videos: tuple[str, ...],
    seconds: float,
    batch: int | None,
    imgsz: str | None,
    backend: str | None,
) -> dict[str, Any]:
    """Measure, and return the report as plain JSON types.

    Raises:
        TrtdeployError: The engine cannot be opened, or an option does not fit it.
    """
    from trtdeploy.cli.run import network_size, open_engine
    from trtdeploy.runtime.network_size import SizeChooser
    from trtdeploy.runtime.options import PipelineOptions

    handle = open_engine(engine, backend)
    if batch is not None and not handle.info.batch_min <= batch <= handle.info.batch_max:
        raise UsageError(f"--batch {batch} is not one of the engine's: it accepts {handle.info.batches}.")
    options = PipelineOptions(max_batch=batch, size=network_size(imgsz))
    size = SizeChooser(handle.info, options.size).choose(720, 1280, "bench")
    figures = _measure_plans(screen, handle, size, batch, seconds)
    pipeline = _measure_pipeline(screen, handle, videos or (SYNTHETIC,), options, seconds)
    return {
        "engine": str(engine),
        "backend": handle.backend.name,
        "precision": handle.info.precision,
        "precision_note": handle.info.precision_note,
        "machine": machine(),
        "versions": library_versions(),
        "seconds": seconds,
        "plans": [item.to_dict() for item in figures],
        "pipeline": pipeline,
    }


def _measure_plans(
    screen: Screen, handle: EngineFile, size: Size, batch: int | None, seconds: float
) -> list[PlanFigures]:
    """Measure every plan of the backend at every batch worth it; together they take `seconds`."""
    from trtdeploy.runtime.cores import available_cores

    info = handle.info
    batches = [batch] if batch is not None else sorted({info.batch_min, info.batch_opt, info.batch_max})
    plans = handle.backend.plans(available_cores())
    share_s = seconds / (len(plans) * len(batches))
    figures: list[PlanFigures] = []
    with screen.steps() as step:
        for plan in plans:
            step(f"{plan.contexts} contexts x {plan.threads or 'default'} threads, {size}, batch {batches}")
            figures += measure_plan(handle, plan, batches, size, share_s)
    return figures


def _measure_pipeline(
    screen: Screen, handle: EngineFile, videos: tuple[str, ...], options: PipelineOptions, seconds: float
) -> dict[str, Any]:
    """Run the pipeline without outputs for `seconds`, or to the end of the videos."""
    from trtdeploy.cli.run import PipelineRun
    from trtdeploy.cli.summary import Tally
    from trtdeploy.runtime.pipeline import Pipeline
    from trtdeploy.runtime.sources import expand

    tally = Tally(handle.info, [])
    pipeline = Pipeline(handle, expand(list(videos)), (), replace(options, refine=tally))
    run = PipelineRun(handle, pipeline, tally)
    timer = threading.Timer(seconds, pipeline.stop)
    timer.daemon = True
    screen.note(f"Pipeline over {', '.join(videos)}")
    try:
        run.start(screen)
        timer.start()
        run.finish(screen)
    finally:
        timer.cancel()
        run.close()
    summary = run.summary(interrupted=False)
    return {"videos": list(videos), **{key: summary[key] for key in KEPT}}


def _print(screen: Screen, report: dict[str, Any]) -> None:
    """Print the report for people."""
    host, pipeline = report["machine"], report["pipeline"]
    screen.say(f"\n{report['engine']} on {report['backend']}, {report['precision']}: {report['precision_note']}")
    screen.say(f"{host['cpu']}, {host['usable_cores']} of {host['cores']} cores usable, {host['system']}")
    screen.say(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    screen.say(f"\nNetwork alone, {report['seconds']:g} s over all rows")
    screen.table(
        ("contexts", "threads", "size", "batch", "images/s", "median ms", "p95 ms", "p99 ms", "inferences"),
        [_row(plan) for plan in report["plans"]],
    )
    for plan in report["plans"]:
        if plan["error"]:
            screen.say(f"  {plan['contexts']} x {plan['threads']}, batch {plan['batch']}: {plan['error']}")
    total = pipeline["latency_ms"]["total"]
    screen.say(f"\nPipeline over {', '.join(pipeline['videos'])}")
    screen.say(
        f"{pipeline['fps']:.1f} frames/s: {pipeline['frames']} frames in {pipeline['seconds']:.1f} s; "
        f"latency from decoded to detections median {total['p50']:.1f} ms, p99 {total['p99']:.1f} ms"
    )


def _row(plan: dict[str, Any]) -> list[object]:
    if plan["error"]:
        return [plan["contexts"], plan["threads"], f"{plan['height']}x{plan['width']}", plan["batch"], *["-"] * 5]
    return [
        plan["contexts"],
        plan["threads"] or "default",
        f"{plan['height']}x{plan['width']}",
        plan["batch"],
        *(f"{plan[key]:.1f}" for key in ("images_per_s", "median_ms", "p95_ms", "p99_ms")),
        plan["inferences"],
    ]
