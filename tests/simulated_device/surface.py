"""What doubles what, so that the doubles can be compared with the real bindings.

A double may have fewer public names than the real class, never more: `extra_names` finds the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from simulated_device import cuda_driver, cuda_runtime, tensorrt

CUDA_RUNTIME = cuda_runtime.Runtime
"""Doubles the module `cuda.bindings.runtime`."""
CUDA_DRIVER = cuda_driver.Driver
"""Doubles the module `cuda.bindings.driver`."""
CUDA_ENUMS: dict[str, type[Enum]] = {
    name: getattr(cuda_runtime, name)
    for name in ("cudaError_t", "cudaMemcpyKind", "cudaMemoryType", "cudaDeviceAttr", "cudaStreamCaptureMode")
}
"""Members and values are those of the runtime's enums."""

TENSORRT: dict[str, dict[str, type]] = {
    "10.0": {"ICudaEngine": tensorrt.ICudaEngine100, "IExecutionContext": tensorrt.IExecutionContext100},
    "10": {"ICudaEngine": tensorrt.ICudaEngine10, "IExecutionContext": tensorrt.IExecutionContext},
    "11": {"ICudaEngine": tensorrt.ICudaEngine, "IExecutionContext": tensorrt.IExecutionContext},
    "rtx": {"ICudaEngine": tensorrt.ICudaEngine, "IExecutionContext": tensorrt.IExecutionContext},
}
"""Classes that differ between versions: 10.0 alone, 10.1 and later, 11, and TensorRT-RTX."""
COMMON: dict[str, type] = {"Runtime": tensorrt.Runtime, "ILogger": tensorrt.ILogger}
"""Classes that are the same in every version."""
PLUGINS: dict[str, type] = {
    "IPluginRegistry": tensorrt.IPluginRegistry,
    "IPluginCreatorV3One": tensorrt.IPluginCreatorV3One,
}
"""Classes that TensorRT has in every version; TensorRT-RTX takes no plugins."""
ENUMS: dict[str, type[Enum]] = {
    "DataType": tensorrt.DataType,
    "TensorIOMode": tensorrt.TensorIOMode,
    "ExecutionContextAllocationStrategy": tensorrt.ExecutionContextAllocationStrategy,
}
"""Members exist in every version; values are never used."""
CALLED_BACK = {
    "IOutputAllocator": ("reallocate_output", "reallocate_output_async", "notify_shape"),
    "ILogger": ("log",),
}
"""Methods that the library calls on our subclasses; the real base classes name them in their docstrings only."""

_OF_THE_DOUBLE = {"machine", "version", "engine_type", "context_type", "last_error"}
_MADE_BY_INIT = {
    "ICudaEngine": ("num_io_tensors", "num_optimization_profiles"),
    "IExecutionContext": ("engine",),
    "Runtime": ("logger", "engine_host_code_allowed"),
}


def names(double: type, real_name: str) -> set[str]:
    """Return the public names of a double."""
    found: Iterable[str] = (name for name in dir(double) if not name.startswith("_") and name not in _OF_THE_DOUBLE)
    return set(found) | set(_MADE_BY_INIT.get(real_name, ()))


def extra_names(double: type, real_name: str, real: Any) -> set[str]:
    """Return the public names of a double that the real class or module lacks."""
    return {name for name in names(double, real_name) if not hasattr(real, name)}
