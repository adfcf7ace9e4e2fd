"""Makes an FP32 graph of one in FP16 or BF16 that computes what 16-bit arithmetic computes, on any CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.backends.half_sums import HALF_TYPES, sum_in_half
from trtdeploy.core.errors import BuildError

EXACT = frozenset({
    "Abs", "Ceil", "Clip", "Compress", "Concat", "ConcatFromSequence", "DepthToSpace", "Dropout", "Expand", "Flatten",
    "Floor", "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Hardmax", "Identity", "If", "Loop", "Max",
    "MaxPool", "MaxUnpool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "ReverseSequence",
    "Round", "Scan", "Scatter", "ScatterElements", "ScatterND", "SequenceAt", "Sign", "Slice", "SpaceToDepth", "Split",
    "SplitToSequence", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unique", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators whose results are elements of their inputs, or whole numbers no longer than these: nothing to round."""
_INTERPOLATING = frozenset({"Resize", "Upsample"})
_CONSTANTS = frozenset({"Constant", "ConstantOfShape"})
_TYPE_ATTRIBUTES = ("dtype", "output_dtype")


def round_half(model: ir.Model, accumulate: Literal["float", "half"] = "float") -> ir.Model:
    """Return a model in FP32 that computes what `model` computes in 16 bits.

    Every tensor that is FP16 or BF16 in `model` is FP32 here and holds only values that the 16-bit type has: behind
    each operator stands a cast to that type and one back. Casts round to nearest, ties to even; they keep subnormal
    numbers and overflow to infinity, as hardware does. One operator rounds once:

    - products (Conv, ConvTranspose, MatMul, Gemm, Einsum) sum in FP32, as tensor cores do;
    - pointwise operators are computed in FP32. For sums, differences, products, quotients and square roots the result
      is the correctly rounded one; of exponentials and the like devices compute approximations that may differ by
      the last bit;
    - reductions, normalisations, softmax and cumulated sums keep FP32 inside, as fused kernels do, and round their
      result. With `accumulate="half"` reductions and softmax hold every partial sum in 16 bits, the pessimistic
      choice; see `half_sums.sum_in_half`;
    - operators that move, select or compare have nothing to round.

    Nothing is rounded less often than ONNX says: kernels that fuse several operators round less on a device. The
    values of weights are not changed; they are stored in FP32, so that they are not converted at every run.

    Args:
        model: The model; not changed. Its functions are inlined. FP32 tensors in it stay as they are, and so do
            QuantizeLinear and DequantizeLinear. Without 16-bit tensors the result computes the same.
        accumulate: What reductions and softmax hold their sums in.

    Raises:
        BuildError: The element type of a tensor is not known; with `accumulate="half"` also the rank of one.
    """
    model = model.clone()
    _flatten(model)
    if accumulate == "half":
        sum_in_half(model)
        _flatten(model)
    _Rounder(model).run()
    return model


def _flatten(model: ir.Model) -> None:
    """Inline the functions, whose values have no types, and infer types."""
    if model.functions:
        common.InlinePass()(model)
        model.functions.clear()
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)


