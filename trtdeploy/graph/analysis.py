"""The attention blocks of a model with their place in the network and their cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import DOMAIN, AttentionKind
from trtdeploy.core.types import Size
from trtdeploy.graph.costs import Cost, Costs, Dims, parameters_of, share, weight_bytes_of
from trtdeploy.graph.fuse.blocks import Block, find_blocks
from trtdeploy.graph.fuse.region import Refusal, Region
from trtdeploy.graph.lifetimes import Kept, Timeline, timeline
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.sdpa import Core, find_core
from trtdeploy.graph.view.terms import Terms

BACKBONE, NECK = "backbone", "neck or head"
_CORE_NODES = 64
"""Nodes that are looked at behind an attention's scores; a usual one has 3 to 8 up to its last product."""
_HELD = 6
"""Tensors of a block that are listed, those first that take most memory for longest."""


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """An attention block, its place and its cost.

    Attributes:
        block: As it was found.
        index: Position among the blocks of the analysis.
        principal: Whether it counts as a block of its own; of nested ones, the one that holds the attention itself.
        stage: Logarithm of its stride: 2 at a quarter of the image's sides; None where it has no map.
        part: `backbone`, or `neck or head`: behind the first upsampling.
        dims: Shape of its first output, None where it is not known.
        parameters: Weights that it alone or with others reads.
        cost: Operations and bytes.
        span: Its first and last node in the order of the graph.
        peak: Most bytes of what it reads and makes, at any of its steps.
        peak_share: `peak` of the whole network's peak.
        kept: What it keeps in memory, the most first.
    """

    block: Block
    index: int
    principal: bool
    stage: int | None
    part: str
    dims: Dims | None
    parameters: int
    cost: Cost
    span: tuple[int, int]
    peak: int
    peak_share: float
    kept: tuple[Kept, ...]

    @property
    def kind(self) -> AttentionKind:
        return self.block.kind

    @property
    def place(self) -> str:
        return self.block.place

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return self.block.region.nodes if isinstance(self.block.region, Region) else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the block as JSON values."""
        return {
            "kind": self.kind.name, "title": self.kind.title, "place": self.place, "form": self.block.rule.form,
            "principal": self.principal, "stage": self.stage, "part": self.part,
            "shape": None if self.dims is None else list(self.dims), "nodes": len(self.nodes),
            "first_node": self.span[0], "last_node": self.span[1], "parameters": self.parameters,
            **cost_dict(self.cost), "peak_bytes": self.peak, "peak_share": round(self.peak_share, 4),
            "left_alone": self.block.region.reason if isinstance(self.block.region, Refusal) else "",
            "kept": [
                {"tensor": k.value.name, "bytes": k.size, "from": k.born, "to": k.dies} for k in self.kept
            ],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a model costs, and its attention blocks, at one input shape.

    Attributes:
        model: The model, prepared.
        facts: Its sizes.
        costs: Operations and bytes of its nodes.
        memory: Its activations over a run, 4 bytes a float.
        memory_fp16: The same with 2 bytes a float.
        memory_fused: With gates as one kernel each, and each dot-product attention as one from scores to product.
        blocks: The attention blocks in the order of the graph.
    """

    model: ir.Model
    facts: GraphFacts
    costs: Costs
    memory: Timeline
    memory_fp16: Timeline
    memory_fused: Timeline
    blocks: tuple[BlockCost, ...]

    @property
    def principal(self) -> list[BlockCost]:
        """The blocks without those that hold or belong to another one."""
        return [block for block in self.blocks if block.principal]

    @property
    def parameters(self) -> int:
        return parameters_of(self.model.graph)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole network's figures as JSON values."""
        return {
            "batch": self.costs.batch, "height": self.costs.size.height, "width": self.costs.size.width,
            "nodes": self.model.graph.num_nodes(), "parameters": self.parameters,
            "weight_bytes_fp32": weight_bytes_of(self.model.graph),
            "weight_bytes_fp16": weight_bytes_of(self.model.graph, 2),
            **cost_dict(self.costs.total), "peak_bytes": self.memory.peak, "peak_bytes_fp16": self.memory_fp16.peak,
            "peak_bytes_fused": self.memory_fused.peak, "not_counted": self.costs.unknown,
        }  # fmt: skip


def fused_places(model: ir.Model) -> dict[str, str]:
    """Return where fused blocks stand, by the name of each output; inlining them loses that.

    Args:
        model: A model as `optimize` wrote it; any other has none.
    """
    return {
        output.name: node.name.rpartition("/")[0]
        for node in model.graph
        for output in node.outputs
        if node.domain == DOMAIN and node.name and "/" in node.name and output.name
    }


def analyse(
    model: ir.Model,
    batch: int,
    size: Size,
    kinds: Iterable[AttentionKind] | None = None,
    places: Mapping[str, str] | None = None,
) -> Analysis:
    """Find the attention blocks of a prepared model, and count what they and the whole network cost.

    Args:
        model: The model, its functions inlined; not changed.
        batch: Images at once, where the model leaves that open.
        size: Image size, where the model leaves that open.
        kinds: Kinds to look for; default: the whole catalogue.
        places: Places of blocks by the name of their output, where the nodes' own names do not tell; see
            `fused_places`.
    """
    facts = GraphFacts(model)
    terms = Terms(model, facts)
    order = {node: index for index, node in enumerate(model.graph)}
    found = find_blocks(model, terms, catalogue.kinds() if kinds is None else kinds)
    known = places or {}
    found = [replace(b, place=known.get(b.root.name or "", b.place)) for b in found]
    found.sort(key=lambda b: (_span(b, order), -_size(b)))
    costs = Costs(model, batch, size)
    memory = timeline(costs)
    parts = _behind_upsampling(costs, found)
    blocks = []
    for index, block in enumerate(found):
        nodes = block.region.nodes if isinstance(block.region, Region) else ()
        span = _span(block, order)
        kept = memory.of_block(nodes, span) if nodes else []
        peak = _peak_of(kept, span)
        dims = costs.dims(block.root)
        blocks.append(
            BlockCost(
                block=block,
                index=index,
                principal=_is_principal(block, found),
                stage=_stage(costs, block),
                part=NECK if block.root in parts else BACKBONE,
                dims=dims,
                parameters=parameters_of(nodes),
                cost=costs.of(nodes),
                span=span,
                peak=peak,
                peak_share=share(peak, memory.peak),
                kept=tuple(kept[:_HELD]),
            )
        )
    return Analysis(
        model=model,
        facts=facts,
        costs=costs,
        memory=memory,
        memory_fp16=timeline(costs, float_bytes=2),
        memory_fused=timeline(costs, kernel_groups(blocks)),
        blocks=tuple(blocks),
    )


