"""Inputs for the kernels, and what the operations' references make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.spec import Launch, Operation, PluginSpec

TOLERANCE = {"float16": 6e-4, "float32": 2e-6}
"""Largest error over the largest value. float16 rounds by 2^-11, 4.9e-4."""
ATTENTION_TOLERANCE = {"float16": 1.5e-3, "float32": 5e-6}
"""Of attention: weights are multiplied in float16, and the exponential enlarges the rounding of large scores."""
MAPS = (
    (1, 3, 1, 1),
    (2, 5, 7, 13),
    (1, 9, 8, 4),
    (3, 17, 5, 3),
    (1, 2, 1, 63),
    (1, 8, 63, 1),
    (2, 3, 12, 20),
    (1, 1, 31, 33),
    (1, 70, 4, 6),
    (1, 2, 45, 46),
    (1, 3, 48, 80),
    (1, 1, 3, 600),
    (1, 1, 100, 83),
    (1, 1, 129, 128),
    (1, 2, 130, 140),
)
"""`[N, C, H, W]`. Each launch is tried on those that its conditions allow."""
_WHOLE_PLANES = {"TrtdeploySimAMGate", "TrtdeployCoordPool", "TrtdeployChannelPool"}
"""Operations of which a program goes through a plane. Others cut it into tiles: a large one only takes longer."""
_TILED_POSITIONS = 5000
ATTENTIONS = (
    (1, 1, 1, 1),
    (2, 3, 7, 13),
    (1, 2, 63, 63),
    (1, 1, 64, 64),
    (1, 1, 65, 128),
    (2, 1, 100, 8),
    (1, 1, 17, 200),
    (1, 1, 129, 33),
    (1, 3, 16, 16),
    (1, 1, 40, 136),
)
"""Batch, heads, queries, keys."""
GATES = ("NC11", "NCHW", "N1HW", "11HW", "NCH1", "1C1W", "1111", "N111")
"""Shapes of a gate that is multiplied: which axes are full."""


@dataclass(frozen=True)
class Case:
    """Inputs of an operation.

    Attributes:
        inputs: Arrays in the launch's data type.
        attributes: Lists of numbers.
        expected: Outputs in float64.
    """

    inputs: tuple[NDArray[Any], ...]
    attributes: dict[str, list[float]]
    expected: tuple[NDArray[np.float64], ...]


def shapes_of(operation: Operation) -> list[tuple[tuple[int, ...], ...]]:
    """Return shapes of the inputs to try, at least ten."""
    if operation.op_type == "TrtdeployScaledDotProduct":
        return [
            ((b, h, n, d), (b, h, d, m), (b, h, m, d))
            for i, (b, h, n, m) in enumerate(ATTENTIONS)
            for d in (16, 32, 64, 128)
        ]
    found: list[tuple[tuple[int, ...], ...]] = []
    for x in MAPS:
        if operation.op_type not in _WHOLE_PLANES and x[2] * x[3] > _TILED_POSITIONS:
            continue
        if operation.op_type == "TrtdeployGateMultiply":
            found += [
                (x, tuple(1 if axis == "1" else size for axis, size in zip(gate, x, strict=True))) for gate in GATES
            ]
            continue
        n, c, h, w = x
        sizes = {"x": x, "h": (n, c, h, 1), "w": (n, c, 1, w), "s": (n, c, 1, 1), "d": (n, 2, h, w)}
        if "Spatial" in operation.op_type:
            sizes["w"] = (1, 2, 7, 7)
        found.append(tuple(sizes[operand.name] for operand in operation.inputs))
    return found


def applies(spec: PluginSpec, launch: Launch, shapes: Sequence[Sequence[int]]) -> bool:
    """Return whether a launch's conditions hold."""
    numbers = Numbers(shapes)
    return all(evaluate(condition, numbers, {}) for condition in (*spec.conditions, *launch.conditions))


