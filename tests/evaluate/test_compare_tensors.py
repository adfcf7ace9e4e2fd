"""The first diverging block: found where a fault was put, and nowhere where there is only rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from blocks_model import BLOCKS, change_weight, images, make_blocks, quantised, renamed, without_activation
from onnx.reference import ReferenceEvaluator

from trtdeploy.backends.half_arithmetic import round_half
from trtdeploy.evaluate.compare_blocks import blocks_of
from trtdeploy.evaluate.compare_errors import ErrorSums, Format, Limit, TensorReport
from trtdeploy.evaluate.compare_match import match_tensors
from trtdeploy.evaluate.compare_tensors import TensorComparison
from trtdeploy.graph.precision.fp16 import ToFp16


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return make_blocks()


@pytest.fixture(scope="module")
def half(model: ir.Model) -> ir.Model:
    """The model in FP16, every tensor rounded."""
    return in_half(model)


def in_half(model: ir.Model) -> ir.Model:
    return round_half(ToFp16().run(model.clone()).model)


def compared(a: ir.Model, b: ir.Model, format: Format) -> TensorReport:
    return TensorComparison(a.clone(), b.clone(), Limit.of(format), lambda _name: None).run(images())


def one_filter(weight: np.ndarray) -> np.ndarray:
    weight[3] *= 1.5
    return weight


def overflowing(weight: np.ndarray) -> np.ndarray:
    return weight * 2e5


def diverging(report: TensorReport) -> list[str]:
    return [block.name for block in report.diverging]


@pytest.mark.parametrize("kind", ["FP16", "FP32"])
def test_the_same_network_diverges_nowhere(model: ir.Model, half: ir.Model, kind: str) -> None:
    report = compared(model, half, "fp16") if kind == "FP16" else compared(model, model, "fp32")
    assert report.first is None
    assert report.verdict.startswith("no block diverges: ")
    assert [block.name for block in report.blocks] == ["input", *(f"model.{i}" for i in range(BLOCKS))]
    assert set(report.unpaired) <= {"images_f"}, "the pass casts the input to FP16 at once"
    if kind == "FP16":
        errors = [block.last.accumulated.sqnr_db for block in report.blocks if block.last is not None]
        assert errors[-1] < errors[1], "rounding accumulates"
        assert min(t.local.sqnr_db for t in report.tensors if t.local is not None) > 55, "far from the limit"


@pytest.mark.parametrize("kind", ["FP16", "FP32"])
def test_a_wrong_weight_is_found_in_its_block_alone(model: ir.Model, kind: str) -> None:
    wrong = change_weight(model, 7, one_filter)
    report = compared(model, in_half(wrong), "fp16") if kind == "FP16" else compared(model, wrong, "fp32")
    assert report.first == "model.7"
    assert diverging(report) == ["model.7"], "later blocks compute what they should"
    assert "/model.7/conv/Conv_output_0" in report.verdict
    last = report.blocks[-1].last
    assert last is not None
    assert last.accumulated.sqnr_db < 40, "though their accumulated error is beyond any rounding"


@pytest.mark.parametrize("keep_name", [True, False], ids=["its tensor keeps the name", "its tensor is gone"])
@pytest.mark.parametrize("block", [4, 5], ids=["in a chain", "before a residual Add"])
def test_a_missing_activation_is_found_in_its_block(model: ir.Model, block: int, *, keep_name: bool) -> None:
    report = compared(model, in_half(without_activation(model, block, keep_name=keep_name)), "fp16")
    assert report.first == f"model.{block}"
    assert diverging(report) == [f"model.{block}"]
    if not keep_name:
        assert f"only in A: /model.{block}/act/Sigmoid, /model.{block}/act/Mul" in report.verdict


def test_an_overflow_of_fp16_is_found_in_its_block(model: ir.Model) -> None:
    large = change_weight(model, 5, overflowing)
    report = compared(large, in_half(large), "fp16")
    assert report.first == "model.5"
    assert "elements are NaN or infinite on one side only" in report.verdict
    assert report.to_dict()["blocks"][6]["accumulated"]["sqnr_db"] is None


def test_quantisation_to_int8_diverges_nowhere_and_a_fault_in_it_does(model: ir.Model) -> None:
    report = compared(model, quantised(model), "int8")
    assert report.first is None
    worst = min(t.local.sqnr_db for t in report.tensors if t.local is not None)
    assert 15 < worst < 45, "8 bits are seen"
    assert compared(model, quantised(change_weight(model, 3, lambda w: -w)), "int8").first == "model.3"


def test_a_network_without_any_of_the_names_is_matched_by_its_structure(model: ir.Model) -> None:
    report = compared(model, renamed(change_weight(model, 7, one_filter)), "fp32")
    assert {tensor.how for tensor in report.tensors} == {"structure", "output"}
    assert report.unpaired == ("images_f",), "casts are left aside"
    assert (report.first, diverging(report)) == ("model.7", ["model.7"])


def test_another_network_diverges_from_the_first_block_on(model: ir.Model) -> None:
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["f"], to=1),
        onnx.helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        onnx.helper.make_node("Concat", ["t", "t", "t"], ["nine"], axis=1),
        onnx.helper.make_node("Slice", ["nine", "zero", "eight", "one"], ["out"]),
    ]
    weights = [onnx.numpy_helper.from_array(np.array([v]), n) for n, v in (("zero", 0), ("eight", 8), ("one", 1))]
    shapes = (("images", 2, [1, 16, 16, 3]), ("out", 1, [1, 8, 16, 16]))
    first, last = ([onnx.helper.make_tensor_value_info(*shape)] for shape in shapes)
    graph = onnx.helper.make_graph(nodes, "g", first, last, weights)
    other = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9))
    report = compared(model, other, "fp32")
    assert [(tensor.how, tensor.diverges) for tensor in report.tensors] == [("output", True)]
    assert report.first == "input"


def test_a_tensor_that_only_shares_a_name_does_not_diverge(model: ir.Model) -> None:
    """As names made up by a pass do: B computes the same, and calls a sigmoid what A calls a product."""
    other = model.clone()
    values = {value.name: value for node in other.graph for value in node.outputs}
    gate, out = values["/model.4/act/Sigmoid_output_0"], values["/model.4/act/Mul_output_0"]
    gate.name, out.name = "/model.4/act/Mul_output_0", "/model.4/act/Sigmoid_output_0"
    report = compared(model, other, "fp32")
    assert report.first is None
    assert set(report.unpaired) == {gate.name, out.name}


def test_a_tensor_of_another_shape_from_which_something_else_is_computed_diverges(model: ir.Model) -> None:
    other = model.clone()
    pooled = next(node for node in other.graph if node.name == "/model.9/act/Mul")
    pool = ir.node("MaxPool", [pooled.outputs[0]], {"kernel_shape": [2, 2], "strides": [2, 2]}, name="/model.9/Pool")
    pooled.outputs[0].name, pool.outputs[0].name = "raw", "/model.9/act/Mul_output_0"
    other.graph.append(pool)
    other.graph.outputs[:] = [pool.outputs[0]]
    report = compared(model, other, "fp32")
    assert report.first == "model.9"
    assert "its shape is [1, 8, 8, 8] in B and [1, 8, 16, 16] in A" in report.verdict


def test_little_memory_gives_the_same_figures(model: ir.Model, half: ir.Model) -> None:
    steps: list[str] = []
    parts = TensorComparison(model.clone(), half.clone(), Limit.of("fp16"), steps.append, 60_000).run(images())
    assert sum("tensors of A and B" in step for step in steps) > 4
    assert compared(model, half, "fp16").to_dict() == parts.to_dict()


def test_the_local_error_is_that_of_one_operator_on_the_references_own_input(model: ir.Model) -> None:
    """Computed once more with the reference implementation of onnx: FP32 up to the block, then its operators in B."""
    wrong = change_weight(model, 7, one_filter)
    report = compared(model, wrong, "fp32")
    found = next(tensor for tensor in report.tensors if tensor.name == "/model.7/conv/Conv_output_0")
    before, after = "/model.6/act/Mul_output_0", "/model.7/conv/Conv_output_0"
    proto = ir.to_proto(model)
    proto.graph.output.extend([onnx.helper.make_tensor_value_info(n, 1, None) for n in (before, after)])
    whole = ReferenceEvaluator(proto)
    names = [before, "model.7.weight", "model.7.bias"]
    node = onnx.helper.make_node("Conv", names, ["out"], pads=[1, 1, 1, 1])
    infos = [onnx.helper.make_tensor_value_info(name, 1, None) for name in (*names, "out")]
    conv = ReferenceEvaluator(onnx.helper.make_model(onnx.helper.make_graph([node], "g", infos[:3], infos[3:])))
    weights = {name: wrong.graph.initializers[name].const_value.numpy() for name in names[1:]}  # type: ignore[union-attr]
    noise = signal = 0.0
    for batch in images():
        given, expected = whole.run([before, after], {"images": batch})
        (got,) = conv.run(None, {before: given, **weights})
        noise += float(((got - expected).astype(np.float64) ** 2).sum())
        signal += float((expected.astype(np.float64) ** 2).sum())
    assert found.local is not None
    assert found.local.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)


def test_what_is_behind_a_selection_is_not_judged() -> None:
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["f"], name="/input/Cast", to=1),
        onnx.helper.make_node("Reshape", ["f", "flat"], ["row"], name="/head/Reshape"),
        onnx.helper.make_node("TopK", ["row", "k"], ["best", "which"], name="/head/TopK"),
        onnx.helper.make_node("Sqrt", ["best"], ["out"], name="/head/Sqrt"),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.array([1, -1]), "flat"),
        onnx.numpy_helper.from_array(np.array([5]), "k"),
    ]
    shapes = (("images", 2, [1, 16, 16, 3]), ("out", 1, [1, 5]))
    first, last = ([onnx.helper.make_tensor_value_info(*shape)] for shape in shapes)
    graph = onnx.helper.make_graph(nodes, "g", first, last, weights)
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9))
    tensors = {tensor.name: tensor for tensor in compared(model, model, "fp32").tensors}
    assert tensors["best"].local is None
    assert tensors["best"].unjudged == "behind TopK, which rounding may decide"
    assert tensors["out"].local is not None, "it is computed from A's own selection"


@pytest.mark.parametrize(
    ("b", "wanted"),
    [
        ([3.0, 4.0], (200.0, 1.0, 0.0, 0)),
        ([3.3, 4.0], (20 * np.log10(5 / 0.3), 25.9 / (5 * np.hypot(3.3, 4)), 0.3, 0)),
        ([np.inf, 4.0], (-np.inf, 1.0, 0.0, 1)),
        ([np.nan, 4.0], (-np.inf, 1.0, 0.0, 1)),
    ],
    ids=["equal", "apart", "infinite", "NaN"],
)
def test_errors_have_their_textbook_values(b: list[float], wanted: tuple[float, float, float, int]) -> None:
    sums = ErrorSums()
    sums.add(np.array([3.0, 4.0]), np.array(b))
    got = (sums.sqnr_db, sums.cosine, sums.max_abs, sums.broken)
    assert got == pytest.approx(wanted)


def test_equal_infinities_are_no_difference() -> None:
    sums = ErrorSums()
    sums.add(np.array([np.inf, -np.inf, np.nan, 1.0]), np.array([np.inf, -np.inf, np.nan, 1.0]))
    assert (sums.broken, sums.sqnr_db) == (0, 200.0)


@pytest.mark.parametrize(
    ("format", "noise_db", "exceeded"),
    [("fp32", 61, False), ("fp32", 59, True), ("fp16", 41, False), ("fp16", 39, True), ("int8", 9, True)],
    ids=str,
)
def test_a_limit_is_exceeded_just_below_it(format: Format, noise_db: float, *, exceeded: bool) -> None:
    sums = ErrorSums()
    sums.add(np.ones(100), np.ones(100) + 10 ** (-noise_db / 20))
    assert bool(Limit.of(format).exceeded(sums)) is exceeded


def test_subnormal_numbers_of_fp16_are_no_divergence() -> None:
    scores = np.full(100, 2.4e-8, np.float32)
    sums = ErrorSums()
    sums.add(scores, scores.astype(np.float16))
    assert sums.sqnr_db < 1
    assert Limit.of("fp16").exceeded(sums) == ""
    assert Limit.of("fp32").exceeded(sums)


def _nodes(names: list[str]) -> list[ir.Node]:
    return [ir.node("Relu", [ir.Value(name="x")], name=name) for name in names]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (lambda i: f"/model.{i}/conv/Conv", [f"model.{i}" for i in range(9)]),
        (lambda i: f"/net/model.{i}/conv/Conv", [f"net/model.{i}" for i in range(9)]),
        (lambda i: "/Add" if i == 4 else f"/m.{i}/c/C", [f"m.{i}" if i != 4 else "after m.3" for i in range(9)]),
        (lambda i: f"n{i}", [f"n{i} to n{i}" for i in range(9)]),
    ],
    ids=["modules", "modules inside another", "outside of modules", "no modules"],
)
def test_blocks_are_modules(name: Callable[[int], str], wanted: list[str]) -> None:
    nodes = _nodes([name(i) for i in range(9)])
    assert list(blocks_of(nodes).values()) == wanted


def test_tensors_are_matched_by_name_then_by_node(model: ir.Model) -> None:
    other = model.clone()
    next(node for node in other.graph if node.name == "/model.2/conv/Conv").outputs[0].name = "conv2"
    pairs = {pair.a: pair for pair in match_tensors(model, other)}
    assert (pairs["/model.2/conv/Conv_output_0"].b, pairs["/model.2/conv/Conv_output_0"].how) == ("conv2", "node")
    assert {pair.how for name, pair in pairs.items() if "model.2/conv" not in name} == {"name"}
