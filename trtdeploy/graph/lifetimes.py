"""How long each tensor stays in memory when a graph runs in its order, and the peak of all together.

A tensor is kept from the step that makes it until the last one that reads it; an output until the end. A view shares
its source's memory. Nothing is computed in place, and no memory is lost between tensors: an engine may need more or
less.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

import onnx_ir as ir

from trtdeploy.graph.costs import VIEWS, Costs, inputs_of
from trtdeploy.graph.view.term import captured


@dataclass(frozen=True)
class Kept:
    """One tensor in memory.

    Attributes:
        value: Whose memory it is.
        size: Bytes.
        born: Step that makes it; inputs of the graph are there from step 0.
        dies: Last step that reads it.
    """

    value: ir.Value
    size: int
    born: int
    dies: int

    @property
    def steps(self) -> int:
        """Steps through which it is kept, the first and the last one included."""
        return self.dies - self.born + 1


@dataclass(frozen=True)
class Timeline:
    """The memory of activations over a run.

    Attributes:
        kept: Every tensor.
        live: Bytes in memory at each step.
        step_of: The step of each node; nodes that count as one share it.
    """

    kept: tuple[Kept, ...]
    live: tuple[int, ...]
    step_of: dict[ir.Node, int]

    @property
    def peak(self) -> int:
        """Bytes at the step that needs most."""
        return max(self.live, default=0)

    @property
    def peak_step(self) -> int:
        """The first step that needs most."""
        return self.live.index(self.peak) if self.live else 0

    def span(self, nodes: Collection[ir.Node]) -> tuple[int, int]:
        """Return the first and the last step of `nodes`."""
        steps = [self.step_of[node] for node in nodes]
        return min(steps), max(steps)

    def of_block(self, nodes: Collection[ir.Node], within: tuple[int, int]) -> list[Kept]:
        """Return what `nodes` read or write in the steps `within`, the longest and largest first."""
        touched = {v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None}
        roots = {_root(value) for value in touched}
        found = [k for k in self.kept if k.value in roots and k.born <= within[1] and k.dies >= within[0]]
        return sorted(found, key=lambda k: -k.size * k.steps)


def timeline(costs: Costs, groups: Sequence[Collection[ir.Node]] = (), float_bytes: int = 4) -> Timeline:
    """Simulate a run.

    Args:
        costs: The graph and its shapes.
        groups: Nodes that run as one kernel, at the place of the last: what only they use is never in memory.
        float_bytes: Size of a floating-point element.
    """
    step_of = _steps(costs.model, groups)
    last = max(step_of.values(), default=0)
    born: dict[ir.Value, int] = dict.fromkeys(inputs_of(costs.model), 0)
    dies: dict[ir.Value, int] = dict(born)
    for node, step in step_of.items():
        for value in [*node.inputs, *captured(node)]:
            if value is not None and costs.is_data(value):
                root = _root(value)
                dies[root] = max(dies.get(root, 0), step)
        for output in node.outputs:
            if output.name and costs.is_data(output) and _root(output) is output:
                born[output] = step
                dies[output] = max(dies.get(output, 0), step)
    for value in costs.model.graph.outputs:
        dies[_root(value)] = last
    inner = _inner(groups, step_of)
    kept = [
        Kept(value, costs.bytes_of(value, float_bytes), start, dies[value])
        for value, start in born.items()
        if value not in inner and costs.bytes_of(value, float_bytes)
    ]
    change = [0] * (last + 2)
    for tensor in kept:
        change[tensor.born] += tensor.size
        change[tensor.dies + 1] -= tensor.size
    return Timeline(tuple(kept), tuple(accumulate(change[:-1])), step_of)


def _steps(model: ir.Model, groups: Sequence[Collection[ir.Node]]) -> dict[ir.Node, int]:
    """Number the nodes in order; the nodes of a group share the place of the last one."""
    position = {node: index for index, node in enumerate(model.graph)}
    for group in groups:
        place = max(position[node] for node in group)
        for node in group:
            position[node] = place
    number = {place: step for step, place in enumerate(sorted(set(position.values())))}
    return {node: number[place] for node, place in position.items()}


def _inner(groups: Sequence[Collection[ir.Node]], step_of: dict[ir.Node, int]) -> set[ir.Value]:
    """Return the memory that nobody outside the group of its maker reads."""
    found: set[ir.Value] = set()
    for group in groups:
        members = set(group)
        made = [output for node in members for output in node.outputs]
        escaping = {
            _root(value)
            for value in made
            if value.is_graph_output() or any(user not in members for user in value.consumers() if user in step_of)
        }
        found |= {value for value in made if _root(value) is value and value not in escaping}
    return found


def _root(value: ir.Value) -> ir.Value:
    """Return the value whose memory `value` is."""
    node = value.producer()
    while node is not None and node.op_type in VIEWS and node.domain in {"", "ai.onnx"} and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
