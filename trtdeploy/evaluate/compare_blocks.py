"""Says which operators lie between the tensors that two graphs have in common, and to which block they belong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.evaluate.compare_match import CARRIERS, FLOATS, Pair, computed_values, reads
from trtdeploy.graph.blocks import block_paths, block_runs

_SELECTING = frozenset({
    "ArgMax", "ArgMin", "Ceil", "Compress", "Floor", "Hardmax", "If", "Loop", "NonMaxSuppression", "NonZero", "Round",
    "Scan", "Sign", "TopK", "Unique",
})  # fmt: skip
_COMPARING = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
"""Their results jump: where two values are nearly equal, rounding decides, and elements are then far apart."""
_SHOWN = 4


@dataclass(frozen=True)
class Segment:
    """What computes a tensor from others that both graphs have.

    Attributes:
        op: Operator that gives it in A.
        home: Block of A that gives it.
        block: The block in which the graphs begin to differ: that of the first operator which only A has, else `home`.
        sources: Names in B of the tensors it is computed from.
        passed: Names of B's values between these and the tensor, which is among them.
        selects: Operator whose result jumps, empty where there is none.
        differences: Operators that only one side has, in words.
    """

    op: str
    home: str
    block: str
    sources: frozenset[str]
    passed: frozenset[str]
    selects: str
    differences: str


class Segments:
    """The segments of two graphs.

    Args:
        a, b: The graphs, without functions.
        pairs: Tensors that both have: where segments end.
    """

    def __init__(self, a: ir.Model, b: ir.Model, pairs: Sequence[Pair]) -> None:
        self._values_a, self._values_b = computed_values(a), computed_values(b)
        self._cuts_a, self._cuts_b = {pair.a for pair in pairs}, {pair.b for pair in pairs}
        producers = [value.producer() for value in self._values_a.values()]
        self._home = blocks_of([node for node in producers if node is not None])
        self._order = {node: index for model in (a, b) for index, node in enumerate(model.graph)}
        self._names_a, self._names_b = ({node.name for node in model.graph if node.name} for model in (a, b))

    @property
    def blocks(self) -> list[str]:
        """Names of A's blocks in the order of the graph."""
        return list(dict.fromkeys(self._home.values()))

    def of(self, pair: Pair) -> Segment:
        """Return the segment that ends at `pair`."""
        value = self._values_a[pair.a]
        nodes_a, _ = self._walk(value, self._cuts_a)
        nodes_b, sources = self._walk(self._values_b[pair.b], self._cuts_b)
        producer = value.producer()
        assert producer is not None  # a computed value has one
        only_a = [node for node in nodes_a if node.name not in self._names_b and _computes(node, self._values_a)]
        only_b = [node for node in nodes_b if node.name not in self._names_a and _computes(node, self._values_b)]
        if pair.how == "structure":  # nothing has the same name there
            only_a, only_b = [], []
        first = next((node for node in only_a if node in self._home), producer)
        return Segment(
            op=producer.op_type,
            home=self._home[producer],
            block=self._home[first],
            sources=frozenset(sources),
            passed=frozenset(output.name or "" for node in nodes_b for output in node.outputs),
            selects=next((node.op_type for node in (*nodes_a, *nodes_b) if _selects(node)), ""),
            differences="; ".join(filter(None, (_listed("only in A", only_a), _listed("only in B", only_b)))),
        )

    def _walk(self, value: ir.Value, cuts: Collection[str]) -> tuple[list[ir.Node], set[str]]:
        """Return the nodes between `cuts` and `value`, in the order of the graph, and the cuts they read."""
        nodes: set[ir.Node] = set()
        sources: set[str] = set()
        stack = [value]
        while stack:
            node = stack.pop().producer()
            if node is None or node in nodes:
                continue
            nodes.add(node)
            for read in reads(node):
                if read.name is not None and read.name in cuts:
                    sources.add(read.name)
                else:
                    stack.append(read)
        return sorted((node for node in nodes if node in self._order), key=self._order.__getitem__), sources


def blocks_of(nodes: Sequence[ir.Node]) -> dict[ir.Node, str]:
    """Return the block of each node.

    Blocks are paths of modules, see `block_paths`, or 16 runs of nodes. Nodes outside of modules are named by the block
    before them.

    Args:
        nodes: Nodes in the order of the graph.
    """
    paths = block_paths([node.name or "" for node in nodes])
    if paths is not None:
        return dict(zip(nodes, _filled(paths), strict=True))
    found: dict[ir.Node, str] = {}
    for run in block_runs(len(nodes)):
        label = f"{_name_of(nodes[run[0]])} to {_name_of(nodes[run[-1]])}"
        found.update((nodes[index], label) for index in run)
    return found


def _filled(names: Iterable[str]) -> list[str]:
    """Name those without a module by the block before them."""
    filled, last = [], ""
    for name in names:
        filled.append(name or (f"after {last}" if last else "before the first module"))
        last = name or last
    return filled


def _computes(node: ir.Node, values: Mapping[str, ir.Value]) -> bool:
    """Return whether `node` computes numbers of the network, rather than shapes, or the same in another type."""
    return node.op_type not in CARRIERS and any(value.name in values for value in node.outputs)


def _selects(node: ir.Node) -> bool:
    if node.op_type in _COMPARING:
        return any(value is not None and value.dtype in FLOATS for value in node.inputs)
    return node.op_type in _SELECTING


def _listed(what: str, nodes: Sequence[ir.Node]) -> str:
    names = [_name_of(node) for node in nodes]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}" if names else ""


def _name_of(node: ir.Node) -> str:
    return node.name or f"{node.op_type} {node.outputs[0].name}"
