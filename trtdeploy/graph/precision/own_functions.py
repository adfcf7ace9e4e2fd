"""Gives nodes that stay FP32 functions of their own where others call the same ones."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from trtdeploy.attention.operations import is_operation
from trtdeploy.graph.emit import unique_name
from trtdeploy.graph.fuse.body import make_names_unique
from trtdeploy.graph.precision.element_types import FunctionId

_SUFFIX = "_fp32"


def give_own_functions(model: ir.Model, nodes: Collection[ir.Node]) -> None:
    """Let `nodes` call copies of the functions that other nodes call too, in place.

    Equal blocks share a function, whose body can be FP16 or FP32 only. Operations take both.
    """
    shared = {node.op_identifier() for node in model.graph.all_nodes() if node not in nodes}
    for function in model.functions.values():
        shared |= {node.op_identifier() for node in function.all_nodes()}
    copies: dict[FunctionId, str] = {}
    for node in nodes:
        identifier = node.op_identifier()
        if identifier in model.functions and identifier in shared:
            node.op_type = _copy(model, identifier, copies)


def give_own_function(model: ir.Model, call: ir.Node) -> ir.Function:
    """Let `call`, alone, have a function of its own, in place, which calls the functions that its old one calls."""
    identifier = call.op_identifier()
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    if any(node.op_identifier() == identifier for graph in graphs for node in graph.all_nodes() if node is not call):
        call.op_type = _copy(model, identifier, {}, nested=False)
    return model.functions[call.op_identifier()]


def _copy(model: ir.Model, identifier: FunctionId, copies: dict[FunctionId, str], *, nested: bool = True) -> str:
    """Return the name of a copy of a function; with `nested` it calls copies of the functions that it calls."""
    domain, name, _ = identifier
    if is_operation(domain, name):
        return name
    if identifier not in copies:
        body = ir.to_proto(model.functions[identifier])
        body.name = unique_name(name + _SUFFIX, {other for where, other, _ in model.functions if where == domain})
        copies[identifier] = body.name
        make_names_unique(body)
        for node in body.node:
            called = (node.domain, node.op_type, node.overload)
            if nested and called in model.functions:
                node.op_type = _copy(model, called, copies)
        function = ir.serde.deserialize_function(body)
        model.functions[function.identifier()] = function
    return copies[identifier]
