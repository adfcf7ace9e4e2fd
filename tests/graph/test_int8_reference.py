"""The INT8 pass against ONNX Runtime's own quantisation, which is written by others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from int8_models import INT8, Arrays, detector, distance, feeds, named, ranges_of, run, scale_of, weights_of
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from trtdeploy.graph.precision.int8 import ToInt8


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, given: list[Arrays]) -> None:
        self._given: Iterator[Arrays] = iter(given)

    def get_next(self) -> Arrays | None:
        return next(self._given, None)


@pytest.fixture(scope="module")
def original() -> ir.Model:
    return detector()


@pytest.fixture(scope="module")
def theirs(original: ir.Model, tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    folder = tmp_path_factory.mktemp("reference")
    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(ir.to_proto(original), source)
    quantize_static(
        source, target, Reader(feeds(original)),
        quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"], nodes_to_quantize=list(INT8),
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                       "OpTypesToExcludeOutputQuantization": ["Conv"]},
    )  # fmt: skip
    return ir.load(Path(target))


@pytest.fixture(scope="module")
def ours(original: ir.Model) -> ir.Model:
    return ToInt8(ranges_of(original, feeds(original))).run(original).model


def their_weights(model: ir.Model, name: str) -> tuple[Any, Any]:
    """Return the INT8 weights and scales of a layer, from ONNX Runtime's DequantizeLinear."""
    proto = ir.to_proto(model).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
    weights = next(node.input[1] for node in proto.node if node.name == name)
    above = next(node for node in proto.node if weights in node.output)
    return tensors[above.input[0]], tensors[above.input[1]]


@pytest.mark.parametrize("name", INT8)
def test_a_layers_weights_and_scales_are_those_of_onnx_runtime(ours: ir.Model, theirs: ir.Model, name: str) -> None:
    values, scales, _, _ = weights_of(named(ours, name))
    their_values, their_scales = their_weights(theirs, name)
    np.testing.assert_allclose(scales, their_scales, rtol=1.1e-3)  # ours are FP16 numbers
    difference = abs(values.astype(int) - their_values.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.06


def test_the_same_layers_are_quantised(ours: ir.Model, theirs: ir.Model) -> None:
    def layers(model: ir.Model) -> set[str | None]:
        return {
            node.name for node in model.graph if node.op_type == "Conv"
            and all((p := v.producer()) is not None and p.op_type == "DequantizeLinear" for v in node.inputs[:2] if v)
        }  # fmt: skip

    assert layers(ours) == layers(theirs) == set(INT8)


def test_the_scale_of_a_layers_data_is_that_of_onnx_runtime(ours: ir.Model, theirs: ir.Model) -> None:
    """Where nothing shares it, and the largest magnitude is what both measure."""
    proto = ir.to_proto(theirs).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
    for name in ("down/conv", "block/m2/conv", "head/boxes/conv"):
        data = next(node.input[0] for node in proto.node if node.name == name)
        scale = tensors[next(node.input[1] for node in proto.node if data in node.output)]
        # theirs divides the range by 254 or 255, by version
        assert scale_of(named(ours, name)) == pytest.approx(float(scale), rel=6e-3)


def test_the_results_are_about_as_near_to_fp32(original: ir.Model, ours: ir.Model, theirs: ir.Model) -> None:
    for arrays in feeds(original):
        expected = run(original, arrays)
        mine, other = (distance(expected, run(model, arrays)) for model in (ours, theirs))
        assert mine < 1.5 * other
        assert distance(run(ours, arrays), run(theirs, arrays)) < 1.5 * other
