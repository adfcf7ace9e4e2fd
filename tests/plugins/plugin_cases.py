"""Operations, shapes and attribute values for the tests of the C++ plugins, and how the probes spell them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.core.errors import UsageError
from trtdeploy.kernels.expression import Numbers, evaluate, float_bits
from trtdeploy.kernels.spec import DataType, Layout, PluginSpec
from trtdeploy.kernels.store import choose_launch, launch_entry

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins"))

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]

OP_TYPES = sorted(plugin_specs())
COMBINATIONS: tuple[tuple[DataType, Layout], ...] = (
    ("float32", "linear"),
    ("float16", "linear"),
    ("float16", "hwc8"),
    ("float32", "hwc8"),
)
ATTRIBUTES: Mapping[str, Mapping[str, Sequence[float]]] = {
    "TrtdeploySimAMGate": {"epsilon": [1e-4]},
    "TrtdeployScaledDotProduct": {"scale": [-0.25]},
}
CASES = 30


def _gate(n: int, c: int, h: int, w: int, rng: random.Random) -> Shapes:
    return (n, c, h, w), tuple(rng.choice([1, size]) for size in (n, c, h, w))


def _attention(n: int, c: int, h: int, w: int, rng: random.Random) -> Shapes:
    width = rng.choice([16, 32, 64, 128])
    return (n, c, h, width), (n, c, width, w), (n, c, w, width)


SHAPES: Mapping[str, Callable[[int, int, int, int, random.Random], Shapes]] = {
    "TrtdeploySimAMGate": lambda n, c, h, w, _: ((n, c, h, w),),
    "TrtdeployCoordPool": lambda n, c, h, w, _: ((n, c, h, w),),
    "TrtdeployCoordGate": lambda n, c, h, w, _: ((n, c, h, w), (n, c, h, 1), (n, c, 1, w)),
    "TrtdeployChannelPool": lambda n, c, h, w, _: ((n, c, h, w),),
    "TrtdeploySpatialPool": lambda n, c, h, w, _: ((n, c, h, w),),
    "TrtdeploySpatialGate": lambda n, c, h, w, _: ((n, c, h, w), (n, 2, h, w), (1, 2, 7, 7)),
    "TrtdeployScaledSpatialPool": lambda n, c, h, w, _: ((n, c, h, w), (n, c, 1, 1)),
    "TrtdeployScaledSpatialGate": lambda n, c, h, w, _: ((n, c, h, w), (n, c, 1, 1), (n, 2, h, w), (1, 2, 7, 7)),
    "TrtdeployGateMultiply": _gate,
    "TrtdeployScaledDotProduct": _attention,
}


def shapes_of(op_type: str) -> Iterator[Shapes]:
    """Return `CASES` shapes of the inputs of an operation: small, odd, round and long, the same every time."""
    rng = random.Random(op_type)
    sizes = [1, 2, 3, 7, 8, 13, 16, 20, 32, 40, 63, 64, 80, 100, 128, 160, 255, 256, 400, 512, 640, 1023, 1024]
    for _ in range(CASES):
        yield SHAPES[op_type](rng.randint(1, 4), rng.choice(sizes[:18]), rng.choice(sizes), rng.choice(sizes), rng)


def plan_in_python(spec: PluginSpec, data_type: DataType, layout: Layout, shapes: Shapes) -> list[str] | None:
    """Return what the Python side launches: kernel, grid, block, shared memory, arguments; None without a kernel."""
    try:
        launch = choose_launch(spec, shapes, data_type, layout)
    except UsageError:
        return None
    numbers = Numbers(shapes)
    attributes = ATTRIBUTES.get(spec.operation.op_type, {})
    entry = launch_entry(launch.name)
    grid = [evaluate(extent, numbers, attributes) for extent in launch.grid]
    arguments = [evaluate(argument, numbers, attributes) for argument in launch.arguments]
    return [launch.name, *map(str, (*grid, entry["block"], entry["shared_bytes"], *arguments))]


def spelled_shapes(shapes: Sequence[Sequence[int]]) -> str:
    """Return `1x3x8x8,1x3x1x1`."""
    return ",".join("x".join(map(str, shape)) for shape in shapes)


def spelled_attributes(op_type: str) -> str:
    """Return the values of an operation's attributes as the probe reads them: floats as their bits."""
    attributes = plugin_specs()[op_type].operation.attributes
    values = [
        [
            float_bits(value) if attribute.kind == "floats" else int(value)
            for value in ATTRIBUTES[op_type][attribute.name]
        ]
        for attribute in attributes
    ]
    return ";".join(",".join(map(str, numbers)) for numbers in values) or "-"


PTX = """.version 8.0
.target sm_75
.address_size 64
.visible .entry {entry}(
    .param .u64 .ptr .global .align 1 a,
    .param .u32 n,
    .param .u64 .ptr .global .align 1 b
)
.reqntid 128
{{ ret; }}
"""


def tiny_operation(**changes: Any) -> dict[str, Any]:
    """Return an operation as table.json holds it: one input, one output, one kernel with one argument."""
    launch = {
        "name": "tiny",
        "data_type": "float32",
        "layout": "linear",
        "conditions": [["<", ["dim", 0, 1], 1000]],
        "grid": [["cdiv", ["dim", 0, 1], 128], 1, 1],
        "arguments": [["*", ["dim", 0, 0], ["dim", 0, 1]]],
        "block": 128,
        "shared_bytes": 0,
        "entry": "tiny",
        "ptx": {"sm75": {}},
    }
    operation: dict[str, Any] = {
        "op_type": "Tiny",
        "inputs": [{"name": "x", "rank": 2, "image": False}],
        "outputs": [{"name": "y", "dims": [["dim", 0, 0], ["dim", 0, 1]], "image": False}],
        "attributes": [
            {"name": "heads", "kind": "ints", "length": 2},
            {"name": "epsilon", "kind": "floats", "length": 1},
        ],
        "conditions": [],
        "launches": [launch],
    }
    launch.update(changes.pop("launch", {}))
    operation.update(changes)
    return operation


def tiny_definition(operation: dict[str, Any] | None = None, ptx: str = PTX.format(entry="tiny")) -> str:
    """Return an operation as the bytes of its definition, in hexadecimal digits."""
    import generate_table

    return generate_table.definition(operation or tiny_operation(), lambda _: ptx.encode()).hex()
