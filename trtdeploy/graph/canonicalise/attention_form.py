"""Rewrites dot-product attention into the form that NVIDIA's builder fuses into one kernel.

That is `softmax(scale (Q @ K^T) + bias) @ V` with operands of rank 4, `[B, heads, positions, width]`, and one width for
queries, keys and values, from 9 to 256. Zero columns change no product, so narrower operands are padded. Measured with
TensorRT-RTX 1.7: any other order of operands, rank 3, or unequal widths gives separate kernels that write the whole
matrix of probabilities; a scale, a bias for every key and a constant bias are fused (`docs/builder-facts.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtdeploy.graph.canonicalise.joint_layout import exchange, same_leading
from trtdeploy.graph.emit import Emitter, TakenNames
from trtdeploy.graph.fuse.region import Refusal
from trtdeploy.graph.shapes.probes import Vec
from trtdeploy.graph.unused import drop_unused
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.graph.view.sdpa import Core, find_core

MIN_WIDTH, MAX_WIDTH, WIDTH_MULTIPLE = 9, 256, 8
"""Equal widths from the least to the most are fused, whatever their divisors; where padding is needed at all, it goes
to a multiple, as the builder's own buffers do."""
_RANK = 4


@dataclass(frozen=True)
class Rewritten:
    """What was done to one attention.

    Attributes:
        node: Name of its last product.
        changes: What was changed, in words; empty where it was in the right form.
        remark: Why the builder will not fuse it nevertheless, or an empty string.
    """

    node: str
    changes: tuple[str, ...]
    remark: str = ""


