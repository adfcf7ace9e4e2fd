"""Advice for INT8: kernels by block, from lists that are known, and from NVIDIA's real builder."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.api.int8_advice import (
    NOT_MEASURED,
    OUTSIDE,
    Work,
    compare_builds,
    int8_advice,
    int8_layers,
    node_of,
    work_by_block,
)
from trtdeploy.api.second_try import Block
from trtdeploy.backends.rtx_log import Kernel
from trtdeploy.backends.rtx_probe import BuildFacts, EngineFacts
from trtdeploy.core.errors import BuildError, MissingDependencyError
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.int8 import ToInt8, tensors_to_calibrate

MIB = 1 << 20
BLOCKS = (Block("stage1", ("/stage1/a/Conv",)), Block("stage1/b", ("/stage1/b/Conv",)))
OPERATORS = {
    "/stage1/a/Conv": "Conv", "/stage1/a/Sigmoid": "Sigmoid", "/stage1/b/Conv": "Conv", "/stage1/b/Slice": "Slice",
    "/stage1/b/Mul_output_0/QuantizeLinear": "QuantizeLinear", "/other/MatMul": "MatMul",
}  # fmt: skip
needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
)


def kernel(*onnx: str, kind: str = "correlation", tactic: str = "", moved: int = 10, constants: int = 1) -> Kernel:
    return Kernel(
        name="k", kind=kind, tactic=tactic, inputs=("Half",), outputs=("Half",), onnx=onnx, moved_bytes=moved,
        constant_bytes=constants,
    )  # fmt: skip


def facts(kernels: int = 1, activation: int = MIB) -> BuildFacts:
    listed = tuple(kernel() for _ in range(kernels))
    engine = EngineFacts(kernel_list=listed, activation_bytes=activation, weights_bytes=MIB, engine_bytes=2 * MIB)
    return BuildFacts(what="m", parse_s=0, build_s=0, refused=(), warnings=(), engine=engine)


@pytest.mark.parametrize(
    ("onnx", "block"),
    [
        (("/stage1/a/Conv", "/stage1/a/Sigmoid"), "stage1"),
        (("/stage1/b/Slice",), "stage1/b"),  # no layer: by its path, the longest that fits
        (("/stage1/b/Slice", "/stage1/b/Mul_output_0/QuantizeLinear", "/stage1/a/Conv"), "stage1"),  # the layer decides
        (("/stage10/x/Mul",), OUTSIDE),
        (("n5 | stage1/b/CoordAtt (TrtdeployCoordAtt)",), "stage1/b"),
        ((), OUTSIDE),
    ],
)
def test_a_kernel_belongs_to_the_block_of_its_layer(onnx: tuple[str, ...], block: str) -> None:
    found = work_by_block([kernel(*onnx)], BLOCKS, OPERATORS)
    assert {name: work.kernels for name, work in found.items() if work.kernels} == {block: 1}


def test_work_adds_up_by_block() -> None:
    kernels = [
        kernel("/stage1/a/Conv", moved=100, constants=7),
        kernel("/stage1/a/Conv", "/stage1/a/Sigmoid", kind="kgen", moved=50, constants=2),
        kernel("/stage1/a/Sigmoid", kind="wait", moved=9),
    ]
    assert work_by_block(kernels, BLOCKS, OPERATORS)["stage1"] == Work(3, 2, 1, 150, 10)


@pytest.mark.parametrize(
    ("made", "separate"),
    [
        (kernel("/stage1/b/Mul_output_0/QuantizeLinear", kind="kgen"), 1),
        (kernel("/stage1/a/Conv", "/stage1/a/Sigmoid", kind="runtime_fusion"), 0),  # on the way
        (kernel("/stage1/b/Slice", kind="kgen"), 0),
        (kernel("/stage1/a/Sigmoid", kind="kgen", tactic="_gemm_mha_v2"), 0),
    ],
)
def test_kernels_that_only_requantise_or_activate_are_counted(made: Kernel, separate: int) -> None:
    assert sum(work.separate for work in work_by_block([made], BLOCKS, OPERATORS).values()) == separate


@pytest.mark.parametrize(
    ("after", "keep"),
    [
        (Work(9, 9, 3, 200, 95), True),  # more kernels, more moved, little weight saved
        (Work(5, 5, 3, 200, 95), False),  # no more kernels
        (Work(9, 9, 3, 90, 95), False),  # less moved
        (Work(9, 9, 3, 200, 50), False),  # the weights are worth it
    ],
)
def test_fp16_is_advised_where_int8_costs_kernels_and_memory_and_saves_no_weights(after: Work, keep: bool) -> None:
    before = {"a": Work(5, 5, 0, 100, 100), OUTSIDE: Work(1, 1, 0, 5, 100)}
    advice = compare_builds(facts(6), facts(10, 2 * MIB), before, {"a": after, OUTSIDE: Work(9, 9, 0, 9, 100)})
    assert advice.pays("a") is not keep
    assert [block.block for block in advice.blocks] == ["a", OUTSIDE]
    assert not advice.blocks[1].keep_fp16
    assert ("keep FP16 in 1 blocks" in advice.verdict) is keep
    assert advice.total_int8 == after + Work(9, 9, 0, 9, 100)


@pytest.mark.parametrize(
    ("kernels", "activation", "text"),
    [
        (10, 2 * MIB, "costs kernels and memory here and may well be slower"),
        (10, MIB, "costs kernels or memory here: measure"),
        (6, MIB, "costs neither kernels nor memory here"),
    ],
)
def test_the_verdict_names_figures_and_never_a_latency(kernels: int, activation: int, text: str) -> None:
    advice = compare_builds(facts(6), facts(kernels, activation), {"a": Work()}, {"a": Work()})
    assert text in advice.verdict
    assert f"{kernels} launches against 6 in FP16" in advice.verdict
    assert advice.to_dict()["note"] == NOT_MEASURED
    assert "not measured on a GPU" in NOT_MEASURED


def test_the_node_of_an_origin_is_that_of_the_main_graph() -> None:
    assert node_of("/a/Conv") == "/a/Conv"
    assert node_of("Gate/Sigmoid_0 | n12 (Gate) | stage5/CoordAtt (TrtdeployCoordAtt)") == "stage5/CoordAtt"


def test_without_tensorrt_rtx_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdeploy.backends.rtx_probe.importlib.util.find_spec", lambda _name: None)
    model = network()
    with pytest.raises(MissingDependencyError, match=r"pip install 'trtdeploy\[rtx\]'"):
        int8_advice(model, model, {})


def network() -> ir.Model:
    """Return eight convolutions with SiLU on 32 channels."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for index in range(8):
        shape = (32, 3 if index == 0 else 32, 3, 3)
        kernel = rng.normal(0, 0.1, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{index}"))
        path, y = f"/layer{index}", "y" if index == 7 else f"x{index}"
        nodes += [
            helper.make_node("Conv", [x, f"w{index}"], [f"c{index}"], f"{path}/Conv", pads=[1] * 4),
            helper.make_node("Sigmoid", [f"c{index}"], [f"s{index}"], f"{path}/Sigmoid"),
            helper.make_node("Mul", [f"c{index}", f"s{index}"], [y], f"{path}/Mul"),
        ]
        x = y
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 64, 64]) for name, c in (("x", 3), ("y", 32))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))


