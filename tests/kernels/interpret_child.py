"""Runs jobs in the sanitised interpreter: reads them as JSON from stdin, writes results as JSON to stdout.

A job is `{"launch", "shapes", "special", "seed"}` and may have `"mutant"`, `{"module", "old", "new"}`, and `"huge"`:
then the shapes are those of the last image of a batch that has more than 2^31 elements, and only that is computed.
`"order"` is the seed of the order of the programs. Default 0.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from kernel_cases import Case, from_hwc8, make_case, relative_error, to_hwc8
from sanitised_interpreter import Buffer, Device, ViolationError

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.spec import Launch, Operation


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = [run(job, Path(folder)) for job in json.load(sys.stdin)]
    json.dump(results, sys.stdout)


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a job.

    Returns:
        `error`, or `violation`; and the bytes that moved, beside the least that must move.
    """
    operation, launch = launches()[job["launch"]]
    case = make_case(operation, job["shapes"], launch.data_type, job["special"], job["seed"])
    with mutated(job.get("mutant"), folder):
        try:
            return (compute_huge if job.get("huge") else compute)(operation, launch, case, job.get("order", 0))
        except ViolationError as error:
            return {"violation": str(error)}


def launches() -> dict[str, tuple[Operation, Launch]]:
    """Return all launches by name."""
    return {launch.name: (spec.operation, launch) for spec in plugin_specs().values() for launch in spec.launches}


def compute(operation: Operation, launch: Launch, case: Case, seed: int) -> dict[str, Any]:
    """Run a launch on a case.

    Raises:
        ViolationError: The kernel does what is not allowed, or the launch promises what is not so.
    """
    hwc8 = [operand.image and launch.layout == "hwc8" for operand in (*operation.inputs, *operation.outputs)]
    stored = [to_hwc8(array, np.nan) if is_hwc8 else array for array, is_hwc8 in zip(case.inputs, hwc8, strict=False)]
    results = [np.zeros(expected.shape, launch.data_type) for expected in case.expected]
    results = [
        to_hwc8(array, 0.0) if is_hwc8 else array for array, is_hwc8 in zip(results, hwc8[len(stored) :], strict=True)
    ]
    for array in results:
        array.fill(np.nan)
    device = launch_on(
        operation, launch, [array.shape for array in case.inputs], stored, results, case.attributes, seed
    )
    errors = []
    for array, expected, is_hwc8 in zip(results, case.expected, hwc8[len(stored) :], strict=True):
        if is_hwc8 and array[..., expected.shape[1] :].any():
            raise ViolationError("the channels behind the last are not zero")
        errors.append(relative_error(from_hwc8(array, expected.shape[1]) if is_hwc8 else array, expected))
    return {
        "error": max(errors),
        "read": device.bytes_read,
        "stored": device.bytes_stored,
        "least": sum(array.nbytes for array in (*stored, *results)),
    }


def compute_huge(operation: Operation, launch: Launch, case: Case, seed: int) -> dict[str, Any]:
    """Run a launch on the last image of a batch with more than 2^31 elements, of which the rest is never touched.

    Raises:
        ViolationError: As in `compute`.
    """
    largest = max(array.size for array in case.inputs)
    images = 2**31 // largest + 2
    is_batched = [operand.name != "w" or "Spatial" not in operation.op_type for operand in operation.inputs]
    shapes = [
        (images, *array.shape[1:]) if batched else array.shape
        for array, batched in zip(case.inputs, is_batched, strict=True)
    ]
    inputs = []
    for operand, shape, array in zip(operation.inputs, shapes, case.inputs, strict=True):
        last = to_hwc8(array, np.nan) if operand.image and launch.layout == "hwc8" else array
        inputs.append(np.zeros((shape[0], *last.shape[1:]), array.dtype))
        inputs[-1][-1] = last[0]
    outputs = []
    for result, expected in zip(operation.outputs, case.expected, strict=True):
        last = np.zeros(expected.shape)
        last = to_hwc8(last, 0.0) if result.image and launch.layout == "hwc8" else last
        outputs.append(np.zeros((images, *last.shape[1:]), launch.data_type))
        outputs[-1][-1] = np.nan
    blocks = evaluate(launch.grid[0], Numbers(shapes), case.attributes)
    programs = range(blocks - blocks // images, blocks)
    launch_on(operation, launch, shapes, inputs, outputs, case.attributes, seed, programs)
    errors = []
    for result, array, expected in zip(operation.outputs, outputs, case.expected, strict=True):
        last = array[-1:]
        if result.image and launch.layout == "hwc8":
            last = from_hwc8(last, expected.shape[1])
        errors.append(relative_error(last, expected))
    return {"error": max(errors)}


def launch_on(
    operation: Operation,
    launch: Launch,
    shapes: Sequence[Sequence[int]],
    inputs: Sequence[np.ndarray[Any, Any]],
    outputs: Sequence[np.ndarray[Any, Any]],
    attributes: dict[str, list[float]],
    seed: int,
    programs: Sequence[int] | None = None,
) -> Device:
    """Launch a kernel as TensorRT would: inputs, integers, outputs.

    Raises:
        ViolationError: As in `compute`.
    """
    how, numbers = launch.compilation, Numbers(shapes)
    grid = tuple(evaluate(size, numbers, attributes) for size in launch.grid)
    integers = [evaluate(argument, numbers, attributes) for argument in launch.arguments]
    buffers = [Buffer(item.name, array, writable=False) for item, array in zip(operation.inputs, inputs, strict=True)]
    results = [Buffer(item.name, array, writable=True) for item, array in zip(operation.outputs, outputs, strict=True)]
    kernel = getattr(importlib.import_module(how.module), how.function)
    constants = dict(how.constants)
    arguments = [*buffers, *integers, *results]
    named = dict(zip((name for name in kernel.arg_names if name not in constants), arguments, strict=True))
    for name, by in how.divisible:
        if isinstance(named[name], int) and named[name] % by:
            raise ViolationError(f"{launch.name} promises that {name} is a multiple of {by}, but it is {named[name]}")
    if not (0 < grid[0] < 2**31 and 0 < grid[1] < 2**16 and 0 < grid[2] < 2**16):
        raise ViolationError(f"{launch.name} has the grid {grid}, which no GPU launches")
    device = Device([*buffers, *results], seed)
    device.launch(kernel, grid, arguments, constants, programs)
    return device


@contextmanager
def mutated(mutant: dict[str, str] | None, folder: Path) -> Iterator[None]:
    """Replace one place in a kernel's source, which must be there exactly once."""
    if mutant is None:
        yield
        return
    name = mutant["module"]
    spec = importlib.util.find_spec(name)
    source = Path(spec.origin).read_text(encoding="utf-8")
    if source.count(mutant["old"]) != 1:
        raise ValueError(f"Mutant of {name}: {mutant['old']!r} is there {source.count(mutant['old'])} times, not once.")
    path = folder / f"mutant_{len(list(folder.iterdir()))}.py"
    path.write_text(source.replace(mutant["old"], mutant["new"]), encoding="utf-8")
    forget_kernels()
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
        yield
    finally:
        forget_kernels()


def forget_kernels() -> None:
    """Have kernel files imported anew."""
    for name in list(sys.modules):
        if name == "trtdeploy.attention.device" or (
            name.startswith("trtdeploy.attention.") and name.endswith(".kernel")
        ):
            del sys.modules[name]


if __name__ == "__main__":
    main()
