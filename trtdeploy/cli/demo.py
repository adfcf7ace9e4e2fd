"""`trtdeploy demo`: the whole job on the packaged model and a drawn video whose labels are known."""

from __future__ import annotations

import json
import shlex
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli.console import Screen
from trtdeploy.cli.options import FilePath, with_screen
from trtdeploy.cli.outputs import check_outputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.cli.demo_score import ClassScore

    Labels = list[tuple[NDArray[np.float32], NDArray[np.int32]]]

DYNAMIC = "480:640:1080"
BOARD_SEED = 2_000_000
"""A board that neither the training nor the held-out images show."""
FRAMES_PER_SECOND = 30.0
HEIGHT, WIDTH = 720, 1280


@click.command("demo")
@click.option(
    "--output", type=FilePath, default=Path("trtdeploy-demo"), show_default=True, help="Folder for everything it makes."
)
@click.option("--frames", type=click.IntRange(min=1), default=240, show_default=True, help="Length of the drawn video.")
@click.option(
    "--backend", default="auto", metavar="auto|onnxruntime|openvino", show_default=True, help="Builds and runs it."
)
@click.option("--force", is_flag=True, help="Replace what an earlier demo made.")
@with_screen
def command(screen: Screen, /, output: Path, frames: int, backend: str, force: bool) -> None:
    """Build the packaged model and run it over a drawn video.

    A camera moves over a circuit board; the model finds pads, solder joints and their defects. The labels of the drawn
    board are exact, so the demo ends by saying how well the detections match them.
    """
    report = run_demo(screen, output, frames, backend, force=force)
    screen.document(report)
    if not screen.as_json:
        _print(screen, report)


def run_demo(screen: Screen, output: Path, frames: int, backend: str, *, force: bool) -> dict[str, Any]:
    """Draw, build, infer and compare; return the report as plain JSON types.

    Raises:
        TrtdeployError: An output exists or cannot be written, or a step failed.
    """
    from trtdeploy import api
    from trtdeploy.cli.run import InferJob, run_job
    from trtdeploy.graph.shapes import parse_dynamic

    names = {"video": "boards.mp4", "engine": "circuit_boards.engine"}
    names |= {"annotated": "annotated.mp4", "detections": "detections.jsonl"}
    paths = {key: output / name for key, name in names.items()}
    check_outputs([("--output", path) for path in paths.values()], [], force=force)
    output.mkdir(parents=True, exist_ok=True)
    labels = draw_video(screen, paths["video"], frames)
    screen.note("Building the engine of the packaged model")
    options = api.BuildOptions(sizes=parse_dynamic(DYNAMIC), backend=backend, force=True)
    with (
        resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as model,
        screen.steps() as step,
    ):
        built = api.build(model, paths["engine"], options, step)
    summary = run_job(
        screen,
        InferJob(
            engine=paths["engine"],
            videos=[str(paths["video"])],
            jsonl=paths["detections"],
            save_video=paths["annotated"],
            force=True,
        ),
    )
    scores = compare(paths["detections"], labels, built.info.class_names)
    return {
        "files": {key: str(path) for key, path in paths.items()},
        "backend": built.info.backend,
        "backend_reason": built.backend_reason,
        "sizes": str(built.info.sizes),
        "summary": summary,
        "scores": {name: _score_document(score) for name, score in scores.items()},
    }


def draw_video(screen: Screen, path: Path, frames: int) -> Labels:
    """Draw a video of a circuit board, and return the exact boxes and classes of each frame.

    Raises:
        SinkError: The video cannot be written.
    """
    from trtdeploy.runtime.seams import StreamInfo
    from trtdeploy.runtime.sinks.video_file import VideoFile
    from trtdeploy.scenes.circuit_boards import CircuitBoardScene

    screen.note(f"Drawing {frames} frames of a circuit board")
    stream = StreamInfo(
        name=path.stem, uri=str(path), live=False, fps=FRAMES_PER_SECOND, frames=frames, height=HEIGHT, width=WIDTH
    )
    labels: Labels = []
    scene = CircuitBoardScene(BOARD_SEED, width=WIDTH, height=HEIGHT)
    video = VideoFile(path, stream, force=True)
    try:
        with screen.bar("Drawing", frames) as advance:
            for index in range(frames):
                image, boxes, classes = scene.frame(index)
                video.write(image, index / FRAMES_PER_SECOND)
                labels.append((boxes, classes))
                advance()
    finally:
        video.close()
    return labels


def compare(detections: Path, labels: Labels, names: list[str]) -> dict[str, ClassScore]:
    """Compare the JSON lines with the labels, by class name and `all`.

    Args:
        detections: JSON lines of one stream.
        labels: Boxes `[M, 4]` and classes `[M]` of each frame.
        names: Class names of the labels.
    """
    import numpy as np

    from trtdeploy.cli.demo_score import ClassScore, score_frame, sum_scores

    totals = {name: ClassScore() for name in names}
    for line in detections.read_text().splitlines():
        record = json.loads(line)
        truth, classes = labels[record["frame"]]
        for number, name in enumerate(names):
            found = [item for item in record["detections"] if item["class"] == number]
            boxes = np.array([item["box"] for item in found], np.float32).reshape(-1, 4)
            scores = np.array([item["score"] for item in found], np.float32)
            totals[name].add(score_frame(boxes, scores, truth[classes == number]))
    return {**totals, "all": sum_scores(totals.values())}


def _score_document(score: ClassScore) -> dict[str, Any]:
    return {
        "labels": score.labels,
        "detections": score.detections,
        "precision": None if score.precision is None else round(score.precision, 4),
        "recall": None if score.recall is None else round(score.recall, 4),
    }


def _print(screen: Screen, report: dict[str, Any]) -> None:
    """Print the report for people."""
    from trtdeploy.cli.summary import print_summary

    files = report["files"]
    print_summary(screen, report["summary"])
    screen.say("\nDetections against the drawn labels, at IoU 0.5")
    screen.table(
        ("class", "drawn", "detected", "precision", "recall"),
        [
            (name, score["labels"], score["detections"], *(_share(score[key]) for key in ("precision", "recall")))
            for name, score in report["scores"].items()
        ],
    )
    screen.say()
    screen.fields(
        [
            ("annotated video", files["annotated"]),
            ("JSON lines", files["detections"]),
            ("engine", f"{files['engine']} ({report['backend']}, {report['sizes']})"),
            ("drawn video", files["video"]),
        ]
    )
    engine = shlex.quote(files["engine"])
    screen.say(f"\nWith a video of yours: trtdeploy infer --engine {engine} --video VIDEO --save-video out.mp4")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
