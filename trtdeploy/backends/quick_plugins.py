"""TensorRT's quick plugins of the operations with kernels, compiled ahead of time: the kernels go into the engine.

An engine that was built with them needs neither Python nor a plugin library where it runs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.backends.trt_libraries import version_numbers
from trtdeploy.core.errors import BuildError
from trtdeploy.kernels.expression import OPERATORS, Attributes, Numbers, evaluate
from trtdeploy.kernels.spec import NAMESPACE, PLUGIN_VERSION, DataType, Launch, Layout, Operand, PluginSpec, Result
from trtdeploy.kernels.store import PtxTarget, launch_entry, ptx_text

FIRST_VERSION = (10, 9)
"""The first TensorRT that takes kernels which were compiled ahead of time."""
_DATA_TYPES: dict[str, DataType] = {"FLOAT": "float32", "HALF": "float16"}
_TYPE_NAMES: dict[DataType, str] = {"float32": "FP32", "float16": "FP16"}
_LAYOUT_NAMES: dict[Layout, str] = {"linear": "LINEAR", "hwc8": "HWC8"}
_registered: dict[str, QuickPlugin] = {}


class QuickPlugin:
    """One operation as the three functions that `tensorrt.plugin` takes.

    Tactic `i + 1` is the spec's launch `i`, so that TensorRT times all launches that a layer can take. Conditions on
    sizes hold only where a size is fixed in the network: a kernel serves all profiles.

    Args:
        trtp: The module `tensorrt.plugin`.
        spec: The operation and its launches.
        target: Which PTX goes into the engine.
    """

    def __init__(self, trtp: Any, spec: PluginSpec, target: PtxTarget) -> None:
        self.trtp, self.spec, self.target = trtp, spec, target

    def register(self) -> None:
        """Define the plugin in TensorRT's registry, which keeps it until the process ends."""
        trtp, operation = self.trtp, self.spec.operation
        identifier = f"{NAMESPACE}::{operation.op_type}"
        inputs = [(operand.name, trtp.TensorDesc) for operand in operation.inputs]
        kinds: dict[str, Any] = {"floats": NDArray[np.float32], "ints": NDArray[np.int32]}
        attributes = [(attribute.name, kinds[attribute.kind]) for attribute in operation.attributes]
        descs = GenericAlias(tuple, (trtp.TensorDesc,) * len(operation.outputs))
        outputs = ("outputs", descs)
        combinations = GenericAlias(list, (trtp.AutoTuneCombination,))
        kernel = GenericAlias(tuple, (str, str, trtp.KernelLaunchParams, trtp.SymIntExprs))
        trtp.register(identifier)(_signed(self.describe, (*inputs, *attributes), descs))
        trtp.autotune(identifier)(_signed(self.combinations, (*inputs, *attributes, outputs), combinations))
        trtp.aot_impl(identifier)(_signed(self.kernel, (*inputs, *attributes, outputs, ("tactic", int)), kernel))

    def describe(self, *inputs: Any, **attributes: Sequence[float]) -> tuple[Any, ...]:
        """Return the descriptions of the outputs.

        Raises:
            BuildError: The inputs have several types, or one without kernels.
        """
        self._data_type(inputs)
        arithmetic = SymbolicSizes(self.trtp, inputs)
        return tuple(
            self.trtp.from_shape_expr(
                tuple(evaluate(size, arithmetic, attributes) for size in result.dims), inputs[0].dtype
            )
            for result in self.spec.operation.outputs
        )

    def combinations(self, *arguments: Any) -> list[Any]:
        """Return the layouts that there are kernels for, each with its tactics.

        Raises:
            BuildError: There is no kernel for these sizes.
        """
        inputs, attributes, _ = self._split(arguments)
        data_type = self._data_type(inputs)
        sizes = _known_sizes(inputs)
        found = []
        for layout, name in _LAYOUT_NAMES.items():
            tactics = [index + 1 for index in self._eligible(sizes, attributes, data_type, layout)]
            if tactics:
                types = ", ".join([_TYPE_NAMES[data_type]] * len(self._tensors))
                names = ", ".join(name if tensor.image else "LINEAR" for tensor in self._tensors)
                found.append(self.trtp.AutoTuneCombination(types, names, tactics))
        if not found:
            raise self._no_kernel(sizes, data_type)
        return found

    def kernel(self, *arguments: Any) -> tuple[str, str, Any, Any]:
        """Return a tactic's kernel: its name, its PTX, its launch, and its integer arguments.

        Raises:
            BuildError: The tactic cannot compute the layer.
            EngineError: The kernel is not in the package as it was packaged.
        """
        inputs, attributes, (outputs, tactic) = self._split(arguments)
        data_type, sizes = self._data_type(inputs), _known_sizes(inputs)
        eligible = self._eligible(sizes, attributes, data_type, self._layout((*inputs, *outputs)))
        if not eligible or (tactic and tactic - 1 not in eligible):
            raise self._no_kernel(sizes, data_type)
        launch = self.spec.launches[tactic - 1 if tactic else eligible[0]]  # 0: TensorRT leaves it to the plugin
        arithmetic = SymbolicSizes(self.trtp, inputs)
        entry = launch_entry(launch.name)
        parameters = self.trtp.KernelLaunchParams()
        parameters.grid_x, parameters.grid_y, parameters.grid_z = (
            evaluate(size, arithmetic, attributes) for size in launch.grid
        )
        parameters.block_x, parameters.shared_mem = entry["block"], entry["shared_bytes"]
        extra = self.trtp.SymIntExprs(len(launch.arguments))
        for index, argument in enumerate(launch.arguments):
            extra[index] = evaluate(argument, arithmetic, attributes)
        return entry["entry"], ptx_text(launch.name, self.target), parameters, extra

    @property
    def _tensors(self) -> tuple[Operand | Result, ...]:
        return (*self.spec.operation.inputs, *self.spec.operation.outputs)

    def _split(self, arguments: Sequence[Any]) -> tuple[Sequence[Any], Attributes, Sequence[Any]]:
        """Return the inputs, the attributes by name, and what follows them."""
        operation = self.spec.operation
        start = len(operation.inputs)
        end = start + len(operation.attributes)
        names = (attribute.name for attribute in operation.attributes)
        return arguments[:start], dict(zip(names, arguments[start:end], strict=True)), arguments[end:]

    def _data_type(self, inputs: Sequence[Any]) -> DataType:
        """Return the type that all inputs have."""
        types = [tensor.dtype.name for tensor in inputs]
        if len(set(types)) != 1 or types[0] not in _DATA_TYPES:
            raise BuildError(
                f"Plugin {self.spec.operation.op_type} got inputs of types {', '.join(types)}; expected all FLOAT or "
                "all HALF. Build the engine without plugins: --attention native."
            )
        return _DATA_TYPES[types[0]]

    def _layout(self, tensors: Sequence[Any]) -> Layout:
        """Return the layout that TensorRT chose for the images; it is one of `combinations`."""
        images = [tensor.format for tensor, meant in zip(tensors, self._tensors, strict=True) if meant.image]
        return "linear" if all(layout.name == "LINEAR" for layout in images) else "hwc8"

    def _eligible(
        self, sizes: Sequence[Sequence[int | None]], attributes: Attributes, data_type: DataType, layout: Layout
    ) -> list[int]:
        """Return the launches, by index and in order of preference, that compute the operation on these inputs."""

        def holds(launch: Launch) -> bool:
            conditions = (*self.spec.conditions, *launch.conditions)
            return all(evaluate(condition, arithmetic, attributes) for condition in conditions)

        arithmetic = KnownSizes(sizes)
        return [
            index
            for index, launch in enumerate(self.spec.launches)
            if (launch.data_type, launch.layout) == (data_type, layout) and holds(launch)
        ]

    def _no_kernel(self, sizes: Sequence[Sequence[int | None]], data_type: DataType) -> BuildError:
        shapes = ", ".join(str(list(shape)).replace("None", "?") for shape in sizes)
        return BuildError(
            f"Plugin {self.spec.operation.op_type} has no kernel for inputs {shapes} in {data_type}. "
            "Build the engine without plugins: --attention native."
        )


