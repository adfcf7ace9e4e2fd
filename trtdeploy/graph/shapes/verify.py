"""Runs a reshaped model against the original in ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_ir as ir

from trtdeploy.core.errors import ShapeRefusedError
from trtdeploy.core.types import BatchRange, Size, SizeRange
from trtdeploy.graph.reference import (
    MAX_REFERENCE_BYTES,
    ReferenceModel,
    ReferenceRunError,
    difference,
    tolerance,
    weight_bytes,
)
from trtdeploy.graph.shapes.image_input import ImageInput
from trtdeploy.graph.shapes.probes import Probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOLERANCE = 1e-4
"""Relative to an output's largest magnitude: another batch takes other kernels, whose sums round differently."""
_TOO_LARGE = "not verified: the model is too large to be run beside its copy"


class Goal(Protocol):
    """What is wanted; see `trtdeploy.graph.shapes.set_shapes`."""

    @property
    def sizes(self) -> SizeRange: ...
    @property
    def batches(self) -> BatchRange: ...
    @property
    def stride(self) -> int: ...
    @property
    def new_batch(self) -> bool: ...
    @property
    def new_size(self) -> bool: ...
    @property
    def image(self) -> ImageInput: ...
    def advice(self) -> str: ...


def verify_rewritten(original: ir.Model, model: ir.Model, image: ImageInput, base: Probe, goal: Goal) -> str:
    """Check a rewritten model: equal at the exported shape, equal image by image in a batch, runs at other sizes.

    Returns:
        What was checked.

    Raises:
        ShapeRefusedError: It differs or does not run.
    """
    if weight_bytes(model) > MAX_REFERENCE_BYTES // 2:
        return _TOO_LARGE
    free = _with_free_input(model, image)
    checked = []
    try:
        before, after = ReferenceModel(original), ReferenceModel(free)
        exported = _images(image, base.batch, Size(base.height, base.width), seed=1)
        expected = before.run(exported)
        gap = difference(expected, after.run(exported))
        allowed = _TOLERANCE if gap <= _TOLERANCE else tolerance(before, exported, expected, _TOLERANCE)
        _demand(gap, allowed, f"at the exported shape {base.batch}x3x{base.height}x{base.width}", goal)
        checked.append(f"difference {gap:.1g} at {base.batch}x3x{base.height}x{base.width}")
        if goal.new_batch:
            gap, allowed = _batch_gap(before, after, image, base)
            _demand(gap, allowed, f"at batch {3 * base.batch}, image by image", goal)
            checked.append(f"difference {gap:.1g} at batch {3 * base.batch}, image by image")
        if goal.new_size:
            for size in _other_sizes(goal):
                _run_at(after, image, goal.batches.min, size, expected, base)
                checked.append(f"runs at {size}")
    except ReferenceRunError as error:
        raise ShapeRefusedError(f"The graph made dynamic does not run: {error}. {goal.advice()}") from error
    return "; ".join(checked)


def verify_runs(model: ir.Model, image: ImageInput, goal: Goal) -> str:
    """Check that a model exported as dynamic runs at the smallest shape wanted, and at one with another ratio.

    Raises:
        ShapeRefusedError: It does not, so some shape was baked into it after all.
    """
    if weight_bytes(model) > MAX_REFERENCE_BYTES:
        return _TOO_LARGE
    batch = goal.batches.min
    try:
        session = ReferenceModel(_with_free_input(model, image))
    except ReferenceRunError as error:
        return f"not verified: ONNX Runtime does not load the model: {error}"
    shapes = [(batch, goal.sizes.min)]
    if not goal.sizes.is_fixed:
        shapes = [(batch, size) for size in _other_sizes(goal)]
    if not goal.batches.is_fixed:
        shapes.append((min(batch + 1, goal.batches.max), goal.sizes.min))
    for count, size in shapes:
        try:
            session.run(_images(image, count, size, seed=1))
        except ReferenceRunError as error:
            raise ShapeRefusedError(
                f"The model does not run at {count}x3x{size}, although its input says it is dynamic: {error}. "
                "Export it again with dynamic shapes throughout, or choose the size it was exported with."
            ) from error
    return "; ".join(f"runs at {count}x3x{size}" for count, size in shapes)


