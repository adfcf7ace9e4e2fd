"""CANONICALISE: attention in the form that NVIDIA's builder fuses, with the same results; channels without copies."""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from canonicalise_models import CHANNELS, Attention, Branches, export, gap
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.backends.rtx_probe import BuildFacts, probe_build
from trtdeploy.core.types import PassReport
from trtdeploy.graph.canonicalise import ArrangeChannels, Canonicalise
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.prepare import Prepare

TOLERANCE = 1e-5
SHAPES = [(1, 5, 7), (3, 9, 4), (8, 1, 3)]
WIDTHS = [(8, 24), (16, 16), (32, 24), (5, 3)]


def prepared(model: onnx.ModelProto) -> ir.Model:
    return Prepare(verify=False).run(ir.from_proto(model)).model


def run(model: onnx.ModelProto, graph_pass: Any = None) -> tuple[onnx.ModelProto, PassReport]:
    result = (graph_pass or Canonicalise()).run(prepared(model))
    proto = ir.to_proto(result.model)
    onnx.checker.check_model(proto)
    return proto, result.report


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def canonical(model: onnx.ModelProto) -> bool:
    """Return whether every softmax is the last-axis one of `softmax(Q K) V`, with operands of rank 4."""
    shapes = onnx.shape_inference.infer_shapes(model, data_prop=True)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in shapes.graph.value_info}
    found = [node for node in model.graph.node if node.op_type == "Softmax"]
    for node in found:
        users = [user for user in model.graph.node if node.output[0] in user.input]
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
        if [u.op_type for u in users] != ["MatMul"] or users[0].input[0] != node.output[0] or axis not in {-1, 3}:
            return False
        if ranks.get(node.output[0]) != 4:
            return False
    return bool(found)


@pytest.mark.parametrize("joined", [False, True], ids=["own-layers", "joined-layer"])
@pytest.mark.parametrize(("width", "depth"), WIDTHS, ids=str)
@pytest.mark.parametrize("heads", [0, 1, 3], ids=lambda n: f"heads-{n}")
@pytest.mark.parametrize("order", ["PV", "VP", "columns"])
def test_attention_keeps_its_result(order: str, heads: int, width: int, depth: int, joined: bool) -> None:
    before = export(Attention(order, heads, width, depth, joined=joined))
    after, report = run(before)
    assert canonical(after)
    assert len(report.details["attention"]) == 1
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) <= TOLERANCE


@pytest.mark.parametrize("bias", ["none", "keys", "number"])
@pytest.mark.parametrize("scale", ["none", "mul", "div", "shape"])
@pytest.mark.parametrize("order", ["VP", "columns"])
@pytest.mark.parametrize("heads", [0, 2], ids=lambda n: f"heads-{n}")
def test_scale_and_bias_stay(scale: str, bias: str, order: str, heads: int) -> None:
    before = export(Attention(order, heads, scale=scale, bias=bias))
    after, _ = run(before)
    assert canonical(after)
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) <= TOLERANCE


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("order", ["PV", "VP"])
def test_every_opset(order: str, opset: int) -> None:
    before = export(Attention(order, 2), opset=opset)
    after, _ = run(before)
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) <= TOLERANCE


@pytest.mark.parametrize("order", ["PV", "VP", "columns"])
def test_the_other_exporter(order: str) -> None:
    before = export(Attention(order, 2), dynamo=True)
    after, _ = run(before)
    assert canonical(after)
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) <= TOLERANCE


def test_comparing_finds_a_wrong_scale() -> None:
    """The tolerance means something: 1 % more scale is seen."""
    before = export(Attention("VP", 1))
    after, _ = run(before)
    for tensor in after.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size == 1 and array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(1.01), tensor.name))
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) > 10 * TOLERANCE


def test_queries_keys_and_values_change_layout_together() -> None:
    after, report = run(export(Attention("VP", 1, 8, 24)))
    assert operators(after)["Transpose"] == 3  # all three, keys for the product, and the way back
    assert operators(after)["Pad"] == 2  # values are the widest
    assert report.details["attention"][0]["changes"] == [
        "P @ V order", "widths 8 and 24 padded to 24", "one layout change"
    ]  # fmt: skip


def test_operands_that_lie_positions_first_are_padded_one_by_one() -> None:
    before = export(Attention("PV", 2, tokens=True))
    after, report = run(before)
    assert "one layout change" not in report.details["attention"][0]["changes"]
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) <= TOLERANCE


def test_nothing_is_padded_for_a_cpu() -> None:
    before = export(Attention("VP", 1))
    after, report = run(before, Canonicalise(pad=False))
    assert "Pad" not in operators(after)
    assert "one layout change" not in report.details["attention"][0]["changes"]
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) <= TOLERANCE


