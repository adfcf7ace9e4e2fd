"""The backends by name, made when they are asked for, and the choice among those installed."""

from __future__ import annotations

from collections.abc import Callable

from trtdeploy.backends.base import Backend
from trtdeploy.backends.trt_libraries import INSTALL
from trtdeploy.core.errors import MissingDependencyError, UsageError

AUTO = "auto"
_EMULATED = "emulated"


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
    _EMULATED: _emulated,
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


def runner_of(engine: str, built_by: str, asked: str | None) -> Backend:
    """Return the backend that runs an engine: the one that built it, unless another is asked for.

    Args:
        engine: What the engine is called in messages.
        built_by: Name of the backend that built it.
        asked: Name of another one, or None.

    Raises:
        UsageError: There is no such backend; or it would run an emulated engine without rounding as it should, or
            another one without anything to round.
        MissingDependencyError: It is not usable here.
    """
    backend, _ = choose(asked or built_by)
    if backend.name != built_by and _EMULATED in {backend.name, built_by}:
        raise UsageError(
            f"--backend {asked}: {engine} was built for {built_by}, and only engines built for {_EMULATED} are run "
            f"with emulated arithmetic, there and nowhere else. Leave --backend out, or build the model for "
            f"{backend.name}."
        )
    return backend


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
