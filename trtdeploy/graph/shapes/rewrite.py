"""Makes a graph that was exported with fixed shapes dynamic, node by node, or says which node forbids it.

The argument: every value's shape is known as a function of batch, height and width, because it is inferred at probe
sizes in general position. An operand baked for the exported size is rewritten only when exactly one function of the
sizes fits it; otherwise the node is refused. `SetShapes` then runs the result against the original.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from trtdeploy.core.errors import ShapeRefusedError
from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.shapes.constants import baked_size
from trtdeploy.graph.shapes.grids import recognise
from trtdeploy.graph.shapes.probes import Facts, Probe, Probes, Vec, label
from trtdeploy.graph.shapes.reshape import solve_reshape

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ARITHMETIC = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Equal", "Greater", "Less", "And", "Or", "Mod", "PRelu",
    "GreaterOrEqual", "LessOrEqual",
})  # fmt: skip
_TO_THE_END = np.iinfo(np.int64).max


class DynamicRewriter:
    """Rewrites the baked operands of one model in place. Give it a copy: a refusal leaves the graph half done.

    Args:
        model: The model.
        image: Its image input.
        probes: Input shapes in general position; the first is the exported one.
        opset: The model's opset.
    """

    def __init__(self, model: ir.Model, image: ir.Value, probes: list[Probe], opset: int) -> None:
        self._model = model
        self._probes = Probes(model, image, probes)
        self._list = probes
        self._emit = Emitter(opset, "shapes")
        sizes = self._emit.shape(image)
        self._roots = [self._emit.slice(sizes, axis, axis + 1, axis=0) for axis in (0, 2, 3)]
        self._dims: dict[Vec, ir.Value] = {}
        self._grids: dict[tuple[bytes, tuple[int, ...], tuple[Vec, ...]], ir.Value] = {}
        self._batch_inside: set[ir.Value] = set()
        self.changes: dict[str, int] = {}

    def run(self) -> None:
        """Rewrite every node.

        Raises:
            ShapeRefusedError: A node cannot be rewritten; the message names it.
        """
        for node in list(self._model.graph):
            if any(
                attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} for attribute in _attributes(node)
            ):
                raise ShapeRefusedError(f"{label(node)} has a subgraph, whose shapes are not rewritten")
            handler = getattr(self, f"_on_{node.op_type.lower()}", None) if node.domain in {"", "ai.onnx"} else None
            if handler is not None:
                handler(node)
            elif node.op_type in _ARITHMETIC or node.op_type == "Concat":
                self._on_arithmetic(node)
            self._probes.visit(node)
            self._follow_counts(node)
            self._follow_batch(node)
        self._emit.prepend_to(self._model.graph)

    # One method per operator whose operands exporters bake

    def _on_reshape(self, node: ir.Node) -> None:
        source, target = self._known(node, 0), self._data(node, 1)
        if source is None or source.dims is None or target is None:
            return
        dims = source.dims
        actual = [self._resolve(node, target[index], dims, index) for index in range(len(target))]
        baked = all(np.array_equal(target[0], other) for other in target)
        if not any(self._probes.varies(dim) for dim in dims):
            return
        if any(dim is None for dim in dims):
            raise ShapeRefusedError(f"{label(node)} reshapes a tensor whose size depends on the image's content")
        free = target[0].tolist().index(-1) if baked and -1 in target[0].tolist() else None
        batch = tuple(p.batch for p in self._list)
        known = [dim for dim in dims if dim is not None]
        inner = node.inputs[0] in self._batch_inside
        solved = solve_reshape(known, actual[0] or [], batch, self._maps(), free, inner=inner)
        if solved is None:
            raise ShapeRefusedError(
                f"{label(node)} reshapes {_at_base(dims)} to {actual[0]}, and which of the new sizes depends on the "
                "image is not certain"
            )
        wanted, became_inner = solved
        if became_inner:
            self._batch_inside.add(node.outputs[0])
        if all(found == [dim[index] for dim in wanted] for index, found in enumerate(actual)):
            return
        self._replace_operand(node, 1, self._shape_operand(wanted, dims))
        node.attributes.pop("allowzero", None)
        self._count("reshapes rewritten")

    def _on_resize(self, node: ir.Node) -> None:
        sizes = self._data(node, 3) if len(node.inputs) > 3 and node.inputs[3] is not None else None
        source = self._known(node, 0)
        if sizes is None or source is None or source.dims is None or not self._same_everywhere(sizes):
            return
        if not any(self._probes.varies(dim) for dim in source.dims):
            return
        before = [dim[0] if dim else 0 for dim in source.dims]
        ratios = [Fraction(int(new), old) for new, old in zip(sizes[0], before, strict=True) if old]
        if len(ratios) != len(before) or any(1 not in {r.numerator, r.denominator} for r in ratios):
            raise ShapeRefusedError(
                f"{label(node)} resizes {before} to {sizes[0].tolist()}, which is no whole factor, so its size at "
                "another image size is not certain"
            )
        scales = self._emit.constant(np.array([float(r) for r in ratios], np.float32))
        node.replace_input_with(2, scales)
        node.replace_input_with(3, None)
        node.resize_inputs(3)
        self._count("resizes rewritten from sizes to factors")

    def _on_expand(self, node: ir.Node) -> None:
        source, target = self._known(node, 0), self._data(node, 1)
        if source is None or source.dims is None or target is None or not self._same_everywhere(target):
            return
        wanted = target[0].tolist()
        offset = len(wanted) - len(source.dims)
        self._refuse_baked_map(node, wanted)
        for axis, size in enumerate(wanted):
            dim = source.dims[axis - offset] if axis >= offset else tuple([1] * len(self._list))
            if dim is not None and dim[0] == size and self._probes.varies(dim):
                wanted[axis] = 1
        if wanted != target[0].tolist():
            self._replace_operand(node, 1, self._emit.ints(*wanted))
            self._count("expands rewritten")

    def _on_slice(self, node: ir.Node) -> None:
        source = self._known(node, 0)
        starts, ends = self._data(node, 1), self._data(node, 2)
        if source is None or source.dims is None or starts is None or ends is None:
            return
        if not (self._same_everywhere(starts) and self._same_everywhere(ends)):
            return
        axes = self._data(node, 3) if len(node.inputs) > 3 else None
        steps = self._data(node, 4) if len(node.inputs) > 4 else None
        rank = len(source.dims)
        chosen = [int(a) % rank for a in axes[0]] if axes else list(range(len(starts[0])))
        strides = steps[0].tolist() if steps else [1] * len(chosen)
        new_ends = ends[0].tolist()
        for position, axis in enumerate(chosen):
            dim = source.dims[axis]
            start, end, step = int(starts[0][position]), int(ends[0][position]), int(strides[position])
            if not self._probes.varies(dim) or step < 0:
                continue
            if not (start < step or start < 0) or not (end < 0 or dim is None or end >= dim[0]):
                raise ShapeRefusedError(
                    f"{label(node)} takes {start}:{end} of a size that depends on the image, and whether these bounds "
                    "do too is not certain"
                )
            if dim is not None and dim[0] <= end < max(dim) + 1:
                new_ends[position] = _TO_THE_END
        if new_ends != ends[0].tolist():
            self._replace_operand(node, 2, self._emit.constant(np.array(new_ends, np.int64)))
            self._count("slice bounds rewritten")

    def _on_gather(self, node: ir.Node) -> None:
        source, indices = self._known(node, 0), node.inputs[1]
        if source is None or source.dims is None or indices is None or indices.const_value is None:
            return
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        picked = indices.const_value.numpy()
        if self._probes.varies(source.dims[axis % len(source.dims)]) and picked.tolist() not in (0, [0], -1, [-1]):
            raise ShapeRefusedError(f"{label(node)} picks fixed positions of a size that depends on the image")

    def _on_split(self, node: ir.Node) -> None:
        source = self._known(node, 0)
        if source is None or source.dims is None:
            return
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if self._probes.varies(source.dims[axis % len(source.dims)]) and len(node.outputs) > 1:
            raise ShapeRefusedError(f"{label(node)} splits a size that depends on the image into fixed parts")

    def _on_averagepool(self, node: ir.Node) -> None:
        """Refuse a pool over a whole map; one with padding or a smaller kernel is a local pool."""
        source = self._known(node, 0)
        kernel = list(node.attributes["kernel_shape"].as_ints())
        if source is None or source.dims is None or len(source.dims) != len(kernel) + 2:
            return
        padded = "pads" in node.attributes and any(node.attributes["pads"].as_ints())
        sides = source.dims[2:]
        if padded or not all(self._probes.varies(dim) for dim in sides) or max(kernel) == 1:
            return
        if all(dim is not None and size == dim[0] for size, dim in zip(kernel, sides, strict=True)):
            raise ShapeRefusedError(f"{label(node)} pools a whole map of the exported size, {kernel}")

    _on_maxpool = _on_averagepool

    def _on_arithmetic(self, node: ir.Node) -> None:
        """Replace grids among the operands, refuse constants that may be sizes."""
        values = [value for value in node.inputs if value is not None and value.const_value is None]
        moving = [facts for value in values if (facts := self._probes.facts(value)) is not None and facts.dims]
        for position, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.const_value.dtype == ir.DataType.STRING:
                continue
            for facts in moving:
                self._check_constant(node, position, value, facts)

    def _check_constant(self, node: ir.Node, position: int, value: ir.Value, other: Facts) -> None:
        if node.inputs[position] is not value or other.dims is None or value.const_value is None:
            return  # already replaced
        array = value.const_value.numpy()
        offset = len(other.dims) - array.ndim
        skip = node.attributes["axis"].as_int() % max(1, len(other.dims)) if node.op_type == "Concat" else None
        axes, dims = [], []
        for axis, dim in enumerate(other.dims):
            own = axis - offset
            if own < 0 or array.shape[own] == 1 or axis == skip or not self._probes.varies(dim):
                continue
            axes.append(own)
            dims.append(dim)
        if axes:
            self._replace_grid(node, position, array, axes, [dim for dim in dims if dim is not None])
        elif node.op_type != "Concat":
            spatial = {dim for dim in other.dims if dim is not None and self._is_spatial(dim)} | set(other.counts)
            found = baked_size(array, spatial, self._list) if self._sizes_vary else None
            if found is not None and other.data is None:
                raise ShapeRefusedError(
                    f"{label(node)} uses the constant {found:g}, which may be a size of the exported image"
                )

    def _replace_grid(
        self, node: ir.Node, position: int, array: NDArray[Any], axes: list[int], dims: list[Vec]
    ) -> None:
        key = (array.tobytes(), (*array.shape, *axes), tuple(dims))
        if key not in self._grids:
            grid = recognise(array, axes, dims, self._list) if len(dims) == len(axes) else None
            if grid is None:
                raise ShapeRefusedError(
                    f"{label(node)} uses a constant of shape {list(array.shape)} made for the exported size, which is "
                    "no anchor grid that can be made again"
                )
            dtype = ir.DataType.from_numpy(array.dtype)
            self._grids[key] = grid.emit(self._emit, self._roots[1], self._roots[2], dtype)
            self._count("anchor and stride grids made at run time")
        self._replace_operand(node, position, self._grids[key])
        count = len(self._list)
        vecs: list[Vec | None] = [tuple([size] * count) for size in array.shape]
        for axis, dim in zip(axes, dims, strict=True):
            vecs[axis] = dim
        self._probes.learn(self._grids[key], Facts(int(ir.DataType.from_numpy(array.dtype)), vecs))

    # Helpers

    @property
    def _sizes_vary(self) -> bool:
        return len({(probe.height, probe.width) for probe in self._list}) > 1

    def _is_spatial(self, dim: Vec) -> bool:
        """Return whether `dim` depends on the image size; probes with the base size and another batch tell."""
        base = self._list[0]
        per_batch = {Fraction(size, probe.batch) for size, probe in zip(dim, self._list, strict=True)}
        same_size = {
            size
            for size, probe in zip(dim, self._list, strict=True)
            if (probe.height, probe.width) == (base.height, base.width)
        }
        return len(set(dim)) > 1 and (len(same_size) == 1 or len(per_batch) > 1)

    def _follow_counts(self, node: ir.Node) -> None:
        """Carry sizes that were summed over: a constant that divides the sum may be one of them."""
        counts: set[Vec] = set()
        for value in node.inputs:
            facts = self._probes.facts(value) if value is not None else None
            if facts is None:
                continue
            counts |= facts.counts
            out = self._probes.facts(node.outputs[0])
            if (
                node.op_type.startswith("Reduce")
                and facts.dims is not None
                and out is not None
                and value is node.inputs[0]
            ):
                gone = [d for d in facts.dims if d is not None and self._is_spatial(d) and d not in (out.dims or [])]
                if gone:
                    counts.add(tuple(int(np.prod(sizes)) for sizes in zip(*gone, strict=True)))
        for output in node.outputs:
            facts = self._probes.facts(output)
            if (
                facts is not None
                and counts
                and not any(d is not None and self._is_spatial(d) for d in facts.dims or [])
            ):
                self._probes.set_counts(output, frozenset(counts))

    def _follow_batch(self, node: ir.Node) -> None:
        """Carry the mark of a batch inside the first dimension through operators that leave that dimension alone."""
        marked = [value for value in node.inputs if value is not None and value in self._batch_inside]
        if not marked or node.op_type in {"Reshape", "Transpose"}:
            return
        before, after = self._probes.facts(marked[0]), self._probes.facts(node.outputs[0])
        if before is not None and after is not None and before.dims and after.dims and before.dims[0] == after.dims[0]:
            self._batch_inside.update(node.outputs)

    def _maps(self) -> list[tuple[Vec, Vec]]:
        """Return the (rows, columns) of feature maps at the usual strides, largest map first."""
        found = []
        for stride in (2, 4, 8, 16, 32, 64, 128):
            if all(p.height % stride == 0 and p.width % stride == 0 for p in self._list):
                rows = tuple(p.height // stride for p in self._list)
                found.append((rows, tuple(p.width // stride for p in self._list)))
        return found

    def _refuse_baked_map(self, node: ir.Node, sizes: list[int]) -> None:
        """Refuse a shape that holds a feature map's rows beside its columns, its cells, or the exported batch.

        One side alone is no map: it is more likely a number of classes (80 at 640 pixels).
        """
        base = self._list[0]
        baked = {base.batch} if base.batch > 1 and len({probe.batch for probe in self._list}) > 1 else set()
        pairs = set()
        if self._sizes_vary:
            maps = [(rows[0], columns[0]) for rows, columns in self._maps()]
            cells = [rows * columns for rows, columns in maps]
            pairs = set(maps)
            baked |= {sum(cells[i:j]) for i in range(len(cells)) for j in range(i + 1, len(cells) + 1)} - {1}
        found = baked & set(sizes) or pairs & set(itertools.pairwise(sizes)) - {(1, 1)}
        if found:
            raise ShapeRefusedError(
                f"{label(node)} expands to {sizes}, and whether that is an image size is not certain"
            )

    def _known(self, node: ir.Node, position: int) -> Facts | None:
        value = node.inputs[position]
        return self._probes.facts(value) if value is not None else None

    def _data(self, node: ir.Node, position: int) -> list[NDArray[Any]] | None:
        facts = self._known(node, position) if len(node.inputs) > position else None
        return facts.data if facts is not None else None

    def _same_everywhere(self, data: list[NDArray[Any]]) -> bool:
        return all(np.array_equal(data[0], other) for other in data)

    def _resolve(self, node: ir.Node, target: NDArray[Any], dims: list[Vec | None], index: int) -> list[int] | None:
        """Return a Reshape's output shape at one probe, None when its operand does not fit there."""
        keeps_zero = "allowzero" in node.attributes and node.attributes["allowzero"].as_int()
        shape = [dim[index] if dim is not None else 0 for dim in dims]
        wanted = [
            shape[axis] if size == 0 and not keeps_zero and axis < len(shape) else int(size)
            for axis, size in enumerate(target.tolist())
        ]
        total = int(np.prod(shape))
        if -1 in wanted:
            rest = -int(np.prod(wanted))
            if rest <= 0 or total % rest:
                return None
            wanted[wanted.index(-1)] = total // rest
        return wanted if int(np.prod(wanted)) == total else None

    def _shape_operand(self, wanted: list[Vec], dims: list[Vec | None]) -> ir.Value:
        """Emit the shape `wanted`: constants, 0 for a size kept from the input, -1 once, the rest computed."""
        entries: list[int | ir.Value] = []
        for axis, dim in enumerate(wanted):
            if len(set(dim)) == 1:
                entries.append(dim[0])
            elif axis < len(dims) and dims[axis] == dim:
                entries.append(0)
            elif -1 not in [e for e in entries if isinstance(e, int)]:
                entries.append(-1)
            else:
                entries.append(self._dimension(dim))
        fixed = [entry for entry in entries if isinstance(entry, int)]
        if len(fixed) == len(entries):
            return self._emit.ints(*fixed)
        return self._emit.concat([e if isinstance(e, ir.Value) else self._emit.ints(e) for e in entries], axis=0)

    def _dimension(self, dim: Vec) -> ir.Value:
        """Emit a size from the input's batch, height and width."""
        if dim in self._dims:
            return self._dims[dim]
        for code in range(1, 8):
            used = [axis for axis in range(3) if code >> axis & 1]
            roots = [[(p.batch, p.height, p.width)[axis] for axis in used] for p in self._list]
            factors = {Fraction(size, int(np.prod(root))) for size, root in zip(dim, roots, strict=True)}
            if len(factors) == 1:
                factor = factors.pop()
                value = self._roots[used[0]]
                for axis in used[1:]:
                    value = self._emit.mul(value, self._roots[axis])
                value = value if factor.numerator == 1 else self._emit.mul(value, self._emit.ints(factor.numerator))
                value = value if factor.denominator == 1 else self._emit.div(value, self._emit.ints(factor.denominator))
                self._dims[dim] = value
                return value
        raise ShapeRefusedError(f"a size of {dim[0]} is no product of batch, height and width")

    def _replace_operand(self, node: ir.Node, position: int, value: ir.Value) -> None:
        node.replace_input_with(position, value)
        if self._probes.facts(value) is None:
            self._probes.follow_emitted(self._emit.nodes)

    def _count(self, what: str) -> None:
        self.changes[what] = self.changes.get(what, 0) + 1


def _attributes(node: ir.Node) -> list[ir.Attr]:
    return list(node.attributes.values())


def _at_base(dims: list[Vec | None]) -> list[int | None]:
    return [dim[0] if dim is not None else None for dim in dims]
