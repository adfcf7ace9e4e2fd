"""The pass that makes a model FP16 or BF16, with islands of FP32 where that would change the detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import PassResult
from trtdeploy.graph.precision.element_types import ElementTypes, FunctionId, is_onnx, nested_nodes
from trtdeploy.graph.precision.formats import BF16, FORMATS, FP16, Format
from trtdeploy.graph.precision.int8.opset import raise_opset
from trtdeploy.graph.precision.int8.requantised import drop_requantised
from trtdeploy.graph.precision.islands import IslandFinder, unfit_parameters
from trtdeploy.graph.precision.measured import Ranges, Unfit, missing_ranges, separate_calls, unfit
from trtdeploy.graph.precision.named import check_patterns, is_named
from trtdeploy.graph.precision.own_functions import give_own_functions
from trtdeploy.graph.precision.regions import decoding
from trtdeploy.graph.precision.rewrite import Islands, Rewriter
from trtdeploy.graph.precision.scores import Feeds, large_scores

MIN_OPSET = 13
"""Oldest opset whose operators take FP16 throughout."""
MIN_BF16_OPSET = 22
"""Oldest opset whose convolutions and poolings take BF16."""


class ToFp16:
    """Makes tensors FP16 or BF16, with islands of FP32.

    Inputs and outputs keep their types; casts stand where two types meet, one per tensor. FP32 remain:

    - the decoding and selection of boxes behind the last learned layers, and sampling coordinates
      (`regions.decoding`);
    - sums and means over more than 32 elements, normalisations, squares before a sum, and what is computed of them
      until it is in range again (`islands.IslandFinder`);
    - a softmax over more than 4096 keys or an open number of them; a shorter one is FP16: its maximum is subtracted, so
      that it cannot overflow. The casts do not keep TensorRT from fusing attention;
    - a softmax with the product before it, where the model's own scores, measured in ONNX Runtime, come within a factor
      of four of FP16's end (`scores.large_scores`): an infinite score would make its row NaN;
    - exponentials and powers without a bound, sizes of Resize, loops, quantised layers, and operators that have no
      FP16 form;
    - nodes with a constant that overflows or vanishes in FP16. Masks and bounds are clipped instead;
    - nodes that write or read a tensor whose range, measured on real images, comes within a factor of four of FP16's
      end or lies wholly among its subnormals (`measured.unfit`).

    BF16 has FP32's range and three digits less than FP16: nothing overflows, so that scores and measured ranges keep
    nothing in FP32; sums of more than four elements and numbers that are computed of integers do, and operators that
    have no BF16 form. The model gets opset 22, the first whose convolutions have one, unless an operator changed.

    Bodies of model-local functions become FP16 with all their callers; a call whose measured ranges need other islands
    gets a function of its own. ONNX Runtime on a CPU computes FP16 graphs in FP32; only half arithmetic, on a device or
    emulated, shows their rounding.

    Args:
        keep: Patterns of names of nodes that stay FP32, `*` for any text. Default: none.
        samples: Inputs with which scores are measured where `ranges` are not given. Default: random ones.
        ranges: Largest magnitudes of the tensors `tensors_to_measure` names, on real images: the very largest, not
            those that a calibration method for INT8 clips. Default: no node is an island for what was measured.
        element_type: FLOAT16 or BFLOAT16.
    """

    stage = "PRECISION"

    def __init__(
        self,
        keep: Collection[str] = (),
        samples: Sequence[Feeds] = (),
        ranges: Ranges | None = None,
        element_type: ir.DataType = ir.DataType.FLOAT16,
    ) -> None:
        self._keep = tuple(keep)
        self._samples = tuple(samples)
        self._ranges = ranges
        self._target = FORMATS[element_type]
        self.name = self._target.pass_name

    def run(self, model: ir.Model) -> PassResult:
        """Run the pass.

        Raises:
            ModelError: The model's opset is older than 13, or a pattern of `keep` names no node.
        """
        opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))
        if opset < MIN_OPSET:
            raise ModelError(
                f"The model has opset {opset}, whose operators do not all take FP16. Expected {MIN_OPSET} or newer: "
                "export it again with a newer opset."
            )
        check_patterns(model, self._keep)
        model = model.clone()
        obstacle = raise_opset(model, MIN_BF16_OPSET) if self._target is BF16 else ""
        unmeasured = "" if self._ranges is None else missing_ranges(model, self._ranges)
        give_own_functions(model, [node for node in model.graph if is_named(node, self._keep)])
        if _lacks_shapes(model):
            common.ShapeInferencePass()(model)  # the lengths of softmaxes, sums and outputs decide
        types = ElementTypes(model)
        measured: Unfit = set()
        large: set[ir.Node] = set()
        if self._ranges is not None:
            ranges = separate_calls(model, types, self._ranges, self._target)
            types = ElementTypes(model)
            measured = unfit(model, types, ranges, self._target)
        elif self._target is FP16:
            large, unmeasured = large_scores(model, self._samples)
        kept = _kept_functions(model, types)
        single = unfit_parameters(model, types, self._target)

        def islands(graph: ir.Graph | ir.Function, opsets: Mapping[str, int]) -> Islands:
            found = IslandFinder(graph, types, opsets, self._target, single, measured).find()
            found |= {node: "scores" for node in graph if node in large}
            return found | self._named_islands(graph, types, tail=graph is model.graph)

        rewriter = Rewriter(types, islands, kept, single | measured, self._target)
        rewriter.model(model)
        drop_requantised(model)
        common.RemoveUnusedNodesPass()(model)
        renamed = _take_names(model, self._target)
        notes = [unmeasured, f"the opset stays {opset}: {obstacle}" if obstacle else ""]
        return PassResult(model, rewriter.counts["lowered"] > 0, self._report(rewriter, kept, renamed, notes))

    def _named_islands(self, graph: ir.Graph | ir.Function, types: ElementTypes, tail: bool) -> dict[ir.Node, str]:
        """Return the islands of coordinates, and those that the user named."""
        islands = dict.fromkeys(decoding(graph, types, tail), "coordinates and selection")
        if self._keep:
            islands.update(dict.fromkeys((node for node in graph if is_named(node, self._keep)), "asked for"))
        return islands

    def _report(self, rewriter: Rewriter, kept: set[FunctionId], halved: int, notes: Sequence[str]) -> PassReport:
        counts = rewriter.counts
        changes = []
        if counts["lowered"]:
            changes.append(
                f"{counts['lowered']} nodes in {self._target.name}, {counts['fp32']} in FP32, {counts['casts']} casts"
            )
            changes += [f"FP32 {reason}: {count} nodes" for reason, count in rewriter.islands.most_common()]
        if counts["clipped"]:
            changes.append(f"{counts['clipped']} masks and bounds clipped to the range of {self._target.name}")
        refusals = [
            f"function {domain}::{name}: stays FP32, it is called in a loop or with different types"
            for domain, name, _ in sorted(kept)
        ]
        refusals += [note for note in notes if note]
        details = {self.name: counts["lowered"]}
        details |= {key: counts[key] for key in ("fp32", "casts", "constants", "clipped")}
        return PassReport(
            name=self.name,
            stage=self.stage,
            changes=tuple(changes),
            refusals=tuple(refusals),
            details={**details, "weights_halved": halved, "islands": dict(rewriter.islands)},
        )


def _lacks_shapes(model: ir.Model) -> bool:
    """Return whether shapes should be inferred. Not around sequences, which the library declares tensors."""
    if any("Sequence" in node.op_type for node in model.graph):
        return False
    return any(value.shape is None for node in model.graph for value in node.outputs)


def _kept_functions(model: ir.Model, types: ElementTypes) -> set[FunctionId]:
    """Return the functions whose bodies cannot become FP16: those called in loops, or with different types.

    So are the functions that these call.
    """
    waiting = list(types.kept)
    for graph in _graphs(model):
        for node in graph.all_nodes():
            if is_onnx(node, "Loop", "Scan", "SequenceMap"):
                waiting += [n.op_identifier() for n in nested_nodes(node) if types.function(n) is not None]
    kept: set[FunctionId] = set()
    while waiting:
        identifier = waiting.pop()
        if identifier not in kept:
            kept.add(identifier)
            body = model.functions[identifier]
            waiting += [n.op_identifier() for n in body.all_nodes() if types.function(n) is not None]
    return kept


def _graphs(model: ir.Model) -> list[ir.Graph | ir.Function]:
    """Return the main graph and the bodies of the functions."""
    return [model.graph, *model.functions.values()]


def _take_names(model: ir.Model, target: Format) -> int:
    """Give lowered weights the names of the FP32 ones that nobody reads any more; return their number."""
    taken = Counter(value.name for graph in model.graphs() for node in graph for value in node.outputs)
    halved = 0
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            name = (value.name or "").removesuffix(target.suffix)
            if value.dtype == target.element_type and name != value.name:
                halved += 1
                if name not in graph.initializers and not taken[name]:
                    value.name = name
                    if value.const_value is not None:
                        value.const_value.name = name
    return halved
