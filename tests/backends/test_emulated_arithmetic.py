"""Half arithmetic against numpy's float16, bit by bit, and torch's half modules within one unit in the last place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.backends import half_arithmetic
from trtdeploy.backends.half_arithmetic import round_half
from trtdeploy.core.errors import BuildError

Array = NDArray[Any]
HALF, BRAIN, FULL = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, int],
    outputs: dict[str, int],
    weights: dict[str, Array] | None = None,
) -> ir.Model:
    """Return a model of values of open shapes."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(proto)


def session_of(model: ir.Model, optimised: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ir.Model, **feeds: Array) -> list[Array]:
    """Run a model in half arithmetic."""
    outputs: list[Array] = session_of(round_half(model)).run(None, feeds)
    return outputs


def numbers() -> Array:
    """Return what rounding must get right: all of FP16, the ties between its neighbours, and numbers of any bits."""
    exact = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)]).astype(np.float64)
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    bits = np.random.default_rng(0).integers(0, 1 << 32, 500_000, dtype=np.uint32).view(np.float32)
    ends = np.array([65504, 65519.996, 65520, 70000, 3e38, 2**-25, 2**-24 * 1.5, 1e-45], np.float32)
    up, down = (np.nextafter(ties, np.float32(end)) for end in (np.inf, -np.inf))
    return np.concatenate([exact, ties, up, down, bits, ends, -ends])


def same(got: Array, want: Array) -> bool:
    """Return whether two arrays hold the same bits; one NaN is like another."""
    whole = got.astype(np.float32).view(np.uint32), want.astype(np.float32).view(np.uint32)
    return bool(((whole[0] == whole[1]) | (np.isnan(got) & np.isnan(want))).all())


@pytest.mark.parametrize(("kind", "dtype"), [(HALF, np.float16), (BRAIN, ml_dtypes.bfloat16)], ids=["fp16", "bf16"])
def test_rounding_is_to_nearest_even_with_subnormals_and_infinities(kind: int, dtype: Any) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["half"], to=kind), helper.make_node("Cast", ["half"], ["y"], to=FULL)]
    given = numbers()
    with np.errstate(all="ignore"):
        want = given.astype(dtype).astype(np.float32)
    (got,) = run(model_of(nodes, {"x": FULL}, {"y": FULL}), x=given)
    assert same(got, want)
    assert np.isinf(got[given == 70000]).all() == (kind == HALF)


def cancelling(kind: int) -> ir.Model:
    nodes = [helper.make_node("Add", ["x", "c"], ["sum"]), helper.make_node("Sub", ["sum", "c"], ["y"])]
    return model_of(nodes, {"x": kind, "c": kind}, {"y": kind})


def test_one_added_to_2048_is_lost_here_and_kept_by_onnx_runtime_alone() -> None:
    feeds = {"x": np.array([1], np.float16), "c": np.array([2048], np.float16)}
    assert run(cancelling(HALF), **feeds)[0] == 0
    assert session_of(cancelling(HALF)).run(None, feeds)[0] == 1, "if this fails, ONNX Runtime computes FP16 in FP16"


POINTWISE: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Abs": np.abs,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Relu": lambda x: np.maximum(x, np.float16(0)),
    "Transpose": np.transpose,
    "Floor": np.floor,
}
_TWO = ("Add", "Sub", "Mul", "Div", "Max", "Min")


def random_graph(seed: int) -> tuple[ir.Model, Array, Array]:
    """Return a graph of 25 operators, its input, and what numpy makes of it in float16."""
    random = np.random.default_rng(seed)
    given = (random.standard_normal((5, 5)) * 10.0 ** random.integers(-4, 3, (5, 5))).astype(np.float16)
    known, nodes = {"x": given}, []
    for index in range(25):
        op_type = str(random.choice(list(POINTWISE)))
        names = [str(n) for n in random.choice(list(known)[-4:], 2 if op_type in _TWO else 1)]
        nodes.append(helper.make_node(op_type, names, [f"v{index}"]))
        with np.errstate(all="ignore"):
            known[f"v{index}"] = POINTWISE[op_type](*(known[name] for name in names))
    last = nodes[-1].output[0]
    return model_of(nodes, {"x": HALF}, {last: HALF}), given, known[last]


