"""Shows inner tensors of a model, those in the bodies of its functions too, by running it in ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.graph.inline import inline_functions
from trtdeploy.graph.reference import ReferenceModel, to_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NODE = "trtdeploy.observe.node"
_CALL = "trtdeploy.observe.call."
_EXTREMES = ("ReduceMin", "ReduceMax", "ReduceSum")


class Observer:
    """A model whose inner tensors are outputs. What they do not need is left out of it.

    A tensor is named as in the main graph; one in the body of a function that node N calls is "<name of N>/<its name in
    the body>", and so on for functions that call functions. Tensors inside the bodies of control flow are not shown.

    Args:
        model: The model; it is copied, later changes do not show.
        wanted: Names of the tensors to show.
        extremes_only: Whether each tensor is reduced to its smallest and largest element inside the graph, so that
            nothing large leaves it.

    Raises:
        ValueError: There is no such tensor, or the name is not unique.
        ReferenceRunError: ONNX Runtime refuses the model.

    Attributes:
        sha256: Hash of the observed graph with its weights, and of which tensors are shown in which order.
        sizes: Elements of each tensor in the last run; only with `extremes_only`.
    """

    def __init__(self, model: ir.Model, wanted: Sequence[str], *, extremes_only: bool) -> None:
        self._wanted = list(dict.fromkeys(wanted))
        self._extremes_only = extremes_only
        flat = model.clone()
        shown = [_found(name, values) for name, values in _named(flat, self._wanted).items()]
        flat.graph.outputs.clear()
        for index, value in enumerate(shown):
            flat.graph.outputs.extend(_outputs(flat.graph, value, f"observed/{index}", extremes_only=extremes_only))
        common.RemoveUnusedNodesPass()(flat)
        self._inputs = frozenset(_read(flat.graph))
        flat.graph.inputs[:] = [value for value in flat.graph.inputs if value.name in self._inputs]
        self.sha256 = hashlib.sha256(to_bytes(flat)).hexdigest()
        self.sizes: dict[str, int] = {}
        self._model = ReferenceModel(flat) if shown else None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model and return each tensor by name.

        Every tensor is given as float32, whatever its type is in the model. With `extremes_only` each is `[min, max]`:
        NaN where one of its elements is, `[inf, -inf]` where it has none.

        Args:
            feeds: The model's inputs; those that no observed tensor needs may be missing.

        Raises:
            ReferenceRunError: ONNX Runtime fails.
        """
        if self._model is None:
            return {}
        values = self._model.run({name: array for name, array in feeds.items() if name in self._inputs})
        if not self._extremes_only:
            return {name: values[f"observed/{index}"] for index, name in enumerate(self._wanted)}
        found: dict[str, NDArray[Any]] = {}
        for index, name in enumerate(self._wanted):
            low, high, total = (float(values[f"observed/{index}/{op}"]) for op in _EXTREMES)
            # ONNX Runtime's reductions skip NaN unless it comes first; a sum does not
            found[name] = np.array([np.nan, np.nan] if _is_nan(low, high, total) else [low, high], np.float32)
            self.sizes[name] = int(values[f"observed/{index}/Size"])
        return found


def _is_nan(low: float, high: float, total: float) -> bool:
    """Return whether an element is NaN; the sum of infinities of both signs is NaN too."""
    both = low == -np.inf and high == np.inf
    return bool(np.isnan([low, high]).any() or (np.isnan(total) and not both))


def _named(flat: ir.Model, wanted: Sequence[str]) -> dict[str, list[ir.Value]]:
    """Inline the functions of `flat`, and return the values that each wanted name stands for."""
    origins = _mark(flat)
    inline_functions(flat)
    found: dict[str, list[ir.Value]] = {name: [] for name in wanted}
    for value in [*flat.graph.inputs, *flat.graph.initializers.values()]:
        if value.name in found and not found[value.name]:  # an initializer may be an input too
            found[value.name].append(value)
    for node in flat.graph:
        # outer calls come first: inlining puts a call's marks before those of the nodes of its body
        path = [text for key, text in node.metadata_props.items() if key.startswith(_CALL)]
        for output, name in zip(node.outputs, origins[int(node.metadata_props[_NODE])], strict=True):
            full = "/".join([*path, name])
            if name and full in found:
                found[full].append(output)
    return found


def _mark(model: ir.Model) -> list[list[str]]:
    """Mark every node with a number and every call with its name; return the names of the outputs by number."""
    origins: list[list[str]] = []
    for number, container in enumerate([model.graph, *model.functions.values()]):
        for call in [node for node in container if node.op_identifier() in model.functions]:
            _pass_on(call)
            call.metadata_props[f"{_CALL}{number}"] = call.name or ""
        for node in container:
            node.metadata_props[_NODE] = str(len(origins))
            origins.append([output.name or "" for output in node.outputs])
    return origins


def _pass_on(call: ir.Node) -> None:
    """Put an Identity behind each result of a call: the call's own outputs are gone once it is inlined."""
    for output in call.outputs:
        copy = ir.node("Identity", [output])
        result = copy.outputs[0]
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        copy.replace_input_with(0, output)
        result.name, output.name = output.name, None
        result.type, result.shape = output.type, output.shape
        call.append(copy)


def _found(name: str, values: Sequence[ir.Value]) -> ir.Value:
    if len(values) == 1:
        return values[0]
    if not values:
        raise ValueError(
            f"The model has no tensor {name} that can be observed: neither in its graph nor in a function."
        )
    raise ValueError(f"{len(values)} tensors of the model are called {name}: the nodes that call it share a name.")


def _outputs(graph: ir.Graph, value: ir.Value, name: str, *, extremes_only: bool) -> list[ir.Value]:
    """Add the nodes that show `value`, and return their outputs."""
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})  # a value of a function's body has no known type
    graph.append(cast)
    source = cast.outputs[0]
    source.name, source.type = name, ir.TensorType(ir.DataType.FLOAT)
    if not extremes_only:
        return [source]
    shown = []
    for op in (*_EXTREMES, "Size"):
        node = ir.node(op, [source], {} if op == "Size" else {"keepdims": 0})
        output = node.outputs[0]
        output.name, output.shape = f"{name}/{op}", ir.Shape([])
        output.type = ir.TensorType(ir.DataType.INT64 if op == "Size" else ir.DataType.FLOAT)
        graph.append(node)
        shown.append(output)
    return shown


def _read(graph: ir.Graph) -> set[str]:
    """Return the names of the graph's inputs that something reads."""
    return {value.name or "" for value in graph.inputs if value.uses() or value in graph.outputs}
