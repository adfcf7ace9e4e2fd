"""What a graph costs at one concrete input shape: parameters, operations and bytes moved, node by node.

Operations are counted from shapes, not measured: a multiplication with an addition is 2, any other arithmetic on an
element 1, and moving data 0. Bytes are what each node reads and writes if nothing is fused or cached.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.core.errors import ShapeRefusedError
from trtdeploy.core.types import Size
from trtdeploy.graph.shapes.probes import Facts, Probe, Probes, Vec

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
"""Operators whose output is their input's memory."""
_MOVES = frozenset({
    "Transpose", "Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND",
    "Pad", "Expand", "Tile", "Cast", "DepthToSpace", "SpaceToDepth", "Shape", "Size", "Constant", "ConstantOfShape",
    "Range", "Where", "NonZero", "Upsample",
}) | VIEWS  # fmt: skip
_PER_ELEMENT = {
    "Softmax": 3, "LogSoftmax": 4, "BatchNormalization": 2, "InstanceNormalization": 5, "LayerNormalization": 5,
    "GroupNormalization": 5, "RMSNormalization": 4, "GridSample": 7,
}  # fmt: skip
"""Operations on an output element; 1 for what stands in no list."""
_INTERPOLATION = {"nearest": 0, "linear": 7, "cubic": 31}
_GATHERS = frozenset({"Slice", "Gather", "GatherElements", "GatherND"})
_CONTROL = frozenset({"If", "Loop", "Scan"})

