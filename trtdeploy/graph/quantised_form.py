"""PREPARE, for NVIDIA's builders: Q/DQ nodes in the form that they take, where that changes no number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import PassReport
from trtdeploy.graph.emit import unique_name
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.precision.element_types import all_names
from trtdeploy.graph.precision.int8.opset import raise_opset, version_of
from trtdeploy.graph.quantised import (
    LAYERS,
    MOVEMENT,
    computes_in_integers,
    constant,
    dequantised,
    has_zero_point,
    is_dequantize,
    is_quantize,
    quantised_type,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TAKEN = frozenset({ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1})
"""Element types for which NVIDIA's parser has Q/DQ; whether a GPU has their kernels the builder says."""
_MIDDLE = 128
"""Zero point of uint8 that makes it int8 with another offset."""
HELP = (
    "Quantise the float model again with symmetric int8: trtdeploy build FLOAT.onnx --int8 --calib IMAGES, or with the "
    "tool that made this one, as docs/qat.md shows. Or build with --backend onnxruntime or openvino, which take it as "
    "it is."
)


class QuantisedForm:
    """Writes a model's Q/DQ nodes as NVIDIA's builders take them: symmetric int8, on activations and weights alone.

    Every change is exact. A dequantised constant that is no layer's weight, such as a bias in int32, becomes the
    floating-point constant that it stands for; uint8 with zero point 128 becomes int8 with zero point 0.

    Args:
        required: Whether the model is for such a builder: what it would refuse is an error then, and a refusal in the
            report otherwise. Default True.
    """

    name = "quantised form"
    stage = "PREPARE"

    def __init__(self, *, required: bool = True) -> None:
        self._required = required

    def run(self, model: ir.Model) -> PassResult:
        """Run the pass, in place.

        Raises:
            ModelError: `required`, and the model has zero points, types or operators that the builders refuse.
        """
        refusal = _unfit(model)
        if refusal and self._required:
            raise ModelError(f"{refusal} {HELP}")
        writing = _Writing(model)
        writing.run()
        if writing.constants:
            common.RemoveUnusedNodesPass()(model)
        before = version_of(model.graph)
        unraised = raise_opset(model)
        changes = []
        if version_of(model.graph) > before:
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)  # as PREPARE left them
            changes.append(f"opset {before} raised to {version_of(model.graph)}, whose Q/DQ take FP16")
        if writing.constants:
            changes.append(f"{writing.constants} dequantised biases and constants are floating-point constants")
        if writing.shifted:
            changes.append(f"{writing.shifted} Q/DQ nodes of uint8 with zero point {_MIDDLE} are int8 with 0")
        refusals = [refusal] if refusal else []
        refusals += [f"opset {before} stays, with FP32 around Q/DQ: {unraised}"] if unraised else []
        report = PassReport(name=self.name, stage=self.stage, changes=tuple(changes), refusals=tuple(refusals))
        return PassResult(model, bool(changes), report)