class _Rounder:
    """Retypes the 16-bit tensors of a model, in place, and rounds them."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = {value.name for graph in model.graphs() for value in _values(graph)}
        self._names |= {node.name for node in model.graph.all_nodes()}
        self._kinds: dict[ir.Value, ir.DataType] = {}

    def run(self) -> None:
        graphs = list(self._model.graphs())
        for graph in graphs:
            self._note_types(graph)
        self._keep_inputs()
        for graph in graphs:
            for value in graph.initializers.values():
                if value in self._kinds and value.const_value is not None:
                    value.const_value = _widened(value.const_value)
            for node in list(graph):
                self._convert(node)
        self._keep_outputs()
        for value in self._kinds:
            value.type = copy.deepcopy(value.type)  # a clone shares its types with the model that it was made of
            value.dtype = ir.DataType.FLOAT

    def _note_types(self, graph: ir.Graph) -> None:
        """Remember which values are 16 bits.

        Raises:
            BuildError: The type of a value is not known that may be one of them.
        """
        for value in _values(graph):
            if value.dtype in HALF_TYPES:
                self._kinds[value] = value.dtype
            node = value.producer()
            if value.dtype is None and node is not None and any(v in self._kinds for v in node.inputs if v is not None):
                raise BuildError(
                    f"16-bit arithmetic cannot be emulated: the element type of {value.name}, an output of "
                    f"{node.op_type} {node.name}, is not known. Declare it in the model."
                )

    def _convert(self, node: ir.Node) -> None:
        """Let `node` compute in FP32, and round what it gives."""
        if node.op_type == "CastLike" and node.outputs[0] in self._kinds:
            node.op_type = "Cast"
            node.resize_inputs(1)
            node.attributes["to"] = ir.AttrInt64("to", self._kinds[node.outputs[0]])
        for name in _TYPE_ATTRIBUTES:
            if name in node.attributes and node.attributes[name].as_int() in HALF_TYPES:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
        if node.op_type in _CONSTANTS:
            value = node.attributes.get("value")
            if value is not None and value.as_tensor().dtype in HALF_TYPES:
                node.attributes["value"] = ir.AttrTensor("value", _widened(value.as_tensor()))
        elif not _is_exact(node):
            for output in node.outputs:
                if output in self._kinds:
                    self._round(node, output)

    def _round(self, node: ir.Node, output: ir.Value) -> None:
        """Put the two casts behind an output. What they give takes its name."""
        kind, name = self._kinds[output], output.name or ""
        output.name = self._name(f"{name}/exact")
        if node.op_type == "Cast":
            half = output  # it casts to 16 bits itself
            del self._kinds[output]
        else:
            half = self._cast(output, kind, f"{name}/half", node)
        last = half.producer()
        assert last is not None
        rounded = self._cast(half, ir.DataType.FLOAT, f"{name}/rounded", last)
        rounded.name = name
        self._kinds[rounded] = kind
        own = {last, rounded.producer()}
        for user, index in [use for use in output.uses() if use[0] not in own]:
            user.replace_input_with(index, rounded)
        _replace_result(node.graph, output, rounded)

    def _cast(self, value: ir.Value, kind: ir.DataType, name: str, after: ir.Node) -> ir.Value:
        name = self._name(name)
        cast = ir.node("Cast", [value], {"to": int(kind)}, name=name, outputs=[ir.Value(name=name)])
        result = cast.outputs[0]
        result.type, result.shape = ir.TensorType(kind), value.shape
        after.append(cast)
        return result

    def _keep_inputs(self) -> None:
        """Put a cast to FP32 behind 16-bit inputs of the model, which keep their types."""
        graph = self._model.graph
        for value in graph.inputs:
            if self._kinds.pop(value, None) is None:
                continue
            uses = list(value.uses())
            name = self._name(f"{value.name}/wide")
            cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=name, outputs=[ir.Value(name=name)])
            cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
            graph.insert_before(graph[0], cast)
            for user, index in uses:
                user.replace_input_with(index, cast.outputs[0])

    def _keep_outputs(self) -> None:
        """Put a cast before 16-bit outputs of the model, which keep their names and types."""
        graph = self._model.graph
        for value in list(dict.fromkeys(graph.outputs)):
            kind = self._kinds.get(value)
            if kind is None:
                continue
            name = value.name
            value.name = self._name(f"{name}/wide")
            result = self._cast(value, kind, f"{name}/output", graph[-1])
            result.name = name
            _replace_result(graph, value, result)

    def _name(self, wanted: str) -> str:
        """Return a name that no value and no node has."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name


def _is_exact(node: ir.Node) -> bool:
    """Return whether all that `node` gives needs no rounding."""
    if node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type in _INTERPOLATING:
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in EXACT and node.attributes.get_string("reduction", "none") == "none"


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _replace_result(graph: ir.Graph | ir.Function | None, old: ir.Value, new: ir.Value) -> None:
    """Let the graph return `new` where it returned `old`."""
    assert graph is not None  # every node here has one
    for index, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[index] = new


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values that `graph` itself defines."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
