"""Which axes of a tensor are batch, channels, height and width, followed through layout changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtdeploy.graph.shapes.probes import Vec

Tag = frozenset[str]
"""What an axis runs over: a subset of B, C, H, W, and K for selected or new positions; empty for size 1."""
NONE: Tag = frozenset()
MAP: tuple[Tag, ...] = (frozenset("B"), frozenset("C"), frozenset("H"), frozenset("W"))
OTHER: Tag = frozenset("K")

Dims = list[Vec | None]


def of_rank(rank: int) -> tuple[Tag, ...]:
    """Return the tags of a tensor of which nothing but its rank is known, read as `[B, C, H, W]`."""
    if rank <= 4:
        return MAP[:rank]
    return (*MAP[:2], *[OTHER] * (rank - 2))


def reshaped(tags: Sequence[Tag], before: Dims, after: Dims) -> tuple[Tag, ...]:
    """Follow tags through a Reshape: axes whose sizes multiply to the same product share their tags.

    An axis of the result that has the size of one axis before, alone, keeps exactly its tag.
    """
    result: list[Tag] = []
    i = j = 0
    while j < len(after):
        first_i, first_j = i, j
        left, right = _product(before, i, i + 1), _product(after, j, j + 1)
        i, j = min(i + 1, len(before)), j + 1
        while left != right and (i < len(before) or j < len(after)):
            # grow the smaller side, judged at the first probe
            if j >= len(after) or (i < len(before) and left[0] < right[0]):
                i += 1
                left = _product(before, first_i, i)
            else:
                j += 1
                right = _product(after, first_j, j)
        while j == len(after) and i < len(before):  # trailing axes of size 1
            i += 1
        group = {n: tag for n, tag in enumerate(tags[first_i:i], first_i) if not _is_one(before[n])}
        alone = {before[n]: tag for n, tag in group.items()}
        whole = frozenset().union(*group.values())
        result += [alone[dim] if dim in alone else _refine(whole, dim) for dim in after[first_j:j]]
    return tuple(result)


def broadcast(shapes: Sequence[tuple[Sequence[Tag], Dims]]) -> tuple[Tag, ...]:
    """Return the tags of an elementwise result."""
    rank = max(len(tags) for tags, _ in shapes)
    result = []
    for axis in range(-rank, 0):
        best = NONE
        for tags, dims in shapes:
            if -axis <= len(tags) and not _is_one(dims[axis]) and (not best or best == OTHER):
                best = tags[axis]
        result.append(best)
    return tuple(result)


def _product(dims: Dims, start: int, stop: int) -> Vec:
    known = [dim for dim in dims[start:stop] if dim is not None]
    if len(known) < len(dims[start:stop]) or not known:
        return (-start - 2,) if not known and start >= len(dims) else (-1,)
    return tuple(int(n) for n in np.prod(np.array(known, np.int64), axis=0))


def _is_one(dim: Vec | None) -> bool:
    return dim is not None and set(dim) == {1}


def _refine(group: Tag, dim: Vec | None) -> Tag:
    """Return the part of a group's tag that an axis of size `dim` can have."""
    if _is_one(dim):
        return NONE
    # probes 0 and 1 differ in the batch alone
    return group - {"B"} if dim is not None and len(set(dim)) > 1 and dim[0] == dim[1] else group
