"""What an operation with kernels computes, and the launches that compute it.

An `Operation` is the meaning: a node in domain `trtdeploy` inside the function of a fused attention block, with a body
of standard operators for engines without the plugin. A `PluginSpec` adds the launches. From it come the quick plugin
(TensorRT 10.9 and newer) and the table of the C++ plugin (TensorRT 10.0 and newer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trtdeploy.kernels.expression import Expr

if TYPE_CHECKING:
    import onnx

NAMESPACE = "trtdeploy"
"""Namespace of the plugins; the domain of the nodes."""
PLUGIN_VERSION = "1"
DataType = Literal["float16", "float32"]
Layout = Literal["linear", "hwc8"]
"""`linear`: `[N, C, H, W]` contiguous. `hwc8`: `[N, H, W, C8]`, C8 = C rounded up to 8, zeros behind C; float16."""


@dataclass(frozen=True, kw_only=True)
class Operand:
    """An input. All inputs and outputs of an operation have one data type.

    Attributes:
        name: Its name.
        rank: Number of axes.
        image: It is a feature map `[N, C, H, W]` that comes in the launch's layout; others are always linear.
    """

    name: str
    rank: int
    image: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """An output.

    Attributes:
        name: Its name.
        dims: Its shape.
        image: As in `Operand`.
    """

    name: str
    dims: tuple[Expr, ...]
    image: bool = False


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """An attribute of the node: a list of numbers, because TensorRT's quick plugins take scalars badly.

    Attributes:
        name: Its name.
        kind: `floats` or `ints`.
        length: How many numbers.
    """

    name: str
    kind: Literal["floats", "ints"]
    length: int = 1


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The meaning of a node.

    Attributes:
        op_type: Operator in domain `trtdeploy`; unique, and no operator's of ONNX.
        inputs, outputs: Its tensors.
        attributes: Its attributes; every node has all of them.
        reference: Computes it in float64 with plain numpy: `reference(*inputs, **attributes) -> array or tuple`.
        body: Returns the model-local function of an opset, the same for every node.
    """

    op_type: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Result, ...]
    attributes: tuple[Attribute, ...] = ()
    reference: Callable[..., Any]
    body: Callable[[int], onnx.FunctionProto]


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """How a kernel is compiled from Triton.

    Attributes:
        module: Module that holds the kernel, such as `trtdeploy.attention.simam.kernel`.
        function: Name of the kernel in it.
        constants: Its compile-time arguments.
        divisible: Integer arguments that the launch's conditions make multiples of these numbers, and pointers that
            are aligned to as many bytes.
        warps: Warps of a block.
        stages: Software pipeline depth.
    """

    module: str
    function: str
    constants: tuple[tuple[str, Any], ...] = ()
    divisible: tuple[tuple[str, int], ...] = ()
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel with its grid, for a data type and a layout, where its conditions hold.

    The kernel takes the inputs' pointers, then `arguments` as int32, then the outputs' pointers.

    Attributes:
        name: Name of the kernel in the PTX; unique in the package.
        data_type, layout: What it is for.
        conditions: Expressions that must all be 1. The first launch of a spec whose conditions hold is taken; where a
            size is not known at build time a condition on it does not hold.
        grid: Blocks in x, y and z.
        arguments: Integer arguments.
        compilation: How its PTX is made.
    """

    name: str
    data_type: DataType
    layout: Layout
    conditions: tuple[Expr, ...] = ()
    grid: tuple[Expr, Expr, Expr]
    arguments: tuple[Expr, ...] = ()
    compilation: Compilation


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """An operation with its launches.

    Attributes:
        operation: What it computes.
        launches: In order of preference; for every data type and layout that is supported at least one without
            conditions on sizes, unless `conditions` exclude the rest.
        conditions: What the plugin needs at all, such as a head width that has a kernel; known at build time.
    """

    operation: Operation
    launches: tuple[Launch, ...]
    conditions: tuple[Expr, ...] = ()
