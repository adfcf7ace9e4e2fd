"""Finds the blocks of a network that fail in lowered precision, by building it with parts of it in a higher one."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtdeploy.graph.blocks import block_paths, block_runs

MAX_TRIALS = 12
"""Engines that are built to find the blocks: about twice the logarithm of their number where one block fails."""
_ADDED = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Block:
    """A part of a network.

    Attributes:
        name: The path that its nodes have in common, or its first and last node.
        nodes: Names of its nodes.
    """

    name: str
    nodes: tuple[str, ...]


def blocks_of(model: ir.Model) -> list[Block]:
    """Return the parts of `model` that compute in FP16, BF16 or INT8, in the order of the graph; see `grouped`.

    Args:
        model: A model whose precision is lowered.
    """
    return grouped([node.name for node in model.graph if node.name and _is_lowered(node)])


def grouped(names: Sequence[str]) -> list[Block]:
    """Return nodes in blocks, in the order of the graph.

    Blocks are paths of modules, see `block_paths`, or 16 runs of nodes.

    Args:
        names: Names of nodes.
    """
    paths = block_paths(names)
    if paths is None:
        runs = [[names[index] for index in run] for run in block_runs(len(names))]
        return [Block(f"{run[0]} to {run[-1]}", tuple(run)) for run in runs]
    groups: dict[str, list[str]] = {}
    for path, name in zip(paths, names, strict=True):
        groups.setdefault(path or "outside of modules", []).append(name)
    return [Block(path, tuple(nodes)) for path, nodes in groups.items()]


def names_of(blocks: Sequence[Block]) -> list[str]:
    """Return the names of the blocks' nodes as patterns for `ToFp16` and `ToInt8`."""
    return [glob.escape(name) for block in blocks for name in block.nodes]


def smallest_set(
    blocks: Sequence[Block], passes: Callable[[list[Block]], bool], trials: int = MAX_TRIALS
) -> list[Block]:
    """Return few blocks that must keep a higher precision for the engine to pass, in the order given.

    Empty when all do not suffice.

    Halves are tried in turn; where neither suffices, each is reduced with the other kept. When the trials are used up,
    what is known to suffice is returned.

    Args:
        blocks: All blocks.
        passes: Whether an engine with these blocks in higher precision passes; expensive.
        trials: How often `passes` may be called.
    """
    left = trials

    def tried(kept: list[Block]) -> bool:
        nonlocal left
        if left == 0:
            return False
        left -= 1
        return passes(sorted(kept, key=order.__getitem__))

    def reduced(part: list[Block], kept: list[Block]) -> list[Block]:
        """Return a small part of `part` that suffices together with `kept`, as the whole `part` does."""
        if len(part) == 1 or left == 0:
            return part
        first, second = part[: len(part) // 2], part[len(part) // 2 :]
        for half in (first, second):
            if tried(half + kept):
                return reduced(half, kept)
        if left == 0:
            return part
        needed = reduced(first, second + kept)
        return needed + reduced(second, needed + kept)

    order = {block: index for index, block in enumerate(blocks)}
    if not blocks or not tried(list(blocks)):
        return []
    return sorted(reduced(list(blocks), []), key=order.__getitem__)


def _is_lowered(node: ir.Node) -> bool:
    """Return whether a node computes in 16 bits or in INT8; casts and Q/DQ are what the passes themselves added."""
    if node.op_type in _ADDED:
        return False
    half = any(value.dtype in {ir.DataType.FLOAT16, ir.DataType.BFLOAT16} for value in node.outputs)
    sources = (value.producer() for value in node.inputs if value is not None)
    return half or any(source is not None and source.op_type == "DequantizeLinear" for source in sources)
