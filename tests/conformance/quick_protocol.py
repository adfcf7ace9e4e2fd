"""Runs in a child under real bindings: walks quick plugins through the calls that TensorRT makes when it builds."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.backends import quick_plugins
from trtdeploy.kernels.expression import Expr, const
from trtdeploy.kernels.spec import PluginSpec

Sizes = list[list[int]]
DECLARATION = re.compile(r"^\.target (\w+)|^\s*\.visible \.entry (\w+)\(", re.MULTILINE)
GRID = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")


def symbols(trt: Any) -> Callable[..., Any]:
    """Return a maker of symbolic numbers: `symbol(function of the inputs' shapes, value where it is fixed)`."""

    class Symbol(trt.IDimensionExpr):
        """What TensorRT's IDimensionExpr is: a number that is computed from the shapes of a launch."""

        def is_constant(self) -> bool:
            return self.fixed is not None

        def get_constant_value(self) -> int:
            return self.fixed

        def is_size_tensor(self) -> bool:
            return False

    def make(compute: Callable[[Sizes], int], fixed: int | None) -> Any:
        symbol = Symbol.__new__(Symbol)  # the real class has no constructor: TensorRT makes the objects
        symbol.compute, symbol.fixed = compute, fixed
        return symbol

    return make


class ExprBuilder:
    """TensorRT's IExprBuilder, whose results are computed when shapes are known. Division is C++'s."""

    def __init__(self, trt: Any, make: Callable[..., Any]) -> None:
        operation = trt.DimensionOperation
        self.make = make
        self.operations: dict[Any, Callable[[int, int], int]] = {
            operation.SUM: lambda a, b: a + b,
            operation.SUB: lambda a, b: a - b,
            operation.PROD: lambda a, b: a * b,
            operation.FLOOR_DIV: lambda a, b: int(a / b) if a * b < 0 else a // b,
            operation.CEIL_DIV: lambda a, b: math.ceil(a / b),
            operation.MAX: max,
            operation.MIN: min,
            operation.EQUAL: lambda a, b: int(a == b),
            operation.LESS: lambda a, b: int(a < b),
        }

    def constant(self, value: int) -> Any:
        if not -(2**63) <= value < 2**63:
            raise OverflowError(f"IExprBuilder::constant takes an int64, got {value}")
        return self.make(lambda _: value, value)

    def operation(self, kind: Any, first: Any, second: Any) -> Any:
        compute = self.operations[kind]
        known = first.fixed is not None and second.fixed is not None
        fixed = compute(first.fixed, second.fixed) if known else None
        return self.make(lambda sizes: compute(first.compute(sizes), second.compute(sizes)), fixed)


class Arguments(dict[int, Any]):
    """TensorRT's ISymExprs."""

    nbSymExprs = 0  # noqa: N815  (the real name)