def verify_specialised(before: ir.Model, after: ir.Model, goal: Goal) -> str:
    """Compare a model with its folded copy at the smallest shape wanted; return why folding must be undone, or ""."""
    if weight_bytes(after) > MAX_REFERENCE_BYTES // 2:
        return ""
    images = _images(goal.image, goal.batches.min, goal.sizes.min, seed=2)
    try:
        reference = ReferenceModel(before)
        expected = reference.run(images)
    except ReferenceRunError:
        return ""  # there is nothing to compare with; the backend will say what it thinks of the model
    try:
        gap = difference(expected, ReferenceModel(after).run(images))
        allowed = _TOLERANCE if gap <= _TOLERANCE else tolerance(reference, images, expected, _TOLERANCE)
    except ReferenceRunError as error:
        return f"folding of shapes undone: ONNX Runtime refuses the result: {error}"
    return f"folding of shapes undone: outputs differ by {gap:.2g}" if gap > allowed else ""


def _batch_gap(before: ReferenceModel, after: ReferenceModel, image: ImageInput, base: Probe) -> tuple[float, float]:
    """Return the difference between three exported batches run one by one and all at once, and what is allowed."""
    (data,) = _images(image, 3 * base.batch, Size(base.height, base.width), seed=3).values()
    parts = [{image.name: data[start : start + base.batch]} for start in range(0, len(data), base.batch)]
    runs = [before.run(part) for part in parts]
    expected = {
        name: np.concatenate([run[name] for run in runs]) if value.ndim else value for name, value in runs[0].items()
    }
    gap = difference(expected, after.run({image.name: data}))
    if gap <= _TOLERANCE:
        return gap, _TOLERANCE
    return gap, max(tolerance(before, part, run, _TOLERANCE) for part, run in zip(parts, runs, strict=True))


def _run_at(
    session: ReferenceModel, image: ImageInput, batch: int, size: Size, expected: dict[str, Any], base: Probe
) -> None:
    """Run once; ranks, finiteness and the batch axis must be as at the exported shape."""
    for name, value in session.run(_images(image, batch, size, seed=4)).items():
        usual = expected[name]
        if value.ndim != usual.ndim or (np.isfinite(usual).all() and not np.isfinite(value).all()):
            raise ReferenceRunError(f"output {name!r} has shape {list(value.shape)} or is not finite at {size}")
        if usual.ndim and usual.shape[0] == base.batch and value.shape[0] != batch:
            raise ReferenceRunError(f"output {name!r} has batch {value.shape[0]} instead of {batch} at {size}")


def _demand(gap: float, allowed: float, where: str, goal: Goal) -> None:
    if gap > allowed:
        raise ShapeRefusedError(
            f"The graph made dynamic gives other outputs than the original {where} (relative difference {gap:.2g}). "
            f"{goal.advice()}"
        )


def _other_sizes(goal: Goal) -> list[Size]:
    """Return the smallest size, and one that is wider than high."""
    low = goal.sizes.min
    return [low, Size(low.height, low.width + goal.stride)]


def _images(image: ImageInput, batch: int, size: Size, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    dtype = (image.value.dtype or ir.DataType.FLOAT).numpy()
    return {image.name: rng.random((batch, 3, size.height, size.width), np.float32).astype(dtype)}


def _with_free_input(model: ir.Model, image: ImageInput) -> ir.Model:
    """Return a copy whose image input takes any batch and size."""
    copy = model.clone()
    for value in copy.graph.inputs:
        if value.name == image.name:
            value.shape = ir.Shape(["batch", 3, "height", "width"])
    return copy
