"""Compare the tensors inside two engines that are ONNX graphs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from trtdeploy.api.passes import Progress
from trtdeploy.core.errors import EngineError, ModelError, UsageError
from trtdeploy.core.types import Size

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from trtdeploy.api.compare import Side
    from trtdeploy.api.compare_images import CompareImages
    from trtdeploy.evaluate.compare_errors import Format, TensorReport

GRAPH_BACKENDS = ("onnxruntime", "emulated")
"""Backends whose engines are ONNX graphs that ONNX Runtime runs as they are."""
_COARSENESS: tuple[Format, ...] = ("fp32", "fp16", "bf16", "int8")


def compare_graphs(a: Side, b: Side, images: CompareImages, count: int, step: Progress) -> TensorReport:
    """Compare the tensors inside two engines.

    Args:
        a, b: The sides, which `check_graphs` accepts.
        images: The images.
        count: How many of them to show.
        step: Called with the name of each step as it starts.

    Raises:
        EngineError: ONNX Runtime does not run one of them.
        SourceError: No image can be read.
    """
    from trtdeploy.evaluate.compare_errors import Limit
    from trtdeploy.evaluate.compare_tensors import TensorComparison
    from trtdeploy.graph.reference import ReferenceRunError

    size, batch = _shown(a, b)
    batches = list(islice(_canvases(images, a, size, batch), count))
    limit = Limit.of(lowest_format(a, b))
    try:
        return TensorComparison(_graph(a), _graph(b), limit, step).run(batches)
    except ReferenceRunError as error:
        raise EngineError(
            f"The tensors of {a.given} and {b.given} cannot be compared: ONNX Runtime fails: {error}"
        ) from error


def check_graphs(a: Side, b: Side) -> None:
    """Check that the tensors of both sides can be seen and take the same images.

    Raises:
        UsageError: They take no size or batch in common.
        EngineError: A side is no ONNX graph.
    """
    for side in (a, b):
        if side.info.backend not in GRAPH_BACKENDS:
            raise EngineError(
                f"{side.letter}, {side.given}: the tensors inside an engine of {side.info.backend} cannot be seen; "
                f"--tensors needs ONNX models, or engines of {' or '.join(GRAPH_BACKENDS)}. Build the model in the "
                f"same precision ({side.info.precision}) with --backend emulated, and compare that engine."
            )
    _shown(a, b)


def lowest_format(a: Side, b: Side) -> Format:
    """Return the lowest precision of both sides."""
    return max((format_of_side(side) for side in (a, b)), key=_COARSENESS.index)


def format_of_side(side: Side) -> Format:
    """Return the lowest precision of a side: what was asked for, or what its graph holds beyond that."""
    asked: Format = side.info.precision
    if side.info.backend not in GRAPH_BACKENDS:
        return asked
    return max((asked, format_of(_graph(side))), key=_COARSENESS.index)


def format_of(model: ir.Model) -> Format:
    """Return the lowest precision in a graph."""
    import onnx_ir as ir

    found: set[Format] = {"fp32"}
    names: dict[int, Format] = {int(ir.DataType.FLOAT16): "fp16", int(ir.DataType.BFLOAT16): "bf16"}
    for graph in model.graphs():
        tensors = [*graph.inputs, *graph.initializers.values()]
        found |= {names[int(value.dtype)] for value in tensors if value.dtype is not None and int(value.dtype) in names}
        for node in graph:
            if node.op_type == "Cast" and (kind := names.get(node.attributes.get_int("to", 0))) is not None:
                found.add(kind)
            elif node.op_type == "DequantizeLinear":
                found.add("int8")
    return max(found, key=_COARSENESS.index)


def _graph(side: Side) -> ir.Model:
    import onnx_ir as ir

    try:
        return ir.load(side.path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{side.given}: the engine's graph cannot be read: {error}. Build the engine again."
        ) from error


def _shown(a: Side, b: Side) -> tuple[Size, int]:
    """Return a network size and a batch that both sides take.

    Raises:
        UsageError: There is none.
    """
    sizes = dict.fromkeys(
        size for side in (a, b) for size in (side.info.sizes.opt, side.info.sizes.max, side.info.sizes.min)
    )
    size = next((size for size in sizes if all(side.info.sizes.contains(size) for side in (a, b))), None)
    if size is None:
        raise UsageError(
            f"{a.given} ({a.info.sizes}) and {b.given} ({b.info.sizes}) take no network size in common, so their "
            "tensors have different shapes. Build both with the same --imgsz, or compare their boxes without --tensors."
        )
    batch = max(side.info.batch_min for side in (a, b))
    if any(batch > side.info.batch_max for side in (a, b)):
        raise UsageError(
            f"{a.given} (batch {a.info.batches}) and {b.given} (batch {b.info.batches}) take no batch in common. Build "
            "both with the same --batch."
        )
    return size, batch


def _canvases(images: CompareImages, side: Side, size: Size, batch: int) -> Iterator[NDArray[np.uint8]]:
    """Yield each image as both networks take it, in all slots of a batch; engines that take frames take it too."""
    from trtdeploy.runtime.letterbox import Canvas

    for _, image in images:
        canvas = Canvas(1, side.info.fit)
        canvas.resize(size)
        canvas.draw(0, image)
        yield np.repeat(canvas.batch(1), batch, axis=0)