def test_attention_in_the_right_form_is_left_alone() -> None:
    first, _ = run(export(Attention("VP", 2)))
    second, report = run(first)
    assert not [change for change in report.changes if change.startswith("attention")]
    assert operators(second)["Pad"] == operators(first)["Pad"]


def test_a_scale_computed_from_a_shape_becomes_constant() -> None:
    before = export(Attention("PV", 1, 16, 16, scale="shape"), dynamo=False)
    after, _ = run(before)
    assert "Pow" not in operators(after)


def test_probabilities_used_elsewhere_are_left_alone() -> None:
    before = export(Attention("VP", 1))
    softmax = next(node for node in before.graph.node if node.op_type == "Softmax")
    before.graph.output.append(helper.make_tensor_value_info(softmax.output[0], TensorProto.FLOAT, None))
    after, report = run(before)
    assert any("its scores or probabilities are also used elsewhere" in refusal for refusal in report.refusals)
    assert operators(after)["Pad"] == 0
    assert max(gap(before, after, CHANNELS, shape) for shape in SHAPES) <= TOLERANCE


def test_a_view_with_allowzero_is_aimed_anew() -> None:
    """A target of 0 means "as before" only without the attribute."""
    target = [numpy_helper.from_array(np.array(t, np.int64), n) for n, t in (("t1", [-1, 2, 6]), ("t2", [-1, 3, 4]))]
    nodes = [
        helper.make_node("Reshape", ["x", "t1"], ["a"]),
        helper.make_node("Reshape", ["a", "t2"], ["c"], allowzero=1),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 12, 1, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], target), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    after, _ = run(model)
    assert gap(model, after, 12, (3, 1, 1)) == 0


@pytest.mark.parametrize("activation", ["silu", "relu", "none"])
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_branches_get_convolutions_of_their_own(activation: str, dynamo: bool) -> None:
    before = export(Branches(activation), 3, dynamo=dynamo)
    plain = operators(run(before)[0])
    after, report = run(before, ArrangeChannels())
    assert len(report.changes) == 1
    assert "split into one for each way" in report.changes[0]
    assert operators(after)["Conv"] == plain["Conv"] + 1
    assert not {"Split", "Slice"} & set(operators(after))
    assert max(gap(before, after, 3, shape) for shape in [(1, 20, 28), (3, 36, 16)]) <= TOLERANCE


@pytest.mark.parametrize("module", [Branches(shared=True), Branches(groups=2)], ids=["used-whole", "grouped"])
def test_a_convolution_that_cannot_be_split_stays(module: Branches) -> None:
    before = export(module, 3)
    after, _ = run(before, ArrangeChannels())
    assert operators(after)["Conv"] == operators(before)["Conv"]
    concat = next(node for node in after.graph.node if node.op_type == "Concat" and "join" not in node.name)
    assert len(concat.input) == (3 if module.shared else 2)  # both halves are read in one piece
    assert max(gap(before, after, 3, shape) for shape in [(1, 20, 28), (3, 36, 16)]) <= TOLERANCE


needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
)


def built(model: onnx.ModelProto, channels: int, *passes: Any) -> BuildFacts:
    """Return what the builder makes of the model in FP16, after `passes`."""
    graph = prepared(model)
    for graph_pass in (*passes, ToFp16()):
        graph = graph_pass.run(graph).model
    name = model.graph.input[0].name
    shapes = {name: ((1, channels, 16, 16), (4, channels, 32, 32), (8, channels, 64, 64))}
    return probe_build(ir.to_proto(graph).SerializeToString(), shapes)


@needs_builder
@pytest.mark.parametrize("order", ["PV", "VP", "columns"])
@pytest.mark.parametrize("heads", [0, 2], ids=lambda n: f"heads-{n}")
def test_the_builder_makes_one_kernel_of_attention_and_one_of_its_layout(order: str, heads: int) -> None:
    facts = built(export(Attention(order, heads, 8, 24)), CHANNELS, Canonicalise())
    assert facts.mha == 1
    layout = [k for k in facts.kernel_list if k.kind == "kgen" and "Tran" in k.tactic]
    assert len(layout) == 2  # one before, one after


@needs_builder
def test_the_builder_does_not_fuse_attention_as_written() -> None:
    facts = built(export(Attention("VP", 0, 8, 24)), CHANNELS)
    assert facts.mha == 0


@needs_builder
def test_the_builder_copies_nothing_for_branches() -> None:
    model = export(Branches(), 3)
    plain, arranged = built(model, 3), built(model, 3, ArrangeChannels())
    slices = [sum("Slic" in kernel.tactic for kernel in facts.kernel_list) for facts in (plain, arranged)]
    assert slices[0] >= 2  # one for the inner convolution, one in the concatenation
    assert slices[1] == 0
    assert arranged.launches <= plain.launches