Dims = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations and bytes.

    Attributes:
        products: Operations of convolutions and matrix products, 2 for a multiplication with its addition.
        other: All other arithmetic operations.
        floats: Floating-point elements read and written.
        other_bytes: Bytes of other types read and written.
    """

    products: int = 0
    other: int = 0
    floats: int = 0
    other_bytes: int = 0

    @property
    def flops(self) -> int:
        return self.products + self.other

    def bytes_moved(self, float_bytes: int = 4) -> int:
        """Return the bytes read and written where a floating-point element has `float_bytes`."""
        return self.floats * float_bytes + self.other_bytes

    def __add__(self, more: Cost) -> Cost:
        return Cost(
            products=self.products + more.products,
            other=self.other + more.other,
            floats=self.floats + more.floats,
            other_bytes=self.other_bytes + more.other_bytes,
        )


class Costs:
    """The costs of a graph's nodes at one input shape.

    Args:
        model: The model, its functions inlined; not changed.
        batch: Open first dimensions of the inputs.
        size: Open heights and widths of the inputs; of several maps, that of the last, each earlier one twice as large.

    Attributes:
        unknown: Names of the nodes that are not counted: sizes that depend on data, control flow, foreign operators.
    """

    def __init__(self, model: ir.Model, batch: int, size: Size) -> None:
        self.model = model
        self.batch = batch
        self.size = size
        inputs = inputs_of(model)
        self._probes = Probes(model, ir.Value(name=""), [Probe(batch, size.height, size.width)])
        for value, dims in zip(inputs, _input_dims(inputs, batch, size), strict=True):
            known: list[Vec | None] | None = None if dims is None else [(dim,) for dim in dims]
            self._probes.learn(value, Facts(int(value.dtype or ir.DataType.FLOAT), known))
        self.unknown: list[str] = []
        self._of: dict[ir.Node, Cost] = {}
        for node in model.graph:
            self._visit(node)
            cost = self._count(node)
            if cost is None:
                self.unknown.append(node.name or node.op_type)
            self._of[node] = cost or Cost()

    def of(self, nodes: Iterable[ir.Node]) -> Cost:
        """Return the cost of `nodes` together."""
        return sum((self._of[node] for node in nodes), Cost())

    @property
    def total(self) -> Cost:
        return self.of(self.model.graph)

    def dims(self, value: ir.Value | None) -> Dims | None:
        """Return the shape of `value`, None where it is not known."""
        facts = None if value is None else self._probes.facts(value)
        shape = None if facts is None else facts.shape_at(0)
        known = [dim for dim in shape or () if dim is not None]
        return tuple(known) if shape is not None and len(known) == len(shape) else None

    def elements(self, value: ir.Value | None) -> int | None:
        """Return the number of elements of `value`, None where it is not known."""
        dims = self.dims(value)
        return None if dims is None else math.prod(dims)

    def is_data(self, value: ir.Value | None) -> bool:
        """Return whether `value` is computed from the inputs' data: no constant, and no number made of shapes."""
        if value is None or is_constant(value):
            return False
        facts = self._probes.facts(value)
        return facts is None or facts.data is None

    def bytes_of(self, value: ir.Value, float_bytes: int = 4) -> int:
        """Return the size of `value`, 0 where it is not known."""
        count, width = self.elements(value) or 0, self._width(value)
        return count * (float_bytes if width is None else width)

    def input_dims(self) -> dict[str, Dims]:
        """Return the shapes of the inputs by name."""
        return {value.name or "": self.dims(value) or () for value in inputs_of(self.model)}

    def _width(self, value: ir.Value) -> int | None:
        """Return the bytes of an element, None for floating point."""
        facts = self._probes.facts(value)
        dtype = ir.DataType(facts.dtype) if facts is not None and facts.dtype else value.dtype
        if dtype is None or dtype.is_floating_point():
            return None
        return max(1, int(dtype.itemsize)) if dtype != ir.DataType.STRING else 1

    def _visit(self, node: ir.Node) -> None:
        for value in node.inputs:
            if value is not None and self._probes.facts(value) is None:
                self._probes.learn(value, Facts(int(value.dtype or ir.DataType.FLOAT), None))
        try:
            self._probes.visit(node)
        except ShapeRefusedError:
            return  # its outputs stay unknown, and with them what it costs

    def _count(self, node: ir.Node) -> Cost | None:
        """Return the cost of one node, None where it cannot be told."""
        data = [output for output in node.outputs if self.is_data(output)]
        if not data or not any(self.is_data(value) for value in node.inputs):
            return Cost()  # of constants and shapes: nothing per image
        if node.domain not in {"", "ai.onnx"} or node.op_type in _CONTROL:
            return None
        if any(self.elements(output) is None for output in data):
            return None
        floats = other = 0
        for value, count in self._moved(node):
            width = self._width(value)
            floats += count if width is None else 0
            other += count * (width or 0)
        products = _products(node, self)
        return Cost(products=products, other=_others(node, self), floats=floats, other_bytes=other)

    def _moved(self, node: ir.Node) -> list[tuple[ir.Value, int]]:
        """Return what the node reads and writes, with the number of elements."""
        if node.op_type in VIEWS:
            return []
        written = [(output, self.elements(output) or 0) for output in node.outputs if output.name]
        if node.op_type in _GATHERS:  # reads what it writes
            return [*written, *written]
        sources = dict.fromkeys(value for value in node.inputs if value is not None)
        return [*written, *((value, self.elements(value) or 0) for value in sources)]


def parameters_of(nodes: Iterable[ir.Node]) -> int:
    """Return the number of floating-point weights that `nodes` read, each tensor once."""
    tensors = {v: v.const_value for node in nodes for v in node.inputs if v is not None and v.const_value is not None}
    return sum(int(t.size) for t in tensors.values() if t is not None and t.dtype.is_floating_point())


def weight_bytes_of(nodes: Iterable[ir.Node], float_bytes: int = 4) -> int:
    """Return the size of the weights that `nodes` read, each tensor once, floats of `float_bytes`."""
    tensors = {v: v.const_value for node in nodes for v in node.inputs if v is not None and v.const_value is not None}
    return sum(
        int(t.size) * float_bytes if t.dtype.is_floating_point() else int(t.nbytes)
        for t in tensors.values()
        if t is not None
    )


