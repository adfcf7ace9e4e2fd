"""Removes attention blocks from a graph, or puts simpler ones in their place."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.graph.analysis import Analysis, BlockCost, cores
from trtdeploy.graph.costs import is_constant
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.fuse.region import Refusal, Region
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.sdpa import Core

REPLACEMENTS = ("se", "simam")
_REDUCTION = 16
_EPSILON = 1e-4
_PASSED = frozenset({
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Cast", "Slice", "Conv", "MatMul",
    "Gemm", "BatchNormalization", "LayerNormalization", "Mul", "Div", "Add",
})  # fmt: skip
"""Operators between an attention's product and the sum with what it was computed from: projections and scales."""


@dataclass(frozen=True)
class Removal:
    """How a block is taken out: each value of the first kind is replaced by the one beside it.

    Attributes:
        pairs: Names of values, and of those that take their place.
        how: What that means, in words.
    """

    pairs: tuple[tuple[str, str], ...]
    how: str


def plan_removal(block: BlockCost, facts: GraphFacts) -> Removal | Refusal:
    """Return how a block can be taken out, or why it cannot.

    A dot-product block that adds its attention to what the attention was computed from loses that branch alone, and
    keeps its other layers. Any other block's output becomes its input. Where a block's output is added to its input,
    the sum becomes the input.
    """
    region = block.block.region
    if isinstance(region, Refusal):
        return region
    found = cores(region.nodes) if block.kind.family == "dot-product" else []
    cuts = [_residual(core, region) for core in found]
    if cuts and all(cut is not None for cut in cuts):
        pairs = dict.fromkeys((_name(cut[0]), _name(cut[1])) for cut in cuts if cut is not None)
        return Removal(tuple(pairs), "its branch is left out of the sum with what it was computed from")
    return _wired(region, facts)


def remove_blocks(model: ir.Model, removals: Sequence[Removal], replacement: str = "") -> ir.Model:
    """Return a copy of `model` without the blocks.

    Args:
        model: The model; not changed.
        removals: How each block is taken out.
        replacement: `se` or `simam` gates what takes the block's place, with fresh weights: that is for figures, and
            must be trained before it is of use. Default: nothing.
    """
    return change_blocks(model, [(removal, replacement) for removal in removals])


def change_blocks(model: ir.Model, changes: Sequence[tuple[Removal, str]]) -> ir.Model:
    """Return a copy of `model` in which each block is taken out, and gated by the replacement named beside it."""
    model = model.clone()
    graph = model.graph
    values = {v.name: v for v in graph.inputs} | {o.name: o for node in graph for o in node.outputs}
    facts = GraphFacts(model) if any(replacement for _, replacement in changes) else None
    moved: dict[ir.Value, ir.Value] = {}
    for number, (removal, replacement) in enumerate(changes):
        for old_name, new_name in removal.pairs:
            old, new = values[old_name], values[new_name]
            while new in moved:
                new = moved[new]
            if old in moved:
                continue
            if replacement and facts is not None:
                new = _gated(model, facts, old, new, f"{replacement}_{number}", replacement)
            moved[old] = _take_place(graph, old, new)
    common.RemoveUnusedNodesPass()(model)
    return model


def can_gate(removal: Removal, analysis: Analysis) -> bool:
    """Return whether SE or SimAM can stand in the block's place: what is left must be a map of known channels."""
    values = {o.name: o for node in analysis.model.graph for o in node.outputs}
    for _, name in removal.pairs:
        dims = analysis.costs.dims(values.get(name))
        if dims is None or len(dims) != 4 or math.prod(dims[2:]) < 2:
            return False
    return True


def _take_place(graph: ir.Graph, old: ir.Value, new: ir.Value) -> ir.Value:
    """Let `new` be read where `old` was; an output of the graph keeps its name."""
    if old.is_graph_output():
        node = old.producer()
        assert node is not None
        name = old.name
        old.name = f"{name}/removed"
        keeper = ir.node("Identity", [new], outputs=[ir.Value(name=name, type=old.type, shape=old.shape)])
        keeper.name = f"{name}/kept"
        graph.insert_after(node, keeper)
        old.replace_all_uses_with(keeper.outputs[0], replace_graph_outputs=True)
        return keeper.outputs[0]
    old.replace_all_uses_with(new)
    return new


