"""`trtdeploy infer`: an engine over videos, cameras and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.core.errors import UsageError


@click.command("infer")
@click.option("--engine", type=FilePath, required=True, help="Engine file, made by trtdeploy build.")
@click.option(
    "--video",
    "videos",
    multiple=True,
    required=True,
    metavar="SOURCE",
    help="Source; any number of times: video, image, folder, 'shots/*.jpg', cam0, /dev/video0, rtsp://, http://, "
    "gst:PIPELINE, csi://0, synthetic:boards.",
)
@click.option("--jsonl", metavar="FILE|-", help="Write one JSON object per frame; - is standard output.")
@click.option(
    "--save-video", type=FilePath, metavar="FILE|DIR", help="Write annotated video: a file, or one per stream."
)
@click.option("--show", is_flag=True, help="Show annotated frames in a window.")
@click.option("--backend", metavar="onnxruntime|openvino", help="Runs the engine; default: the one that built it.")
@click.option("--conf", type=float, help="Keep detections with a score above it; at least the engine's own threshold.")
@click.option("--classes", metavar="LIST", help="Keep these classes: names or indices, separated by commas.")
@click.option(
    "--policy",
    type=click.Choice(["block", "drop-oldest", "latest"]),
    help="When frames come faster than they are inferred; default: block for files, latest for live sources.",
)
@click.option(
    "--skip", type=click.IntRange(min=0), default=0, show_default=True, help="Frames left out after each one."
)
@click.option("--max-frames", type=click.IntRange(min=1), help="End each stream after that many frames.")
@click.option("--batch", type=click.IntRange(min=1), help="Frames per inference at most; default: measured.")
@click.option(
    "--deadline-ms", type=float, default=10.0, show_default=True, help="How long a frame waits for its batch."
)
@click.option("--imgsz", metavar="N|HxW", help="Network size; default: the engine's optimum.")
@click.option("--rect", is_flag=True, help="Smallest network size that holds the frame, without a square's border.")
@click.option("--track", type=click.Choice(["bytetrack", "ocsort", "sort"]), help="Give detections track numbers.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve Prometheus metrics; 0 picks a free port.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address that serves the metrics.")
@click.option("--contexts", type=click.IntRange(min=1), help="Inferences at the same time; default: measured.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one inference; default: measured.")
@click.option(
    "--on-source-error",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    show_default=True,
    help="When a source fails for good: end, or go on with the others.",
)
@click.option(
    "--max-reconnects", type=click.IntRange(min=0), help="Attempts to bring back a live source; default: all."
)
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@with_screen
def command(screen: Screen, /, **values: Any) -> None:
    """Run an engine over videos, cameras and images.

    \b
    trtdeploy infer --engine x.engine --video a.mp4 --video b.mp4 --jsonl out.jsonl
    trtdeploy infer --engine x.engine --video rtsp://camera/1 --save-video out/ --track bytetrack
    trtdeploy infer --engine x.engine --video 'photos/*.jpg' --jsonl - | jq '.detections | length'

    Frames go through the engine in batches across all streams; the results of each stream keep its order.
    """
    from trtdeploy.cli.run import InferJob, run_job
    from trtdeploy.cli.summary import print_summary

    jsonl = values["jsonl"]
    if jsonl == "-":
        if screen.as_json:
            raise UsageError(
                "--jsonl - and --json both write to standard output. Give --jsonl a file, or leave one out."
            )
        screen.reserve_stdout()
    elif jsonl is not None:
        values["jsonl"] = Path(jsonl)
    summary = run_job(screen, InferJob(**values))
    screen.document(summary)
    if not screen.as_json:
        print_summary(screen, summary)