class AttentionForm:
    """Rewrites the attention of one graph.

    Args:
        model: The model; changed in place.
        facts: Its sizes.
        pad: Whether to pad widths; on a CPU the zeros would only cost time. Default True.
    """

    def __init__(self, model: ir.Model, facts: GraphFacts, *, pad: bool = True) -> None:
        self._pad = pad
        self._model = model
        self._facts = facts
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._taken = TakenNames.of(model.graph)
        self._count = 0

    def run(self) -> tuple[list[Rewritten], list[Refusal]]:
        """Rewrite every attention; return what was done, and what was left alone."""
        done: list[Rewritten] = []
        refused: list[Refusal] = []
        for node in list(self._model.graph):
            if node.op_type != "MatMul" or node.graph is None:
                continue
            core = find_core(node)
            if core is None:
                continue
            outcome = self._rewrite(core)
            if isinstance(outcome, Refusal):
                refused.append(outcome)
            else:
                done.append(outcome)
        return done, refused

    def _rewrite(self, core: Core) -> Rewritten | Refusal:
        name = core.mix.name or core.mix.outputs[0].name or ""
        if not core.plain:
            return Refusal("its scores are reshaped or cast between the two products", name)
        for node in (core.scores, core.softmax):
            users = {user for output in node.outputs for user in output.consumers()}
            if any(output.is_graph_output() for output in node.outputs) or len(users) != 1:
                return Refusal("its scores or probabilities are also used elsewhere", node.name or "")
        if any(self._facts.dims(operand) is None for _, operand in core.steps):
            return Refusal("the rank of what is added to its scores is not known", name)
        form = self._form(core)
        if form is None:
            return Refusal("the sizes of its operands are not known", name)
        if not form.changes:
            return Rewritten(name, (), form.remark)
        self._count += 1
        scope = name.rpartition("/")[0]
        emit = Emitter(self._opset, f"{scope}/attention_{self._count}" if scope else f"attention_{self._count}")
        result = _Writer(emit, self._facts, core, form).write()
        output = core.mix.outputs[0]
        target, result = self._place(core, emit, form, result)
        emit.insert_before(target.producer() or core.mix, self._taken)
        self._facts.visit(emit.nodes)
        result.type, result.shape = target.type, target.shape
        target.replace_all_uses_with(result, replace_graph_outputs=True)
        if target.is_graph_output() or result.is_graph_output():
            result.name, target.name = target.name, result.name
        drop_unused(self._model.graph, [n for n in (target.producer(), output.producer()) if n is not None])
        return Rewritten(name, form.changes, form.remark)

    def _form(self, core: Core) -> _Form | None:
        """Return what must change, or None where the operands' sizes are not known."""
        query, key, value = (self._facts.dims(v) for v in (core.query, core.key, core.value))
        if query is None or key is None or value is None or not len(query) == len(key) == len(value):
            return None
        width = query[-2 if core.swapped else -1]
        depth = value[-1 if core.probabilities_first else -2]
        if width is None or depth is None or len(set(width)) > 1 or len(set(depth)) > 1 or len(query) > _RANK:
            return None
        target = widest = max(width[0], depth[0], MIN_WIDTH)
        if width[0] != widest or depth[0] != widest:
            target = -(-widest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        fits = self._pad and target <= MAX_WIDTH
        changes = []
        if core.swapped or core.transposed or not core.probabilities_first or core.key_axis != -1:
            changes.append("P @ V order")
        if len(query) < _RANK:
            changes.append("rank 4")
        if fits and (width[0] != target or depth[0] != target):
            changes.append(f"widths {width[0]} and {depth[0]} padded to {target}")
        maps = self._maps(core, len(query)) if fits else ()
        if maps and (changes or len({value.producer() for value in maps}) > 1):
            changes.append("one layout change")
        else:
            maps = ()
        heads = query[1][0] if maps and len(query) == _RANK and query[1] is not None else 1
        remark = "" if target <= MAX_WIDTH else f"head width {max(width[0], depth[0])} is more than {MAX_WIDTH}"
        return _Form(len(query), width[0], depth[0], target if fits else 0, tuple(changes), remark, maps, heads)

    def _maps(self, core: Core, rank: int) -> tuple[ir.Value, ...]:
        """Return queries, keys and values channels first; nothing where one of them lies positions first."""
        found = (
            _channels_first(core.query, core.swapped, rank),
            _channels_first(core.key, not core.swapped, rank),
            _channels_first(core.value, not core.probabilities_first, rank),
        )
        maps = tuple(value for value in found if value is not None)
        return maps if len(maps) == len(found) and same_leading(self._facts, maps) else ()

    def _place(self, core: Core, emit: Emitter, form: _Form, result: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Emit the way from the new product to the value that it replaces; return both.

        A transpose right after the old product is done together with the new one's.
        """
        target = core.mix.outputs[0]
        transposed = not core.probabilities_first
        users = list(target.consumers())
        if len(users) == 1 and not target.is_graph_output() and _swaps_last(users[0], form.rank):
            target, transposed = users[0].outputs[0], not transposed
        if transposed:
            result = emit.transpose(result, 0, 1, 3, 2)
        if form.rank < _RANK:
            result = emit.squeeze(result, *([1] if form.rank == 3 else [0, 1]))
        return target, result


@dataclass(frozen=True)
class _Form:
    """What an attention is and shall be.

    `target` is the common width, 0 to leave widths alone; `maps` are queries, keys and values channels first, where
    they change their layout together.
    """

    rank: int
    width: int
    depth: int
    target: int
    changes: tuple[str, ...]
    remark: str
    maps: tuple[ir.Value, ...]
    heads: int


@dataclass(frozen=True)
class _Writer:
    """Emits one attention anew."""

    emit: Emitter
    facts: GraphFacts
    core: Core
    form: _Form

    def write(self) -> ir.Value:
        """Return the new `[B, heads, queries, depth]` product."""
        core, form, emit = self.core, self.form, self.emit
        if form.maps:
            widths = (form.width, form.width, form.depth)
            maps = [self._raise(value) for value in form.maps]
            query, key, value = exchange(emit, maps, widths, form.target, form.heads)
            key = emit.transpose(key, 0, 1, 3, 2)
        else:
            query = self._pad(self._operand(core.query, flip=core.swapped), form.width, -1)
            key = self._pad(self._operand(core.key, flip=core.swapped), form.width, -2)
            value = self._pad(self._operand(core.value, flip=not core.probabilities_first), form.depth, -1)
        scores = emit.matmul(query, key)
        scale = 1.0
        for op, operand in core.steps:
            number = _scalar(operand)
            if op in {"Mul", "Div"} and number:
                scale *= number if op == "Mul" else 1 / number
                continue
            scores, scale = self._scaled(scores, scale), 1.0
            scores = emit.op(op, scores, self._bias(operand))
        scores = self._scaled(scores, scale)
        result = emit.matmul(emit.op("Softmax", scores, axis=-1), value)
        if form.target > form.depth:
            result = emit.slice(result, 0, form.depth, axis=3)
        return result

    def _scaled(self, scores: ir.Value, scale: float) -> ir.Value:
        if math.isclose(scale, 1.0, rel_tol=1e-7):
            return scores
        dtype = np.dtype(np.float32) if self.core.query.dtype is None else self.core.query.dtype.numpy()
        return self.emit.mul(scores, np.array(scale, dtype))

    def _bias(self, value: ir.Value) -> ir.Value:
        """Return what is added to the scores so that it broadcasts against `[B, heads, queries, keys]`."""
        rank = len(self.facts.dims(value) or ())
        if rank == self.form.rank == 3:
            value, rank = self.emit.unsqueeze(value, 1), _RANK
        if not self.core.swapped or rank == 0:
            return value
        # keys were the rows: one number per column belongs to a query
        return self.emit.unsqueeze(value, 1) if rank == 1 else self.emit.transpose(value, *_swapped(rank))

    def _pad(self, value: ir.Value, size: int, axis: int) -> ir.Value:
        """Pad `axis` from `size` to the target with zeros."""
        missing = self.form.target - size
        if missing <= 0:
            return value
        pads = [0] * (2 * _RANK)
        pads[2 * _RANK + axis] = missing
        return self.emit.op("Pad", value, np.array(pads, np.int64))

    def _operand(self, value: ir.Value, *, flip: bool) -> ir.Value:
        """Return an operand at rank 4, its last two axes exchanged if `flip`."""
        source = value
        node = source.producer()
        if node is not None and _swaps_last(node, self.form.rank) and node.inputs[0] is not None:
            source, flip = node.inputs[0], not flip
        raised = self._raise(source)
        return self.emit.transpose(raised, 0, 1, 3, 2) if flip else raised

    def _raise(self, value: ir.Value) -> ir.Value:
        """Return `value` at rank 4; a view of a map is taken of the map itself, because only that is fused."""
        if self.form.rank == _RANK:
            return value
        dims = self.facts.dims(value) or []
        node = value.producer()
        source = node.inputs[0] if node is not None and node.op_type in {"Reshape", "Flatten"} else None
        target = _view(self.facts.dims(source), dims) if source is not None and self.form.rank == 3 else None
        if source is not None and target is not None:
            return self.emit.reshape(source, *target)
        return self.emit.unsqueeze(value, *([1] if self.form.rank == 3 else [0, 1]))


def _view(before: Sequence[Vec | None] | None, dims: Sequence[Vec | None]) -> list[int] | None:
    """Return the target of a Reshape to `[dims[0], 1, dims[1], dims[2]]`, None where it needs more than one -1."""
    if not before or before[0] is None or before[0] != dims[0]:
        return None
    rest = [dim[0] if dim is not None and len(set(dim)) == 1 else -1 for dim in dims[1:]]
    return [0, 1, *rest] if rest.count(-1) <= 1 else None


def _channels_first(value: ir.Value, is_so: bool, rank: int) -> ir.Value | None:
    """Return an operand as `[.., width, positions]` without a new transpose, None where it needs one."""
    if is_so:
        return value
    node = value.producer()
    return node.inputs[0] if node is not None and _swaps_last(node, rank) else None


def _scalar(value: ir.Value) -> float | None:
    tensor = value.const_value
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _swapped(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


def _swaps_last(node: ir.Node, rank: int) -> bool:
    perm = list(node.attributes.get_ints("perm", ()))
    return node.op_type == "Transpose" and perm == _swapped(rank)