class Walk:
    """One plugin, on one set of input shapes.

    Args:
        trt: The bindings.
        case: `op_type`, `data_type`, `shapes` (-1 where the network does not fix a size), `attributes` (by name),
            `runs`: shapes of the inputs at run time; and `input_types` where they are not all of `data_type`.
    """

    def __init__(self, trt: Any, case: dict[str, Any]) -> None:
        self.trt, self.case = trt, case
        make = symbols(trt)
        self.builder = ExprBuilder(trt, make)
        self.inputs = [
            [make(lambda sizes, i=i, j=j: sizes[i][j], None if size < 0 else size) for j, size in enumerate(shape)]
            for i, shape in enumerate(case["shapes"])
        ]
        creator = trt.get_plugin_registry().get_creator(case["op_type"], "1", "trtdeploy")
        fields = [
            trt.PluginField(field.name, np.asarray(case["attributes"][field.name], np.float32), field.type)
            for field in creator.field_names
        ]
        request = trt.QuickPluginCreationRequest.STRICT_AOT
        self.plugin = creator.create_plugin(
            case["op_type"], "trtdeploy", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD, request
        )

    def walk(self) -> dict[str, Any]:
        """Return the outputs' types and shapes, and each layout's launches, computed for every run."""
        trt, plugin = self.trt, self.plugin
        kind = {"float32": trt.float32, "float16": trt.float16}[self.case["data_type"]]
        names = self.case.get("input_types")
        types_in = [getattr(trt.DataType, name) for name in names] if names else [kind] * len(self.inputs)
        types_out = plugin.get_output_data_types(types_in, [len(shape) for shape in self.inputs])
        outputs = plugin.get_output_shapes(self.inputs, [], self.builder)
        shapes_out = [[size.fixed if size.fixed is not None else -1 for size in shape] for shape in outputs]
        first = [self._desc(shape, kind, trt.TensorFormat.LINEAR) for shape in (*self.case["shapes"], *shapes_out)]
        offered = plugin.get_supported_format_combinations(first, len(self.inputs))
        combinations = [offered[start : start + len(first)] for start in range(0, len(offered), len(first))]
        return {
            "types": [one.name for one in types_out],
            "shapes": [[[size.compute(run) for size in shape] for shape in outputs] for run in self.case["runs"]],
            "launches": [launch for chosen in combinations for launch in self._launches(chosen, shapes_out)],
        }

    def _launches(self, chosen: list[Any], shapes_out: Sizes) -> list[dict[str, Any]]:
        """Return what each tactic launches with the types and formats in `chosen`."""
        shapes = [*self.case["shapes"], *shapes_out]
        descs = [self._desc(shape, one.type, one.format) for shape, one in zip(shapes, chosen, strict=True)]
        split = len(self.inputs)
        self.plugin.configure_plugin(descs[:split], descs[split:])
        found = []
        for tactic in sorted(self.plugin.get_valid_tactics()):
            clone = self.plugin.clone()
            clone.set_tactic(tactic)
            launch, arguments = types.SimpleNamespace(), Arguments()
            clone.get_launch_params(self.inputs, descs, split, launch, arguments, self.builder)
            name, ptx = clone.get_kernel([one.desc for one in descs[:split]], [one.desc for one in descs[split:]])
            assert arguments.nbSymExprs == len(arguments)
            grid = [getattr(launch, field) for field in GRID]
            found.append(
                {
                    "tactic": tactic,
                    "types": [one.type.name for one in chosen],
                    "formats": [one.format.name for one in chosen],
                    "kernel": name,
                    "sha256": hashlib.sha256(ptx).hexdigest(),
                    "declares": re.findall(
                        r"^\.target (\w+)|^\s*\.visible \.entry (\w+)\(", ptx.decode(), re.MULTILINE
                    ),
                    "grid": [[self._value(size.seen, run) for size in grid] for run in self.case["runs"]],
                    "arguments": [
                        [self._value(arguments[i].seen, run) for i in range(len(arguments))]
                        for run in self.case["runs"]
                    ],
                }
            )
        return found

    @staticmethod
    def _value(symbol: Any, run: Sizes) -> int:
        value = symbol.compute(run)
        assert -(2**31) <= value < 2**31, f"{value} is not an int32"
        return int(value)

    def _desc(self, shape: list[int], kind: Any, layout: Any) -> Any:
        desc = self.trt.DynamicPluginTensorDesc()
        inner = self.trt.PluginTensorDesc()
        inner.dims, inner.type, inner.format = self.trt.Dims(shape), kind, layout
        desc.desc = inner
        return desc


def walk(trt: Any, order: dict[str, Any]) -> list[Any]:
    """Register the plugins and return each case's `Walk.walk`, or `"Error: message"` of what TensorRT would be told.

    Args:
        trt: The bindings.
        order: `target`, `cases`, and `mutation`: None, or a name in `MUTATIONS`.
    """
    observe_arguments(trt)
    trt.DimsExprs = lambda length: [None] * length  # the real one holds objects of the library that is not here
    specs = list(plugin_specs().values())
    if order["mutation"]:
        specs = [MUTATIONS[order["mutation"]](spec) for spec in specs]
    for target in ("sm80", "sm75", order["target"]):  # again only changes the target
        quick_plugins.register_quick_plugins(trt, specs, target)
    found: list[Any] = []
    for case in order["cases"]:
        try:
            found.append(Walk(trt, case).walk())
        except Exception as error:  # noqa: BLE001  (TensorRT's own wrapper prints any, and gives up the build)
            found.append(f"{type(error).__name__}: {error}")
    return found


