"""Slots: a worker thread with its own execution context and its own canvas."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.backends.base import Context
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError
from trtdeploy.core.preprocess import Letterbox
from trtdeploy.core.types import Detections, Result, Size
from trtdeploy.runtime.batcher import Batcher, Ticket
from trtdeploy.runtime.letterbox import Canvas
from trtdeploy.runtime.lifecycle import Lifecycle
from trtdeploy.runtime.metrics import StageTimes
from trtdeploy.runtime.ordering import Resequencer
from trtdeploy.runtime.postprocess import detections_of


class Slot:
    """Runs images through one execution context. Used by one thread at a time.

    An engine with the letterbox on the host gets each image scaled straight into the slot's canvas. An engine that
    takes frames gets a single image as it is, and several copied side by side.

    Args:
        infer: The context's `infer`.
        info: The engine's metadata.
        max_batch: Most images at once.
    """

    def __init__(
        self, infer: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]], info: EngineInfo, max_batch: int
    ) -> None:
        self._infer = infer
        self._takes_frames = info.input_kind == "frames"
        self._batch_min = info.batch_min
        self._canvas = Canvas(max(max_batch, info.batch_min), info.fit)

    def prepare(self, images: Sequence[NDArray[np.uint8]], size: Size) -> tuple[NDArray[np.uint8], list[Letterbox]]:
        """Lay out `images`, `[H, W, 3]` uint8 BGR each, as one batch of `size`.

        Returns:
            The batch, filled up to the engine's smallest, and each image's layout (none for an engine that takes
            frames).
        """
        if self._takes_frames and len(images) == 1 and self._batch_min == 1:
            return np.ascontiguousarray(images[0])[np.newaxis], []
        canvas = self._canvas
        canvas.resize(size)
        layouts = [canvas.draw(slot, image) for slot, image in enumerate(images)]
        return canvas.batch(max(len(images), self._batch_min)), [] if self._takes_frames else layouts

    def infer(self, batch: NDArray[np.uint8], layouts: Sequence[Letterbox], count: int) -> list[Detections]:
        """Run a prepared batch and return the detections of its first `count` images in their own pixels.

        Raises:
            EngineError: The library failed, or its outputs are not detections.
        """
        outputs = self._infer(batch)
        return [detections_of(outputs, slot, layouts[slot] if layouts else None) for slot in range(count)]


class Finished:
    """A result, when it was ready, and the frame's stream."""

    __slots__ = ("lane", "ready_s", "result")

    def __init__(self, lane: int, ready_s: float, result: Result) -> None:
        self.lane = lane
        self.ready_s = ready_s
        self.result = result


class Worker:
    """Takes batches, runs them in its slot, and hands the results on in order.

    Args:
        number: For the thread's name.
        context: Its execution context.
        info: The engine's metadata.
        max_batch: Most frames at once.
        batcher: Where frames come from.
        ordering: Where results go.
        times: Histograms of this worker alone.
        lifecycle: Stop signal and error route.
        on_exit: Called when the worker ends.
    """

    def __init__(
        self,
        number: int,
        context: Context,
        info: EngineInfo,
        max_batch: int,
        batcher: Batcher,
        ordering: Resequencer[Finished],
        times: StageTimes,
        lifecycle: Lifecycle,
        on_exit: Callable[[], None],
    ) -> None:
        self._slot = Slot(context.infer, info, max_batch)
        self._batcher = batcher
        self._ordering = ordering
        self._times = times
        self._lifecycle = lifecycle
        self._on_exit = on_exit
        self.thread = threading.Thread(target=self._run, name=f"trtdeploy-worker-{number}", daemon=True)

    def start(self) -> None:
        """Start taking batches."""
        self.thread.start()

    def _run(self) -> None:
        try:
            while (batch := self._batcher.take()) is not None:
                self._ordering.add(self._process(batch))
                # Frames must not be held while the worker waits for the next ones.
                del batch
        except BaseException as error:  # noqa: BLE001 - every error has to reach the pipeline
            self._lifecycle.fail(error)
        finally:
            self._on_exit()

    def _process(self, batch: list[Ticket]) -> list[tuple[int, int, Finished]]:
        clock, times = time.perf_counter, self._times
        before = clock()
        images, layouts = self._slot.prepare([ticket.frame.image for ticket in batch], batch[0].size)
        prepared = clock()
        try:
            found = self._slot.infer(images, layouts, len(batch))
        except EngineError as error:
            frames = ", ".join(f"{ticket.frame.stream!r} frame {ticket.frame.index}" for ticket in batch)
            raise EngineError(f"Stream {frames}: {error}") from error
        ready = clock()
        # The letterbox of one frame is a share of the batch's; the network runs for the batch as a whole.
        letterbox_s, infer_s = (prepared - before) / len(batch), ready - prepared
        times.batches += 1
        items = []
        for ticket, detections in zip(batch, found, strict=True):
            queue_s, total_s = ticket.taken_s - ticket.arrived_s, ready - ticket.arrived_s
            times.queue.add(queue_s)
            times.letterbox.add(letterbox_s)
            times.infer.add(infer_s)
            times.total.add(total_s)
            latency = {"queue": queue_s, "letterbox": letterbox_s, "infer": infer_s, "total": total_s}
            result = Result(frame=ticket.frame, detections=detections, latency_s=latency)
            items.append((ticket.lane, ticket.number, Finished(ticket.lane, ready, result)))
        return items
