"""Models that arrive quantised: every pass leaves their Q/DQ and their numbers alone, and refusals say what to do."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from qat_models import (
    INPUT,
    REFUSED,
    STYLES,
    Style,
    boards,
    counts,
    dequantised_weights,
    exactly,
    fp8,
    images,
    network,
    planes,
    quantised_demo,
)

from trtdeploy import BuildOptions, build
from trtdeploy import open as open_engine
from trtdeploy.api.gate_options import GateOptions
from trtdeploy.api.optimize import OptimizeOptions, optimize
from trtdeploy.backends.rtx_probe import BuildFacts, probe_build
from trtdeploy.core.errors import ModelError
from trtdeploy.core.types import BatchRange, PassReport, Size, SizeRange
from trtdeploy.graph.head import AppendHead, NmsOptions
from trtdeploy.graph.load import load_model
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.quantised import quantised_facts
from trtdeploy.graph.quantised_form import QuantisedForm
from trtdeploy.graph.shapes import SetShapes
from trtdeploy.graph.surgery import operate

ATTENTION = ("out3.1", "out4.1", "out5.1", "stage5.3")
"""Coordinate attention of the demo model, by its names."""
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with quantised convolutions, but for its attention and its last layers."""
    return quantised_demo(tmp_path_factory.mktemp("qat") / "boards.onnx", leave=(*ATTENTION, "_out"))


@pytest.fixture(scope="session")
def prepared(demo: Path) -> ir.Model:
    """The same after PREPARE; clone it."""
    return Prepare().run(load_model(demo).model).model


def loaded(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return load_model(path).model


def through_all_passes(model: ir.Model) -> tuple[ir.Model, list[PassReport]]:
    """Return the model after PREPARE, the quantised form, SHAPES and attention surgery as GPUs get it."""
    passes = [Prepare(), QuantisedForm(), SetShapes(SizeRange.fixed(Size(64, 64)), BatchRange(1, 2, 4))]
    reports = []
    for graph_pass in passes:
        result = graph_pass.run(model)
        model = result.model
        reports.append(result.report)
    model, more = operate(model, pad=True)
    return model, [*reports, *more]


def built(model: ir.Model | onnx.ModelProto, shape: tuple[int, ...], target: str = "SM86") -> BuildFacts:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return probe_build(proto.SerializeToString(), {INPUT: (shape,) * 3}, targets=(target,))


def int8_kernels(facts: BuildFacts) -> int:
    return sum(kernel.kind == "correlation" and "Int8" in kernel.inputs for kernel in facts.kernel_list)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())
class TestEveryToolsModel:
    def test_passes_keep_its_numbers_and_its_layers_quantised(self, style: Style, tmp_path: Path) -> None:
        proto = network(style)
        model = loaded(proto, tmp_path)
        before = counts(model)

        result, reports = through_all_passes(model)

        feeds = images(style, size=64)
        expected, got = exactly(proto, feeds)["features"], exactly(result, feeds)["features"]
        np.testing.assert_allclose(got, expected, atol=1e-5 if style.scale is np.float32 else 2e-2)
        assert "undone" not in str(reports)
        after = counts(result)
        biases = 5 if style.bias == "int32" else 0
        assert (after["Q"], after["DQ"]) == (before["Q"], before["DQ"] - biases)
        assert after["weights"] == before["weights"]
        assert not list(dequantised_weights(result))
        facts = quantised_facts(result)
        assert facts is not None
        assert (facts.layers, facts.float_layers, facts.types) == (5, 0, ("int8",))
        assert facts.per_channel
        assert facts.symmetric

    def test_its_attention_is_reported_and_left_alone(self, style: Style, tmp_path: Path) -> None:
        result, reports = through_all_passes(loaded(network(style), tmp_path))
        text = "\n".join(line for report in reports for line in report.refusals)
        left = "squeeze and excitation at se left alone: Q/DQ nodes stand inside; left out of quantisation, it is fused"
        assert left in text
        assert not result.functions

    def test_attention_left_out_of_quantisation_is_fused(self, style: Style, tmp_path: Path) -> None:
        proto = network(style, attention=False)
        result, _ = through_all_passes(loaded(proto, tmp_path))
        assert "TrtdeploySE" in {function.name for function in result.functions.values()}
        feeds = images(style, size=64)
        expected, got = exactly(proto, feeds)["features"], exactly(result, feeds)["features"]
        np.testing.assert_allclose(got, expected, atol=1e-5 if style.scale is np.float32 else 2e-2)

    @needs_rtx
    def test_the_real_builder_computes_its_layers_in_int8(self, style: Style, tmp_path: Path) -> None:
        result, _ = through_all_passes(loaded(network(style), tmp_path))
        facts = built(result, (2, 3, 64, 64))
        assert facts.refused == ()
        assert int8_kernels(facts) == 5


