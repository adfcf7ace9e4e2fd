"""Finds scores that quantisation made too coarse: those that share one scale with boxes in pixels."""

from __future__ import annotations

from trtdeploy.core.errors import ModelError
from trtdeploy.graph.head.detector import Detector
from trtdeploy.graph.head.layout import LAYOUT
from trtdeploy.graph.quantised import constant, is_dequantize

COARSE = 1 / 32
"""Steps from which a note is due: int8 over 0 to 1 has 1/127."""
_BLIND = 2.0
"""Steps above it round every score from 0 to 1 to zero."""


def score_notes(head: Detector) -> list[str]:
    """Return a note where the scores of `head` are quantised in coarse steps.

    Raises:
        ModelError: They are quantised so that none but 0 is possible.
    """
    step, name = _step(head)
    if step <= COARSE or head.activation != "none":
        return []
    what = f"The scores in {name!r} are quantised in steps of {step:.2g}, together with boxes in pixels"
    advice = "Quantise the model again without the operators behind its last convolutions (docs/qat.md)."
    if step > _BLIND:
        raise ModelError(f"{what}: no score from 0 to 1 is left but 0, and nothing can be found. {advice}")
    return [f"{what}: an engine finds little or wrongly with them. {advice}"]


def _step(head: Detector) -> tuple[float, str]:
    """Return the largest scale on the way of the scores through their layout, and the tensor that has it."""
    value, axis, column = head.scores.value, head.scores.axis, head.scores.start
    largest, name = 0.0, ""
    while axis is not None and (node := value.producer()) is not None and node.op_type in LAYOUT:
        if is_dequantize(node):
            scale = constant(node.inputs[1])
            if scale is not None and scale.size == 1 and float(scale.numpy().item()) > largest:
                largest, name = float(scale.numpy().item()), value.name or ""
        moved = LAYOUT[node.op_type](node, value, axis, column)
        if moved is None:
            break
        value, axis, column = moved
    return largest, name