def register_quick_plugins(
    tensorrt: Any, specs: Iterable[PluginSpec], target: PtxTarget = "sm80"
) -> list[tuple[str, str, str]]:
    """Make plugins of operations, for this process.

    Registering an operation again only changes the target of its kernels.

    Args:
        tensorrt: The module `tensorrt`.
        specs: The operations.
        target: Which PTX goes into engines that are built from now on; see `ptx_target`. An operation without kernels
            for it is left out.

    Returns:
        The plugins: operator, version and namespace.

    Raises:
        BuildError: This TensorRT cannot have them.
    """
    if not supports_quick_plugins(tensorrt):
        raise BuildError(
            f"{tensorrt.__name__} {tensorrt.__version__} has no quick plugins that are compiled ahead of time; expected"
            " tensorrt 10.9 or newer. Use the plugin library (TensorRT 10.0 and newer), or --attention native."
        )
    trtp = importlib.import_module("tensorrt.plugin")
    found = []
    for spec in specs:
        if not all(target in launch_entry(launch.name)["ptx"] for launch in spec.launches):
            continue
        op_type = spec.operation.op_type
        if op_type in _registered:
            _registered[op_type].target = target
        else:
            plugin = QuickPlugin(trtp, spec, target)
            plugin.register()
            _registered[op_type] = plugin
        found.append((op_type, PLUGIN_VERSION, NAMESPACE))
    return found


