"""The C++ plugin library (plugins/): finds it and loads it into TensorRT, for a build or for a session.

TensorRT before 10.9 needs it for every engine with trtdeploy's plugins, while it is built and while it runs. Newer ones
take quick plugins instead, which need nothing where the engine runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trtdeploy.core.errors import EngineError, MissingDependencyError, UsageError
from trtdeploy.kernels.spec import NAMESPACE, PLUGIN_VERSION
from trtdeploy.kernels.store import load_table


def load_plugin_library(trt: Any, path: Path | None = None) -> None:
    """Register the C++ plugins in TensorRT's registry, unless they are registered already.

    TensorRT keeps the library until the process ends.

    Args:
        trt: The module `tensorrt`.
        path: The library or its folder; default: where `cmake --install` puts it.

    Raises:
        UsageError: `path` is no library for this TensorRT.
        MissingDependencyError: The library is not installed.
        EngineError: TensorRT refused it, or it lacks operations of this trtdeploy.
    """
    if not _missing_operations(trt):
        return
    library = find_plugin_library(str(trt.__version__), path)
    if trt.get_plugin_registry().load_library(str(library)) is None:
        raise EngineError(
            f"TensorRT {trt.__version__} did not load {library}. Its log has the reason; a library must be built with "
            f"the headers of the TensorRT and for the processor that run it: {how_to_build(library.parent)}"
        )
    if missing := _missing_operations(trt):
        raise EngineError(
            f"{library} has no plugins for {', '.join(missing)}: it was built from another version of trtdeploy. "
            f"Build it again: {how_to_build(library.parent)}"
        )


def find_plugin_library(version: str, path: Path | None = None) -> Path:
    """Return the library for a TensorRT version.

    Args:
        version: TensorRT's, such as `10.3.0.26`.
        path: The library or its folder; default: where `cmake --install` puts it.

    Raises:
        UsageError: `path` does not exist, or is a folder without the library.
        MissingDependencyError: The library is not installed.
    """
    name = library_name(version)
    if path is not None:
        library = path / name if path.is_dir() else path
        if not library.is_file():
            raise UsageError(f"Plugin library {library} does not exist. Expected {name}, or the folder that holds it.")
        return library.resolve()
    for folder in _folders():
        if (folder / name).is_file():
            return folder / name
    searched = ", ".join(map(str, _folders()))
    raise MissingDependencyError(
        f"The plugin library {name}",
        f"engines with trtdeploy's plugins on TensorRT {version} (searched in {searched}; one that lies elsewhere can "
        "be linked there)",
        how_to_build(),
    )


def library_name(version: str) -> str:
    """Return the library's file name: TensorRT's classes differ between major versions."""
    return f"libtrtdeploy_plugins_trt{version.partition('.')[0]}.so"


def how_to_build(folder: Path | None = None) -> str:
    """Return the commands that put the library into `folder`, by default that of this environment."""
    prefix = (folder or _folders()[0]).parent.parent
    return (
        "cmake -S plugins -B build -DTRT_INCLUDE=<folder with NvInfer.h> && cmake --build build && "
        f"cmake --install build --prefix {prefix} (in a checkout of trtdeploy; see plugins/README.md)"
    )


def _folders() -> tuple[Path, ...]:
    """Return where `cmake --install` puts the library with the usual prefixes, this environment's first."""
    return tuple(Path(prefix) / "lib" / "trtdeploy" for prefix in (sys.prefix, "/usr/local", "/usr"))


def _missing_operations(trt: Any) -> list[str]:
    """Return the operations without a creator.

    Raises:
        EngineError: Quick plugins have the names already: both kinds cannot be in one process.
    """
    registry = trt.get_plugin_registry()
    missing = []
    for operation in load_table()["operations"]:
        creator = registry.get_creator(operation["op_type"], PLUGIN_VERSION, NAMESPACE)
        if creator is None:
            missing.append(operation["op_type"])
        elif not isinstance(creator, trt.IPluginCreatorV3One):
            raise EngineError(
                f"The plugin {operation['op_type']} is registered in this process already, as a quick plugin. "
                "Load the C++ plugin library in a process that has not registered quick plugins."
            )
    return missing
