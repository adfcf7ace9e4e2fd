"""Makes the parts of a block that have kernels nodes of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from trtdeploy.attention.kind import DOMAIN
from trtdeploy.attention.operation_body import MIN_OPSET
from trtdeploy.attention.operation_form import Form
from trtdeploy.attention.operations import forms, is_operation
from trtdeploy.attention.pattern import Pattern
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.fuse.match import Match, match_at
from trtdeploy.graph.fuse.operand_shapes import (
    Dims,
    is_one,
    known,
    reshaped,
    reshaping,
    results_of,
    small_shapes,
    targets_of,
    unfit,
)
from trtdeploy.graph.fuse.proof import Proof
from trtdeploy.graph.fuse.region import Refusal, Region, region_of
from trtdeploy.graph.unused import drop_unused
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.sdpa import Core
from trtdeploy.graph.view.term import Term, scalar
from trtdeploy.graph.view.terms import Terms
from trtdeploy.kernels.spec import NAMESPACE, PLUGIN_VERSION, Operation

_STANDARD = frozenset({"", "ai.onnx"})
_RAISED = 13
"""From here on the operators of detectors mean in opset 15 what they meant."""


@dataclass
class Lowered:
    """What became of a block's parts.

    Attributes:
        op_types: The operations, in the order in which they were found.
        refusals: What looked like an operation and is none, and why.
    """

    op_types: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Plan:
    """An operation that was found: its operands as they are and as it takes them, its results likewise."""

    operation: Operation
    region: Region
    given: tuple[Dims, ...]
    targets: tuple[Dims, ...]
    results: tuple[Dims, ...]
    attributes: Mapping[str, tuple[float, ...]]


def raise_opset(model: ir.Model) -> str:
    """Raise opset 13 or 14 to 15; return what was changed, or an empty string.

    Between them operators gained types and attributes with the old meaning as default. Only the training outputs of
    BatchNormalization changed.
    """
    version = model.opset_imports.get("", 0)
    trains = any(node.op_type == "BatchNormalization" and len(node.outputs) > 1 for node in model.graph.all_nodes())
    if not _RAISED <= version < MIN_OPSET or trains:
        return ""
    model.opset_imports[""] = MIN_OPSET
    return f"opset {version} raised to {MIN_OPSET}, which the bodies of operations need"


class OperationFinder:
    """Finds operations in a graph's blocks and makes each a node, whose function is in the model.

    What a pattern proposes is run next to the operation's reference (`Proof`); only equal numbers are accepted.

    Args:
        model: The model.
        facts, terms: Its sizes and terms; what is new is added.
        taken: Its names.
        order: Position of every node; new nodes are added.
        moved: What stands for values that were replaced; new ones are added.
    """

    def __init__(
        self, model: ir.Model, facts: GraphFacts, terms: Terms, taken: TakenNames, order: dict[ir.Node, int],
        moved: dict[ir.Value, ir.Value],
    ) -> None:  # fmt: skip
        self._model, self._facts, self._terms = model, facts, terms
        self._taken, self._order, self._moved = taken, order, moved
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._by_op: dict[str, list[Term]] = {}
        for term in terms.all:
            self._by_op.setdefault(term.op, []).append(term)

    def lower(self, block: Region, place: str) -> Lowered:
        """Replace what is found inside `block`.

        Args:
            block: The region of a block that will be fused.
            place: Where it is, for names.
        """
        lowered = Lowered()
        if self._opset < MIN_OPSET:
            lowered.refusals.append(f"opset {self._opset} is too old for operations, which need {MIN_OPSET}")
            return lowered
        inside = _Inside(block, dict(self._moved))
        for form in forms():
            op_type = form.operation.op_type
            if form.after and form.after not in lowered.op_types:
                continue
            for term in [t for op in _ops(form.roots[0]) for t in self._by_op.get(op, ())]:
                root = inside.current(term.value).producer()
                if root not in inside.nodes or is_operation(root.domain, root.op_type):
                    continue
                found = self._find(form, term, inside)
                if isinstance(found, _Plan):
                    self._install(found, inside, place)
                    lowered.op_types.append(op_type)
                elif found:
                    lowered.refusals.append(f"{op_type} at {root.name!r}: {found}")
        return lowered

    def _find(self, form: Form, term: Term, inside: _Inside) -> _Plan | str:
        """Return the operation at `term`, or why what looks like it is none; empty where nothing does."""
        plans: list[_Plan] = []
        reasons: list[str] = []

        def refusal(match: Match) -> str:
            found = self._plan(form, match, inside)
            if isinstance(found, _Plan):
                plans.append(found)
                return ""
            reasons.append(found)
            return found or "elsewhere"

        match_at(form.roots, term, self._terms, refusal)
        return plans[0] if plans else next((reason for reason in reasons if reason), "")

    def _plan(self, form: Form, match: Match, inside: _Inside) -> _Plan | str:
        roots = [inside.current(term.value) for term in match.roots]
        operands = self._operands(form, match, roots, inside)
        if operands is None:
            return ""
        region = region_of(operands, roots, self._facts, self._order, exclusive=not form.shares)
        if isinstance(region, Refusal):
            return region.reason
        if not region.nodes or any(node not in inside.nodes or node.domain not in _STANDARD for node in region.nodes):
            return ""
        types = {self._facts.element_type(value) for value in (*operands, *roots)}
        if len(types) > 1 or not types <= {ir.DataType.FLOAT, ir.DataType.FLOAT16}:
            return "its tensors are not of one type, FP32 or FP16"
        given = [known(self._facts.dims(value)) for value in operands]
        ends = [known(self._facts.dims(value)) for value in roots]
        if None in given or None in ends:
            return "its sizes are not known"
        shapes = [dims for dims in given if dims is not None]
        if all(is_one(dim) for dim in shapes[0][2:]):
            return ""  # a vector: nothing to gain
        return unfit(form, shapes) or self._prove(form, region, shapes, [d for d in ends if d is not None])

    def _prove(self, form: Form, region: Region, given: Sequence[Dims], ends: Sequence[Dims]) -> _Plan | str:
        """Return the plan with the shapes and parameters with which the numbers are equal."""
        operation, proof = form.operation, Proof(region, self._facts, self._opset)
        constants = [number for v in region.constants if (number := scalar(v.const_value)) is not None]
        reason = "no way to give it its operands in its shapes"
        for targets in targets_of(form, given):
            results = tuple(results_of(operation, targets))
            pairs = [*zip(given, targets, strict=True), *zip(results, ends, strict=True)]
            if any(reshaping(a, b) is None for a, b in pairs):
                continue
            sizes = list(zip(given, targets, strict=True))
            if form.small and not region.sizes:
                sizes = [(dims, dims) for dims in small_shapes(form, targets)]
            for values in dict.fromkeys(form.parameters(constants)):
                attributes = {a.name: (value,) for a, value in zip(operation.attributes, values, strict=True)}
                reason = proof.objection(operation, sizes, attributes)
                if not reason:
                    return _Plan(operation, region, tuple(given), targets, results, attributes)
        return reason

    def _operands(self, form: Form, match: Match, roots: Sequence[ir.Value], inside: _Inside) -> list[ir.Value] | None:
        """Return the values that hold the operands; None where the match lies elsewhere."""
        if match.roots[0].op == "sdpa":
            core: Core | None = match.roots[0].attrs.get("core")
            if core is None or not _is_plain(core):
                return None
            return [inside.current(v) for v in (core.query, core.key, core.value)]
        wanted = {term: name for name, term in match.inputs}
        borders, crossed = self._borders(roots, set(wanted), inside)
        found: dict[str, ir.Value] = {}
        for value in sorted(borders, key=self._position):
            found.setdefault(wanted[self._terms.of(value)], value)  # other views of an operand are made of the first
        if form.weight:
            weights = {node.inputs[1] for node in crossed if node.op_type == "Conv"}
            weight = weights.pop() if len(weights) == 1 else None
            if weight is not None:
                found[form.weight] = weight
        return [found[name] for name in form.shapes] if found.keys() >= form.shapes.keys() else None

    def _borders(
        self, roots: Sequence[ir.Value], wanted: set[Term], inside: _Inside
    ) -> tuple[list[ir.Value], list[ir.Node]]:
        """Return the values above `roots` that hold the wanted terms, and the nodes between."""
        borders: dict[ir.Value, None] = {}
        crossed: dict[ir.Node, None] = {}
        todo = list(roots)
        while todo:
            value = todo.pop()
            node = value.producer()
            if value not in roots and self._terms.of(value) in wanted:
                borders[value] = None
            elif node is not None and node in inside.nodes and node not in crossed:
                crossed[node] = None
                todo += [v for v in node.inputs if v is not None]
        return list(borders), list(crossed)

    def _position(self, value: ir.Value) -> int:
        node = value.producer()
        return -1 if node is None else self._order[node]

    def _install(self, plan: _Plan, inside: _Inside, place: str) -> None:
        """Put the operation's node where the region's last node is."""
        operation, region = plan.operation, plan.region
        op_type = operation.op_type
        function = ir.serde.deserialize_function(operation.body(self._opset))
        self._model.functions.setdefault(function.identifier(), function)
        self._model.opset_imports.setdefault(DOMAIN, 1)
        emit = Emitter(self._opset, f"{place}/{op_type}" if place else op_type)
        operands = [reshaped(emit, *way) for way in zip(region.inputs, plan.given, plan.targets, strict=True)]
        before = len(emit.nodes)
        node = _node(plan, operands, emit.prefix)
        emit.nodes.append(node)
        ends = [known(self._facts.dims(value)) or () for value in region.outputs]
        results = [reshaped(emit, *way) for way in zip(node.outputs, plan.results, ends, strict=True)]
        emit.insert_before(region.nodes[-1], self._taken)
        self._facts.visit(emit.nodes[:before])
        for output, dims in zip(node.outputs, plan.results, strict=True):
            self._facts.note(output, dims, like=region.outputs[0])
        self._facts.visit(emit.nodes[before + 1 :])
        for value, operand in zip(region.inputs, operands, strict=True):
            self._terms.hold(operand, self._terms.of(value))
        self._order |= dict.fromkeys(emit.nodes, self._order[region.nodes[-1]])
        for old, own, new in zip(region.outputs, node.outputs, results, strict=True):
            own.type, new.type, new.shape = old.type, old.type, old.shape
            self._terms.hold(own, self._terms.of(old))
            self._terms.hold(new, self._terms.of(old))
            self._replace(old, new, inside)
        drop_unused(self._model.graph, region.nodes)
        region_now = region_of(inside.inputs, inside.outputs, self._facts, self._order, exclusive=False)
        assert isinstance(region_now, Region)  # as before, with another node inside
        inside.nodes = set(region_now.nodes)

    def _replace(self, old: ir.Value, new: ir.Value, inside: _Inside) -> None:
        """Let `new` stand for `old` inside the block, and outside where that is what leaves it."""
        inside.moved[old] = new
        if old not in inside.outputs:
            for user, index in list(old.uses()):
                if user in inside.nodes:
                    user.replace_input_with(index, new)
            return
        inside.outputs = [new if value is old else value for value in inside.outputs]
        old.name, new.name = f"{old.name}/plain", old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self._moved[old] = new


class _Inside:
    """A block as it changes."""

    def __init__(self, region: Region, moved: dict[ir.Value, ir.Value]) -> None:
        self.nodes = set(region.nodes)
        self.inputs, self.outputs = list(region.inputs), list(region.outputs)
        self.moved = moved

    def current(self, value: ir.Value) -> ir.Value:
        """Return what stands for `value` now."""
        while value in self.moved:
            value = self.moved[value]
        return value


def _ops(pattern: Pattern) -> set[str]:
    return set().union(*map(_ops, pattern.args)) if pattern.op == "either" else {pattern.op}


def _is_plain(core: Core) -> bool:
    """Return whether attention is written as the operation's body writes it."""
    in_order = core.probabilities_first and core.key_axis == -1 and not core.swapped and not core.transposed
    return core.plain and in_order and all(op in {"Mul", "Div"} for op, _ in core.steps)


def _node(plan: _Plan, operands: Sequence[ir.Value], name: str) -> ir.Node:
    attributes = [ir.AttrFloat32s(key, list(values)) for key, values in plan.attributes.items()]
    attributes += [ir.AttrString("plugin_namespace", NAMESPACE), ir.AttrString("plugin_version", PLUGIN_VERSION)]
    outputs = [ir.Value(name=f"{name}/{result.name}") for result in plan.operation.outputs]
    marks = [*attributes, ir.AttrInt64("aot", 1)]
    return ir.Node(DOMAIN, plan.operation.op_type, operands, marks, outputs=outputs, name=name)