@needs_rtx
@pytest.mark.parametrize("name", ["modelopt 0.47, torch INT8", "ONNX Runtime 1.32, int8 with int32 biases"])
def test_the_real_builder_takes_the_rest_in_fp16(name: str, tmp_path: Path) -> None:
    result, _ = through_all_passes(loaded(network(STYLES[name]), tmp_path))
    result = ToFp16().run(result).model
    assert any(node.op_type == "Conv" and node.outputs[0].dtype == ir.DataType.FLOAT16 for node in result.graph)
    facts = built(result, (2, 3, 64, 64))
    assert facts.refused == ()
    assert int8_kernels(facts) == 5


class TestExactForm:
    def test_equals_the_model_bit_for_bit(self, tmp_path: Path) -> None:
        for name in ("ONNX Runtime 1.32, int8 with int32 biases", "ONNX Runtime 1.32, symmetric uint8"):
            proto = network(STYLES[name])
            result = QuantisedForm().run(loaded(proto, tmp_path))
            feeds = images(STYLES[name])
            np.testing.assert_array_equal(exactly(result.model, feeds)["features"], exactly(proto, feeds)["features"])
            assert "5 dequantised biases and constants are floating-point constants" in result.report.changes

    def test_a_wrong_offset_would_be_noticed(self, tmp_path: Path) -> None:
        proto = network(STYLES["ONNX Runtime 1.32, symmetric uint8"])
        model = loaded(proto, tmp_path)
        for value in model.graph.initializers.values():
            if value.name == "stem/weight" and value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy() + np.uint8(1), name=value.name)
        feeds = images(Style())
        changed = exactly(QuantisedForm().run(model).model, feeds)["features"]
        assert np.abs(changed - exactly(proto, feeds)["features"]).max() > 1e-3

    @needs_rtx
    def test_is_what_the_real_builder_needs(self, tmp_path: Path) -> None:
        for name in ("ONNX Runtime 1.32, int8 with int32 biases", "ONNX Runtime 1.32, symmetric uint8"):
            assert built(network(STYLES[name]), (2, 3, 64, 64)).refused, name

    def test_a_constant_that_is_no_weight_is_folded_and_a_weight_is_not(self, tmp_path: Path) -> None:
        model = loaded(_scaled(), tmp_path)
        result = QuantisedForm().run(model)
        np.testing.assert_array_equal(
            exactly(result.model, {"x": np.ones((1, 4), np.float32)})["y"],
            exactly(_scaled(), {"x": np.ones((1, 4), np.float32)})["y"],
        )
        assert counts(result.model) == {"Q": 0, "DQ": 1, "weights": 1}

    def test_leaves_models_alone_that_are_not_quantised(self, tmp_path: Path) -> None:
        x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        model = loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path)
        assert not QuantisedForm().run(model).modified
        assert quantised_facts(model) is None


class TestRefusals:
    @pytest.mark.parametrize(("style", "words"), REFUSED.values(), ids=REFUSED.keys())
    def test_say_the_node_and_what_to_do(self, style: Style, words: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError) as error:
            QuantisedForm().run(loaded(network(style), tmp_path))
        text = str(error.value)
        assert words in text
        assert "node '" in text
        assert "trtdeploy build FLOAT.onnx --int8 --calib IMAGES" in text
        assert "--backend onnxruntime or openvino" in text

    @needs_rtx
    @pytest.mark.parametrize("style", [s for s, _ in REFUSED.values()], ids=REFUSED.keys())
    def test_are_right_the_real_builder_refuses_too(self, style: Style) -> None:
        assert built(network(style), (2, 3, 64, 64)).refused

    def test_become_a_remark_where_the_model_is_not_for_such_a_builder(self, tmp_path: Path) -> None:
        style, words = REFUSED["torchao pt2e's default, affine int8"]
        proto = network(style)
        result = QuantisedForm(required=False).run(loaded(proto, tmp_path))
        assert words in result.report.refusals[0]
        feeds = images(style)
        np.testing.assert_array_equal(exactly(result.model, feeds)["features"], exactly(proto, feeds)["features"])

    @pytest.mark.parametrize("operator", ["QLinearConv", "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"])
    def test_name_operators_that_compute_in_integers(self, operator: str) -> None:
        node = ir.node(operator, [ir.Value(name="x")], name="here")
        model = ir.Model(ir.Graph([], [], nodes=[node], opset_imports={"": 19}), ir_version=9)
        facts = quantised_facts(model)
        assert facts is not None
        assert facts.integer == 1
        with pytest.raises(
            ModelError, match=rf"node 'here' \({operator}\) computes in integers by itself; TensorRT exp"
        ):
            QuantisedForm().run(model)

    @pytest.mark.parametrize(
        ("domain", "operator", "words"),
        [
            ("com.microsoft", "QLinearSigmoid", "quantise the float model again with quant_format=QuantFormat.QDQ"),
            ("com.microsoft", "QGemm", "computes in integers in ONNX Runtime alone"),
            ("trt", "DequantizeLinear", "Of these, FP8 of one scale is read, at opset 19 or newer"),
        ],
    )
    def test_of_reading_say_how_to_quantise(self, domain: str, operator: str, words: str, tmp_path: Path) -> None:
        x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
        graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], "here", domain=domain)], "g", [x], [y])
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid(domain, 1)]
        with pytest.raises(ModelError) as error:
            loaded(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path)
        assert f"node 'here' is {domain}::{operator}" in str(error.value)
        assert words in str(error.value)


