"""TensorRT or TensorRT-RTX with CUDA, and the names that differ between their versions."""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from trtdeploy.backends.device.cuda import Cuda, load_cuda
from trtdeploy.backends.trt_libraries import INSTALL, TITLES
from trtdeploy.core.errors import MissingDependencyError

logger = logging.getLogger("trtdeploy.backends")

Library = Literal["tensorrt", "tensorrt_rtx"]

_KEPT_ERRORS = 20
_LOGGER = "_trtdeploy_logger"

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""NumPy's types by TensorRT's; others (BF16, FP8, INT4) have none."""


@dataclass(frozen=True)
class Libraries:
    """What a session is made of.

    Attributes:
        trt: Module `tensorrt` or `tensorrt_rtx`.
        cuda: CUDA on the GPU to use.
    """

    trt: Any
    cuda: Cuda


def load_libraries(library: Library, needed_for: str) -> Libraries:
    """Return the installed libraries, with the first GPU.

    Raises:
        MissingDependencyError: TensorRT or cuda-python is not installed.
        CudaError: There is no driver or no GPU.
    """
    try:
        trt = importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise MissingDependencyError(TITLES[library], needed_for, INSTALL[library]) from None
    return Libraries(trt, load_cuda(needed_for))


_heard = threading.local()
"""Errors of this thread's work in progress, as `errors`."""


@contextmanager
def listening() -> Iterator[None]:
    """Collect what TensorRT logs as errors in this thread, for `errors_heard`."""
    before = getattr(_heard, "errors", None)
    _heard.errors = deque(maxlen=_KEPT_ERRORS)
    try:
        yield
    finally:
        _heard.errors = before


def errors_heard() -> list[str]:
    """Return the errors since `listening` began, oldest first."""
    return list(getattr(_heard, "errors", None) or ())


def error_log(trt: Any) -> Any:
    """Return the `ILogger` of a TensorRT module, which prints nothing.

    There is one for the process, and it lives as long as the module: TensorRT's plugins and their registry keep the
    first that they are given.
    """
    if not hasattr(trt, _LOGGER):
        setattr(trt, _LOGGER, _new_logger(trt))
    return getattr(trt, _LOGGER)


def _new_logger(trt: Any) -> Any:
    levels = trt.ILogger.Severity

    class ErrorLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity not in {levels.INTERNAL_ERROR, levels.ERROR}:
                return
            errors = getattr(_heard, "errors", None)
            if errors is None:  # a thread of TensorRT's own
                logger.warning("TensorRT: %s", msg)
            else:
                errors.append(msg)

    return ErrorLogger()


def output_allocator(trt: Any, address: int, capacity: int, on_shape: Callable[[tuple[int, ...]], None]) -> Any:
    """Return an `IOutputAllocator` for one output whose shape is known only after it was computed.

    Args:
        trt: The TensorRT module.
        address: Device memory for the output.
        capacity: Its bytes; TensorRT says beforehand how many can be needed.
        on_shape: Called with the shape.
    """

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:  # noqa: ARG002
            return address if size <= capacity else 0  # 0 fails the run

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:  # noqa: ARG002
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:  # noqa: ARG002
            on_shape(tuple(shape))

    return Allocator()


def register_plugins(trt: Any) -> None:
    """Make TensorRT's own plugins known; TensorRT-RTX has none."""
    register = getattr(trt, "init_libnvinfer_plugins", None)
    if register is not None:
        register(error_log(trt), "")


def scratch_bytes(engine: Any) -> int:
    """Return the scratch memory that a context of `engine` needs, for the largest of its profiles."""
    size = getattr(engine, "device_memory_size_v2", None)  # from 10.1; the older name is gone in 11
    return int(engine.device_memory_size if size is None else size)


def create_execution_context(trt: Any, engine: Any) -> Any:
    """Return an execution context that waits for scratch memory, None where TensorRT cannot make one."""
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def give_scratch(context: Any, address: int, size: int) -> None:
    """Give a context its scratch memory."""
    give = getattr(context, "set_device_memory", None)  # from 10.1
    if give is None:
        context.device_memory = address
    else:
        give(address, size)
