"""Run a pipeline for a command: check the outputs, make its parts, show its progress, sum it up."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtdeploy.cli.console import Screen
from trtdeploy.cli.live import live_line, live_view
from trtdeploy.cli.names import parse_classes
from trtdeploy.cli.outputs import check_outputs
from trtdeploy.cli.summary import Refine, Tally, keep_detections, print_summary, summary_document
from trtdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from trtdeploy.core.engine_info import EngineInfo
    from trtdeploy.core.types import Size
    from trtdeploy.runtime.engine_handle import EngineFile
    from trtdeploy.runtime.options import PipelineOptions
    from trtdeploy.runtime.pipeline import Pipeline
    from trtdeploy.runtime.seams import Sink


@dataclass(frozen=True, kw_only=True)
class InferJob:
    """What `infer` was asked to do; see its options."""

    engine: Path
    videos: Sequence[str]
    jsonl: Path | Literal["-"] | None = None
    save_video: Path | None = None
    show: bool = False
    backend: str | None = None
    conf: float | None = None
    classes: str | None = None
    policy: Literal["block", "drop-oldest", "latest"] | None = None
    skip: int = 0
    max_frames: int | None = None
    batch: int | None = None
    deadline_ms: float = 10.0
    imgsz: str | None = None
    rect: bool = False
    track: str | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    contexts: int | None = None
    threads: int | None = None
    on_source_error: Literal["stop", "continue"] = "stop"
    max_reconnects: int | None = None
    force: bool = False


def run_job(screen: Screen, job: InferJob) -> dict[str, Any]:
    """Run the job to the end of all streams and return its summary.

    When it fails or is interrupted, the outputs are closed, the summary up to there is printed, and the error goes on.

    Raises:
        TrtdeployError: An option is wrong, or a source, the engine or an output failed.
        KeyboardInterrupt: It was interrupted.
    """
    from trtdeploy.runtime.pipeline import Pipeline
    from trtdeploy.runtime.sources import expand

    engine = open_engine(job.engine, job.backend)
    sources = expand(list(job.videos))
    _check_job_outputs(job, [source.name for source in sources])
    stages = _filters(job, engine.info)
    if job.track is not None:
        stages.append(_tracking(job.track))
    tally = Tally(engine.info, stages)
    sinks = _sinks(job)
    pipeline = Pipeline(engine, sources, sinks, _options(job, tally))
    run = PipelineRun(engine, pipeline, tally, jsonl=job.jsonl, videos=_videos(sinks), metrics_host=job.metrics_host)
    try:
        run.start(screen)
        run.finish(screen)
    except BaseException:
        if run.begun_s is not None:
            screen.partial = run.summary(interrupted=True)
            if not screen.as_json:
                print_summary(screen, screen.partial)
        raise
    finally:
        run.close()
    return run.summary(interrupted=False)


def open_engine(path: Path, backend: str | None) -> EngineFile:
    """Return the engine at `path` and the backend that runs it: the one given, or the one that built it.

    Raises:
        EngineError: The file is not an engine.
        UsageError: There is no such backend, or it cannot stand in for the one that built the engine.
        MissingDependencyError: The backend is not installed.
    """
    from trtdeploy.backends import registry
    from trtdeploy.engine.sniff import read_info
    from trtdeploy.runtime.engine_handle import EngineFile

    info = read_info(path)
    return EngineFile(path, info, registry.runner_of(str(path), info.backend, backend))


class PipelineRun:
    """One run of a pipeline with its progress, and its summary at any moment.

    Args:
        engine: The engine.
        pipeline: Made, and not started.
        tally: The pipeline's `refine`.
        jsonl: Where the JSON lines go.
        videos: Where the annotated video of each stream goes; may be filled later.
        metrics_host: The address that serves the metrics, to print it.
    """

    def __init__(
        self,
        engine: EngineFile,
        pipeline: Pipeline,
        tally: Tally,
        *,
        jsonl: Path | str | None = None,
        videos: dict[str, Path] | None = None,
        metrics_host: str = "127.0.0.1",
    ) -> None:
        self.begun_s: float | None = None
        """When frames began to flow; None before."""
        self._created_s = time.monotonic()
        self._closes_itself = False
        self._engine = engine
        self._pipeline = pipeline
        self._tally = tally
        self._jsonl = jsonl
        self._metrics_host = metrics_host
        self._videos = {} if videos is None else videos

    def start(self, screen: Screen) -> None:
        """Open everything, and say what runs.

        Raises:
            TrtdeployError: A source, the engine or an output cannot be opened.
        """
        pipeline = self._pipeline
        screen.note(f"{self._engine.path}: {self._engine.backend.name}. Opening sources and engine.")
        self._closes_itself = True
        pipeline.start()
        self._closes_itself = False
        self.begun_s = time.monotonic()
        snapshot = pipeline.metrics()
        measured = [plan for plan in snapshot.plans if not plan.error]
        how = f", the fastest of {len(measured)} measured" if len(measured) > 1 else ""
        threads = f"{snapshot.threads} threads" if snapshot.threads else "the library's threads"
        screen.note(f"{snapshot.contexts} contexts with {threads} each, batch up to {snapshot.max_batch}{how}.")
        for stream in pipeline.streams:
            frames = f"{stream.frames} frames" if stream.frames is not None else "no known end"
            rate = f"{stream.fps:g} frames/s" if stream.fps else "unknown rate"
            screen.note(f"  {stream.name}: {stream.width}x{stream.height}, {rate}, {frames}")
        if pipeline.metrics_port is not None:
            screen.note(f"Metrics: http://{self._metrics_host}:{pipeline.metrics_port}/metrics")

    def finish(self, screen: Screen) -> None:
        """Run to the end of all streams.

        Raises:
            TrtdeployError: A source, the engine or an output failed.
        """
        pipeline = self._pipeline
        totals = {stream.name: stream.frames for stream in pipeline.streams}
        with screen.live(lambda: live_view(pipeline.metrics(), totals), lambda: live_line(pipeline.metrics(), totals)):
            self._closes_itself = True
            pipeline.run()

    def close(self) -> None:
        """Close the pipeline unless its `start` or `run` did: a second time it would wait again for blocked threads."""
        if not self._closes_itself:
            self._pipeline.close()

    def summary(self, *, interrupted: bool) -> dict[str, Any]:
        """Return the summary up to now."""
        begun_s = self.begun_s if self.begun_s is not None else time.monotonic()
        document = summary_document(self._pipeline.metrics(), self._tally, time.monotonic() - begun_s)
        return {
            "engine": str(self._engine.path),
            "backend": self._engine.backend.name,
            "interrupted": interrupted,
            "startup_seconds": round(begun_s - self._created_s, 3),
            **document,
            "outputs": {
                "jsonl": None if self._jsonl is None else str(self._jsonl),
                "video": {stream: str(path) for stream, path in self._videos.items()},
            },
        }


def _check_job_outputs(job: InferJob, streams: list[str]) -> None:
    """Refuse outputs that cannot be written, by the names that the sinks will give them."""
    outputs = [("--jsonl", job.jsonl)] if isinstance(job.jsonl, Path) else []
    if job.save_video is not None:
        outputs += [("--save-video", path) for path in _video_paths(job.save_video, streams)]
    check_outputs(outputs, [job.engine, *job.videos], force=job.force)


def _video_paths(path: Path, streams: list[str]) -> list[Path]:
    """Return the files that `VideoSink` writes for streams of video."""
    from trtdeploy.runtime.sources.known import safe_name

    if path.is_dir() or not path.suffix:
        return [path / f"{safe_name(stream)}.mp4" for stream in streams]
    if len(streams) == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{safe_name(stream)}{path.suffix}") for stream in streams]


def network_size(imgsz: str | None) -> Size | None:
    """Return the network size that `--imgsz` asks for.

    Raises:
        UsageError: It is not a size.
    """
    if imgsz is None:
        return None
    from trtdeploy.graph.shapes import parse_imgsz  # brings the graph's libraries, a second of importing

    return parse_imgsz(imgsz).opt


def _filters(job: InferJob, info: EngineInfo) -> list[Refine]:
    """Return the stages that drop detections which were not asked for."""
    stages: list[Refine] = []
    if job.conf is not None and not info.nms.conf <= job.conf < 1:
        raise UsageError(
            f"--conf {job.conf:g} is not within {info.nms.conf:g} and 1: the engine was built with --conf "
            f"{info.nms.conf:g} and gives no detection below it. Choose a higher one, or build it again."
        )
    classes = None if job.classes is None else parse_classes(job.classes, info.class_names)
    if job.conf is not None or classes is not None:
        stages.append(keep_detections(job.conf, classes))
    return stages


def _tracking(algorithm: str) -> Refine:
    """Return the stage that gives detections their track numbers.

    Raises:
        MissingDependencyError: The extra `track` is not installed.
    """
    from trtdeploy.runtime.track import Tracking, TrackOptions

    stage = Tracking(TrackOptions(algorithm=algorithm))
    for module in ("trackers", "supervision"):
        importlib.import_module(module)  # takes seconds, for which the first frame would wait
    return stage


def _options(job: InferJob, tally: Tally) -> PipelineOptions:
    from trtdeploy.runtime.options import PipelineOptions, ReconnectOptions

    return PipelineOptions(
        policy=job.policy,
        max_batch=job.batch,
        deadline_s=job.deadline_ms / 1e3,
        size=network_size(job.imgsz),
        rect=job.rect,
        contexts=job.contexts,
        threads=job.threads,
        frame_stride=job.skip + 1,
        max_frames=job.max_frames,
        on_source_error=job.on_source_error,
        reconnect=ReconnectOptions(max_attempts=job.max_reconnects),
        refine=tally,
        metrics_port=job.metrics_port,
        metrics_host=job.metrics_host,
    )


def _sinks(job: InferJob) -> list[Sink]:
    from trtdeploy.runtime.sinks import JsonlSink, VideoSink, WindowSink

    sinks: list[Sink] = []
    if job.jsonl is not None:
        sinks.append(JsonlSink(job.jsonl, force=job.force))
    if job.save_video is not None:
        sinks.append(VideoSink(job.save_video, force=job.force))
    if job.show:
        sinks.append(WindowSink())
    return sinks


def _videos(sinks: list[Sink]) -> dict[str, Path]:
    """Return where the annotated video of each stream goes; filled when the sinks open."""
    from trtdeploy.runtime.sinks import VideoSink

    return next((sink.paths for sink in sinks if isinstance(sink, VideoSink)), {})
