"""The bodies of operations compute what their references compute, in FP32 and FP16, in every opset."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from trtdeploy.attention.kind import DOMAIN
from trtdeploy.attention.operations import operations
from trtdeploy.kernels.expression import Numbers, evaluate
from trtdeploy.kernels.spec import Operation

SHAPES: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    "TrtdeploySimAMGate": (((1, 3, 7, 5),), ((2, 9, 1, 1),), ((3, 1, 31, 33),)),
    "TrtdeployCoordPool": (((1, 3, 7, 5),), ((2, 9, 1, 4),), ((3, 1, 31, 33),)),
    "TrtdeployCoordGate": (((2, 3, 7, 5), (2, 3, 7, 1), (2, 3, 1, 5)),),
    "TrtdeployChannelPool": (((1, 3, 7, 5),), ((2, 9, 1, 1),), ((3, 1, 31, 33),)),
    "TrtdeploySpatialPool": (((1, 3, 7, 5),), ((2, 65, 2, 3),)),
    "TrtdeploySpatialGate": (((2, 3, 7, 5), (2, 2, 7, 5), (1, 2, 7, 7)), ((1, 9, 2, 11), (1, 2, 2, 11), (1, 2, 7, 7))),
    "TrtdeployScaledSpatialPool": (((2, 3, 7, 5), (2, 3, 1, 1)),),
    "TrtdeployScaledSpatialGate": (((2, 3, 7, 5), (2, 3, 1, 1), (2, 2, 7, 5), (1, 2, 7, 7)),),
    "TrtdeployGateMultiply": tuple(
        ((2, 3, 7, 5), tuple(size if kept else 1 for size, kept in zip((2, 3, 7, 5), mask, strict=True)))
        for mask in ((1, 1, 0, 0), (1, 0, 1, 1), (0, 0, 0, 1), (1, 1, 1, 1))
    ),
    "TrtdeployScaledDotProduct": (
        ((2, 3, 7, 16), (2, 3, 16, 9), (2, 3, 9, 16)),
        ((1, 1, 1, 64), (1, 1, 64, 1), (1, 1, 1, 64)),
    ),
}
VALUES = {"epsilon": 3e-4, "scale": 0.21}
OPSETS = [n for n in range(15, 25) if n < 24 or tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 24)]


def run(operation: Operation, opset: int, inputs: list[NDArray[Any]], **attributes: float) -> list[NDArray[Any]]:
    """Run a model of one node and the body in ONNX Runtime."""
    kind = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    node = helper.make_node(
        operation.op_type, [o.name for o in operation.inputs], [r.name for r in operation.outputs], domain=DOMAIN,
        **{name: [value] for name, value in attributes.items()},
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(o.name, kind, [None] * o.rank) for o in operation.inputs],
        [helper.make_tensor_value_info(r.name, kind, [None] * len(r.dims)) for r in operation.outputs],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[operation.body(opset)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[NDArray[Any]] = session.run(None, {o.name: x for o, x in zip(operation.inputs, inputs, strict=True)})
    return results


def given(operation: Operation, shapes: tuple[tuple[int, ...], ...], dtype: Any) -> list[NDArray[Any]]:
    rng = np.random.default_rng(3)
    return [(rng.standard_normal(shape) * 1.5 + 0.3).astype(dtype) for shape in shapes]


def attributes(operation: Operation) -> dict[str, float]:
    return {a.name: VALUES[a.name] for a in operation.attributes}


def expected(operation: Operation, inputs: list[NDArray[Any]], **values: float) -> list[NDArray[np.float64]]:
    found = operation.reference(*(x.astype(np.float64) for x in inputs), **{k: [v] for k, v in values.items()})
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("op_type", sorted(SHAPES))
def test_body_equals_the_reference(op_type: str, opset: int) -> None:
    operation, values = operations()[op_type], attributes(operations()[op_type])
    for dtype, tolerance in ((np.float32, 3e-6), (np.float16, 4e-3)):
        for shapes in SHAPES[op_type]:
            inputs = given(operation, shapes, dtype)
            wanted = expected(operation, inputs, **values)
            for result, actual, reference in zip(
                operation.outputs, run(operation, opset, inputs, **values), wanted, strict=True
            ):
                assert actual.dtype == dtype
                stated = tuple(evaluate(expression, Numbers(shapes), {}) for expression in result.dims)
                assert actual.shape == reference.shape == stated
                assert np.abs(actual - reference).max() <= tolerance * max(1.0, np.abs(reference).max())


def test_every_operation_is_tested_and_named_as_no_operator_of_onnx() -> None:
    assert sorted(operations()) == sorted(SHAPES)
    names = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert not names & set(operations())


@pytest.mark.parametrize(
    ("op_type", "name"), [("TrtdeploySimAMGate", "epsilon"), ("TrtdeployScaledDotProduct", "scale")]
)
def test_an_attribute_reaches_the_body(op_type: str, name: str) -> None:
    operation = operations()[op_type]
    inputs = [x * np.float32(0.02) for x in given(operation, SHAPES[op_type][0], np.float32)]
    one, other = (run(operation, 17, inputs, **{name: value})[0] for value in (1e-4, 9.0))
    assert np.abs(one - other).max() > 1e-4
    assert np.abs(other - expected(operation, inputs, **{name: 9.0})[0]).max() < 1e-6


@pytest.mark.parametrize("op_type", sorted(SHAPES))
def test_nan_comes_out_where_it_went_in(op_type: str) -> None:
    operation, values = operations()[op_type], attributes(operations()[op_type])
    inputs = given(operation, SHAPES[op_type][0], np.float32)
    inputs[0].reshape(-1)[1] = np.nan
    references = expected(operation, inputs, **values)
    assert all(np.isnan(reference).any() for reference in references)
    if any(node.op_type == "ReduceMax" for node in operation.body(18).node):
        return  # ONNX Runtime's own drops NaN
    for actual, reference in zip(run(operation, 18, inputs, **values), references, strict=True):
        assert (np.isnan(actual) == np.isnan(reference)).all()


@pytest.mark.parametrize("op_type", sorted(SHAPES))
def test_names_of_a_body_are_its_own(op_type: str) -> None:
    body = operations()[op_type].body(18)
    values = [*body.input, *(name for node in body.node for name in node.output)]
    assert len(set(values)) == len(values)
    assert all(name.startswith(f"{op_type}/") for name in values)
    assert body.name == op_type


def test_large_maps_in_fp16_do_not_overflow() -> None:
    operation = operations()["TrtdeploySimAMGate"]
    x = (np.random.default_rng(0).standard_normal((1, 1, 60, 70)) * 200).astype(np.float16)
    (actual,) = run(operation, 18, [x], epsilon=1e-4)
    (reference,) = expected(operation, [x], epsilon=1e-4)
    assert np.abs(actual - reference).max() <= 2e-3 * np.abs(reference).max()


def test_an_opset_without_cast_like_is_refused() -> None:
    with pytest.raises(ValueError, match="The body of TrtdeploySimAMGate needs opset 15 or newer, not 14"):
        operations()["TrtdeploySimAMGate"].body(14)
