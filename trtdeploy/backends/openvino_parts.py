"""Cut an OpenVINO model where 16-bit arithmetic should begin and end.

In bfloat16 a box edge near pixel 600 moves in steps of 4 pixels. OpenVINO's own rule keeps FP32 only behind the last
convolution or matrix product, and decoding and NMS contain both. So the network proper is compiled alone in 16 bits,
and what lies behind it (and before it, where pixels are resampled in the graph) in FP32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino as ov

HEAVY_ELEMENTS = 1024
"""A convolution or matrix product with fewer weights belongs to the decoding (a distribution's mean has 16)."""
STEM_ELEMENTS = 100
"""The first layer may be this small; one that swaps or scales colours is smaller."""

_HEAVY_TYPES = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
)
IMAGES = "images"


@dataclass(frozen=True)
class Part:
    """A piece of a model.

    Attributes:
        model: The piece.
        inputs: Names of its inputs: `IMAGES`, or outputs of parts before it.
        outputs: Names of its outputs; those of the last part are the model's own.
        half: Whether it may compute in 16 bits.
    """

    model: ov.Model
    inputs: list[str]
    outputs: list[str]
    half: bool


def split(model: ov.Model, outputs: list[str], *, resampling: bool) -> list[Part]:
    """Cut `model`, whose nodes are reused, into parts to be run in order.

    Args:
        model: One input, `images`; not to be used afterwards.
        outputs: Names for its outputs.
        resampling: Whether the graph resamples the images before the network.

    Returns:
        One to three parts: before the network (only with `resampling`), the network, and behind it.
    """
    heavy = _with_weights(model, HEAVY_ELEMENTS)
    if not heavy:
        return [Part(model, [IMAGES], outputs, half=False)]
    in_or_behind = _reached(model, _with_weights(model, STEM_ELEMENTS), forward=True)
    in_or_before = _reached(model, heavy | _biases(model, heavy), forward=False)
    parts: list[Part] = []
    rest = Part(model, [IMAGES], outputs, half=True)
    if resampling:
        first, rest = _cut(
            rest, lambda op: op.get_name() in in_or_behind, "pixels", half=(False, True), maps_last=False
        )
        parts.append(first)
    network, tail = _cut(rest, lambda op: op.get_name() not in in_or_before, "raw", half=(True, False), maps_last=True)
    parts.append(network)
    return [*parts, tail]


def _with_weights(model: ov.Model, elements: int) -> set[str]:
    """Return the names of the convolutions and matrix products with at least so many constant weights."""
    return {
        op.get_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() in _HEAVY_TYPES
        and any(_constant_elements(op.input_value(port)) >= elements for port in range(op.get_input_size()))
    }


def _biases(model: ov.Model, heavy: set[str]) -> set[str]:
    """Return the names of the additions that OpenVINO fuses into the heavy layer before them."""
    return {
        op.get_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Add"
        and op.input_value(0).get_node().get_name() in heavy
        and _constant_elements(op.input_value(1)) > 0
    }


def _constant_elements(value: ov.Output) -> int:
    """Return the number of elements behind `value` if it is a constant, through conversions and reshapes, else 0."""
    node = value.get_node()
    while node.get_type_name() in {"Convert", "Reshape", "Unsqueeze", "Transpose", "FakeQuantize", "Multiply"}:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return 0
    count = 1
    for length in node.get_output_shape(0):
        count *= length
    return count


def _reached(model: ov.Model, heavy: set[str], *, forward: bool) -> set[str]:
    """Return the nodes that depend on a heavy one (`forward`) or that a heavy one depends on, the heavy included."""
    ops = model.get_ordered_ops()
    reached = set(heavy)
    for op in ops if forward else reversed(ops):
        if forward:
            near = (op.input_value(port).get_node() for port in range(op.get_input_size()))
        else:
            near = (target.get_node() for output in op.outputs() for target in output.get_target_inputs())
        if any(other.get_name() in reached for other in near):
            reached.add(op.get_name())
    return reached


def _cut(
    part: Part, is_late: Callable[[ov.Node], bool], name: str, *, half: tuple[bool, bool], maps_last: bool
) -> tuple[Part, Part]:
    """Cut `part` into early and late nodes. Constants, and what is computed of them alone, serve both sides.

    With `maps_last`, feature maps cross the cut with their channels last.
    """
    import openvino as ov

    model = part.model
    ops = model.get_ordered_ops()
    constant: set[str] = set()
    for op in ops:
        inputs = [op.input_value(port).get_node().get_name() for port in range(op.get_input_size())]
        if op.get_type_name() == "Constant" or (inputs and all(one in constant for one in inputs)):
            constant.add(op.get_name())
    given = {op.get_name(): source for op, source in zip(model.get_parameters(), part.inputs, strict=True)}
    late = [op for op in ops if is_late(op) and op.get_name() not in constant and op.get_name() not in given]
    late_names = {op.get_name() for op in late}
    entries: dict[tuple[str, int], tuple[str, ov.Node, ov.Node]] = {}
    crossing: list[ov.Output] = []
    names: list[str] = []
    for op in late:
        for port in range(op.get_input_size()):
            value = op.input_value(port)
            producer = value.get_node().get_name()
            if producer in late_names or producer in constant:
                continue
            key = (producer, value.get_index())
            if key not in entries:
                source = given.get(producer)
                is_last = source is None and maps_last and _is_map(value)
                if source is None:
                    source = f"{name}{len(crossing)}"
                    crossing.append(_channels_last(value) if is_last else value)
                    names.append(source)
                entries[key] = (source, *_entry(value, channels_last=is_last))
            op.input(port).replace_source_output(entries[key][2].output(0))
    early_model = ov.Model(crossing, model.get_parameters(), f"{name}_early")
    late_model = ov.Model(model.get_results(), [entry for _, entry, _ in entries.values()], f"{name}_late")
    early = Part(early_model, part.inputs, names, half=half[0])
    return early, Part(late_model, [source for source, *_ in entries.values()], part.outputs, half=half[1])


def _is_map(value: ov.Output) -> bool:
    rank = value.get_partial_shape().rank
    return bool(rank.is_static and rank.get_length() == 4)


def _channels_last(value: ov.Output) -> ov.Output:
    """Return the feature map `value` with its channels last, as convolutions leave it in memory.

    Given as `[B,C,H,W]` OpenVINO reorders them one by one, which cost 2.6 ms of 32 on a YOLO11n at 640, against 0.9 for
    the transposition behind the cut.
    """
    import openvino as ov

    return ov.opset13.transpose(value, np.array([0, 2, 3, 1])).output(0)


def _entry(value: ov.Output, *, channels_last: bool) -> tuple[ov.Node, ov.Node]:
    """Return the late part's parameter for `value`, and the node that gives it back in its own layout."""
    import openvino as ov

    shape = value.get_partial_shape()
    if not channels_last:
        entry = ov.op.Parameter(value.get_element_type(), shape)
        return entry, entry
    entry = ov.op.Parameter(value.get_element_type(), ov.PartialShape([shape[0], shape[2], shape[3], shape[1]]))
    return entry, ov.opset13.transpose(entry, np.array([0, 3, 1, 2]))
