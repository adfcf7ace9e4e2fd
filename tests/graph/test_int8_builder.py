"""The INT8 pass before TensorRT-RTX's real builder: what it accepts, and what it would refuse."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from int8_models import INT8, between_layers, detector, feeds, named, producer, ranges_of
from onnx_ir.passes import common

from trtdeploy.backends.rtx_probe import BuildFacts, ShapeRange, probe_build, probe_builds
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.int8 import ToInt8

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is missing")
FIXED = {"images": ((1, 3, 64, 64),) * 3}
OPEN: dict[str, ShapeRange] = {"images": ((1, 3, 32, 64), (2, 3, 64, 64), (4, 3, 128, 96))}


def quantised(model: ir.Model, *, factor: bool = False) -> ir.Model:
    return ToInt8(ranges_of(model, feeds(model)), form="factored" if factor else "standard").run(model).model


def built(model: ir.Model, shapes: dict[str, ShapeRange]) -> BuildFacts:
    return probe_build(ir.to_proto(model).SerializeToString(), shapes)


def convolutions(facts: BuildFacts) -> Counter[tuple[str, str]]:
    """Return how many convolutions there are of each type of data and result."""
    return Counter(
        (kernel.inputs[0], kernel.outputs[0]) for kernel in facts.kernel_list if kernel.kind == "correlation"
    )


@pytest.mark.parametrize(
    ("factor", "result"), [(False, "Float"), (True, "Half")], ids=["channel-scales", "factored-scales"]
)
def test_every_layer_that_the_pass_chose_is_an_int8_kernel(factor: bool, result: str) -> None:
    model = ToFp16().run(quantised(detector(), factor=factor)).model
    for facts in probe_builds(ir.to_proto(model).SerializeToString(), [FIXED, OPEN]):
        assert convolutions(facts)["Int8", result] == len(INT8)
        assert sum(convolutions(facts).values()) == len(INT8) + 4
        assert all(set(kernel.inputs) == {"Int8"} for kernel in facts.kernel_list if kernel.kind == "maxpool")


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("ConvTranspose", {"strides": [2, 2]}), ("MatMul", {}), ("Gemm", {}), ("Gemm", {"transB": 1})],
    ids=["ConvTranspose", "MatMul", "Gemm", "Gemm-transposed"],
)
def test_layers_of_other_operators_are_accepted(operator: str, attributes: dict[str, object]) -> None:
    model = ToFp16().run(quantised(between_layers(operator, **attributes))).model
    facts = built(model, {})
    assert not facts.refused, facts.refused


# Why the pass writes what it writes


def quantised_bias(model: ir.Model) -> None:
    """Quantise a bias to int32, as other tools do."""
    layer = named(model, "down/conv")
    initializers = {}
    arrays = {
        "bias": np.arange(32, dtype=np.int32),
        "scale": np.full(32, 1e-4, np.float32),
        "zero": np.zeros(32, np.int32),
    }
    for name, array in arrays.items():
        tensor = ir.tensor(array, name=f"bias/{name}")
        initializers[name] = ir.Value(
            name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape([32])
        )
        model.graph.register_initializer(initializers[name])
    node = ir.node("DequantizeLinear", list(initializers.values()), {"axis": 0}, name="bias/dequantise")
    node.outputs[0].name = "bias/dequantised"
    layer.prepend(node)
    layer.replace_input_with(2, node.outputs[0])


def zero_point(model: ir.Model) -> None:
    """Give a tensor another zero point than 0."""
    dequantise = producer(named(model, "down/conv").inputs[0], "DequantizeLinear")
    quantise = producer(dequantise.inputs[0], "QuantizeLinear")
    tensor = ir.tensor(np.array(3, np.int8), name="shifted")
    zero = ir.Value(name="shifted", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape([]))
    model.graph.register_initializer(zero)
    for node in (quantise, dequantise):
        node.replace_input_with(2, zero)


def wrong_axis(model: ir.Model) -> None:
    """Scale weights along their input channels."""
    node = producer(named(model, "block/m1/conv").inputs[1], "DequantizeLinear")
    node.attributes["axis"] = ir.AttrInt64("axis", 1)


@pytest.mark.parametrize("change", [quantised_bias, zero_point], ids=["bias-in-int32", "zero-point"])
def test_the_builder_refuses(change: Callable[[ir.Model], None]) -> None:
    model = quantised(detector())
    change(model)
    onnx.checker.check_model(ir.to_proto(model))
    assert built(model, FIXED).refused


def test_scales_along_another_axis_are_no_int8_kernel() -> None:
    model = quantised(detector())
    wrong_axis(model)
    facts = built(model, FIXED)
    assert facts.refused or convolutions(facts)["Int8", "Float"] < len(INT8)


def test_fp32_scales_with_casts_are_accepted_where_the_opset_cannot_be_raised() -> None:
    model = detector()
    pool = named(model, "spp/pool0")
    average = ir.node("AveragePool", [pool.inputs[0]], {"kernel_shape": [5, 5], "ceil_mode": 1}, name="average")
    average.outputs[0].name = "average_out"
    pool.prepend(average)
    model.graph.outputs.append(average.outputs[0])
    average.outputs[0].type, average.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), None
    result = ToInt8(ranges_of(model, feeds(model))).run(model)
    assert result.model.graph.opset_imports[""] == 17
    assert result.report.refusals[0].startswith(
        "opset 17 stays, so that scales are FP32 and casts surround them: average"
    )
    common.ShapeInferencePass()(result.model)
    facts = built(ToFp16().run(result.model).model, FIXED)
    assert sum(count for (data, _), count in convolutions(facts).items() if data == "Int8") == len(INT8)


def test_openvino_computes_the_layers_in_int8(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "int8.onnx"
    ir.save(quantised(detector()), path)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    types: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        if str(node.get_rt_info()["layerType"].value) == "Convolution":
            types[str(node.get_rt_info()["runtimePrecision"].value)] += 1
    assert types["i8"] + types["u8"] >= len(INT8)