@pytest.mark.parametrize("seed", range(20))
def test_pointwise_graph_equals_numpy_bit_by_bit(seed: int) -> None:
    model, given, want = random_graph(seed)
    (got,) = run(model, x=given)
    assert got.dtype == np.float16
    nan = np.isnan(got) & np.isnan(want)
    zero = (got == 0) & (want == 0)  # Max of 0 and -0 may be either
    assert ((got.view(np.uint16) == want.view(np.uint16)) | nan | zero).all()


@pytest.mark.parametrize("operator", ["Add", "Mul", "Sqrt"])
def test_an_operator_that_does_not_round_would_be_noticed(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_arithmetic, "EXACT", half_arithmetic.EXACT | {operator})
    outcomes = []
    for seed in range(20):
        model, given, want = random_graph(seed)
        outcomes.append(same(run(model, x=given)[0], want))
    assert not all(outcomes)


def units(got: Array, want: Array) -> float:
    """Return the largest difference in units in the last place of `want`; below 1/8 those of 1/8."""
    size = np.maximum(np.abs(want.astype(np.float64)), 1 / 8)
    return float(
        (np.abs(got.astype(np.float64) - want.astype(np.float64)) / (2.0 ** np.floor(np.log2(size)) * 2**-10)).max()
    )


def exported(module: torch.nn.Module, example: torch.Tensor, path: Path) -> ir.Model:
    torch.onnx.export(
        module, (example,), str(path), input_names=["x"], output_names=["y"], opset_version=17, dynamo=False
    )
    return ir.load(path)


