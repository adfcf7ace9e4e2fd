"""What TensorRT's ONNX parser makes of each node: a plugin, an operator of its own, or the body of a function.

One file serves every TensorRT because the parser decides by what is registered. Its order, read from the sources of
onnx-tensorrt (10.16 and 11.0): a plugin, where the node names its namespace and the registry has it; an importer of its
own, by the operator's name alone, whatever the domain; a model-local function, by its name alone; a plugin in the
namespace that is the node's domain. Up to 10.6 importers and functions come before all plugins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.attention.kind import DOMAIN
from trtdeploy.core.errors import ModelError

Creator = tuple[str, str, str]
"""What the plugin registry knows a plugin by: op_type, version, namespace."""
Handler = Literal["plugin", "built-in", "function", "nothing"]
PLUGINS_FIRST = (10, 7)
"""The first TensorRT that takes a plugin before the function of the same node."""
_STANDARD = frozenset({"", "ai.onnx"})


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """What becomes of one node.

    Attributes:
        name, op_type, domain: The node.
        inside: Names of the functions that the parser has inlined around it, outermost first.
        handler: What takes it; `nothing`: the parser refuses the model.
        creator: The plugin, where one takes it.
        problem: Why that is not what the model means, and what to do; empty where all is well.
    """

    name: str
    op_type: str
    domain: str
    inside: tuple[str, ...]
    handler: Handler
    creator: Creator | None = None
    problem: str = ""


def dispatch(model: ir.Model, creators: Collection[Creator], version: tuple[int, int]) -> list[Dispatch]:
    """Return what TensorRT's parser does with every node that it meets, inside functions and control flow too.

    Args:
        model: The model.
        creators: The registered plugins.
        version: Major and minor version of TensorRT.

    Raises:
        ModelError: A function calls itself.
    """
    parser = _Parser(model, frozenset(creators), version)
    found: list[Dispatch] = []
    todo: list[tuple[Iterable[ir.Node], tuple[str, ...]]] = [(model.graph, ())]
    while todo:
        nodes, inside = todo.pop()
        for node in nodes:
            taken = parser.take(node, inside)
            found.append(taken)
            if taken.handler == "function":
                if node.op_type in inside:
                    raise ModelError(f"Function {node.op_type!r} calls itself: {' > '.join((*inside, node.op_type))}.")
                todo.append((parser.functions[node.op_type], (*inside, node.op_type)))
            todo += [(graph, inside) for graph in _bodies(node)]
    return found


def strip_bodies(model: ir.Model, op_types: Collection[str]) -> ir.Model:
    """Return a copy in which the nodes `op_types` have no functions and all other functions are inlined.

    TensorRT 10.0 to 10.6 prefers a function to the plugin of its node. Only TensorRT with these plugins reads the
    result.

    Args:
        model: The model.
        op_types: Operators of domain `trtdeploy` whose plugins are registered.
    """
    stripped = model.clone()
    for identifier in list(stripped.functions):
        if identifier[0] == DOMAIN and identifier[1] in op_types:
            del stripped.functions[identifier]
    common.InlinePass()(stripped)
    return stripped


class _Parser:
    """The parser's decisions.

    Attributes:
        functions: The model's functions by name, as the parser keeps them.
    """

    def __init__(self, model: ir.Model, creators: frozenset[Creator], version: tuple[int, int]) -> None:
        self.functions = {function.name: function for function in model.functions.values()}
        self._names = Counter(function.name for function in model.functions.values())
        self._creators = creators
        self._version = version
        self._built_in = {schema.name for schema in onnx.defs.get_all_schemas()}

    def take(self, node: ir.Node, inside: tuple[str, ...]) -> Dispatch:
        """Return what takes `node`."""
        named, own = self._named_plugin(node), self._creator(node, node.domain)
        has_importer = node.op_type in self._built_in or node.op_type.startswith("TRT_")
        early, late = (named, own) if self._version >= PLUGINS_FIRST else (None, named or own)
        handler: Handler = "nothing"
        creator: Creator | None = None
        if early is not None:
            handler, creator = "plugin", early
        elif has_importer:
            handler = "built-in"
        elif node.op_type in self.functions:
            handler = "function"
        elif late is not None:
            handler, creator = "plugin", late
        return Dispatch(
            name=node.name or "", op_type=node.op_type, domain=node.domain, inside=inside, handler=handler,
            creator=creator, problem=self._problem(node, handler, named),
        )  # fmt: skip

    def _problem(self, node: ir.Node, handler: Handler, named: Creator | None) -> str:
        """Return what is wrong with the decision."""
        title = f"{node.domain}::{node.op_type}"
        version = ".".join(map(str, self._version))
        if handler == "built-in" and node.domain not in _STANDARD:
            return f"TensorRT takes {title} for its own operator {node.op_type}, whatever the domain: rename it."
        if handler == "function" and named is not None:
            return f"TensorRT {version} takes the function of {title} before its plugin: remove it with strip_bodies."
        if handler == "function" and self._names[node.op_type] > 1:
            return f"{self._names[node.op_type]} functions are named {node.op_type}; TensorRT takes any: rename them."
        if handler == "function" and self.functions[node.op_type].domain != node.domain:
            return f"TensorRT takes the function {self.functions[node.op_type].domain}::{node.op_type} for {title}."
        if handler == "nothing":
            return f"Neither a plugin nor a function is there for {title}: register its plugin or keep its function."
        return ""

    def _named_plugin(self, node: ir.Node) -> Creator | None:
        """Return the registered plugin whose namespace the node names."""
        return self._creator(node, _text(node, "plugin_namespace")) if "plugin_namespace" in node.attributes else None

    def _creator(self, node: ir.Node, namespace: str) -> Creator | None:
        creator = (node.op_type, _text(node, "plugin_version") or "1", namespace)
        return creator if creator in self._creators else None


def _text(node: ir.Node, name: str) -> str:
    attribute = node.attributes.get(name)
    return "" if attribute is None or attribute.is_ref() else attribute.as_string()


def _bodies(node: ir.Node) -> list[ir.Graph]:
    """Return the subgraphs of a control-flow node."""
    return [
        attribute.as_graph()
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref()
    ]