class TestFp8OfNvidiasExporter:
    def test_is_read_as_onnx_own(self, tmp_path: Path) -> None:
        model = loaded(fp8(), tmp_path)
        facts = quantised_facts(model)
        assert facts is not None
        assert (facts.layers, facts.types) == (1, ("float8e4m3fn",))
        x = np.random.default_rng(1).random((1, 16, 32, 32), np.float32)
        got = exactly(model, {INPUT: x})["features"]
        weight = numpy_helper.to_array(fp8().graph.initializer[0])
        exact = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x)
        error = np.abs(got - exact).max() / np.abs(exact).max()
        assert 1e-3 < error < 0.1  # three bits of mantissa

    @needs_rtx
    def test_builds_for_gpus_that_have_it(self, tmp_path: Path) -> None:
        model = loaded(fp8(), tmp_path)
        facts = built(model, (1, 16, 32, 32), "SM89")
        assert facts.refused == ()
        assert any("FP8" in kernel.inputs for kernel in facts.kernel_list)
        assert "HW-specific datatypes" in str(built(model, (1, 16, 32, 32), "SM86").refused[0])


class TestQuantisedDetector:
    def test_head_is_recognised_and_gives_the_same_candidates(self, prepared: ir.Model, demo: Path) -> None:
        report = AppendHead(nms=NmsOptions(method="fixpoint")).run(prepared.clone()).report
        assert report.details["head"] == "yolov8"
        assert report.details["num_classes"] == 7
        feeds = {INPUT: planes(boards(1, 320)[0])}
        got, expected = exactly(prepared, feeds)["output0"], exactly(str(demo), feeds)["output0"]
        np.testing.assert_allclose(got, expected, atol=1e-3)  # pixels

    def test_head_is_recognised_behind_q_and_dq(self, prepared: ir.Model) -> None:
        model = prepared.clone()
        _quantise_output(model, 0.01)
        report = AppendHead().run(model).report
        assert (report.details["head"], report.details["num_classes"]) == ("yolov8", 7)
        assert not any("quantised in steps" in change for change in report.changes)

    def test_scores_that_share_a_scale_with_boxes_are_refused(self, prepared: ir.Model) -> None:
        model = prepared.clone()
        _quantise_output(model, 2.5)
        with pytest.raises(
            ModelError, match=r"quantised in steps of 2\.5, together with boxes in pixels: no score from"
        ):
            AppendHead().run(model)

    def test_scores_in_coarse_steps_get_a_note(self, prepared: ir.Model) -> None:
        model = prepared.clone()
        _quantise_output(model, 0.5)
        changes = AppendHead().run(model).report.changes
        assert any("quantised in steps of 0.5" in change and "finds little" in change for change in changes)

    def test_rest_becomes_fp16_and_scales_with_it(self, prepared: ir.Model) -> None:
        result = ToFp16().run(QuantisedForm().run(prepared.clone()).model)
        assert result.report.details["fp16"] > 5 * len(result.report.details["islands"])
        scales = [node.inputs[1].dtype for node in result.model.graph if node.op_type == "DequantizeLinear"]
        assert scales.count(ir.DataType.FLOAT16) > 0.9 * len(scales)

    def test_optimize_keeps_all_pairs_and_fuses_what_is_not_quantised(self, demo: Path, tmp_path: Path) -> None:
        report = optimize(demo, tmp_path / "o.onnx", OptimizeOptions())
        fused = [block for block in report.blocks if block.get("fused")]
        assert {block["kind"] for block in fused} == {"coordatt"}
        assert len(fused) == len(ATTENTION)
        before, after = (counts(ir.load(path)) for path in (demo, tmp_path / "o.onnx"))
        assert after["weights"] == before["weights"]
        assert (after["Q"], after["DQ"]) == (before["Q"], before["DQ"] - _biases(demo))
        feeds = {INPUT: planes(boards(1, 320)[0])}
        expected, got = (exactly(str(path), feeds) for path in (demo, tmp_path / "o.onnx"))
        np.testing.assert_allclose(got["output0"], expected["output0"], atol=1e-3)  # pixels

    def test_engine_detects_what_the_quantised_model_does(self, demo: Path, tmp_path: Path) -> None:
        options = BuildOptions(
            backend="onnxruntime", sizes=SizeRange.fixed(Size(320, 320)), gate=GateOptions(mode="off")
        )
        report = build(demo, tmp_path / "b.engine", options)
        assert "came quantised and stays so: " in report.info.precision_note
        found = 0
        with open_engine(tmp_path / "b.engine") as engine:
            for image in boards(3, 320, seed=11):
                (detections,) = engine.detect([image])
                boxes, scores, classes = _detect(exactly(str(demo), {INPUT: planes(image)})["output0"][0])
                order = np.argsort(-detections.scores, kind="stable")
                np.testing.assert_array_equal(detections.classes[order], classes)
                np.testing.assert_allclose(detections.scores[order], scores, atol=1e-4)
                np.testing.assert_allclose(detections.xyxy[order], boxes, atol=0.02)
                found += len(boxes)
        assert found >= 20


