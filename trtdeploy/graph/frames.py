"""FRAMES: the engine takes uint8 images instead of a float tensor; letterbox and box mapping may move into the graph.

The letterbox follows `trtdeploy.core.preprocess.Letterbox` in integer arithmetic on the input's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtdeploy.core.engine_info import InputKind
from trtdeploy.core.errors import ModelError
from trtdeploy.core.preprocess import PAD_VALUE, Preprocess
from trtdeploy.core.types import PassReport, Size, SizeRange
from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.shapes.image_input import ImageInput, find_image_input


class FramesIn:
    """Replaces the float image input by uint8 BGR images.

    `canvas`: `images [B,H,W,3]`, letterboxed by the host to the network size. `frames`: `frames [B,H,W,3]` of any
    size, letterboxed in the graph to `sizes.opt`; the output `boxes` is mapped back to frame pixels and clipped;
    empty slots stay zero.

    Where the input's only reader is a convolution, channel order and scale go into its weights: the same products in
    another order. A mean is never folded: the convolution pads with zeros after the mean was taken off. The cast comes
    before the transpose, because TensorRT takes uint8 nowhere else (the other order saves 0.15 of 3.5 ms in ONNX
    Runtime, nothing in OpenVINO).

    Args:
        kind: `canvas` or `frames`.
        preprocess: What the network expects.
        sizes: Network sizes; `frames` uses `sizes.opt` alone.
    """

    name = "frames-in"
    stage = "FRAMES"

    def __init__(self, kind: InputKind, preprocess: Preprocess, sizes: SizeRange) -> None:
        self._kind = kind
        self._preprocess = preprocess
        self._sizes = sizes

    def run(self, model: ir.Model) -> PassResult:
        """Replace the input.

        Raises:
            ModelError: The model has no float NCHW image input, or boxes cannot be mapped to frame pixels.
        """
        image = find_image_input(model)
        old_name = image.name
        boxes = next((value for value in model.graph.outputs if value.name == "boxes"), None)
        refusals = []
        if self._kind == "frames" and boxes is None:
            refusals.append("the outputs are raw, so their boxes stay in network pixels, not in frame pixels")
        opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        emit = Emitter(opset, "frames")
        source = self._new_input(model, image)
        folded = _fold_into_convolution(model, image, self._preprocess)
        x = emit.transpose(emit.cast(source, ir.DataType.FLOAT), 0, 3, 1, 2)
        layout = None
        if self._kind == "frames":
            layout = _Layout.emit(emit, source, self._sizes.opt, self._preprocess.fit)
            x = _letterbox(emit, x, layout, self._sizes.opt)
        if not folded:
            x = _normalise(emit, x, self._preprocess)
        if image.value.dtype == ir.DataType.FLOAT16:
            x = emit.cast(x, ir.DataType.FLOAT16)
        x.type, x.shape = image.value.type, image.value.shape
        _install_input(model, image, source, emit, x)
        if layout is not None and boxes is not None:
            _map_boxes(model, Emitter(opset, "frames/back"), boxes, layout)
        return PassResult(model, True, self._report(old_name, folded, refusals))

    def _new_input(self, model: ir.Model, image: ImageInput) -> ir.Value:
        """Return the new input value, not yet in the graph; other values give up its name."""
        name = "images" if self._kind == "canvas" else "frames"
        values = [*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs)]
        taken = {value.name for value in values} | set(model.graph.initializers)
        for value in values:
            if value.name == name:
                if value.is_graph_output():
                    raise ModelError(
                        f"The model has an output named {name!r}, the name of the engine's input. Rename it."
                    )
                value.name = next(n for i in range(len(taken) + 2) if (n := f"{name}_{i}") not in taken)
        old = image.value.shape
        assert old is not None
        dims = [old[0], old[2], old[3], 3] if self._kind == "canvas" else [old[0], "frame_height", "frame_width", 3]
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(dims))

    def _report(self, old_name: str, folded: bool, refusals: list[str]) -> PassReport:
        where = (
            "letterboxed by the host" if self._kind == "canvas" else f"letterboxed in the graph to {self._sizes.opt}"
        )
        change = f"input {old_name} became uint8 BGR {'images' if self._kind == 'canvas' else 'frames'}, {where}"
        changes = [change]
        if folded:
            changes.append("channel order and scale folded into the first convolution")
        details = {"kind": self._kind, "folded": folded, "fit": self._preprocess.fit}
        return PassReport(
            name=self.name, stage=self.stage, changes=tuple(changes), refusals=tuple(refusals), details=details
        )


@dataclass(frozen=True)
class _Layout:
    """A `Letterbox` whose numbers are one-element int64 values of the graph."""

    batch: ir.Value
    frame: tuple[ir.Value, ir.Value]
    scaled: tuple[ir.Value, ir.Value]
    top: ir.Value
    left: ir.Value

    @classmethod
    def emit(cls, emit: Emitter, source: ir.Value, canvas: Size, fit: str) -> _Layout:
        """Emit the arithmetic of `Letterbox.of` on the shape of `source`."""
        shape = emit.shape(source)
        batch, h, w = (emit.slice(shape, axis, axis + 1, axis=0) for axis in range(3))
        ch, cw, zero, one, two = (emit.ints(v) for v in (canvas.height, canvas.width, 0, 1, 2))
        if fit == "stretch":
            return cls(batch, (h, w), (ch, cw), zero, zero)

        def side(length: ir.Value, other: ir.Value, other_canvas: int, limit: ir.Value) -> ir.Value:
            doubled = emit.add(emit.mul(length, emit.ints(2 * other_canvas)), other)
            return emit.max(one, emit.min(limit, emit.div(doubled, emit.mul(other, two))))

        scaled = (side(h, w, canvas.width, ch), side(w, h, canvas.height, cw))
        if fit == "top-left":
            return cls(batch, (h, w), scaled, zero, zero)
        top, left = (emit.div(emit.sub(c, s), two) for c, s in zip((ch, cw), scaled, strict=True))
        return cls(batch, (h, w), scaled, top, left)


def _letterbox(emit: Emitter, x: ir.Value, layout: _Layout, canvas: Size) -> ir.Value:
    """Scale and pad `[B,3,H,W]` float pixels; rounded, because cv2 gives whole grey levels."""
    sizes = emit.concat([layout.batch, emit.ints(3), *layout.scaled], axis=0)
    empty = emit.constant(np.zeros(0, np.float32)) if emit.opset < 13 else None  # not optional before opset 13
    x = emit.op(
        "Resize", x, empty, empty, sizes, mode="linear", coordinate_transformation_mode="half_pixel"
    )  # fmt: skip
    x = emit.round(x)
    after = [
        emit.sub(emit.sub(emit.ints(side), scaled), before)
        for side, scaled, before in zip(
            (canvas.height, canvas.width), layout.scaled, (layout.top, layout.left), strict=True
        )
    ]
    pads = emit.concat([emit.ints(0, 0), layout.top, layout.left, emit.ints(0, 0), *after], axis=0)
    x = emit.op("Pad", x, pads, float(PAD_VALUE), mode="constant")
    return emit.reshape(x, 0, 3, canvas.height, canvas.width)  # tells the engine builder the size


def _normalise(emit: Emitter, x: ir.Value, preprocess: Preprocess) -> ir.Value:
    """Emit channel order and `(pixel / divisor - mean) / std`."""
    if preprocess.color == "rgb":
        x = emit.gather(x, np.array([2, 1, 0]), axis=1)
    mean = np.array(preprocess.mean, np.float64).reshape(1, 3, 1, 1) * preprocess.divisor
    scale = 1 / (np.array(preprocess.std, np.float64).reshape(1, 3, 1, 1) * preprocess.divisor)
    if mean.any():
        x = emit.sub(x, mean.astype(np.float32))
    return emit.mul(x, scale.astype(np.float32)) if (scale != 1).any() else x


def _fold_into_convolution(model: ir.Model, image: ImageInput, preprocess: Preprocess) -> bool:
    """Put channel order and scale into the convolution that alone reads the pixels; return whether that was done."""
    readers = [(use.node, use.idx) for use in image.value.uses() if use.node.op_type != "Shape"]
    if len(readers) != 1 or any(preprocess.mean) or image.value.is_graph_output():
        return False
    node, position = readers[0]
    weight = node.inputs[1] if node.op_type == "Conv" and position == 0 and node.graph is model.graph else None
    if weight is None or weight.const_value is None or weight.const_value.dtype != ir.DataType.FLOAT:
        return False
    if "group" in node.attributes and node.attributes["group"].as_int() != 1:
        return False
    array = weight.const_value.numpy().astype(np.float64)
    array = array / (preprocess.divisor * np.array(preprocess.std, np.float64).reshape(1, 3, 1, 1))
    array = array[:, ::-1] if preprocess.color == "rgb" else array
    name = f"{weight.name}_uint8"
    tensor = ir.tensor(np.ascontiguousarray(array.astype(np.float32)), name=name)
    folded = ir.Value(name=name, type=weight.type, shape=weight.shape, const_value=tensor)
    model.graph.register_initializer(folded)
    node.replace_input_with(1, folded)
    if not weight.uses() and not weight.is_graph_output():
        model.graph.initializers.pop(weight.name or "", None)
    return True


def _install_input(model: ir.Model, image: ImageInput, source: ir.Value, emit: Emitter, x: ir.Value) -> None:
    """Put the new input and its nodes into the graph in the place of the old input."""
    index = list(model.graph.inputs).index(image.value)
    image.value.replace_all_uses_with(x)
    model.graph.inputs[index] = source
    emit.prepend_to(model.graph)


def _map_boxes(model: ir.Model, emit: Emitter, boxes: ir.Value, layout: _Layout) -> None:
    """Map the output `boxes [B,M,4]` to frame pixels, as `Letterbox.to_frame` does.

    The zero box of an empty slot stays zero: the canvas's corner lies on or outside the frame's, and is clipped to it.
    """

    def four(y: ir.Value, x: ir.Value) -> ir.Value:
        return emit.cast(emit.concat([x, y, x, y], axis=0), ir.DataType.FLOAT)

    frame, scaled = four(*layout.frame), four(*layout.scaled)
    mapped = emit.mul(emit.sub(boxes, four(layout.top, layout.left)), emit.div(frame, scaled))
    result = emit.min(emit.max(mapped, 0.0), frame)
    emit.append_to(model.graph)
    name = boxes.name
    boxes.name = f"{name}_canvas"
    result.name, result.type, result.shape = name, boxes.type, boxes.shape
    outputs = model.graph.outputs
    outputs[list(outputs).index(boxes)] = result
