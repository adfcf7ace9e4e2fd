"""What a graph must satisfy before any pass touches it: names, domains, functions and finite weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_ir as ir

from trtdeploy.core.errors import ModelError
from trtdeploy.graph.nvidia_fp8 import NVIDIA_DOMAIN

RUNNABLE_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Domains whose operators the backends know; any other must come with model-local functions."""
_INTEGER_OPERATORS = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "DynamicQuantize", "MatMulNBits", "QMoE")
"""Starts of the names of ONNX Runtime's operators that compute in integers by themselves."""
_CHUNK = 1 << 22
_TAKES_INFINITY = frozenset(
    {"Add", "Where", "Clip", "Max", "Min", "Pad", "Concat", "Expand", "Cast", "ConstantOfShape"}
)
"""Operators whose constants are infinite on purpose: masks and bounds."""


def check_structure(proto: onnx.ModelProto, origin: str) -> bool:
    """Check names, operator domains and functions.

    Returns:
        Whether the main graph's nodes are already sorted.

    Raises:
        ModelError: A name is dangling or written twice, a domain is unknown, a function calls itself, or the model
            has sparse initializers.
    """
    functions = {(function.domain, function.name): function for function in proto.functions}
    _check_functions(functions, origin)
    for node in _nodes(proto.graph.node):
        if node.domain == "com.microsoft" and node.op_type.startswith(_INTEGER_OPERATORS):
            raise ModelError(
                f"{origin}: node {node.name!r} is {node.domain}::{node.op_type}, which computes in integers in ONNX "
                "Runtime alone and tells nobody its shapes. Expected Q/DQ nodes around float operators: quantise the "
                "float model again with quant_format=QuantFormat.QDQ (docs/qat.md)."
            )
        if node.domain == NVIDIA_DOMAIN:
            raise ModelError(
                f"{origin}: node {node.name!r} is {node.domain}::{node.op_type}, an operator of NVIDIA's exporter. "
                "Of these, FP8 of one scale is read, at opset 19 or newer: export with opset_version=20, or quantise "
                "with INT8 (docs/qat.md)."
            )
        if node.domain not in RUNNABLE_DOMAINS and (node.domain, node.op_type) not in functions:
            raise ModelError(
                f"{origin}: node {node.name!r} is {node.domain}::{node.op_type}, an operator that no backend knows and "
                "for which the model brings no function. Export the model without it (raw outputs, no plugin)."
            )
    if proto.graph.sparse_initializer:
        raise ModelError(f"{origin} has sparse initializers, which no backend runs. Export it with dense weights.")
    return _check_names(proto.graph, frozenset(), origin)


def check_weights(model: ir.Model, origin: str) -> None:
    """Check that weights are finite. Infinite masks and bounds are allowed, NaN never is.

    Raises:
        ModelError: A tensor holds NaN or infinity, or its data do not fit its shape.
    """
    for name, tensor, users in _constants(model):
        if not tensor.dtype.is_floating_point():
            continue
        where = f"used by {_node_label(users[0])}" if users else "used by no node"
        try:
            bad = _first_bad(tensor)
        except (ValueError, TypeError, OSError) as error:
            raise ModelError(
                f"{origin}: the data of tensor {name!r} ({where}) do not fit its shape {list(tensor.shape)}: {error}. "
                "Export the model again."
            ) from error
        if bad is None or (bad != "NaN" and all(user.op_type in _TAKES_INFINITY for user in users)):
            continue
        raise ModelError(
            f"{origin}: weight {name!r} ({where}) holds {bad}. The training diverged or the file is damaged; "
            "expected finite weights."
        )


def _check_functions(functions: dict[tuple[str, str], onnx.FunctionProto], origin: str) -> None:
    """Check that no function calls itself, directly or through others."""
    done: set[tuple[str, str]] = set()
    for start in functions:
        path: list[tuple[str, str]] = []
        stack = [(start, False)]
        while stack:
            key, leaving = stack.pop()
            if leaving:
                done.add(path.pop())
                continue
            if key in path:
                cycle = " -> ".join(f"{domain}::{name}" for domain, name in [*path[path.index(key) :], key])
                raise ModelError(f"{origin}: function {cycle} calls itself; ONNX forbids recursion. Export it again.")
            if key in done:
                continue
            path.append(key)
            stack.append((key, True))
            called = {(node.domain, node.op_type) for node in _nodes(functions[key].node)}
            stack.extend((callee, False) for callee in called if callee in functions)


def _check_names(graph: onnx.GraphProto, outer: frozenset[str], origin: str) -> bool:
    """Check that every name is written once and every name read is written somewhere; return whether it is sorted."""
    sources = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    written = set(sources)
    for node in graph.node:
        for name in node.output:
            if name and name in written:
                raise ModelError(
                    f"{origin}: value {name!r}, written by {_proto_label(node)}, is written twice. Export it again."
                )
            written.add(name)
    visible = written | outer | {""}
    seen = sources | outer | {""}
    is_sorted = True
    for node in graph.node:
        for name in node.input:
            if name not in visible:
                raise ModelError(
                    f"{origin}: {_proto_label(node)} reads {name!r}, which no node, input or initializer provides. "
                    "Export it again."
                )
            is_sorted = is_sorted and name in seen
        for attribute in node.attribute:
            for subgraph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                _check_names(subgraph, frozenset(visible), origin)
        seen.update(node.output)
    for value in graph.output:
        if value.name not in visible:
            raise ModelError(f"{origin}: no node provides the output {value.name!r}. Export it again.")
    return is_sorted


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, those of their subgraphs too."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                stack.extend(attribute.g.node)
            for graph in attribute.graphs:
                stack.extend(graph.node)


def _constants(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol, list[ir.Node]]]:
    """Yield name, tensor and users of every initializer and Constant, in subgraphs and functions too."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.name or "", value.const_value, list(value.consumers())
    containers: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for container in containers:
        for node in container.all_nodes():
            if node.op_type == "Constant" and "value" in node.attributes:
                output = node.outputs[0]
                yield output.name or "", node.attributes["value"].as_tensor(), list(output.consumers())


def _first_bad(tensor: ir.TensorProtocol) -> str | None:
    """Return `NaN` or `infinity` when the tensor holds one, reading it in pieces."""
    array = tensor.numpy().reshape(-1)
    found = None
    for start in range(0, array.size, _CHUNK):
        piece = array[start : start + _CHUNK]
        if np.isfinite(piece).all():
            continue
        if np.isnan(piece).any():
            return "NaN"
        found = "infinity"
    return found


def _node_label(node: ir.Node) -> str:
    return f"node {node.name!r} ({node.op_type})"


def _proto_label(node: onnx.NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})"