@needs_builder
def test_the_builder_shows_what_int8_costs_in_each_block() -> None:
    model = network()
    quantised = ToInt8(dict.fromkeys(tensors_to_calibrate(model), 4.0)).run(model).model
    fp16, int8 = (ToFp16().run(m).model for m in (model, quantised))
    layers = int8_layers(int8)
    assert layers == [f"/layer{index}/Conv" for index in range(1, 7)]  # neither the first nor the last
    advice = int8_advice(fp16, int8, {}, [Block(name.split("/")[1], (name,)) for name in layers])
    found = {block.block: block for block in advice.blocks}
    middle = found["layer3"]
    assert (middle.fp16.launches, middle.fp16.separate) == (1, 0)  # convolution and SiLU are one kernel
    assert (middle.int8.launches, middle.int8.separate) == (2, 1)
    assert middle.fp16.moved_bytes == 2 * 32 * 64 * 64 * 2
    assert middle.fp16.weight_bytes >= 32 * 32 * 9 * 2 > middle.int8.weight_bytes >= 32 * 32 * 9
    for total, built in ((advice.total_fp16, advice.fp16), (advice.total_int8, advice.int8)):
        assert (total.kernels, total.launches) == (built.kernels, built.launches)
        assert total.weight_bytes == pytest.approx(built.weights_bytes, rel=0.05)


@needs_builder
def test_a_network_that_the_builder_refuses_is_an_error_with_its_reason() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], "it", domain="nowhere")
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("nowhere", 1)]
    model = ir.from_proto(
        helper.make_model(helper.make_graph([node], "g", [value], [made]), opset_imports=opsets, ir_version=9)
    )
    with pytest.raises(BuildError, match="TensorRT-RTX refused"):
        int8_advice(model, model, {})
