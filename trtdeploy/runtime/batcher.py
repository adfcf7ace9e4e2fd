"""The batcher: bounded queues of all streams behind one lock, from which workers pull batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from trtdeploy.core.types import Frame, Size
from trtdeploy.runtime.options import Policy
from trtdeploy.runtime.waiting import WAIT_S, Waiters


class Ticket:
    """One frame on its way through the pipeline.

    Attributes:
        frame: The frame.
        size: Input size; frames of one batch have the same.
        arrived_s: When it was decoded, on `time.perf_counter`.
        taken_s: When a worker took it.
        lane: Index of its stream.
        number: Its number among the frames of its stream that were taken, without gaps.
    """

    __slots__ = ("arrived_s", "frame", "lane", "number", "size", "taken_s")

    def __init__(self, frame: Frame, size: Size, arrived_s: float) -> None:
        self.frame = frame
        self.size = size
        self.arrived_s = arrived_s
        self.taken_s = 0.0
        self.lane = frame.stream_index
        self.number = -1


@dataclass(frozen=True, kw_only=True)
class LaneOptions:
    """Policy and capacity of one stream's queue."""

    policy: Policy
    capacity: int


class _Lane:
    """One stream's queue. All access under the batcher's lock."""

    def __init__(self, options: LaneOptions, lock: threading.Lock) -> None:
        self.policy = options.policy
        self.capacity = 1 if options.policy == "latest" else options.capacity
        self.queue: deque[Ticket] = deque()
        self.space = Waiters(lock)
        self.producer_waits = False
        self.open = True
        self.taken = 0


class Batcher:
    """Joins the streams' queues: readers put, workers take.

    Workers pull fairly: one frame of each stream in turn, the oldest of each first, until the batch is full. A batch
    that is not full waits until its oldest frame is `deadline_s` old, but not when no more can come.

    At most `window` frames are between `take` and `delivered`: a consumer that is slow stops the workers, full queues
    stop the readers or make them drop.

    Args:
        lanes: One per stream.
        max_batch: Most frames of one batch.
        deadline_s: How long the oldest frame waits for company.
        window: Frames that may be taken and not yet delivered; at least `max_batch`.
    """

    def __init__(self, lanes: Sequence[LaneOptions], max_batch: int, deadline_s: float, window: int) -> None:
        self._lock = threading.Lock()
        self._work = Waiters(self._lock)
        self._lanes = [_Lane(options, self._lock) for options in lanes]
        self._max_batch = max_batch
        self._deadline_s = deadline_s
        self._window = max(window, max_batch)
        self._queued = 0
        self._in_flight = 0
        self._open = len(self._lanes)
        self._turn = 0
        self._stopped = False

    def put(self, ticket: Ticket) -> tuple[bool, int]:
        """Queue a frame by its stream's policy, waiting for space under `block`.

        Returns:
            Whether the frame was queued (False once the stream has ended or the pipeline stops), and how many older
            frames were dropped for it.
        """
        lane = self._lanes[ticket.lane]
        dropped = 0
        with self._lock:
            if lane.policy == "block":
                while len(lane.queue) >= lane.capacity and lane.open and not self._stopped:
                    lane.producer_waits = True
                    lane.space.wait(WAIT_S)
                lane.producer_waits = False
            if not lane.open or self._stopped:
                return False, 0
            while len(lane.queue) >= lane.capacity:
                lane.queue.popleft()
                self._queued -= 1
                dropped += 1
            lane.queue.append(ticket)
            self._queued += 1
            self._work.wake()
        return True, dropped

    def take(self) -> list[Ticket] | None:
        """Return the next batch, waiting for it; None when every stream has ended or the pipeline stops."""
        with self._lock:
            while not self._stopped:
                wait_s = WAIT_S
                if self._queued == 0:
                    if self._open == 0:
                        return None
                elif self._in_flight < self._window:
                    wait_s = self._until_ready()
                    if wait_s <= 0:
                        return self._pick()
                    self._wake_producers()
                self._work.wait(wait_s)
            return None

    def delivered(self, count: int) -> None:
        """Tell that `count` taken frames have left the pipeline."""
        with self._lock:
            was_closed = self._in_flight >= self._window
            self._in_flight -= count
            if was_closed:
                self._work.wake(count)

    def finish(self, lane: int) -> None:
        """End a stream: nothing more is queued; what is queued is still taken. Idempotent."""
        with self._lock:
            self._finish(self._lanes[lane])

    def finish_all(self) -> None:
        """End all streams."""
        with self._lock:
            for lane in self._lanes:
                self._finish(lane)

    def stop(self) -> None:
        """Let every reader and worker go at once; queued frames are forgotten."""
        with self._lock:
            self._stopped = True
            for lane in self._lanes:
                lane.queue.clear()
                self._finish(lane)
            self._queued = 0
            self._work.wake_all()

    def is_open(self, lane: int) -> bool:
        """Return whether a stream may still queue frames."""
        return self._lanes[lane].open

    def depth(self, lane: int) -> int:
        """Return the number of frames that wait in a stream's queue."""
        return len(self._lanes[lane].queue)

    def _finish(self, lane: _Lane) -> None:
        if not lane.open:
            return
        lane.open = False
        self._open -= 1
        lane.space.wake_all()
        self._work.wake_all()

    def _until_ready(self) -> float:
        """Return the seconds to wait for a fuller batch; 0 when it is full, due, or cannot grow."""
        if self._queued >= self._max_batch or not any(x.open and len(x.queue) < x.capacity for x in self._lanes):
            return 0.0
        oldest = min(lane.queue[0].arrived_s for lane in self._lanes if lane.queue)
        return oldest + self._deadline_s - time.perf_counter()

    def _pick(self) -> list[Ticket]:
        lanes, count = self._lanes, len(self._lanes)
        room = min(self._max_batch, self._window - self._in_flight)
        batch: list[Ticket] = []
        start = self._turn
        now = time.perf_counter()
        found = True
        while found and len(batch) < room:
            found = False
            for offset in range(count):
                lane = lanes[(start + offset) % count]
                if not lane.queue or (batch and lane.queue[0].size != batch[0].size):
                    continue
                if not batch:
                    self._turn = (start + offset + 1) % count
                ticket = lane.queue.popleft()
                ticket.taken_s = now
                ticket.number = lane.taken
                lane.taken += 1
                batch.append(ticket)
                found = True
                if lane.producer_waits and len(lane.queue) <= lane.capacity // 2:
                    lane.producer_waits = False
                    lane.space.wake()
                if len(batch) == room:
                    break
        self._queued -= len(batch)
        self._in_flight += len(batch)
        return batch

    def _wake_producers(self) -> None:
        """Wake readers that sleep although their queue has space: a worker waits for their frames."""
        for lane in self._lanes:
            if lane.producer_waits and len(lane.queue) < lane.capacity:
                lane.producer_waits = False
                lane.space.wake()