def _residual(core: Core, region: Region) -> tuple[ir.Value, ir.Value] | None:
    """Return the sum of an attention with what it was computed from, and that; None where there is no such sum."""
    sources = _ancestors([core.query, core.key, core.value], set(region.inputs))
    value = core.mix.outputs[0]
    border = set(region.outputs)
    while True:
        users = [user for user in value.consumers() if user.op_type not in {"Shape", "Size"}]
        if len(users) != 1 or value.is_graph_output():
            return None
        node = users[0]
        if node.op_type == "Add":
            other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
            if other is not None and other in sources:
                return node.outputs[0], other
        if value in border or node.op_type not in _PASSED or len(node.outputs) != 1:
            return None
        value = node.outputs[0]


def _ancestors(values: Collection[ir.Value], border: Collection[ir.Value]) -> set[ir.Value]:
    """Return what `values` are computed from, down to `border`."""
    found: set[ir.Value] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if value in found or is_constant(value):
            continue
        found.add(value)
        node = value.producer()
        if value not in border and node is not None:
            todo += [v for v in node.inputs if v is not None]
    return found


def _wired(region: Region, facts: GraphFacts) -> Removal | Refusal:
    """Return the removal that makes the output the input."""
    last = region.nodes[-1].name or ""
    if len(region.inputs) != 1 or len(region.outputs) != 1:
        many = f"{len(region.inputs)} inputs and {len(region.outputs)} outputs"
        return Refusal(f"it has {many}, so no single input can take the output's place", last)
    source, output = region.inputs[0], region.outputs[0]
    before, after = facts.dims(source), facts.dims(output)
    if before is None or after is None or None in before or None in after:
        return Refusal("the shapes of its input and output are not known", last)
    if before != after:
        shapes = [[dim[0] if dim is not None else "?" for dim in dims] for dims in (before, after)]
        return Refusal(f"it makes {shapes[1]} of {shapes[0]}, so its input cannot take the output's place", last)
    if source.dtype is not None and output.dtype is not None and source.dtype != output.dtype:
        return Refusal(f"its input is {source.dtype.name} and its output {output.dtype.name}", last)
    users = list(output.consumers())
    if len(users) == 1 and users[0].op_type == "Add" and not output.is_graph_output() and source in users[0].inputs:
        pairs = ((_name(users[0].outputs[0]), _name(source)),)
        return Removal(pairs, "its branch is left out of the sum with its input")
    return Removal(((_name(output), _name(source)),), "its input takes its output's place")


def _gated(model: ir.Model, facts: GraphFacts, old: ir.Value, new: ir.Value, prefix: str, kind: str) -> ir.Value:
    """Put a gate of `new` before the maker of `old`; return its output."""
    dims = facts.dims(new) or facts.dims(old)
    if dims is None or dims[1] is None:
        raise ValueError(f"{new.name!r} cannot be gated: its channels are not known.")
    channels = dims[1][0]
    emit = Emitter(model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0)), f"replacement/{prefix}")
    dtype = np.dtype(np.float32) if new.dtype is None else new.dtype.numpy()
    result = _se(emit, new, channels, dtype) if kind == "se" else _simam(emit, new, dtype)
    result.type, result.shape = new.type, new.shape
    node = old.producer()
    assert node is not None
    emit.insert_before(node, TakenNames.of(model.graph))
    return result


def _se(emit: Emitter, x: ir.Value, channels: int, dtype: np.dtype[np.generic]) -> ir.Value:
    hidden = max(1, channels // _REDUCTION)
    rng = np.random.default_rng(0)
    layers = [rng.normal(0, 0.1, shape).astype(dtype) for shape in ((hidden, channels, 1, 1), (channels, hidden, 1, 1))]
    squeezed = emit.op("Conv", emit.op("GlobalAveragePool", x), layers[0], np.zeros(hidden, dtype))
    excited = emit.op("Conv", emit.op("Relu", squeezed), layers[1], np.zeros(channels, dtype))
    return emit.mul(x, emit.sigmoid(excited))


def _simam(emit: Emitter, x: ir.Value, dtype: np.dtype[np.generic]) -> ir.Value:
    """Emit SimAM with the biased variance: the same work as with `H W - 1`."""
    gap = emit.sub(x, emit.op("GlobalAveragePool", x))
    squares = emit.mul(gap, gap)
    variance = emit.add(emit.op("GlobalAveragePool", squares), np.array(_EPSILON, dtype))
    energy = emit.div(squares, emit.mul(variance, np.array(4, dtype)))
    return emit.mul(x, emit.sigmoid(emit.add(energy, np.array(0.5, dtype))))


def _name(value: ir.Value) -> str:
    return value.name or ""