def make_case(operation: Operation, shapes: Sequence[Sequence[int]], data_type: str, special: str, seed: int) -> Case:
    """Return random inputs and the reference's outputs.

    Args:
        operation: What is computed.
        shapes: Of the inputs.
        data_type: Of the inputs.
        special: `""`, or what is put into the inputs: `nan`, `inf`, `-inf`, `large`, `constant`, `sharp`, `hidden`.
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    inputs = [random.standard_normal(shape) for shape in shapes]
    if special in {"nan", "inf", "-inf"}:
        inputs[seed % len(inputs)].flat[random.integers(inputs[seed % len(inputs)].size)] = float(special)
    elif special == "large":
        inputs[0] = inputs[0] * 50 + 2000  # a mean that is large beside the deviation
    elif special == "constant":
        inputs[0][:] = 1.5
    elif special == "sharp":  # one weight is nearly 1
        inputs[0] = inputs[0] * 8
    elif special == "hidden":  # the first keys have a score of minus infinity
        inputs[0], inputs[1] = abs(inputs[0]) + 0.1, inputs[1].copy()
        inputs[1][..., : max(1, inputs[1].shape[-1] * 2 // 3)] = -np.inf
    attributes = {"epsilon": [1e-4], "scale": [shapes[0][-1] ** -0.5]}
    own = {item.name: attributes[item.name] for item in operation.attributes}
    arrays = tuple(array.astype(data_type) for array in inputs)
    with np.errstate(all="ignore"):
        result = operation.reference(*(array.astype(np.float64) for array in arrays), **own)
    return Case(arrays, own, result if isinstance(result, tuple) else (result,))


def tolerance_of(operation: Operation, launch: Launch) -> float:
    """Return the largest error that is allowed."""
    limits = ATTENTION_TOLERANCE if operation.op_type == "TrtdeployScaledDotProduct" else TOLERANCE
    return limits[launch.data_type]


def specials_of(operation: Operation) -> tuple[str, ...]:
    """Return what `make_case` can put into the inputs of an operation."""
    if operation.op_type == "TrtdeployScaledDotProduct":
        return ("", "nan", "hidden", "sharp")
    return ("", "nan", "inf", "-inf", "large", "constant")


def to_hwc8(x: NDArray[Any], padding: float) -> NDArray[Any]:
    """Return `[N, C, H, W]` as `[N, H, W, C8]`, with `padding` behind the channels."""
    n, c, h, w = x.shape
    stored = np.full((n, h, w, -(-c // 8) * 8), padding, x.dtype)
    stored[..., :c] = x.transpose(0, 2, 3, 1)
    return stored


def from_hwc8(stored: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return `[N, H, W, C8]` as `[N, C, H, W]`."""
    return stored[..., :channels].transpose(0, 3, 1, 2)


def relative_error(result: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Return the largest error over the largest value; infinite where NaN or infinities are not in the same places."""
    result = result.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(result[~finite], expected[~finite], equal_nan=True) or not np.isfinite(result[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(expected[finite]).max()), 1e-30)
    return float(np.abs(result[finite] - expected[finite]).max()) / scale


def jobs_of(spec: PluginSpec, launch: Launch, most: int) -> list[dict[str, Any]]:
    """Return runs of a launch, as `interpret_child` takes them.

    Args:
        spec: The launch's operation.
        launch: What is run.
        most: How many runs. They are spread over the shapes that the launch's conditions allow, beginning at another
            one for each launch.
    """
    fit = [shapes for shapes in shapes_of(spec.operation) if applies(spec, launch, shapes)]
    first, step = spec.launches.index(launch), max(1, len(fit) // most)
    chosen = [fit[(first + i * step) % len(fit)] for i in range(min(most, len(fit)))]
    specials = specials_of(spec.operation)
    return [
        {"launch": launch.name, "shapes": shapes, "special": specials[(first + i) % len(specials)], "seed": first + i}
        for i, shapes in enumerate(chosen)
    ]
