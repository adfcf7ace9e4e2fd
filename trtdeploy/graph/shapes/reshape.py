"""Solves a baked Reshape: which of its new sizes depend on batch and image size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from trtdeploy.graph.shapes.probes import Vec

Group = tuple[list[int], list[int]]
"""Positions of old and new dimensions whose products are equal at the exported size."""


def solve_reshape(
    old: Sequence[Vec],
    new: Sequence[int],
    batch: Vec,
    maps: Sequence[tuple[Vec, Vec]],
    free: int | None,
    *,
    inner: bool = False,
) -> tuple[list[Vec], bool] | None:
    """Return the new shape at every probe, and whether the batch became the inner factor of a size; None if uncertain.

    Data keep their row-major order, so runs of old and new dimensions with equal products correspond. In a run, the
    batch is the outermost factor: each image's data stay together. A size that varies goes to the only new dimension
    that is not 1, to the one written -1, or to the rows and columns of a feature map.

    In sequence-first attention the batch stands between the cells and the features, `[N,B,C]`. Where the exporter
    joined the last two axes of one image, `[N,C]`, the batch belongs to the cells, as their inner factor: features are
    what weights multiply, and their number is fixed.

    Args:
        old: Input dimensions at every probe.
        new: Output shape at the exported size.
        batch: The batch at every probe.
        maps: Rows and columns of feature maps.
        free: Position of the -1 in the operand, if any.
        inner: Whether the batch is the inner factor of an input dimension.
    """
    count = len(batch)
    result: list[Vec] = [(size,) * count for size in new]
    last, covered, became_inner = None, 0, False
    for sources, targets in _groups([dim[0] for dim in old], new):
        product = tuple(_product(old[i][p] for i in sources) for p in range(count))
        covered += len(sources)
        before, last = last, targets[-1]
        if len(set(product)) == 1:
            continue
        features = len(targets) == 1 and new[targets[0]] > 1 and before is not None
        place = before if features else _next_one(new, last) if inner else None
        if place is not None and (one_image := _without(product, batch)) is not None:
            product = one_image
            result[place] = tuple(size * b // batch[0] for size, b in zip(result[place], batch, strict=True))
            became_inner = features
        if len(set(product)) == 1:
            continue
        solved = _solve_group(product, [new[j] for j in targets], batch, maps, _within(free, targets))
        if solved is None:
            return None
        for position, vec in zip(targets, solved, strict=True):
            result[position] = vec
    if any(len(set(dim)) > 1 for dim in old[covered:]):
        return None
    whole = all(_product(v[p] for v in result) == _product(v[p] for v in old) for p in range(count))
    return (result, became_inner) if whole else None


def _next_one(new: Sequence[int], position: int) -> int | None:
    """Return the position after `position` when a dimension of one image, 1, stands there."""
    return position + 1 if position + 1 < len(new) and new[position + 1] == 1 else None


def _without(product: Vec, batch: Vec) -> Vec | None:
    """Return `product` for the exported batch at every probe; None when the batch is no factor of it."""
    if len(set(batch)) == 1 or not _depends_on(product, batch):
        return None
    if any(p * batch[0] % b for p, b in zip(product, batch, strict=True)):
        return None
    return tuple(p * batch[0] // b for p, b in zip(product, batch, strict=True))


def _solve_group(
    product: Vec, new: list[int], batch: Vec, maps: Sequence[tuple[Vec, Vec]], free: int | None
) -> list[Vec] | None:
    """Share a varying product out among the new dimensions of one run."""
    count = len(product)
    result: list[Vec] = [(size,) * count for size in new]
    one_image = _without(product, batch)
    holds_batch = one_image is not None
    rest = product if one_image is None else one_image
    if len(set(rest)) > 1:
        wide = [j for j, size in enumerate(new) if size != 1]
        if holds_batch and batch[0] > 1 and len(wide) > 1 and new[wide[0]] == batch[0]:
            wide = wide[1:]  # the batch stands alone in front
        target = free if free is not None else wide[0] if len(wide) == 1 else None
        others = _product(size for j, size in enumerate(new) if j != target)
        if target is not None and all(value % others == 0 for value in rest):
            result[target] = tuple(value // others for value in rest)
        elif target is None and len(wide) == 2 and (pair := _map_of(rest, [new[j] for j in wide], maps)):
            result[wide[0]], result[wide[1]] = pair
        else:
            return None
    if holds_batch:
        first = 0
        if any(value * b % batch[0] for value, b in zip(result[first], batch, strict=True)):
            return None
        result[first] = tuple(value * b // batch[0] for value, b in zip(result[first], batch, strict=True))
    return result


def _depends_on(product: Vec, batch: Vec) -> bool:
    """Return whether a product has the batch as a factor: it does when dividing by it leaves whole, equal-batch sizes.

    Probes with another batch and the exported size differ in it alone.
    """
    return any(p * batch[0] == product[0] * b and b != batch[0] for p, b in zip(product, batch, strict=True))


def _map_of(rest: Vec, sizes: list[int], maps: Sequence[tuple[Vec, Vec]]) -> tuple[Vec, Vec] | None:
    for rows, columns in maps:
        cells = tuple(r * c for r, c in zip(rows, columns, strict=True))
        if cells == rest and [rows[0], columns[0]] == sizes:
            return rows, columns
    return None


def _groups(old: Sequence[int], new: Sequence[int]) -> Iterator[Group]:
    """Yield the shortest runs with equal products; trailing ones join no run."""
    i = j = 0
    while i < len(old) and j < len(new):
        sources, targets = [i], [j]
        left, right = old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(old):
                left *= old[i]
                sources.append(i)
                i += 1
            elif right < left and j < len(new):
                right *= new[j]
                targets.append(j)
                j += 1
            else:
                return
        yield sources, targets


def _product(values: Iterable[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _within(free: int | None, targets: list[int]) -> int | None:
    return targets.index(free) if free is not None and free in targets else None
