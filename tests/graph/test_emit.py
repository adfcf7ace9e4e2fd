"""The emitter: every operation in the form of every opset, run in ONNX Runtime and compared with numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from trtdeploy.graph.emit import Emitter

OPSETS = (11, 12, 13, 17, 18, 21, 24)
X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
INDICES = np.array([[2, 0], [1, 1]], np.int64)


def graph_with_input(opset, array, name="x"):
    value = ir.Value(name=name, type=ir.TensorType(ir.tensor(array).dtype), shape=ir.Shape([None] * array.ndim))
    return ir.Graph([value], [], nodes=[], opset_imports={"": opset}, name="test"), value


def run(graph, output, expected, array):
    """Run the graph up to `output`, declared with the type and rank of `expected`."""
    output.type = ir.TensorType(ir.DataType.from_numpy(expected.dtype))
    output.shape = ir.Shape([None] * expected.ndim)
    graph.outputs.append(output)
    model = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {graph.inputs[0].name: array})[0]


CASES = {
    "reduce_max": (lambda e, x: e.reduce_max(x, 1), X.max(1)),
    "reduce_max of two axes, kept": (lambda e, x: e.reduce_max(x, 1, 2, keepdims=True), X.max((1, 2), keepdims=True)),
    "reduce_min": (lambda e, x: e.reduce_min(x, -1), X.min(-1)),
    "reduce_sum": (lambda e, x: e.reduce_sum(x, 0, 2), X.sum((0, 2))),
    "arg_max": (lambda e, x: e.arg_max(x, 1), X.argmax(1)),
    "top_k values": (lambda e, x: e.top_k(x, 2, 2)[0], -np.sort(-X, 2)[..., :2]),
    "top_k indices": (lambda e, x: e.top_k(x, 2, 2)[1], np.argsort(-X, 2)[..., :2]),
    "unsqueeze": (lambda e, x: e.unsqueeze(x, 0, 3), X[None, :, :, None]),
    "squeeze": (lambda e, x: e.squeeze(e.slice(x, 1, 2, axis=1), 1), X[:, 1]),
    "slice with a step": (lambda e, x: e.slice(x, 0, 4, axis=2, step=2), X[..., ::2]),
    "slice up to a size": (lambda e, x: e.slice(x, 1, e.dim(x, 1), axis=2), X[..., 1:3]),
    "reshape": (lambda e, x: e.reshape(x, 0, -1), X.reshape(2, 12)),
    "reshape to a size": (lambda e, x: e.reshape(x, e.dim(x, 2), -1), X.reshape(4, 6)),
    "expand": (lambda e, x: e.expand(e.slice(x, 0, 1, axis=1), 1, 5, 1), np.repeat(X[:, :1], 5, 1)),
    "expand to a size": (lambda e, x: e.expand(e.slice(x, 0, 1, axis=1), 1, e.dim(x, 2), 1), np.repeat(X[:, :1], 4, 1)),
    "transpose": (lambda e, x: e.transpose(x, 2, 0, 1), X.transpose(2, 0, 1)),
    "concat": (lambda e, x: e.concat([x, X], axis=1), np.concatenate([X, X], 1)),
    "gather": (lambda e, x: e.gather(x, np.array([2, 0]), axis=1), X[:, [2, 0]]),
    "gather_elements": (
        lambda e, x: e.gather_elements(e.reshape(x, 2, -1), INDICES, axis=1),
        np.take_along_axis(X.reshape(2, 12), INDICES, 1),
    ),
    "range": (lambda e, x: e.range(e.squeeze(e.dim(x, 0), 0), 9, 3), np.arange(2, 9, 3)),
    "min and max": (lambda e, x: e.min(e.max(x, -0.5), 0.5), X.clip(-0.5, 0.5)),
    "min and max of integers": (lambda e, x: e.min(e.max(e.dim(x, 2), e.ints(3)), e.ints(9)), np.array([4])),
    "where": (lambda e, x: e.where(e.greater(x, 0.0), x, -1.0), np.where(X > 0, X, np.float32(-1))),
    "logic": (
        lambda e, x: e.logical_or(e.logical_and(e.less(x, 0.5), e.greater(x, 0.0)), e.logical_not(e.less(x, 1.0))),
        ((X < 0.5) & (X > 0)) | (X >= 1),
    ),
    "equal": (lambda e, x: e.equal(x, X[:1]), X[:1] == X),
    "exp and sigmoid": (lambda e, x: e.sigmoid(e.exp(x)), 1 / (1 + np.exp(-np.exp(X)))),
    "round and floor": (lambda e, x: e.sub(e.round(e.mul(x, 2.0)), e.floor(x)), np.round(X * 2) - np.floor(X)),
    "matmul": (lambda e, x: e.matmul(x, e.transpose(x, 0, 2, 1)), X @ X.transpose(0, 2, 1)),
    "arithmetic": (lambda e, x: e.div(e.add(x, 1.0), e.sub(3.0, 1.0)), (X + 1) / 2),
    "cast": (lambda e, x: e.cast(e.greater(x, 0.0), ir.DataType.FLOAT), (X > 0).astype(np.float32)),
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", CASES)
def test_an_operation_does_what_numpy_does(name, opset):
    emit, expected = CASES[name]
    graph, x = graph_with_input(opset, X)
    emitter = Emitter(opset, "new")
    out = emit(emitter, x)
    emitter.append_to(graph)
    found = run(graph, out, expected, X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.shape == expected.shape


@pytest.mark.parametrize("opset", OPSETS)
def test_a_loop_uses_values_of_the_graphs_around_it(opset):
    graph, x = graph_with_input(opset, X)
    outer = Emitter(opset, "new")
    step = outer.mul(x, 0.5)
    inner = outer.child("body")
    turn = ir.Value(name="turn", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    go = ir.Value(name="go", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    total = ir.Value(name="total", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None] * 3))
    again, after = inner.less(turn, 3), inner.add(total, step)
    again.type, again.shape, after.type, after.shape = go.type, go.shape, total.type, total.shape
    (out,) = outer.multi("Loop", 1, 100, True, x, body=inner.body("body", [turn, go, total], [again, after]))
    outer.append_to(graph)
    assert not inner.initializers
    found = run(graph, out, X, X)
    np.testing.assert_allclose(found, X + 4 * X * 0.5, rtol=1e-5)


def test_equal_constants_are_made_once_and_types_stay_apart():
    emitter = Emitter(17, "new")
    assert emitter.constant(1) is emitter.constant(np.array(1, np.int64))
    assert emitter.ints(1) is not emitter.constant(1)
    assert len({id(emitter.constant(value)) for value in (1, 1.0, True)}) == 3
    assert [v.dtype for v in map(emitter.constant, (2, 2.0, False))] == [
        ir.DataType.INT64,
        ir.DataType.FLOAT,
        ir.DataType.BOOL,
    ]
    assert all(value.name.startswith("new/") for value in emitter.initializers)


def test_names_that_the_graph_has_get_a_number():
    graph, x = graph_with_input(17, X)
    outputs = []
    for _ in range(3):
        emitter = Emitter(17, "new")
        x = emitter.add(x, 1.0)
        emitter.append_to(graph)
        outputs.append(x)
    found = run(graph, outputs[-1], X, X)
    np.testing.assert_allclose(found, X + 3, rtol=1e-6)
    assert len({value.name for value in outputs}) == 3
    assert len({node.name for node in graph}) == 3


def test_nodes_may_be_put_before_the_graph():
    graph, x = graph_with_input(17, X)
    later = Emitter(17, "later")
    out = later.mul(x, 3.0)
    later.append_to(graph)
    first = Emitter(17, "first")
    shifted = first.add(x, 1.0)
    out.producer().replace_input_with(0, shifted)
    first.prepend_to(graph)
    assert [node.op_type for node in graph] == ["Add", "Mul"]
    found = run(graph, out, X, X)
    np.testing.assert_allclose(found, (X + 1) * 3, rtol=1e-6)


def test_an_opset_too_old_is_refused():
    with pytest.raises(ValueError, match="Opset 10 cannot be emitted; expected 11 or newer"):
        Emitter(10, "new")
