"""Finds the softmaxes whose scores come near the end of FP16's range, by running the model.

A Softmax subtracts the maximum, so that its exponentials cannot overflow. Its scores can: the product of queries and
keys is not bounded, and many kinds of attention do not scale it. One infinite score makes its whole row NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.attention.mhsa.operation import SCALED_DOT_PRODUCT
from trtdeploy.attention.operations import is_operation
from trtdeploy.graph.compare import random_feeds
from trtdeploy.graph.precision.element_types import FLOAT, constant, is_onnx
from trtdeploy.graph.precision.formats import FP16
from trtdeploy.graph.precision.islands import MASK_OPERATORS, is_mask
from trtdeploy.graph.reference import ReferenceModel, ReferenceRunError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Feeds = Mapping[str, "NDArray[Any]"]
MARGIN = 4
"""How many times larger than what was measured other inputs may make the scores."""
_BETWEEN = frozenset({
    "Add", "Sub", "Mul", "Div", "Neg", "Where", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity",
    "Expand", "Clip", "Max", "Min",
})  # fmt: skip
"""Operators between the product and the softmax."""
_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "Conv"})
_MARK = "trtdeploy.scores"
_PROBES = ((1, 64), (2, 128), (1, 640))
"""Batch and image size in pixels, where the model leaves them open; the first that runs is used. Small: attention over
every pixel of a larger image would need gigabytes."""
_MAX_NODES = 64


def large_scores(model: ir.Model, samples: Sequence[Feeds] = ()) -> tuple[set[ir.Node], str]:
    """Return the nodes that must stay FP32 because scores may exceed FP16, functions' nodes included.

    Those are the softmax, the product before it and what lies between. Subgraphs of control flow are not measured.

    Args:
        model: The model. Not changed but for marks that are removed again.
        samples: Inputs to measure with. Default: one random input.

    Returns:
        The nodes; and why nothing was measured, or an empty string.
    """
    chains = {str(index): chain for index, chain in enumerate(softmax_chains(model))}
    if not chains:
        return set(), ""
    for index, chain in chains.items():
        for node in chain:
            node.metadata_props[_MARK] = index
    try:
        peaks, reason = _peaks(model, samples, {index for index, chain in chains.items() if _is_masked(chain)})
    finally:
        for node in itertools.chain.from_iterable(chains.values()):
            del node.metadata_props[_MARK]
    large = [chain for index, chain in chains.items() if not peaks.get(index, 0.0) * MARGIN <= FP16.largest]
    return set(itertools.chain.from_iterable(large)), reason


def softmax_chains(model: ir.Model) -> Iterator[list[ir.Node]]:
    """Yield for every softmax of products the nodes from the product to it; a node belongs to the first softmax."""
    taken: set[ir.Node] = set()
    for node in itertools.chain.from_iterable(_graphs(model)):
        if _is_attention(node):
            yield [node]
        if not is_onnx(node, "Softmax", "LogSoftmax"):
            continue
        chain, todo, ends = {node: None}, [node], False
        while todo and len(chain) < _MAX_NODES:
            for value in todo.pop().inputs:
                above = None if value is None else value.producer()
                if above is None or above in chain or above in taken:
                    continue
                if is_onnx(above, *_PRODUCTS):
                    chain[above], ends = None, True
                elif is_onnx(above, *_BETWEEN):
                    chain[above] = None
                    todo.append(above)
        if ends:
            taken.update(chain)
            yield list(chain)


def _graphs(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """Return the graph and the functions, without those of operations."""
    return [model.graph, *(f for f in model.functions.values() if not is_operation(f.domain, f.name))]


def _is_attention(node: ir.Node) -> bool:
    """Return whether `node` is attention as one operation, of which the scores are not seen."""
    return node.op_type == SCALED_DOT_PRODUCT.op_type and is_operation(node.domain, node.op_type)


def _show_scores(model: ir.Model) -> None:
    """Put the product of queries and keys beside every operation, with its mark: FP16 holds it before it is scaled."""
    for graph in _graphs(model):
        for node in [node for node in graph if _is_attention(node)]:
            scale = node.attributes.get_floats("scale")[0]
            factor = ir.node("Constant", [], {"value_float": max(1.0, abs(scale))})
            product = ir.node("MatMul", node.inputs[:2])
            scores = ir.node("Mul", [product.outputs[0], factor.outputs[0]])
            scores.metadata_props[_MARK] = node.metadata_props.pop(_MARK)
            scores.outputs[0].type = ir.TensorType(FLOAT)
            node.append([factor, product, scores])


def _is_masked(chain: Sequence[ir.Node]) -> bool:
    """Return whether a constant mask is among what lies between product and softmax."""
    return any(
        node.op_type in MASK_OPERATORS and any(is_mask(constant(value), FP16) for value in node.inputs)
        for node in chain
    )


def _peaks(model: ir.Model, samples: Sequence[Feeds], masked: Collection[str]) -> tuple[dict[str, float], str]:
    """Return the largest magnitude in each chain; and why there is none, or an empty string.

    Behind the products of `masked` chains the largest number counts, not the largest magnitude: that is the mask's.
    """
    flat = model.clone()
    _show_scores(flat)
    common.InlinePass()(flat)
    results: list[tuple[str, ir.Value]] = []
    for node in list(flat.graph):
        index = node.metadata_props.get(_MARK)
        value = node.inputs[0] if is_onnx(node, "Softmax", "LogSoftmax") else node.outputs[0]
        if index is None or value is None or value.dtype not in {FLOAT, None}:
            continue
        operator = "Identity" if index in masked and not is_onnx(node, *_PRODUCTS) else "Abs"
        size = ir.node(operator, [value], name=f"scores/{len(results)}/Abs")
        peak = ir.node("ReduceMax", size.outputs, {"keepdims": 0}, name=f"scores/{len(results)}/ReduceMax")
        size.outputs[0].name, peak.outputs[0].name = f"scores/{len(results)}/abs", f"scores/{len(results)}"
        peak.outputs[0].type, peak.outputs[0].shape = ir.TensorType(FLOAT), ir.Shape([])
        flat.graph.extend([size, peak])
        results.append((index, peak.outputs[0]))
    flat.graph.outputs[:] = [value for _, value in results]
    common.RemoveUnusedNodesPass()(flat)
    if not results:
        return {}, ""
    try:
        reference = ReferenceModel(flat)
        found = _largest(reference, samples) if samples else _first(reference, model)
    except ReferenceRunError as error:
        return {}, f"scores of softmaxes not measured: {error}"
    peaks: dict[str, float] = {}
    for index, value in results:
        peaks[index] = max(peaks.get(index, 0.0), found[value.name or ""])
    return peaks, ""


def _first(reference: ReferenceModel, model: ir.Model) -> dict[str, float]:
    """Return the outputs for the first random input that the model accepts.

    Raises:
        ReferenceRunError: It accepts none.
    """
    refusal: ReferenceRunError | None = None
    for batch, size in _PROBES:
        try:
            return _largest(reference, [random_feeds(model, size, batch)])
        except ReferenceRunError as error:
            refusal = error
    assert refusal is not None
    raise refusal


def _largest(reference: ReferenceModel, feeds: Iterable[Feeds]) -> dict[str, float]:
    """Return the largest of each output over all inputs.

    Raises:
        ReferenceRunError: The model does not accept one of them.
    """
    found: dict[str, float] = {}
    for given in feeds:
        for name, value in reference.run(given).items():
            number = float(value)
            found[name] = max(found.get(name, 0.0), number if np.isfinite(number) else float("inf"))
    return found