def ptx_target(compute_capability: tuple[int, int]) -> PtxTarget:
    """Return which PTX serves a GPU: the driver compiles it for that GPU and any newer one.

    Raises:
        BuildError: The GPU is older than 7.5.
    """
    if compute_capability < (7, 5):
        major, minor = compute_capability
        raise BuildError(
            f"Kernels need a GPU of compute capability 7.5 or newer; this one has {major}.{minor}. Build the engine "
            "without plugins: --attention native."
        )
    return "sm80" if compute_capability >= (8, 0) else "sm75"


def supports_quick_plugins(tensorrt: Any) -> bool:
    """Return whether a module has quick plugins whose kernels are compiled ahead of time; `tensorrt_rtx` has none."""
    return hasattr(tensorrt, "QuickPluginCreationRequest") and version_numbers(tensorrt.__version__) >= FIRST_VERSION


def _signed(function: Callable[..., Any], parameters: Iterable[tuple[str, Any]], returns: Any) -> Callable[..., Any]:
    """Return `function` with the signature that `tensorrt.plugin` reads names and types from."""

    def signed(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters],
        return_annotation=returns,
    )
    return signed


def _known_sizes(inputs: Sequence[Any]) -> list[list[int | None]]:
    """Return the inputs' shapes, None for what is not fixed in the network."""
    return [[size if size >= 0 else None for size in tensor.shape] for tensor in inputs]


@dataclass(frozen=True)
class KnownSizes:
    """Arithmetic where a size may be unknown: so is what depends on it.

    Attributes:
        shapes: Shapes of the inputs.
    """

    shapes: Sequence[Sequence[int | None]]

    def constant(self, value: int) -> int:
        return value

    def size(self, operand: int, axis: int) -> int | None:
        return self.shapes[operand][axis]

    def binary(self, op: str, a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else Numbers(()).binary(op, a, b)


@dataclass(frozen=True)
class SymbolicSizes:
    """Arithmetic on TensorRT's symbolic sizes.

    Attributes:
        trtp: The module `tensorrt.plugin`.
        inputs: Descriptions of the inputs.
    """

    trtp: Any
    inputs: Sequence[Any]

    def constant(self, value: int) -> Any:
        return self.trtp.ShapeExpr(value)

    def size(self, operand: int, axis: int) -> Any:
        return self.inputs[operand].shape_expr[axis]

    def binary(self, op: str, a: Any, b: Any) -> Any:
        """Return the result of one of `BINARY`."""
        if op in OPERATORS:
            return OPERATORS[op](a, b)
        match op:
            case "cdiv":
                return self.trtp.cdiv(a, b)
            case "max":
                return self.trtp.max(a, b)
            case "min":
                return self.trtp.min(a, b)
        raise ValueError(f"There is no operation {op!r} in expressions.")