def inputs_of(model: ir.Model) -> list[ir.Value]:
    """Return the inputs that are no initializers."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def is_constant(value: ir.Value) -> bool:
    return value.const_value is not None or value.is_initializer()


def _input_dims(inputs: Sequence[ir.Value], batch: int, size: Size) -> list[list[int] | None]:
    maps = [value for value in inputs if value.shape is not None and len(value.shape) == 4]
    open_maps = len(maps) > 1 and all(not isinstance(value.shape[2], int) for value in maps if value.shape)
    found: list[list[int] | None] = []
    for value in inputs:
        if value.shape is None:
            found.append(None)
            continue
        scale = 1 << (len(maps) - 1 - maps.index(value)) if value in maps and open_maps else 1
        sides = {len(value.shape) - 2: size.height * scale, len(value.shape) - 1: size.width * scale}
        found.append([
            dim if isinstance(dim, int) else batch if axis == 0 else sides.get(axis, size.height)
            for axis, dim in enumerate(value.shape)
        ])  # fmt: skip
    return found


def _products(node: ir.Node, costs: Costs) -> int:
    """Return the operations of a convolution or matrix product, 0 for anything else."""
    out = costs.elements(node.outputs[0]) or 0
    first, second = (costs.dims(node.inputs[i]) if len(node.inputs) > i else None for i in (0, 1))
    if node.op_type == "Attention":
        return _attention_products(node, costs)
    if first is None or second is None:
        return 0
    if node.op_type in {"Conv", "ConvInteger", "QLinearConv"}:
        return 2 * out * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(first) * math.prod(second[1:])
    if node.op_type in {"MatMul", "MatMulInteger"}:
        return 2 * out * first[-1]
    if node.op_type == "Gemm":
        return 2 * out * first[0 if node.attributes.get_int("transA", 0) else 1]
    if node.op_type == "Einsum" and len(node.inputs) == 2:
        return 2 * _einsum_terms(node.attributes.get_string("equation", ""), first, second)
    return 0


def _attention_products(node: ir.Node, costs: Costs) -> int:
    """Return the operations of the operator Attention: `Q K` and `P V`."""
    query, key, value = (costs.dims(v) for v in node.inputs[:3])
    if query is None or key is None or value is None:
        return 0
    if len(query) == 4:
        return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])
    heads, shared = node.attributes.get_int("q_num_heads", 1), node.attributes.get_int("kv_num_heads", 1)
    return 2 * query[0] * query[1] * key[1] * (query[2] + value[2] // shared * heads)


def _einsum_terms(equation: str, first: Dims, second: Dims) -> int:
    left = equation.replace(" ", "").split("->")[0].split(",")
    if len(left) != 2 or "." in equation or [len(part) for part in left] != [len(first), len(second)]:
        return 0
    return math.prod(dict(zip("".join(left), (*first, *second), strict=True)).values())


def _others(node: ir.Node, costs: Costs) -> int:
    """Return the operations of a node beside products: biases, element by element, sums over axes and windows."""
    out = sum(costs.elements(output) or 0 for output in node.outputs if output.name)
    source = costs.elements(node.inputs[0]) or 0
    op = node.op_type
    if op in _MOVES:
        return 0
    if op in {"Conv", "ConvTranspose", "Gemm"}:
        return out if len(node.inputs) > 2 and node.inputs[2] is not None else 0
    if op in {"MatMul", "MatMulInteger", "ConvInteger", "QLinearConv", "Einsum"}:
        return 0
    if op == "Attention":
        query, key = costs.dims(node.inputs[0]), costs.dims(node.inputs[1])
        heads = node.attributes.get_int("q_num_heads", 1) if query is not None and len(query) == 3 else 1
        return 4 * heads * math.prod(query[:-1]) * key[-2] if query is not None and key is not None else 0
    if op.startswith(("Reduce", "Global")) or op in {"ArgMax", "ArgMin", "CumSum", "TopK"}:
        return source
    if op in {"AveragePool", "MaxPool", "LpPool"}:
        return (costs.elements(node.outputs[0]) or 0) * math.prod(node.attributes.get_ints("kernel_shape", ()))
    if op == "Resize":
        return out * _INTERPOLATION.get(node.attributes.get_string("mode", "nearest"), 1)
    return out * _PER_ELEMENT.get(op, 1)


def share(part: int, whole: int) -> float:
    """Return `part` of `whole`, 0 of nothing."""
    return part / whole if whole else 0.0
