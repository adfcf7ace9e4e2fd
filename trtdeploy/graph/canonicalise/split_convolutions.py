"""Splits a convolution whose channels go separate ways into one convolution for each way.

A convolution can read or write a part of a tensor only if that part is a tensor: for `Conv -> Split -> Conv, Concat`
the builder copies a part for the second convolution, and all parts into the concatenation. Convolutions with half of
the filters each compute the same numbers in the same time and write where they are read. Measured with TensorRT-RTX
1.7: every C2f block has two kernels and three copies less, and one convolution more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.canonicalise.selection import STANDARD, part_of
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.view.facts import GraphFacts

_READERS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
"""Operators whose kernels read whole tensors; everything else reads parts without a copy."""
_ACTIVATIONS = frozenset({
    "Relu", "Sigmoid", "LeakyRelu", "HardSwish", "HardSigmoid", "Swish", "Mish", "Elu", "Gelu", "Softplus", "Tanh",
})  # fmt: skip
_MAX_PARTS = 4
_LARGEST = 3
"""A map of more than a third of the largest that a convolution writes is left alone: there the builder's peak of memory
is, and two branches at a time raise it."""


@dataclass
class _Way:
    """Channels that go one way: the values that hold them, and their places within."""

    start: int
    stop: int
    read_whole: bool
    values: list[tuple[int, int, ir.Value]] = field(default_factory=list)


class SplitConvolutions:
    """Splits the convolutions of one graph.

    Args:
        model: The model; changed in place.
        facts: Its sizes.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self._graph = model.graph
        self._facts = facts
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._taken = TakenNames.of(model.graph)
        self._largest = max((self._elements(n.outputs[0]) for n in model.graph if n.op_type == "Conv"), default=0)

    def run(self) -> list[str]:
        """Return the names of the convolutions that were split."""
        done: list[str] = []
        for node in list(self._graph):
            if node.op_type != "Conv" or node.domain not in STANDARD or not _is_simple(node):
                continue
            activation = _activation(node.outputs[0])
            ways = self._ways(node.outputs[0] if activation is None else activation.outputs[0])
            if len(ways) > 1:
                self._split(node, activation, ways)
                done.append(node.name or "")
        return done

    def _ways(self, value: ir.Value) -> list[_Way]:
        """Return the ways of the channels of `value`; nothing where they are not all read as separate parts."""
        if value.is_graph_output() or self._elements(value) * _LARGEST > self._largest:
            return []
        parts: list[tuple[int, int, ir.Value]] = []
        for user in value.consumers():
            for output in user.outputs:
                part = part_of(self._facts, output)
                if part is None or part.source is not value or part.axis != 1 or output.is_graph_output():
                    return []
                parts.append((part.start, part.stop, output))
        ways: list[_Way] = []
        for start, stop, output in sorted(parts, key=lambda part: part[:2]):
            whole = any(user.op_type in _READERS for user in output.consumers())
            last = ways[-1] if ways else None
            if last is not None and (start, stop) == (last.start, last.stop):
                last.read_whole |= whole
            elif start != (last.stop if last is not None else 0):
                return []
            elif last is not None and not last.read_whole and not whole:
                last.stop = stop
            else:
                ways.append(_Way(start, stop, whole))
            ways[-1].values.append((start, stop, output))
        dims = self._facts.dims(value)
        size = None if dims is None or len(dims) < 2 else dims[1]
        complete = bool(ways) and size is not None and set(size) == {ways[-1].stop}
        return ways if complete and len(ways) <= _MAX_PARTS and any(way.read_whole for way in ways) else []

    def _elements(self, value: ir.Value) -> int:
        """Return the number of elements at the first probe, 0 where it is not known."""
        dims = self._facts.dims(value)
        return 0 if dims is None or None in dims else math.prod(dim[0] for dim in dims if dim is not None)

    def _split(self, node: ir.Node, activation: ir.Node | None, ways: list[_Way]) -> None:
        emit = Emitter(self._opset, node.name or "Conv")
        weights = _array(node.inputs[1])
        bias = _array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        attributes = {name: value.value for name, value in node.attributes.items()}
        for way in ways:
            own = [np.ascontiguousarray(array[way.start : way.stop]) for array in (weights, bias) if array is not None]
            result = emit.op("Conv", node.inputs[0], *own, **attributes)
            if activation is not None:
                result = self._activated(emit, result, activation)
            for start, stop, value in way.values:
                part = result
                if (start, stop) != (way.start, way.stop):
                    part = emit.slice(result, start - way.start, stop - way.start, axis=1)
                part.type, part.shape = value.type, value.shape
                value.replace_all_uses_with(part)
        emit.insert_before(node, self._taken)
        self._facts.visit(emit.nodes)
        self._remove(node)

    def _activated(self, emit: Emitter, value: ir.Value, activation: ir.Node) -> ir.Value:
        if activation.op_type == "Mul":
            return emit.mul(value, emit.sigmoid(value))
        attributes = {name: attribute.value for name, attribute in activation.attributes.items()}
        return emit.op(activation.op_type, value, **attributes)

    def _remove(self, node: ir.Node) -> None:
        """Remove a convolution, its activation and the parts."""
        found, todo = [node], [node]
        while todo:
            users = [user for output in todo.pop().outputs for user in output.consumers() if user not in found]
            found += dict.fromkeys(users)
            todo += dict.fromkeys(users)
        for old in reversed(found):
            if old.graph is self._graph and not any(output.uses() for output in old.outputs):
                self._graph.remove(old, safe=True)


def _is_simple(node: ir.Node) -> bool:
    """Return whether the filters are constant and each reads all channels."""
    weights = [value for value in node.inputs[1:] if value is not None]
    grouped = node.attributes.get_int("group", 1) != 1
    return bool(weights) and not grouped and all(value.const_value is not None for value in weights)


def _activation(value: ir.Value) -> ir.Node | None:
    """Return the activation that alone reads `value`: SiLU is found at its Mul."""
    users = list(dict.fromkeys(value.consumers()))
    if value.is_graph_output() or any(user.domain not in STANDARD for user in users):
        return None
    if len(users) == 1 and users[0].op_type in _ACTIVATIONS:
        return None if users[0].outputs[0].is_graph_output() else users[0]
    gates = [user for user in users if user.op_type == "Sigmoid"]
    products = [user for user in users if user.op_type == "Mul"]
    if len(users) == 2 and len(gates) == len(products) == 1:
        gate = gates[0].outputs[0]
        if set(products[0].inputs) == {value, gate} and list(gate.consumers()) == products:
            return products[0]
    return None


def _array(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
