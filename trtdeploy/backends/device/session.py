"""An engine that is open on the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trtdeploy.backends.contract import Contract
from trtdeploy.backends.device.binding import tensor_names
from trtdeploy.backends.device.context import DeviceContext, run_all
from trtdeploy.backends.device.libraries import DTYPES, Libraries, errors_heard, listening, scratch_bytes
from trtdeploy.backends.device.profiles import Profiles
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import DeviceMemoryError, EngineError
from trtdeploy.core.types import TensorSpec

logger = logging.getLogger("trtdeploy.backends")

_MIB = 1 << 20


class DeviceSession:
    """A TensorRT or TensorRT-RTX engine, shared by contexts that run at the same time.

    Once the device failed in the middle of a run, nothing more is started: its memory can no longer be trusted.

    Args:
        path: The plan's path, for messages.
        info: Its metadata.
        libraries: TensorRT and CUDA.
        runtime: The `Runtime` that made the engine; it must live as long.
        engine: The `ICudaEngine`.

    Raises:
        EngineError: The engine's tensors are not those of its metadata.
    """

    def __init__(self, path: Path, info: EngineInfo, libraries: Libraries, runtime: Any, engine: Any) -> None:
        self.info = info
        self.path = path
        self.libraries = libraries
        self.engine = engine
        self.mapped = libraries.cuda.is_integrated()
        self.scratch_size = scratch_bytes(engine)
        self._runtime = runtime
        self._contract = Contract(str(path), info)
        self._contexts: list[DeviceContext] = []
        self._failure: BaseException | None = None
        self._contract.check_tensors(*(_specs(libraries.trt, engine, mode) for mode in ("INPUT", "OUTPUT")))
        names = [profile.name for profile in info.plan.profiles] if info.plan is not None else []
        self.profiles = Profiles(str(path), engine, self._contract.input_name, names)

    def create_context(self) -> DeviceContext:
        """Return a new slot with a stream and scratch memory of its own.

        Raises:
            DeviceMemoryError: The device has not enough memory for another one; those that exist go on.
            EngineError: The session is closed, the device failed before, or TensorRT made no context.
        """
        with self.use():
            try:
                context = DeviceContext(self, self._contract)
            except DeviceMemoryError as error:
                raise self.explained(error, f"context {len(self._contexts) + 1}") from error
        self._contexts.append(context)
        return context

    def close(self) -> None:
        """Release the engine and all contexts. Idempotent.

        Raises:
            CudaError: The device failed, and had not before.
        """
        if self.engine is None:
            return
        contexts, self._contexts = self._contexts, []
        try:
            with self.libraries.cuda.current(), listening():
                run_all([context.release for context in contexts])
                self.engine = None
                self._runtime = None
        except EngineError as error:
            self.engine = self._runtime = None
            if self._failure is None:
                raise
            logger.debug("%s: not all could be freed, because the device had failed: %s", self.path, error)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Make the device current for this thread, while the session is open and sound.

        Raises:
            EngineError: It is not.
        """
        if self.engine is None:
            raise EngineError(f"{self.path}: the engine is closed.")
        if self._failure is not None:
            reason = str(self._failure) or f"{type(self._failure).__name__}."
            raise EngineError(
                f"{self.path}: an earlier run on the device did not end: {reason} Nothing more is started."
            ) from self._failure
        with self.libraries.cuda.current(), listening():
            yield

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run work of the device; any failure in it ends the use of the session.

        Raises:
            EngineError: The device failed.
        """
        try:
            yield
        except EngineError as error:
            self._failure = self._failure or error
            raise EngineError(f"{self.path}: {error}{_said()}") from error
        except BaseException as error:  # an interrupt leaves work behind that still uses the buffers
            self._failure = self._failure or error
            raise

    def explained(self, error: DeviceMemoryError, what: str) -> DeviceMemoryError:
        """Return `error` with what it was for and what helps."""
        return DeviceMemoryError(
            f"{self.path}: no memory for {what} (scratch memory of a context: {self.scratch_size / _MIB:.1f} MiB). "
            f"{error} Use fewer contexts, a smaller batch or image size, or close other programs that use the GPU."
        )

    def no_context(self) -> EngineError:
        """Return the error for an execution context that TensorRT did not make."""
        said = _said()
        if "memory" in said.lower():
            return DeviceMemoryError(f"TensorRT could not make an execution context.{said}")
        return EngineError(f"{self.path}: TensorRT could not make an execution context.{said}")


def _said() -> str:
    errors = errors_heard()
    return f" TensorRT says: {' '.join(errors)}" if errors else ""


def _specs(trt: Any, engine: Any, mode: str) -> list[TensorSpec]:
    """Return the engine's tensors as ours."""
    return [
        TensorSpec(
            name, DTYPES.get(kind, kind.lower()), tuple(d if d >= 0 else "?" for d in engine.get_tensor_shape(name))
        )
        for name in tensor_names(trt, engine, mode)
        for kind in [engine.get_tensor_dtype(name).name]
    ]