def _scaled() -> onnx.ModelProto:
    """Return a product with quantised weights, times a quantised constant."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws"], ["w/dq"], "weights", axis=1),
        helper.make_node("DequantizeLinear", ["c", "cs", "cz"], ["c/dq"], "factor"),
        helper.make_node("MatMul", ["x", "w/dq"], ["p"], "product"),
        helper.make_node("Mul", ["p", "c/dq"], ["y"], "scaled"),
    ]
    constants = {
        "w": np.arange(-10, 10, dtype=np.int8).reshape(4, 5),
        "ws": np.linspace(0.1, 0.5, 5, dtype=np.float32),
        "c": np.array(77, np.uint8),
        "cs": np.array(0.3, np.float32),
        "cz": np.array(5, np.uint8),
    }
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, s]) for n, s in (("x", 4), ("y", 5)))
    tensors = [numpy_helper.from_array(data, name) for name, data in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _quantise_output(model: ir.Model, step: float) -> None:
    """Put a pair of Q and DQ before the model's output."""
    output = model.graph.outputs[0]
    scale, zero = (ir.tensor(np.array(data), name=name) for name, data in (("s", np.float32(step)), ("z", np.int8(0))))
    values = [
        ir.Value(name=t.name, const_value=t, type=ir.TensorType(t.dtype), shape=ir.Shape([])) for t in (scale, zero)
    ]
    for value in values:
        model.graph.register_initializer(value)
    quantise = ir.node("QuantizeLinear", [output, *values], name="q")
    dequantise = ir.node("DequantizeLinear", [quantise.outputs[0], *values], name="dq")
    model.graph.extend([quantise, dequantise])
    result = dequantise.outputs[0]
    result.type, result.shape, result.name = output.type, output.shape, "quantised_output"
    quantise.outputs[0].name = "quantised"
    model.graph.outputs[0] = result


def _biases(path: Path) -> int:
    """Return the number of biases that are int32 behind DequantizeLinear."""
    graph = onnx.load(path).graph
    wide = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT32}
    return sum(node.op_type == "DequantizeLinear" and node.input[0] in wide for node in graph.node)


def _detect(output: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes, scores and classes of a raw `[4 + classes, N]` output by plain NMS per class, best first."""
    scores, classes = output[4:].max(0), output[4:].argmax(0)
    centre, half = output[:2].T, output[2:4].T / 2
    corners = np.concatenate([centre - half, centre + half], 1)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] <= 0.25:
            break
        if all(classes[k] != classes[index] or _iou(corners[k], corners[index]) <= 0.7 for k in kept):
            kept.append(int(index))
    return np.clip(corners[kept], 0, 320), scores[kept], classes[kept]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = float(np.prod(np.maximum(high - low, 0)))
    return inter / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - inter)
