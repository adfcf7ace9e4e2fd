"""The compiled kernels in the package: PTX text and the table of all operations, made by `make kernels`."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from trtdeploy.core.errors import EngineError, UsageError
from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.spec import DataType, Launch, Layout, PluginSpec

PtxTarget = Literal["sm80", "sm75"]
PTX_FOLDER = Path(__file__).parent / "ptx"
TABLE_PATH = PTX_FOLDER / "table.json"
TABLE_FORMAT = 1


@functools.cache
def load_table() -> dict[str, Any]:
    """Return the table of operations, launches and PTX files, as the C++ plugin reads it.

    Raises:
        EngineError: The table is missing or of another format.
    """
    try:
        table: dict[str, Any] = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"The table of kernels cannot be read ({error}). Reinstall trtdeploy, or run `make kernels` in a checkout."
        ) from error
    if table.get("format") != TABLE_FORMAT:
        raise EngineError(
            f"The table of kernels {TABLE_PATH} has format {table.get('format')!r}, expected {TABLE_FORMAT}. "
            "Reinstall trtdeploy, or run `make kernels` in a checkout."
        )
    return table


def launch_entry(launch_name: str) -> dict[str, Any]:
    """Return the table's entry of a launch, with its shared memory and its PTX files.

    Raises:
        EngineError: The table has no such launch, or cannot be read.
    """
    entries = _entries()
    if launch_name not in entries:
        raise EngineError(
            f"There is no compiled kernel {launch_name!r}. Reinstall trtdeploy, or run `make kernels` in a checkout."
        )
    return entries[launch_name]


def ptx_text(launch_name: str, target: PtxTarget) -> str:
    """Return the PTX of a launch.

    Args:
        launch_name: Name of a `Launch`, which is the kernel's name in the PTX too.
        target: `sm80` for compute capability 8.0 and newer, `sm75` for 7.5.

    Raises:
        EngineError: There is none, its file is missing, or the file is not the one that was packaged.
    """
    files = launch_entry(launch_name)["ptx"]
    if target not in files:
        raise EngineError(
            f"Kernel {launch_name} is compiled for {', '.join(files)}, not for {target}. "
            "Build the engine without plugins: --attention native."
        )
    path: Path = PTX_FOLDER / files[target]["file"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"Kernel {path} cannot be read ({error}). Reinstall trtdeploy.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != files[target]["sha256"]:
        raise EngineError(
            f"Kernel {path} was changed: its SHA-256 is {digest}, expected {files[target]['sha256']}. "
            "Reinstall trtdeploy, or run `make kernels` in a checkout."
        )
    return content.decode("ascii")


def choose_launch(
    spec: PluginSpec, shapes: Sequence[Sequence[int]], data_type: DataType, layout: Layout = "linear"
) -> Launch:
    """Return the launch that computes an operation on inputs of known shapes: the first whose conditions hold.

    Args:
        spec: The operation.
        shapes: Shapes of its inputs.
        data_type: Type of all its tensors.
        layout: Layout of its images.

    Raises:
        UsageError: The operation has no kernel for this.
    """
    numbers = Numbers(shapes)
    if all(evaluate(condition, numbers, {}) for condition in spec.conditions):
        for launch in spec.launches:
            if (launch.data_type, launch.layout) == (data_type, layout) and all(
                evaluate(condition, numbers, {}) for condition in launch.conditions
            ):
                return launch
    raise UsageError(
        f"{spec.operation.op_type} has no kernel for shapes {[tuple(shape) for shape in shapes]}, {data_type}, "
        f"{layout}. Build the engine without plugins: --attention native."
    )


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    return {launch["name"]: launch for operation in load_table()["operations"] for launch in operation["launches"]}