class _Writing:
    """Rewrites the Q/DQ nodes of one model's main graph."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._taken = all_names(model)
        self._signed: dict[ir.Value, ir.Value] = {}
        self.constants = self.shifted = 0

    def run(self) -> None:
        for node in list(self._graph):
            if is_dequantize(node) and (tensor := constant(node.inputs[0])) is not None:
                if not _gives_weights(node):
                    self._fold(node)
                elif _becomes_int8(node):
                    self._shift(node)
                    node.replace_input_with(0, self._as_signed(node.inputs[0], tensor))
            elif is_quantize(node) and _becomes_int8(node):
                for part in (node, *node.outputs[0].consumers()):
                    self._shift(part)
                node.outputs[0].type = ir.TensorType(ir.DataType.INT8)

    def _fold(self, node: ir.Node) -> None:
        """Replace a DequantizeLinear of a constant by what it gives."""
        data, output = dequantised(node), node.outputs[0]
        if data is None or output.is_graph_output():
            return
        output.replace_all_uses_with(self._initializer(f"{output.name}/value", data))
        self.constants += 1

    def _shift(self, node: ir.Node) -> None:
        """Give a node of uint8 the zero point 0 of int8."""
        zero = constant(node.inputs[2])
        assert zero is not None  # a middle zero point is constant
        node.replace_input_with(2, self._initializer(f"{node.name}/zero", np.zeros(zero.shape.numpy(), np.int8)))
        self.shifted += 1

    def _as_signed(self, value: ir.Value | None, tensor: ir.TensorProtocol) -> ir.Value:
        assert value is not None  # it holds the tensor
        if value not in self._signed:
            data = (tensor.numpy().astype(np.int16) - _MIDDLE).astype(np.int8)
            self._signed[value] = self._initializer(f"{value.name}/int8", data)
        return self._signed[value]

    def _initializer(self, wanted: str, array: NDArray[Any]) -> ir.Value:
        name = unique_name(wanted, self._taken)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _unfit(model: ir.Model) -> str:
    """Return in a sentence what NVIDIA's builders would refuse, an empty string where that is nothing."""
    found: dict[str, list[ir.Node]] = {}
    for node in model.graph.all_nodes():
        reason = _reason(node)
        if reason:
            found.setdefault(reason, []).append(node)
    if not found:
        return ""
    reason, nodes = max(found.items(), key=lambda item: len(item[1]))
    others = sum(map(len, found.values())) - 1
    more = f" (and {others} more nodes are unfit)" if others else ""
    return f"TensorRT does not take this quantised model: node {nodes[0].name!r} ({nodes[0].op_type}) {reason}{more}."


def _reason(node: ir.Node) -> str:
    """Return why the builders refuse `node`, an empty string where they take it or `_Writing` makes them take it."""
    if computes_in_integers(node):
        return "computes in integers by itself; TensorRT expects Q/DQ pairs around float operators"
    if not is_quantize(node) and not is_dequantize(node):
        return ""
    if _becomes_int8(node) or (
        is_dequantize(node) and constant(node.inputs[0]) is not None and not _gives_weights(node)
    ):
        return ""
    kind = quantised_type(node)
    if kind is not None and kind not in _TAKEN and kind != ir.DataType.UINT8:
        return f"has the type {kind.name.lower()}, for which TensorRT has no Q/DQ; it expects int8"
    if has_zero_point(node):
        of = "" if kind is None else f" of {kind.name.lower()}"
        return f"has the zero point {_zero_text(node)}{of}; TensorRT expects int8 with 0"
    return "has the type uint8; TensorRT expects int8" if kind == ir.DataType.UINT8 else ""


def _zero_text(node: ir.Node) -> str:
    zero = constant(node.inputs[2])
    if zero is None:
        return "computed at run time"
    values = zero.numpy().reshape(-1)
    return str(values[0]) if (values == values[0]).all() else f"{values.min()} to {values.max()}"


def _gives_weights(node: ir.Node) -> bool:
    """Return whether a layer reads what a DequantizeLinear gives as one of its factors, or somebody's output is it."""
    waiting, seen = [*node.outputs], set(node.outputs)
    while waiting:
        value = waiting.pop()
        for user, index in value.uses():
            if user.op_type in LAYERS and index < 2:
                return True
            if user.op_type in MOVEMENT and index == 0:
                waiting += [output for output in user.outputs if output not in seen]
                seen.update(user.outputs)
    return False


def _is_middle(node: ir.Node) -> bool:
    """Return whether a Q or DQ node has uint8 with the zero point that int8 has at 0."""
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return zero is not None and zero.dtype == ir.DataType.UINT8 and bool((zero.numpy() == _MIDDLE).all())


def _becomes_int8(node: ir.Node) -> bool:
    """Return whether a Q or DQ node is of uint8 and becomes int8: of a constant, or of a pair of Q and DQ nodes."""
    if not _is_middle(node):
        return False
    if is_quantize(node):
        output = node.outputs[0]
        users = list(output.consumers())
        return not output.is_graph_output() and all(is_dequantize(user) and _is_middle(user) for user in users)
    source = node.inputs[0]
    producer = None if source is None else source.producer()
    return constant(source) is not None or (producer is not None and is_quantize(producer) and _becomes_int8(producer))
