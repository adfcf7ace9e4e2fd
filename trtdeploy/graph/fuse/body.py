"""Turns a region into a model-local function and a node that calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from trtdeploy.attention.kind import DOMAIN
from trtdeploy.graph.fuse.region import Region
from trtdeploy.graph.fuse.sizes import SizeEmitter
from trtdeploy.graph.view.facts import GraphFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLUGIN_VERSION = "1"


class Functions:
    """The functions of a model that blocks became; equal bodies share one.

    Args:
        model: The model; functions are added to it.
        facts: Sizes of its graph.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts) -> None:
        self._model = model
        self._facts = facts
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._bodies: dict[tuple[str, bytes], str] = {}

    def call(self, op_type: str, region: Region, name: str) -> ir.Node:
        """Return a node that computes the region's outputs; its function is in the model.

        Args:
            op_type: Operator of the node; a number is appended where another body has it.
            region: The block.
            name: Name of the node.
        """
        body, sizes = self._body(region)
        key = (op_type, body.SerializeToString(deterministic=True))
        if key not in self._bodies:
            taken = {function.name for function in self._model.functions.values() if function.domain == DOMAIN}
            unique, number = op_type, 1
            while unique in taken:
                number += 1
                unique = f"{op_type}_{number}"
            body.name = unique
            make_names_unique(body)
            function = ir.serde.deserialize_function(body)
            self._model.functions[function.identifier()] = function
            self._model.opset_imports.setdefault(DOMAIN, 1)
            self._bodies[key] = unique
        outputs = [ir.Value(name=None, type=v.type, shape=v.shape) for v in region.outputs]
        return ir.Node(
            DOMAIN,
            self._bodies[key],
            [*region.inputs, *region.weights, *sizes],
            [ir.AttrString("plugin_namespace", DOMAIN), ir.AttrString("plugin_version", PLUGIN_VERSION)],
            outputs=outputs,
            name=name,
        )

    def _body(self, region: Region) -> tuple[onnx.FunctionProto, list[ir.Value]]:
        """Return the function of a region, with names that depend on its structure alone, and its further inputs.

        Those are sizes that do not follow from the shapes of the block's inputs, such as those of the levels that a
        joined sequence of positions comes from.
        """
        inner = [output for node in region.nodes for output in node.outputs]
        emitter = SizeEmitter(self._facts, region.inputs, inner, self._opset)
        names: dict[str, str] = {}
        given: list[ir.Value] = []
        for value in region.sizes:
            name = emitter.emit(value)
            if name is None:
                given.append(value)
            else:
                names[value.name or ""] = name
        constants = {value.name or "": emitter.constant(_array(value)) for value in region.constants}
        nodes = [ir.to_proto(node) for node in region.nodes]
        inputs = [value.name or "" for value in [*region.inputs, *region.weights, *given]]
        outputs = [value.name or "" for value in region.outputs]
        names |= constants
        nodes = [*emitter.nodes, *nodes]
        _rename(nodes, names)
        nodes = _sorted(nodes, set(inputs))
        final = {name: f"in{i}" for i, name in enumerate(inputs)}
        for index, name in enumerate(dict.fromkeys(o for node in nodes for o in node.output if o)):
            final[name] = f"t{index}"
        _rename(nodes, final)
        for index, node in enumerate(nodes):
            node.name = f"n{index}"
            del node.metadata_props[:]
            node.doc_string = ""
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self._model.opset_imports.items()]
        if all(opset.domain != DOMAIN for opset in opsets):
            opsets.append(onnx.helper.make_opsetid(DOMAIN, 1))
        results = [final.get(names.get(n, n), n) for n in outputs]
        function = onnx.helper.make_function(DOMAIN, "", [final[n] for n in inputs], results, nodes, opsets)
        return function, given


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    array: NDArray[Any] = value.const_value.numpy()
    return array


def make_names_unique(body: onnx.FunctionProto) -> None:
    """Begin every name of a body with the function's; TensorRT-RTX 1.7 mixes up equal names of nested functions."""
    values = [*body.input, *(output for node in body.node for output in node.output if output)]
    names = {name: f"{body.name}/{name}" for name in values}
    _rename(body.node, names)
    for field in (body.input, body.output):
        field[:] = [names[name] for name in field]


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Rename values, in the bodies of control flow too, where inner names do not hide them."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                graph = attribute.g
                own = {v.name for v in graph.input} | {o for n in graph.node for o in n.output}
                own |= {t.name for t in graph.initializer}
                visible = {old: new for old, new in names.items() if old not in own}
                _rename(graph.node, visible)
                for output in graph.output:
                    output.name = visible.get(output.name, output.name)


def _sorted(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Return `nodes` in an order in which every value is written before it is read, stable otherwise."""
    result: list[onnx.NodeProto] = []
    made = set(known) | {""}
    waiting = list(nodes)
    while waiting:
        ready = [node for node in waiting if all(name in made for name in _reads(node))]
        if not ready:
            raise ValueError("a function body reads a value that nothing provides")
        result += ready
        made |= {output for node in ready for output in node.output}
        chosen = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in chosen]
    return result


def _reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            graph = attribute.g
            own = {v.name for v in graph.input} | {o for n in graph.node for o in n.output}
            own |= {t.name for t in graph.initializer}
            for inner in graph.node:
                found |= _reads(inner) - own
            found |= {v.name for v in graph.output} - own
    return found
