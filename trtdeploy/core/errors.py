"""The exception tree. Every error a user can meet derives from `TrtdeployError` and carries its exit code.

TrtdeployError                 1   (base; never raised itself)
├── UsageError                 2   an argument or option is wrong, or an output exists and --force was not given
├── ModelError                 3   the ONNX model cannot be read or is not fit for deployment
│   ├── HeadNotFoundError      3   no detector head was recognised
│   └── ShapeRefusedError      3   the graph cannot be given the requested shapes
├── BuildError                 4   the backend could not build an engine
├── EngineError                5   an engine file cannot be read, opened or run
│   └── DeviceMemoryError      5   the device has not enough memory
├── SourceError                6   a video, camera or image source cannot be opened or read
├── SinkError                  7   an output could not be written (disk full, no permission)
├── MissingDependencyError     8   an optional package or program is not installed
├── GateError                  9   the engine's detections diverge from the reference
└── (KeyboardInterrupt       130)

A message says what failed (name, value), what was expected, and what to do.
"""

from __future__ import annotations


class TrtdeployError(Exception):
    """Base of all errors that trtdeploy raises on purpose.

    Attributes:
        exit_code: Process exit code that the command line returns for this error.
    """

    exit_code = 1


class UsageError(TrtdeployError, ValueError):
    """An argument or option is wrong."""

    exit_code = 2


class ModelError(TrtdeployError):
    """The model file cannot be read, or is not fit for deployment."""

    exit_code = 3


class HeadNotFoundError(ModelError):
    """No detector head was recognised in the model's outputs."""


class ShapeRefusedError(ModelError):
    """The graph cannot be given the requested batch or image sizes."""


class BuildError(TrtdeployError):
    """The backend could not build an engine."""

    exit_code = 4


class EngineError(TrtdeployError):
    """An engine file cannot be read, opened or run."""

    exit_code = 5


class DeviceMemoryError(EngineError):
    """The device has not enough memory. Fewer contexts, or smaller batches, may still fit."""


class SourceError(TrtdeployError):
    """A source cannot be opened or read."""

    exit_code = 6


class SinkError(TrtdeployError):
    """An output could not be written."""

    exit_code = 7


class MissingDependencyError(TrtdeployError):
    """An optional package or program is not installed.

    Args:
        what: The missing package or program.
        needed_for: What it is needed for.
        install: The command that installs it.
    """

    exit_code = 8

    def __init__(self, what: str, needed_for: str, install: str) -> None:
        super().__init__(f"{what} is needed for {needed_for} and is not installed. Install it with: {install}")


class GateError(TrtdeployError):
    """The engine's detections diverge from those of the reference."""

    exit_code = 9