def observe_arguments(trt: Any) -> None:
    """Keep what the real ISymExpr is given, whose properties can be set only; and check the types that it is told."""
    import tensorrt.plugin._tensor as tensor

    real_expr, real_dtype = trt.ISymExpr.expr, trt.ISymExpr.dtype

    def set_expr(self: Any, value: Any) -> None:
        real_expr.__set__(self, value)
        self.seen = value

    def set_dtype(self: Any, value: Any) -> None:
        real_dtype.__set__(self, value)
        assert value == trt.PluginArgDataType.INT32

    tensor.SymExprImpl.expr = property(None, set_expr)
    tensor.SymExprImpl.dtype = property(None, set_dtype)


def of_launches(**changes: Callable[[Any], Any]) -> Callable[[PluginSpec], PluginSpec]:
    """Return a mutation that replaces fields of every launch by functions of the launch."""

    def mutate(spec: PluginSpec) -> PluginSpec:
        replaced = [
            dataclasses.replace(launch, **{name: change(launch) for name, change in changes.items()})
            for launch in spec.launches
        ]
        return dataclasses.replace(spec, launches=tuple(replaced))

    return mutate


def of_operation(**changes: Callable[[Any], Any]) -> Callable[[PluginSpec], PluginSpec]:
    """Return a mutation that replaces fields of the operation by functions of the operation."""

    def mutate(spec: PluginSpec) -> PluginSpec:
        made = {name: change(spec.operation) for name, change in changes.items()}
        return dataclasses.replace(spec, operation=dataclasses.replace(spec.operation, **made))

    return mutate


def floor_for_ceil(expression: Expr) -> Expr:
    args = [floor_for_ceil(arg) if isinstance(arg, Expr) else arg for arg in expression.args]
    return Expr("//" if expression.op == "cdiv" else expression.op, tuple(args))


MUTATIONS: dict[str, Callable[[PluginSpec], PluginSpec]] = {
    "grid one block short": of_launches(grid=lambda one: (one.grid[0] - 1, *one.grid[1:])),
    "grid axes exchanged": of_launches(grid=lambda one: one.grid[::-1]),
    "grid rounded down": of_launches(grid=lambda one: tuple(floor_for_ceil(size) for size in one.grid)),
    "arguments reversed": of_launches(arguments=lambda one: one.arguments[::-1]),
    "last argument lost": of_launches(arguments=lambda one: one.arguments[:-1]),
    "conditions lost": of_launches(conditions=lambda one: ()),
    "conditions never hold": of_launches(conditions=lambda one: (const(0),)),
    "layouts exchanged": of_launches(layout=lambda one: "linear" if one.layout == "hwc8" else "hwc8"),
    "output one row higher": of_operation(
        outputs=lambda one: tuple(
            dataclasses.replace(result, dims=(*result.dims[:2], result.dims[2] + 1, *result.dims[3:]))
            for result in one.outputs
        )
    ),
    "images are not images": of_operation(
        inputs=lambda one: tuple(dataclasses.replace(operand, image=False) for operand in one.inputs)
    ),
}


def creators(trt: Any, _argument: None) -> dict[str, Any]:
    """Register all plugins; return what that said, and what the registry has then, with each plugin's fields."""
    told = quick_plugins.register_quick_plugins(trt, plugin_specs().values())
    kept = {
        creator.name: {
            "version": creator.plugin_version,
            "namespace": namespace,
            "fields": [[field.name, field.type.name] for field in creator.field_names],
        }
        for (_, _, namespace), creator in trt.get_plugin_registry().creators.items()
    }
    return {"told": told, "kept": kept}
