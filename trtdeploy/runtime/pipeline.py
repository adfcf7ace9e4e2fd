"""The pipeline: sources, batcher, workers and sinks, joined, started, and ended in good order."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TypeVar

from trtdeploy.backends.base import Session
from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.types import Result
from trtdeploy.runtime.batcher import Batcher, LaneOptions
from trtdeploy.runtime.engine_handle import EngineHandle, handle_of
from trtdeploy.runtime.letterbox import OpenCvThreads
from trtdeploy.runtime.lifecycle import Lifecycle
from trtdeploy.runtime.metrics import Metrics, PipelineSnapshot
from trtdeploy.runtime.network_size import SizeChooser
from trtdeploy.runtime.options import PipelineOptions, ReconnectOptions
from trtdeploy.runtime.ordering import Resequencer
from trtdeploy.runtime.outputs import OutputQueue, SinkWriter
from trtdeploy.runtime.plan import open_plan
from trtdeploy.runtime.postprocess import check_has_detections
from trtdeploy.runtime.prometheus import MetricsServer
from trtdeploy.runtime.seams import Sink, Source, StreamInfo
from trtdeploy.runtime.sinks.callback import CallbackSink
from trtdeploy.runtime.slots import Finished, Worker
from trtdeploy.runtime.sources import expand
from trtdeploy.runtime.streams import StreamReader
from trtdeploy.runtime.tuner import OpenPlan
from trtdeploy.runtime.waiting import WAIT_S

__all__ = ["Pipeline", "PipelineOptions", "ReconnectOptions"]

logger = logging.getLogger("trtdeploy.runtime")

T = TypeVar("T", StreamReader, SinkWriter)


class Pipeline:
    """Runs an engine over any number of streams.

    ```python
    with Pipeline("model.engine", ["a.mp4", "cam0"]) as pipeline:
        for result in pipeline:
            print(result.frame.stream, result.frame.index, len(result.detections))
    ```

    Results of one stream come in its order; streams are interleaved. A consumer that is slow makes files wait and live
    sources drop. The first error of any part is raised here; sinks are closed before that, so their files are valid.
    `run` is the loop for those who only want sinks and callback.

    Args:
        engine: Path of an engine file, or an open `trtdeploy.Engine` (which stays the caller's).
        sources: Addresses that `trtdeploy.runtime.sources.expand` understands, or sources with names of their own.
        sinks: Where results go besides the iterator; each is used in a thread of its own.
        options: How to run.

    Raises:
        UsageError: No source, or an option that the engine does not allow.
        EngineError: The file is not an engine.
        MissingDependencyError: The engine's backend is not installed.
    """

    def __init__(
        self,
        engine: str | os.PathLike[str] | EngineHandle,
        sources: Sequence[str | Source],
        sinks: Sequence[Sink] = (),
        options: PipelineOptions | None = None,
    ) -> None:
        self._options = options or PipelineOptions()
        if isinstance(sources, str) or not sources:
            raise UsageError(f"A pipeline needs a list of one or more sources, got {sources!r}.")
        self._engine = handle_of(engine)
        self._info = self._engine.info
        check_has_detections(self._info, str(self._engine.path))
        self._check_batch()
        self._sizes = SizeChooser(self._info, self._options.size, self._options.rect)
        expanded = expand(sources)
        callback = self._options.on_result
        self._sinks = [*sinks, CallbackSink(callback)] if callback is not None else list(sinks)
        self._lifecycle = Lifecycle()
        self._metrics = Metrics([source.name for source in expanded])
        self._opened_readers: SimpleQueue[StreamReader] = SimpleQueue()
        self._readers = [
            StreamReader(index, source, self._options, self._lifecycle, self._metrics, self._opened_readers.put)
            for index, source in enumerate(expanded)
        ]
        self._results = OutputQueue(self._options.output_frames)
        self._queues = [self._results]
        self._writers: list[SinkWriter] = []
        self._workers: list[Worker] = []
        self._session: Session | None = None
        self._batcher: Batcher | None = None
        self._server: MetricsServer | None = None
        self._cv_threads = OpenCvThreads(self._options.opencv_threads)
        self._deliver_times = self._metrics.new_times().deliver
        self._lock = threading.Lock()
        self._working = 0
        self._started = False
        self._finished = False
        self._raised = False

    @property
    def streams(self) -> list[StreamInfo]:
        """What is known of the streams, in the order of the sources."""
        return [reader.stream_info for reader in self._readers]

    @property
    def metrics_port(self) -> int | None:
        """The port that serves Prometheus metrics, or None."""
        return None if self._server is None else self._server.port

    def metrics(self) -> PipelineSnapshot:
        """Return rates, drops and latencies as of now. May be called at any time, from any thread."""
        batcher = self._batcher
        depths = [0 if batcher is None else batcher.depth(index) for index in range(len(self._readers))]
        return self._metrics.snapshot(depths)

    def start(self) -> None:
        """Open everything and start. Called by `with`, `iter` and `run`; a second call does nothing.

        Raises:
            SourceError: A source cannot be opened.
            SinkError: A sink cannot be opened.
            EngineError: The engine cannot be opened.
            MissingDependencyError: Something optional is needed and not installed.
            UsageError: The pipeline was closed, or the metrics port is taken.
        """
        if self._finished:
            raise UsageError("The pipeline is closed; make another one to run again.")
        if self._started:
            return
        self._started = True
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self) -> PipelineSnapshot:
        """Run to the end of all streams for the sinks and the callback alone, and return the metrics.

        Raises:
            TrtdeployError: The first error of a source, the engine or a sink.
            Exception: What the callback raised.
        """
        self.start()
        self._results.discard()
        try:
            while self._results.get() is not None:
                continue
            self._finish()
        finally:
            self.close()
        return self.metrics()

    def stop(self) -> None:
        """Stop reading; what was read is still delivered. Callable from every thread and more than once."""
        if self._batcher is None:
            self._lifecycle.stop()
        else:
            self._batcher.finish_all()

    def close(self) -> None:
        """End now: forget what is queued, close the sinks, release the engine. Idempotent.

        Waits `shutdown_s` for threads that block in foreign code (a camera that does not answer), and leaves them to
        end by themselves. Raises nothing; `with` raises what went wrong.
        """
        self._finished = True
        self._lifecycle.stop()
        until = time.monotonic() + self._options.shutdown_s
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()
        threads = [worker.thread for worker in self._workers] + [writer.thread for writer in self._writers]
        threads += [reader.thread for reader in self._readers]
        _join(threads, until)
        stuck = [thread.name for thread in threads if thread.is_alive() and thread is not threading.current_thread()]
        if stuck:
            logger.warning("Threads that still block after %.1f s: %s.", self._options.shutdown_s, ", ".join(stuck))
        self._release()

    def __iter__(self) -> Iterator[Result]:
        if not self._started:
            self.start()
        return self

    def __next__(self) -> Result:
        if not self._started:
            self.start()
        result = self._results.get()
        if result is None:
            self._finish()
            raise StopIteration
        return result

    def __enter__(self) -> Pipeline:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self._raise_error()
        elif self._lifecycle.error is not None and not self._raised:
            logger.warning("The pipeline had failed meanwhile: %s", self._lifecycle.error)

    def _start(self) -> None:
        self._lifecycle.on_stop(self._end_results)
        self._cv_threads.limit()
        for reader in self._readers:
            reader.start()
        self._await_readers()
        plan = open_plan(self._engine, self._options, self._sizes, self._readers, self._lifecycle.stopping)
        self._session = plan.session
        metrics = self._metrics
        metrics.contexts, metrics.threads = plan.options.contexts, plan.options.threads
        metrics.max_batch, metrics.plans = plan.max_batch, plan.measured
        self._open_sinks()
        if self._options.metrics_port is not None:
            self._server = MetricsServer(self.metrics, self._options.metrics_port, self._options.metrics_host)
        self._batcher = batcher = self._make_batcher(plan)
        self._lifecycle.on_stop(batcher.stop)
        self._start_workers(plan, batcher)
        for reader in self._readers:
            reader.begin(batcher, self._sizes)

    def _await_readers(self) -> None:
        """Wait until every source has opened.

        Raises:
            SourceError: One did not, and the options do not say to go on without it; or none did.
        """
        go_on = self._options.on_source_error == "continue"
        waiting = {reader.name: reader for reader in self._readers}
        for reader in _arrivals(self._opened_readers, len(waiting), self._options.open_timeout_s):
            del waiting[reader.name]
            if reader.error is not None and not go_on:
                raise reader.error
        for name in waiting:
            message = f"Stream '{name}': not open after {self._options.open_timeout_s:g} s. Check the address, or raise"
            if not go_on:
                raise SourceError(f"{message} open_timeout_s.")
            logger.warning("%s open_timeout_s. The other streams start without it.", message)
        self._raise_if_all_failed()

    def _open_sinks(self) -> None:
        opened: SimpleQueue[SinkWriter] = SimpleQueue()
        capacity = self._options.output_frames
        for sink in self._sinks:
            writer = SinkWriter(sink, self.streams, self._info, capacity, self._lifecycle, opened.put)
            self._writers.append(writer)
            # The iterator comes last: what the caller has seen, every sink has got.
            self._queues.insert(0, writer.queue)
            writer.start()
        waiting = len(self._writers)
        while waiting:
            for writer in _arrivals(opened, waiting, WAIT_S):
                waiting -= 1
                if writer.error is not None:
                    self._raised = True
                    raise writer.error

    def _make_batcher(self, plan: OpenPlan) -> Batcher:
        capacity = max(self._options.queue_frames, plan.max_batch)
        lanes = [LaneOptions(policy=reader.policy, capacity=capacity) for reader in self._readers]
        window = 2 * plan.options.contexts * plan.max_batch
        return Batcher(lanes, plan.max_batch, self._options.deadline_s, window)

    def _start_workers(self, plan: OpenPlan, batcher: Batcher) -> None:
        ordering = Resequencer(len(self._readers), self._deliver)
        self._working = len(plan.contexts)
        for number, context in enumerate(plan.contexts):
            worker = Worker(
                number,
                context,
                self._info,
                plan.max_batch,
                batcher,
                ordering,
                self._metrics.new_times(),
                self._lifecycle,
                self._worker_left,
            )
            self._workers.append(worker)
        for worker in self._workers:
            worker.start()

    def _deliver(self, finished: Finished) -> None:
        """Hand one result to everybody; called in stream order, by one worker at a time."""
        result, refine = finished.result, self._options.refine
        if refine is not None:
            result = refine(result)
        for queue in self._queues:
            queue.put(result)
        now = time.perf_counter()
        counters = self._metrics.streams[finished.lane]
        counters.inferred += 1
        counters.delivered_s.append(now)
        self._deliver_times.add(now - finished.ready_s)
        if self._batcher is not None:
            self._batcher.delivered(1)

    def _worker_left(self) -> None:
        """End the outputs when the last worker has left; only then is the session idle."""
        with self._lock:
            self._working -= 1
            last = self._working == 0
        if last:
            for queue in self._queues:
                queue.end()
            self._close_session()

    def _end_results(self) -> None:
        self._results.discard()
        self._results.end()

    def _finish(self) -> None:
        """Wait for an end in good order and raise the error, if there was one.

        Raises:
            Exception: The first error.
        """
        while not self._lifecycle.stopping.is_set() and any(writer.thread.is_alive() for writer in self._writers):
            _join([writer.thread for writer in self._writers], time.monotonic() + WAIT_S)
        self.close()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._raised:
            return
        self._raised = True
        if self._lifecycle.error is not None:
            raise self._lifecycle.error
        self._raise_if_all_failed()

    def _raise_if_all_failed(self) -> None:
        errors = [reader.error for reader in self._readers if reader.error is not None]
        if errors and len(errors) == len(self._readers):
            raise errors[0]

    def _release(self) -> None:
        with self._lock:
            idle = self._working == 0
            # Workers refer back to the pipeline; their canvases go with the last reference, not with a collection.
            self._workers = [worker for worker in self._workers if worker.thread.is_alive()]
        self._cv_threads.restore()
        if idle:
            self._close_session()

    def _close_session(self) -> None:
        with self._lock:
            session, self._session = self._session, None
        if session is None:
            return
        try:
            session.close()
        except Exception as error:  # noqa: BLE001 - the results are delivered; the first error goes first
            self._lifecycle.note(error)

    def _check_batch(self) -> None:
        info, asked = self._info, self._options.max_batch
        if asked is not None and not info.batch_min <= asked <= info.batch_max:
            raise UsageError(
                f"Engine {self._engine.path} accepts batch {info.batch_min}-{info.batch_max}, got max_batch {asked}. "
                f"Rebuild with --batch {asked}, or choose max_batch within that range."
            )


def _arrivals(queue: SimpleQueue[T], count: int, timeout_s: float) -> Iterator[T]:
    """Yield up to `count` items as they come, for at most `timeout_s`."""
    until = time.monotonic() + timeout_s
    while count:
        left_s = until - time.monotonic()
        try:
            yield queue.get(timeout=max(0.0, min(left_s, WAIT_S)))
            count -= 1
        except Empty:
            if left_s <= WAIT_S:
                return


def _join(threads: Sequence[threading.Thread], until: float) -> None:
    for thread in threads:
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
