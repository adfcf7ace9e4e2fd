"""The backends by name, made when they are asked for, and the choice among those installed."""

from __future__ import annotations

from collections.abc import Callable

from trtdeploy.backends.base import Backend
from trtdeploy.backends.trt_libraries import INSTALL
from trtdeploy.core.errors import MissingDependencyError, UsageError

AUTO = "auto"


def _onnxruntime() -> Backend:
    from trtdeploy.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend()


def _emulated() -> Backend:
    from trtdeploy.backends.emulated import EmulatedBackend

    return EmulatedBackend()


def _openvino() -> Backend:
    from trtdeploy.backends.openvino import OpenVinoBackend

    return OpenVinoBackend()


def _tensorrt() -> Backend:
    from trtdeploy.backends.tensorrt import TensorRtBackend

    return TensorRtBackend()


def _tensorrt_rtx() -> Backend:
    from trtdeploy.backends.tensorrt_rtx import TensorRtRtxBackend

    return TensorRtRtxBackend()


_MAKERS: dict[str, Callable[[], Backend]] = {
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "emulated": _emulated,
}


def backend_names() -> list[str]:
    """Return the names that `get` knows, sorted."""
    return sorted(_MAKERS)


def get(name: str) -> Backend:
    """Return the backend `name`, installed or not.

    Raises:
        UsageError: There is no such backend.
    """
    try:
        return _MAKERS[name]()
    except KeyError:
        names = ", ".join(backend_names())
        raise UsageError(f"There is no backend {name!r}. Choose one of {names}, or {AUTO}.") from None


def choose(name: str = AUTO) -> tuple[Backend, str]:
    """Return the backend to build with, and why, in a sentence.

    `auto` takes the fastest that is installed and whose engines can run here: TensorRT where there is a GPU. OpenVINO
    runs the networks measured about as fast as ONNX Runtime in FP32 and up to twice as fast where the CPU computes in
    16 bits.

    Raises:
        UsageError: There is no backend `name`, or it is installed in a version that is not supported.
        MissingDependencyError: It is not usable here, or with `auto` none is.
    """
    if name != AUTO:
        backend = get(name)
        available = backend.availability()
        if not available.usable and available.version is not None:
            raise UsageError(f"--backend {name}: {available.reason}")
        if not available.usable:
            raise MissingDependencyError(name, f"--backend {name}", _install(name))
        return backend, f"{name} {available.version or ''}".strip() + ", as asked."
    skipped: list[str] = []
    for candidate, why in _WHY.items():
        backend = get(candidate)
        available = backend.availability()
        if available.cannot_run:
            continue
        if available.usable:
            others = "".join(f" {reason}" for reason in skipped)
            return backend, f"{candidate} {available.version or ''}".strip() + f": {why}{others}"
        skipped.append(f"{candidate} would be faster: {available.reason}.")
    raise MissingDependencyError("A backend", "building engines", _install("onnxruntime"))


_WHY = {
    "tensorrt": "the fastest on an NVIDIA GPU.",
    "tensorrt-rtx": "runs on the NVIDIA GPU here.",
    "openvino": "the fastest installed on an x86 CPU.",
    "onnxruntime": "comes with trtdeploy and runs on every CPU.",
}
"""The backends among which `auto` chooses, in its order of preference."""


def _install(name: str) -> str:
    return _INSTALL.get(name, f"pip install 'trtdeploy[{name}]'")


_INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "emulated": "pip install onnxruntime",
    "tensorrt": INSTALL["tensorrt"],
    "tensorrt-rtx": INSTALL["tensorrt_rtx"],
}