def test_convolutions_round_once_as_those_of_torch_in_half(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Conv2d(96, 16, 3, padding=1).half().eval()
    images = torch.randn(1, 96, 9, 11).half() * 4
    with torch.no_grad():
        want = module(images).numpy()
        exact = module.double()(images.double()).numpy()
    model = exported(module.half(), images, tmp_path / "conv.onnx")
    (got,) = run(model, x=images.numpy())
    assert got.dtype == np.float16
    assert units(got, want) <= 1
    assert (got == exact.astype(np.float16)).mean() > 0.99, "the FP32 sum, rounded once"


class Attention(torch.nn.Module):
    """Self-attention of one head; the bias is an operator of its own in torch, as it is in the exported graph."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(64, 192) / 8)
        self.bias = torch.nn.Parameter(torch.randn(192))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (x @ self.weight + self.bias).chunk(3, -1)
        return torch.softmax(q @ k.transpose(-1, -2) * 0.125, -1) @ v


def test_attention_equals_that_of_torch_in_half(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Attention().half().eval()
    tokens = torch.randn(2, 100, 64).half()
    with torch.no_grad():
        want = module(tokens).numpy()
    (got,) = run(exported(module, tokens, tmp_path / "half.onnx"), x=tokens.numpy())
    assert units(got, want) <= 1
    assert (got == want).mean() > 0.98
    full = exported(module.float(), tokens.float(), tmp_path / "full.onnx")
    unrounded = session_of(full).run(None, {"x": tokens.float().numpy()})[0].astype(np.float16)
    assert (unrounded == want).mean() < 0.7, "the test would see a graph that rounds its result alone"


def test_onnx_runtime_keeps_every_rounding(tmp_path: Path) -> None:
    model, _, _ = random_graph(3)
    rounded = round_half(model)
    session_of(rounded, tmp_path / "run.onnx")

    def casts(proto: onnx.ModelProto) -> int:
        return sum(n.op_type == "Cast" and n.attribute[0].i == HALF for n in proto.graph.node)

    wanted = casts(ir.to_proto(rounded))
    assert wanted >= sum(node.op_type in {"Add", "Sub", "Mul", "Div", "Sqrt"} for node in model.graph) > 5
    assert casts(onnx.load(tmp_path / "run.onnx")) == wanted


def test_functions_and_bodies_of_loops_and_branches_are_rounded_too() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Step", ["carried", "one"], ["next"], domain="local"),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", HALF, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", HALF, [1]),
        ],
    )
    branches = {
        name: helper.make_graph(
            [helper.make_node("Mul", ["counted", factor], [f"{name}/y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}/y", HALF, [1])],
        )
        for name, factor in (("then_branch", "third"), ("else_branch", "one"))
    }
    nodes = [
        helper.make_node("Loop", ["count", "", "x"], ["counted"], body=body),
        helper.make_node("If", ["yes"], ["y"], **branches),
    ]
    weights = {
        "count": np.array(5, np.int64),
        "yes": np.array(True),
        "one": np.array([1], np.float16),
        "third": np.array([1 / 3], np.float16),
    }
    proto = ir.to_proto(model_of(nodes, {"x": HALF}, {"y": HALF}, weights))
    step = [helper.make_node("Add", ["a", "b"], ["c"])]
    opset = helper.make_opsetid("", 21)
    proto.functions.append(helper.make_function("local", "Step", ["a", "b"], ["c"], step, [opset]))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    model = ir.from_proto(proto)
    (got,) = run(model, x=np.array([2048], np.float16))
    assert got == np.float16(2048) * np.float16(1 / 3), "five ones are lost one by one"
    assert model.functions, "the model given is not changed"


def test_quantised_layers_run_as_they_are_and_what_they_give_is_rounded() -> None:
    random = np.random.default_rng(0)
    given, scale = random.standard_normal((4, 8)).astype(np.float16), np.array(0.0173, np.float16)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    weights = {"scale": scale, "zero": np.array(0, np.int8)}
    (got,) = run(model_of(nodes, {"x": HALF}, {"y": HALF}, weights), x=given)
    steps = np.clip(np.rint(given.astype(np.float32) / np.float32(scale)), -128, 127)
    np.testing.assert_array_equal(got, (steps * np.float32(scale)).astype(np.float16))


def test_fp32_islands_and_weights_keep_their_bits() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["narrow"], to=HALF),
        helper.make_node("Add", ["narrow", "h"], ["y"]),
    ]
    weights = {"w": np.array([1.0001], np.float32), "h": np.array([0.1], np.float16)}
    model = model_of(nodes, {"x": FULL}, {"wide": FULL, "y": HALF}, weights)
    wide, y = run(model, x=np.array([3], np.float32))
    assert wide == np.float32(3) * np.float32(1.0001)
    assert y == np.float16(3.0003) + np.float16(0.1)
    initializers = round_half(model).graph.initializers
    assert [value.dtype for value in initializers.values()] == [ir.DataType.FLOAT] * 2
    assert initializers["h"].const_value is not None
    assert initializers["h"].const_value.numpy() == np.float32(np.float16(0.1))


def test_model_given_stays_and_values_keep_their_names() -> None:
    model = random_graph(0)[0]
    before = ir.to_proto(model).SerializeToString()
    rounded = round_half(model)
    assert ir.to_proto(model).SerializeToString() == before
    names = Counter(value.name for node in rounded.graph for value in node.outputs)
    assert {f"v{index}" for index in range(25)} <= names.keys()
    assert max(names.values()) == 1


def test_value_of_unknown_type_is_an_error_that_names_it() -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["m"], domain="elsewhere", name="first")]
    nodes.append(helper.make_node("Relu", ["m"], ["y"]))
    model = model_of(nodes, {"x": HALF}, {"y": HALF})
    model.opset_imports["elsewhere"] = 1
    with pytest.raises(BuildError, match="element type of m, an output of Mystery first, is not known"):
        round_half(model)
