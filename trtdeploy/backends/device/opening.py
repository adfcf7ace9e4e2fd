"""Opening a plan: what can be checked is checked before the library gets its bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trtdeploy.backends.base import SessionOptions
from trtdeploy.backends.device.libraries import (
    Libraries,
    Library,
    error_log,
    errors_heard,
    listening,
    load_libraries,
    register_plugins,
)
from trtdeploy.backends.device.session import DeviceSession
from trtdeploy.backends.trt_libraries import TITLES, version_numbers
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import DeviceMemoryError, EngineError
from trtdeploy.core.plan_file import PlanHeader, read_plan, verify_plan
from trtdeploy.kernels.spec import NAMESPACE

_AMPERE = (8, 0)
_MISSING_PLUGIN = re.compile(
    r"(?:could not|cannot) find plugin:?\s*([\w:]+),?\s+version:?\s*(\w+)(?:,?\s+namespace:?\s*(\w*(?:\.\w+)*))?",
    re.IGNORECASE,
)
_HOST_CODE = re.compile(r"host[ _]?(?:executable )?code", re.IGNORECASE)
_MEMORY = re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|insufficient memory", re.IGNORECASE)


def open_plan(
    path: Path,
    info: EngineInfo,
    options: SessionOptions,  # noqa: ARG001 - contexts are made one by one, and have no threads on the host
    *,
    library: Library,
    libraries: Libraries | None = None,
) -> DeviceSession:
    """Open a plan of TensorRT or TensorRT-RTX on the GPU.

    Args:
        path: The plan.
        info: Its metadata.
        options: How the session will be used.
        library: Which library it is for.
        libraries: What to use instead of the installed libraries on the first GPU.

    Raises:
        EngineError: The file is no plan of this library, was changed or cut, is for another version or GPU, needs a
            plugin that is not there, contains host code, or the library refused it; or there is no GPU.
        DeviceMemoryError: The device has not enough memory for the weights.
        MissingDependencyError: TensorRT, cuda-python or the plugin library that the plan needs is not installed.
    """
    header = read_plan(path)
    if header.kind != library.replace("_", "-"):
        raise EngineError(f"{path}: this is a plan of {header.kind}, not of {TITLES[library]}. Build it again.")
    if header.is_truncated:
        raise EngineError(
            f"{path}: the plan is cut: it has {header.size_bytes} bytes and says {header.declared_bytes}. Copy it "
            "again, or build it again."
        )
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: the plan cannot be read: {error}") from error
    verify_plan(path, plan)
    libraries = libraries or load_libraries(library, f"engine {path}")
    _check_fits(path, info, header, libraries, library)
    with libraries.cuda.current(), listening():
        register_plugins(libraries.trt)
        if _needs_plugin_library(info, header, libraries, library):
            _load_plugin_library(path, libraries.trt)
        runtime, engine = _deserialise(path, plan, libraries, TITLES[library])
        return DeviceSession(path, info, libraries, runtime, engine)


def _check_fits(path: Path, info: EngineInfo, header: PlanHeader, libraries: Libraries, library: Library) -> None:
    """Check that the plan is for this version of the library and for this GPU.

    Raises:
        EngineError: It is not; the message has every field that differs.
    """
    problems = []
    built, here = _built_by(info, header, library), str(libraries.trt.__version__)
    if built is not None and not _runs_on(version_numbers(built), version_numbers(here), info):
        problems.append(f"it was built by {TITLES[library]} {built}, and {here} is installed")
    targets = header.targets or (tuple(info.plan.targets) if info.plan is not None else ())
    capability = libraries.cuda.compute_capability()
    gpu = "sm{}{}".format(*capability)
    on_any = _was_built(info, "hardware-compatible") and capability >= _AMPERE
    if targets and gpu not in targets and not on_any:
        problems.append(f"it was built for {', '.join(targets)}, and {libraries.cuda.name()} is {gpu}")
    if problems:
        raise EngineError(f"{path}: the plan does not fit this machine: {'; '.join(problems)}. Build it again for it.")


def _built_by(info: EngineInfo, header: PlanHeader, library: Library) -> str | None:
    """Return the version of the library that built the plan, None where it is not known."""
    return header.version or info.versions.get(library)


def _runs_on(built: tuple[int, ...], here: tuple[int, ...], info: EngineInfo) -> bool:
    return built == here or (_was_built(info, "version-compatible") and built < here)


def _was_built(info: EngineInfo, option: str) -> bool:
    options = info.plan.options if info.plan is not None else []
    return any(option in text.replace("_", "-") for text in options)


def _needs_plugin_library(info: EngineInfo, header: PlanHeader, libraries: Libraries, library: Library) -> bool:
    """Return whether the plan has trtdeploy's plugins and is too old to have their kernels inside."""
    from trtdeploy.backends.quick_plugins import FIRST_VERSION

    if library != "tensorrt" or info.plan is None or info.plan.attention != "plugin":
        return False
    return version_numbers(_built_by(info, header, library) or str(libraries.trt.__version__)) < FIRST_VERSION


def _load_plugin_library(path: Path, trt: Any) -> None:
    """Load trtdeploy's C++ plugins for a plan.

    Raises:
        EngineError: TensorRT refused the library, or it is of another version of trtdeploy.
        MissingDependencyError: It is not installed.
    """
    from trtdeploy.backends.plugin_library import load_plugin_library

    with listening():  # asking for plugins that are not there yet is an error in TensorRT's log
        try:
            load_plugin_library(trt)
        except EngineError as error:
            said = " ".join(text for text in errors_heard() if not _MISSING_PLUGIN.search(text)) or "nothing"
            raise EngineError(f"{path}: {error} TensorRT says: {said}") from error


def _deserialise(path: Path, plan: bytes, libraries: Libraries, title: str) -> tuple[Any, Any]:
    trt = libraries.trt
    runtime = trt.Runtime(error_log(trt))
    # a plan with host code is a program for this process, which nobody asked for
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _refusal(path, title, errors_heard())
    return runtime, engine


def _refusal(path: Path, title: str, errors: list[str]) -> EngineError:
    """Return the error for a plan that the library did not take."""
    said = " ".join(errors) or "nothing"
    missing = list(dict.fromkeys(_MISSING_PLUGIN.findall(said)))
    if missing:
        names = ", ".join(f"{name} (version {version or '1'}, namespace {space!r})" for name, version, space in missing)
        return EngineError(
            f"{path}: the plan needs plugins that are not loaded: {names}. {_advice(missing)}, or build with "
            f"--attention native. {title} says: {said}"
        )
    if _HOST_CODE.search(said):
        return EngineError(
            f"{path}: the plan contains host code, which runs with the rights of this process; such plans are refused. "
            f"Build it again without version compatibility, or with the lean runtime excluded. {title} says: {said}"
        )
    if _MEMORY.search(said):
        return DeviceMemoryError(
            f"{path}: no memory for the engine's weights. Close other programs that use the GPU. {title} says: {said}"
        )
    return EngineError(f"{path}: {title} refused the plan. Build it again on this machine. {title} says: {said}")


def _advice(missing: list[tuple[str, str, str]]) -> str:
    """Return where plugins `(name, version, namespace)` come from."""
    from trtdeploy.backends.plugin_library import how_to_build

    if any(namespace == NAMESPACE for _name, _version, namespace in missing):
        return (
            "Those of trtdeploy are in its C++ plugin library: load it before opening the engine "
            "(trtdeploy.backends.plugin_library.load_plugin_library(tensorrt)); where it is not installed, build it: "
            f"{how_to_build()}"
        )
    return "Load their library before opening the engine (get_plugin_registry().load_library(...))"
