"""Inputs for every packaged kernel, and how close to the reference its results must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from packaged_kernels import ITEM, Packaged

from trtdeploy.kernels.spec import Operation

Shapes = tuple[tuple[int, ...], ...]
IMAGES = (
    (2, 5, 7, 13), (1, 3, 1, 1), (1, 9, 4, 6), (2, 11, 16, 20), (1, 70, 20, 20), (1, 33, 5, 3), (1, 17, 24, 25),
    (3, 2, 40, 40), (1, 2, 33, 41), (1, 3, 80, 80), (1, 2, 61, 67), (1, 1, 96, 100), (1, 1, 90, 184), (1, 2, 91, 93),
    (2, 3, 3, 140), (1, 2, 19, 131), (1, 9, 2, 520), (1, 1, 5, 515), (2, 9, 36, 30), (1, 12, 50, 52), (1, 2, 6, 33),
    # As large as a block, in either type's widest accesses and without; and the first that is larger.
    (1, 2, 16, 32), (1, 2, 64, 32), (1, 1, 64, 128), (1, 1, 128, 128), (1, 1, 32, 512), (1, 2, 7, 73), (1, 2, 23, 89),
    (1, 1, 1, 8191), (1, 1, 129, 127), (1, 2, 3, 171), (1, 2, 3, 683), (1, 1, 3, 2731), (1, 1, 4, 509),
    (1, 1, 136, 128),
    # More channels than any block takes at once.
    (1, 134, 16, 16), (1, 133, 13, 11), (2, 72, 4, 6), (1, 71, 48, 48), (1, 67, 47, 49), (1, 66, 3, 140),
    (1, 37, 2, 514),
)  # fmt: skip
"""Shapes `[N, C, H, W]`: round and odd, smaller and larger than every block."""
ATTENTIONS = ((1, 1, 1, 1), (2, 3, 37, 53), (1, 2, 100, 64), (1, 1, 64, 200), (1, 2, 130, 131))
"""Batch, heads, queries and keys."""
WIDTHS = (16, 32, 64, 128)
SPREAD = {(1, 2, 7, 7): 0.15}
"""Standard deviation of a convolution's weights; 1.5 for all else."""
TOLERANCE = {"float16": 6e-4, "float32": 4e-6}
"""Largest `|error| / (1 + |reference|)`; half a float16 unit in the last place is 4.9e-4."""
TOLERANCE_OF_ATTENTION = {"float16": 1e-3, "float32": 4e-5}
"""Weights are rounded to float16; errors of scores are multiplied by exp."""


@dataclass(frozen=True)
class Case:
    """Inputs of an operation."""

    operation: Operation
    inputs: tuple[np.ndarray, ...]
    attributes: Mapping[str, Sequence[float]]


def shapes_of(op_type: str, batch: int | None = None) -> Iterator[Shapes]:
    """Yield shapes of the inputs of an operation, all with this batch size where one is given."""
    if op_type == "TrtdeployScaledDotProduct":
        for own_batch, heads, queries, keys in ATTENTIONS:
            for width in WIDTHS:
                part = (batch or own_batch, heads)
                yield (*part, queries, width), (*part, width, keys), (*part, keys, width)
        return
    for own_batch, c, h, w in IMAGES:
        n = batch or own_batch
        image, point = (n, c, h, w), (n, c, 1, 1)
        match op_type:
            case "TrtdeployCoordGate":
                yield image, (n, c, h, 1), (n, c, 1, w)
            case "TrtdeploySpatialGate":
                yield image, (n, 2, h, w), (1, 2, 7, 7)
            case "TrtdeployScaledSpatialPool":
                yield image, point
            case "TrtdeployScaledSpatialGate":
                yield image, point, (n, 2, h, w), (1, 2, 7, 7)
            case "TrtdeployGateMultiply":
                for z in (point, (1, c, 1, 1), image, (n, 1, h, w), (1, 1, h, w), (n, c, 1, w), (1, c, h, 1)):
                    yield image, z
            case "TrtdeploySimAMGate" | "TrtdeployCoordPool" | "TrtdeployChannelPool" | "TrtdeploySpatialPool":
                yield (image,)
            case _:
                raise ValueError(f"There are no inputs for {op_type!r}. Add its shapes here.")


def chosen_shapes(packaged: Packaged, count: int, batch: int | None = None) -> list[Shapes]:
    """Return shapes for which the launcher takes this launch: `count` from smallest to largest, and most channels."""
    found = [shapes for shapes in shapes_of(packaged.spec.operation.op_type, batch) if packaged.is_chosen(shapes)]
    found.sort(key=lambda shapes: shapes[0][2] * shapes[0][3])
    if not found:
        return []
    picked = {*np.linspace(0, len(found) - 1, count).round().astype(int).tolist()}
    picked.add(max(range(len(found)), key=lambda i: found[i][0][1]))
    return [found[i] for i in sorted(picked)]


def make_case(packaged: Packaged, shapes: Shapes, seed: int = 0) -> Case:
    """Return random inputs of the launch's type: feature maps around 0.5, or all negative for odd seeds."""
    random = np.random.default_rng(seed)
    operation, item = packaged.spec.operation, ITEM[packaged.launch.data_type]
    image_mean = -6 if seed % 2 else 0.5
    inputs = tuple(
        (
            random.normal(image_mean, 1, shape) if operand.image else random.normal(0, SPREAD.get(shape, 1.5), shape)
        ).astype(item)
        for operand, shape in zip(operation.inputs, shapes, strict=True)
    )
    attributes = {"epsilon": (0.03,), "scale": (0.31,)}
    return Case(operation, inputs, {item.name: attributes[item.name] for item in operation.attributes})


def tolerance_of(packaged: Packaged) -> float:
    """Return the largest error allowed."""
    is_attention = packaged.spec.operation.op_type == "TrtdeployScaledDotProduct"
    return (TOLERANCE_OF_ATTENTION if is_attention else TOLERANCE)[packaged.launch.data_type]


def expected(case: Case) -> list[np.ndarray]:
    """Return what the operation's reference gives for the inputs, in float64."""
    with np.errstate(all="ignore"):
        result = case.operation.reference(*(array.astype(np.float64) for array in case.inputs), **case.attributes)
    return list(result) if isinstance(result, tuple) else [result]


def worst_error(results: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float:
    """Return the largest error in units of `1 + |reference|`; infinite where NaN or infinity differ, or a shape."""
    worst = 0.0
    for result, reference in zip(results, references, strict=True):
        if result.shape != reference.shape:
            return np.inf
        finite = np.isfinite(reference)
        special = result[~finite].astype(np.float64)
        if not np.array_equal(special, reference[~finite], equal_nan=True) or not np.isfinite(result[finite]).all():
            return np.inf
        if finite.any():
            error = np.abs(result[finite].astype(np.float64) - reference[finite]) / (1 + np.abs(reference[finite]))
            worst = max(worst, float(error.max()))
    return worst
