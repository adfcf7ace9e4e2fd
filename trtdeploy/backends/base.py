"""The seam between trtdeploy and the libraries that run networks.

A backend is one module with one class. `Backend.build` turns a finished ONNX model into an engine file;
`Backend.open` loads an engine file; a `Session` makes execution contexts; a context runs batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.types import Precision

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from trtdeploy.backends.trt_options import TensorRtOptions

Int8Form = Literal["standard", "factored", "runtime"]
Progress = Callable[[str], None]
"""Called with the name of each step as it starts."""


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a backend can be used here.

    Attributes:
        usable: It can build engines on this machine.
        version: Version of its library, None when not installed.
        reason: Why it is usable or not, in a sentence, with the install command where it is missing.
        cannot_run: Why engines that are built here cannot run here, in a sentence; empty where they can.
    """

    usable: bool
    version: str | None
    reason: str
    cannot_run: str = ""


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a session spreads its work.

    Attributes:
        contexts: Execution contexts that will run at the same time.
        threads: Threads that one context may use, 0 for the library's default.
    """

    contexts: int = 1
    threads: int = 0


class Context(Protocol):
    """One execution context. Used by one thread at a time; different contexts run at the same time."""

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run one batch and wait for it.

        Args:
            images: `[B, H, W, 3]` uint8 BGR, C-contiguous, within the engine's batch and size ranges. Read only
                during the call; no copy is kept.

        Returns:
            Outputs by name, owned by the caller and not overwritten by later calls.

        Raises:
            EngineError: The batch is outside the engine's ranges, or the library failed.
        """


class Session(Protocol):
    """An open engine. `close` is idempotent and may be called while no context is running."""

    info: EngineInfo

    def create_context(self) -> Context:
        """Return a new execution context.

        Raises:
            EngineError: The library cannot make another.
        """

    def close(self) -> None:
        """Release the engine."""


class Backend(Protocol):
    """A library that builds and runs engines.

    Attributes:
        name: The name on the command line.
        fuses_attention: Whether its builder takes attention blocks as nodes, and fuses attention of padded widths. For
            others the nodes are inlined, and zeros would only cost time.
        half_in_graph: Whether FP16 is a pass over the graph, so that single blocks can stay FP32. The others lower the
            precision themselves.
        int8_form: How the Q/DQ of an INT8 graph are written for its builder; see `graph.precision.int8.ToInt8`.
        on_gpu: Whether engines run on a GPU: by default they take frames as they are, and their NMS has no control
            flow, so that a CUDA graph can hold all of an execution.
        takes: Names of the fields of `TensorRtOptions` that `build` takes.
    """

    name: str
    fuses_attention: bool
    half_in_graph: bool
    int8_form: Int8Form
    on_gpu: bool
    takes: frozenset[str]

    def availability(self) -> Availability:
        """Return whether the backend is usable here. Imports nothing heavy, never raises."""

    def build(
        self,
        model: ir.Model,
        info: EngineInfo,
        target: Path,
        progress: Progress | None = None,
        tensorrt: TensorRtOptions | None = None,
    ) -> None:
        """Write an engine file at `target` atomically: a whole file or none.

        Args:
            model: The finished model: `canvas` or `frames` in, detections out. May be changed.
            info: Its metadata; `precision` says what to build.
            target: Path of the engine file.
            progress: Called in this thread as the build goes on.
            tensorrt: Options of TensorRT and TensorRT-RTX; default: their defaults.

        Raises:
            UsageError: The backend cannot build this precision, or does not take an option.
            BuildError: The library refused the model or crashed.
            SinkError: The file could not be written.
        """

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> Session:
        """Load the engine file at `path`.

        Raises:
            EngineError: The file is not an engine of this backend, or the library refused it.
        """

    def plans(self, cores: int) -> list[SessionOptions]:
        """Return the ways to spread work over `cores` that are worth measuring at start, most likely best first."""

    def precision_note(self, precision: Precision) -> str:
        """Return in a sentence what `precision` means on this backend and machine."""