def kernel_groups(blocks: Sequence[BlockCost]) -> list[tuple[ir.Node, ...]]:
    """Return the nodes that fusing makes one kernel: whole gates, and attention from its scores to its product."""
    groups: list[tuple[ir.Node, ...]] = []
    taken: set[ir.Node] = set()
    for block in sorted(blocks, key=lambda b: -len(b.nodes)):
        candidates = [block.nodes] if block.kind.family == "gate" else [core_nodes(core) for core in cores(block.nodes)]
        for nodes in candidates:
            if nodes and not taken & set(nodes):
                taken |= set(nodes)
                groups.append(tuple(nodes))
    return groups


def cores(nodes: Iterable[ir.Node]) -> list[Core]:
    """Return the dot-product attention whose last product is among `nodes`."""
    found = [find_core(node) for node in nodes if node.op_type == "MatMul" and node.domain in {"", "ai.onnx"}]
    return [core for core in found if core is not None]


def core_nodes(core: Core) -> tuple[ir.Node, ...]:
    """Return the nodes on the way from the product of queries and keys to the product with the values."""
    behind = {core.scores}
    todo = [core.scores]
    while todo and len(behind) < _CORE_NODES:
        for output in todo.pop().outputs:
            fresh = [user for user in output.consumers() if user not in behind]
            behind |= set(fresh)
            todo += [user for user in fresh if user is not core.mix]
    found: dict[ir.Node, None] = {}
    above: list[ir.Node | None] = [core.mix]
    while above:
        node = above.pop()
        if node is not None and node in behind and node not in found:
            found[node] = None
            above += [value.producer() for value in node.inputs if value is not None and node is not core.scores]
    return tuple(found)


def cost_dict(cost: Cost) -> dict[str, int]:
    """Return a cost as JSON values."""
    return {
        "flops": cost.flops, "product_flops": cost.products,
        "bytes_fp32": cost.bytes_moved(4), "bytes_fp16": cost.bytes_moved(2),
    }  # fmt: skip


def _peak_of(kept: Sequence[Kept], span: tuple[int, int]) -> int:
    steps = range(span[0], span[1] + 1)
    return max((sum(k.size for k in kept if k.born <= step <= k.dies) for step in steps), default=0)


def _size(block: Block) -> int:
    return len(block.region.nodes) if isinstance(block.region, Region) else 0


def _span(block: Block, order: dict[ir.Node, int]) -> tuple[int, int]:
    if isinstance(block.region, Region):
        places = [order[node] for node in block.region.nodes]
        return min(places), max(places)
    node = block.root.producer()
    place = order.get(node, 0) if node is not None else 0
    return place, place


def _is_principal(block: Block, blocks: Sequence[Block]) -> bool:
    """Return whether a block stands for itself.

    Of dot-product kinds that lie inside one another the innermost does, because the others hold convolutions of the
    network too; of other kinds the outermost, because its parts mean nothing alone.
    """
    nodes = set(block.region.nodes) if isinstance(block.region, Region) else set()
    for other in blocks:
        if other is block or not isinstance(other.region, Region) or not nodes:
            continue
        around, within = nodes < set(other.region.nodes), nodes > set(other.region.nodes)
        if around and other.kind.family != "dot-product":
            return False
        if within and block.kind.family == "dot-product":
            return False
    return True


def _stage(costs: Costs, block: Block) -> int | None:
    """Return the logarithm of the stride of the block's map."""
    image = next((dims for dims in costs.input_dims().values() if len(dims) == 4), None)
    inputs = block.region.inputs if isinstance(block.region, Region) else ()
    maps = [dims for dims in (costs.dims(v) for v in (block.root, *inputs)) if dims is not None and len(dims) == 4]
    if image is None or not maps or not maps[0][2]:
        return None
    return max(0, round(math.log2(image[2] / maps[0][2])))


def _behind_upsampling(costs: Costs, blocks: Sequence[Block]) -> set[ir.Value]:
    """Return the values that depend on an upsampling outside of all blocks."""
    inside = {node for b in blocks if isinstance(b.region, Region) for node in b.region.nodes}
    found: set[ir.Value] = set()
    for node in costs.model.graph:
        behind = any(value in found for value in node.inputs if value is not None)
        if behind or (node not in inside and _upsamples(node, costs)):
            found |= {output for output in node.outputs if costs.is_data(output)}
    return found


def _upsamples(node: ir.Node, costs: Costs) -> bool:
    if node.op_type not in {"Resize", "Upsample", "ConvTranspose", "DepthToSpace"}:
        return False
    before, after = costs.dims(node.inputs[0]), costs.dims(node.outputs[0])
    return before is not None and after is not None and len(after) == 4 and after[2] > before[2]
