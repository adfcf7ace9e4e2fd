"""Run a function in a child process, so that a native library that crashes or hangs becomes a `BuildError`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import IO, Any

from trtdeploy.backends.base import Progress
from trtdeploy.core import errors
from trtdeploy.core.errors import BuildError, TrtdeployError

STACK_BYTES = 1 << 29
"""Stack of the function in the child: recursive parsers need one frame per node of a long chain."""

_BOOT = (
    "import json, sys; request = json.loads(sys.stdin.buffer.readline()); sys.path[:] = request['path']; "
    "from trtdeploy.backends.child import serve; serve(request)"
)
_STDERR_LINES = 12
_MAX_LINE = 1 << 24
_MAX_TEXT = 4000
_PR_SET_PDEATHSIG = 1


def run_in_child(
    function: Callable[..., Any], *args: Any, what: str, timeout_s: float = 1800.0, progress: Progress | None = None
) -> Any:
    """Call `function(report, *args)` in a child process and return its result.

    The child dies with this process, is killed when it takes too long or when this call is interrupted, and runs the
    function on a stack of `STACK_BYTES`. Its standard output and error are captured.

    Args:
        function: A module-level function. Its first argument is a `Progress` callback, which reaches `progress` here.
        *args: JSON values.
        what: What the child does, as it should read in an error: "Loading model.onnx in ONNX Runtime".
        timeout_s: Time limit in seconds.
        progress: Called in this thread for each report of the function.

    Returns:
        The function's result, a JSON value.

    Raises:
        TrtdeployError: The function raised it; the class and message are kept.
        BuildError: The function raised anything else, the child crashed (the message names the signal and the last
            lines of its standard error), was killed for its memory, or exceeded `timeout_s`.
    """
    with _Child(what, timeout_s) as child:
        child.send(
            {
                "path": sys.path,
                "parent": os.getpid(),
                "module": function.__module__,
                "name": function.__qualname__,
                "args": args,
            }
        )
        return child.wait(progress)


@dataclass
class _Child:
    """The parent's side of one child process."""

    what: str
    timeout_s: float
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_STDERR_LINES))
    messages: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)

    def __enter__(self) -> _Child:
        if not sys.executable:
            raise BuildError(f"{self.what} needs a Python interpreter to start, and sys.executable is empty.")
        self.deadline = time.monotonic() + self.timeout_s
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the child
            )
        except OSError as error:
            raise BuildError(f"{self.what}: cannot start a child process: {error}") from error
        readers = ((self.process.stdout, self._read_messages), (self.process.stderr, self._read_stderr))
        self.readers = [threading.Thread(target=read, args=(pipe,), daemon=True) for pipe, read in readers]
        for reader in self.readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self.process.wait()
        for reader in self.readers:
            reader.join(timeout=5.0)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def send(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # we asked for a pipe
        with contextlib.suppress(BrokenPipeError):  # it died at once: `wait` says why
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def wait(self, progress: Progress | None) -> Any:
        while (left_s := self.deadline - time.monotonic()) > 0:
            try:
                message = self.messages.get(timeout=left_s)
            except queue.Empty:
                break
            if message is None:
                raise self._death()
            if "result" in message:
                return message["result"]
            if "error" in message:
                raise _error(self.what, str(message["error"]), str(message["text"]))
            if progress is not None:
                progress(str(message["step"]))
        raise BuildError(
            f"{self.what} did not finish within {self.timeout_s:g} seconds and was stopped.{self._stderr()}"
        )

    def _death(self) -> BuildError:
        """Return the error for a child that ended without an answer."""
        try:
            code = self.process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            return BuildError(f"{self.what} closed its pipe without a result and did not end.{self._stderr()}")
        self.readers[1].join(timeout=5.0)
        if code >= 0:
            return BuildError(f"{self.what} ended with exit code {code} and no result.{self._stderr()}")
        name = _signal_name(-code)
        if -code == signal.SIGKILL:
            why = "most likely because the machine ran out of memory. Close other programs, or use a smaller model, "
            return BuildError(f"{self.what} was killed ({name}), {why}image size or batch.{self._stderr()}")
        return BuildError(
            f"{self.what} crashed the library ({name}). The model is damaged or asks for something that the library "
            f"does not survive.{self._stderr()}"
        )

    def _stderr(self) -> str:
        return "".join(f"\n  {line}" for line in ("Its last words:", *self.tail)) if self.tail else ""

    def _kill(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _read_messages(self, pipe: IO[bytes]) -> None:
        """Queue each JSON line of the child, and None at the end."""
        while line := pipe.readline(_MAX_LINE):
            try:
                self.messages.put(json.loads(line))
            except ValueError as error:
                self.messages.put({"error": "ValueError", "text": f"its answer is not JSON: {error}"})
        self.messages.put(None)

    def _read_stderr(self, pipe: IO[bytes]) -> None:
        while line := pipe.readline(_MAX_LINE):
            if text := line.decode(errors="replace").strip():
                self.tail.append(text[:500])


def serve(request: dict[str, Any]) -> None:
    """Run one request and answer on standard output: the child's side of `run_in_child`."""
    _die_with(request["parent"])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a native library prints must not mix with the answers

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    def report(step: str) -> None:
        send({"step": step})

    def work() -> None:
        try:
            function: Any = import_module(request["module"])
            for part in request["name"].split("."):
                function = getattr(function, part)
            send({"result": function(report, *request["args"])})
        except BaseException as error:  # noqa: BLE001 - the parent raises it again
            send({"error": type(error).__name__, "text": str(error)[:_MAX_TEXT]})

    threading.stack_size(STACK_BYTES)
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    os._exit(0)  # without the destructors of native libraries, which may hang or crash after the answer


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends, so that no build outlives a kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)


def _error(what: str, name: str, text: str) -> TrtdeployError:
    """Return the exception that the child's function raised, as it should be raised here."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, TrtdeployError) and kind is not errors.MissingDependencyError:
        return kind(text)
    if name == "MemoryError":
        return BuildError(f"{what} ran out of memory. Use a smaller model, image size or batch.")
    return BuildError(f"{what} failed: {name}: {text}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
