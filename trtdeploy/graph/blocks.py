"""The blocks of a network, as exporters name their nodes: by the path of their module."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MIN_BLOCKS, _RUNS, _MAX_DEPTH = 8, 16, 4


def block_paths(names: Sequence[str]) -> list[str] | None:
    """Return the block of each node: its path, `/model.4/cv1/conv/Conv` say, cut at the first level with 8 blocks.

    Args:
        names: Names of the nodes.

    Returns:
        A path for each, empty for nodes outside of modules; None where no level has 8 blocks.
    """
    for depth in range(1, _MAX_DEPTH + 1):
        paths = ["/".join(name.strip("/").split("/")[:-1][:depth]) for name in names]
        if len(set(filter(None, paths))) >= _MIN_BLOCKS:
            return paths
    return None


def block_runs(count: int) -> list[range]:
    """Return 16 runs of the indices of `count` nodes, for networks whose names tell no blocks."""
    length = max(1, math.ceil(count / _RUNS))
    return [range(start, min(count, start + length)) for start in range(0, count, length)]
