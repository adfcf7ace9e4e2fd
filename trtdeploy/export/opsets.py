"""Convert a graph to another opset, also where ONNX's converter does not reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trtdeploy.core.errors import ModelError

_NEW = {
    "BitwiseAnd": 18, "BitwiseNot": 18, "BitwiseOr": 18, "BitwiseXor": 18, "CenterCropPad": 18, "Col2Im": 18,
    "GroupNormalization": 18, "Mish": 18, "DFT": 17, "GridSample": 16, "CastLike": 15, "Trilu": 14,
}  # fmt: skip
"""Operators that came late and are not written out with older ones here, and the opset they came with."""
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
)  # fmt: skip


def in_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model in another opset.

    Newer ones are left to ONNX's converter. It lacks many steps to older ones, so these are made here, down to 13.
    What a node notes about itself is kept.

    Args:
        proto: Model, may be changed.
        opset: Version of the default operator set, 13 or newer.

    Raises:
        ModelError: It cannot be converted.
    """
    have = version_of(proto)
    if have == opset:
        return proto
    if have < opset or have > 18:
        proto = _by_converter(proto, max(opset, 18) if have > 18 else opset)
    if version_of(proto) > opset:
        _lower(proto, opset)
    return proto


def _by_converter(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Convert with ONNX's own converter.

    Raises:
        ModelError: It fails.
    """
    noted = {node.output[0]: list(node.metadata_props) for node in proto.graph.node if node.output}
    try:
        proto = onnx.version_converter.convert_version(proto, opset)
    except RuntimeError as error:
        raise ModelError(
            f"The graph cannot be converted to opset {opset}: {str(error).splitlines()[0]}. "
            "Choose another opset or exporter."
        ) from error
    for node in proto.graph.node:
        if node.output and not node.metadata_props:
            node.metadata_props.extend(noted.get(node.output[0], []))
    return proto


def version_of(proto: onnx.ModelProto) -> int:
    """Return the version of the default operator set."""
    return next(int(entry.version) for entry in proto.opset_import if entry.domain in {"", "ai.onnx"})


def _lower(proto: onnx.ModelProto, opset: int) -> None:
    """Write a graph of opset 18 or older with the operators of an older opset, in place.

    Raises:
        ModelError: An operator has no equal there.
    """
    graph = proto.graph
    lowering = Lowering(graph, opset)
    nodes = [made for node in graph.node for made in lowering.of(node)]
    del graph.node[:]
    graph.node.extend(nodes)
    for entry in proto.opset_import:
        if entry.domain in {"", "ai.onnx"}:
            entry.version = opset


class Lowering:
    """Writes nodes with the operators of an older opset.

    Args:
        graph: The graph; constants are added to it.
        opset: The opset wanted, 13 to 17.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        values = [*graph.value_info, *graph.output, *graph.input]
        self.shapes = {value.name: value.type.tensor_type.shape for value in values}
        self.steps: dict[str, tuple[int, Callable[[onnx.NodeProto], list[onnx.NodeProto]]]] = {
            **dict.fromkeys(_REDUCTIONS, (18, self._reduce)),
            "Split": (18, self._split),
            "Resize": (18, self._resize),
            "Pad": (18, self._pad),
            "ScatterND": (18, self._scatter),
            "ScatterElements": (18, self._scatter),
            "LayerNormalization": (17, self._layer_norm),
            "RoiAlign": (16, self._roi_align),
            "Shape": (15, self._shape),
            "HardSwish": (14, self._hard_swish),
            "Reshape": (14, self._reshape),
            "BatchNormalization": (14, self._batch_norm),
        }

    def of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that stand for a node.

        Raises:
            ModelError: There are none.
        """
        if node.domain not in {"", "ai.onnx"}:
            return [node]
        if any(attribute.type in _GRAPHS for attribute in node.attribute):
            raise self._refusal(node, "it holds a graph")
        if _NEW.get(node.op_type, 0) > self.opset:
            raise self._refusal(node, f"it came with opset {_NEW[node.op_type]}")
        since, step = self.steps.get(node.op_type, (0, None))
        if step is None or since <= self.opset:
            return [node]
        made = step(node)
        for index, one in enumerate(made):
            if one is not node:
                one.name = f"{node.name}_{index}"
                one.metadata_props.extend(node.metadata_props)
        return made

    def _reduce(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Move the axes from an input to an attribute."""
        _drop(node, "noop_with_empty_axes")
        if len(node.input) > 1 and node.input[1]:
            axes = self.constants.get(node.input[1])
            if axes is None:
                raise self._refusal(node, "its axes are computed")
            if axes.size:
                node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))
        del node.input[1:]
        return [node]

    def _split(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """State the sizes of the parts."""
        _drop(node, "num_outputs")
        if len(node.input) > 1 and node.input[1]:
            return [node]
        axis = _given(node, "axis", 0)
        sizes = [self.shapes[name].dim[axis].dim_value if name in self.shapes else 0 for name in node.output]
        if not all(sizes):
            raise self._refusal(node, "the sizes of its parts are not known")
        del node.input[1:]
        node.input.append(self._constant(f"{node.output[0]}_sizes", np.array(sizes, np.int64)))
        return [node]

    def _resize(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Drop what only later opsets know, where it has its default."""
        if _given(node, "antialias", 0) or _given(node, "axes", None) or _policy(node) != b"stretch":
            raise self._refusal(node, "it uses axes, antialiasing or an aspect policy")
        _drop(node, "antialias", "keep_aspect_ratio_policy")
        return [node]

    def _pad(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if len(node.input) > 3 and node.input[3]:
            raise self._refusal(node, "it names axes")
        return [node]

    def _scatter(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        kind = next((attribute.s for attribute in node.attribute if attribute.name == "reduction"), b"none")
        if kind in {b"max", b"min"} or (kind != b"none" and self.opset < 16):
            raise self._refusal(node, "it reduces")
        if self.opset < 16:
            _drop(node, "reduction")
        return [node]

    def _layer_norm(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Write out the mean, the variance, the scale and the shift."""
        x, scale, *rest = node.input
        axis = _given(node, "axis", -1)
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        if axis >= 0:
            shape = self.shapes.get(x)
            if shape is None:
                raise self._refusal(node, "the rank of its input is not known")
            axis -= len(shape.dim)
        axes, out = list(range(axis, 0)), node.output[0]
        eps = self._constant(f"{out}_epsilon", np.array(epsilon, np.float32))
        name = {key: f"{out}_{key}" for key in ("mean", "centred", "square", "variance", "above", "root", "unit")}
        made = [
            helper.make_node("ReduceMean", [x], [name["mean"]], axes=axes),
            helper.make_node("Sub", [x, name["mean"]], [name["centred"]]),
            helper.make_node("Mul", [name["centred"], name["centred"]], [name["square"]]),
            helper.make_node("ReduceMean", [name["square"]], [name["variance"]], axes=axes),
            helper.make_node("Add", [name["variance"], eps], [name["above"]]),
            helper.make_node("Sqrt", [name["above"]], [name["root"]]),
            helper.make_node("Div", [name["centred"], name["root"]], [name["unit"]]),
        ]
        if not rest or not rest[0]:
            return [*made, helper.make_node("Mul", [name["unit"], scale], [out])]
        scaled = f"{out}_scaled"
        made.append(helper.make_node("Mul", [name["unit"], scale], [scaled]))
        return [*made, helper.make_node("Add", [scaled, rest[0]], [out])]

    def _roi_align(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        mode = next((a.s for a in node.attribute if a.name == "coordinate_transformation_mode"), b"half_pixel")
        if mode != b"output_half_pixel":
            raise self._refusal(node, "its coordinates are shifted by half a pixel")
        _drop(node, "coordinate_transformation_mode")
        return [node]

    def _shape(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Cut the part of the shape that is wanted out of the whole."""
        start, end = _given(node, "start", 0), _given(node, "end", None)
        _drop(node, "start", "end")
        if start == 0 and end is None:
            return [node]
        out, whole = node.output[0], f"{node.output[0]}_whole"
        last = np.iinfo(np.int64).max if end is None else end
        bounds = [
            self._constant(f"{out}_{key}", np.array([value], np.int64))
            for key, value in (("start", start), ("end", last))
        ]
        node.output[0] = whole
        return [node, helper.make_node("Slice", [whole, *bounds], [out])]

    def _hard_swish(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        gate = f"{node.output[0]}_gate"
        return [
            helper.make_node("HardSigmoid", [node.input[0]], [gate], alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [node.input[0], gate], [node.output[0]]),
        ]

    def _reshape(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Drop the meaning of zero, where there is none in the shape."""
        wanted = self.constants.get(node.input[1])
        if _given(node, "allowzero", 0) and wanted is not None and (wanted == 0).any():
            raise self._refusal(node, "it makes an empty tensor")
        _drop(node, "allowzero")
        return [node]

    def _batch_norm(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        _drop(node, "training_mode")
        return [node]

    def _constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _refusal(self, node: onnx.NodeProto, why: str) -> ModelError:
        return ModelError(
            f"Node {node.name} ({node.op_type}) cannot be written in opset {self.opset}: {why}. Choose a newer opset, "
            "or the torchscript exporter."
        )


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _given(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an integer, or list of integers, of a node."""
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _policy(node: onnx.NodeProto) -> bytes:
    policy: bytes = _given(node, "keep_aspect_ratio_policy", b"stretch")
    return policy


def _drop(node: onnx.NodeProto, *names: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
