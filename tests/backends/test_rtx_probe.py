"""NVIDIA's real parser and builder answer: kernels, attention, memory, refusals; bad models end in a reason."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from trtdeploy.backends import rtx_log
from trtdeploy.backends.rtx_probe import BuildFacts, activation_per_shape, probe_build
from trtdeploy.core.errors import BuildError, MissingDependencyError, ModelError, UsageError

RANGE = {"x": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 16, 16))}
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
)


def model(*nodes: onnx.NodeProto, shape: Any = ("b", 3, "h", "w"), opset: int = 17, **constants: Any) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("t", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def node(operator: str, *inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs or ["x"], [output], name=f"the_{operator}", **attributes)


class ConvBlock(nn.Module):
    """Two convolutions, one with a SiLU, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.silu(self.first(x))
        return y + self.second(y)


class Attention(nn.Module):
    """Softmax attention over pixels; `flipped` writes the second product the way that no builder fuses."""

    def __init__(self, flipped: bool) -> None:
        super().__init__()
        self.qkv, self.flipped = nn.Conv2d(3, 96, 1), flipped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 1, 96, h * w).split(32, 2)
        weights = (q.transpose(2, 3) @ k * 32**-0.5).softmax(-1)
        y = v @ weights.transpose(2, 3) if self.flipped else (weights @ v.transpose(2, 3)).transpose(2, 3)
        return y.reshape(b, 32, h, w)


def exported(module: nn.Module, half: bool, dynamo: bool, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module.eval()
    x = torch.randn(2, 3, 16, 16)
    if half:
        module, x = module.half(), x.half()
    path = tmp_path / "model.onnx"
    axes = {"x": {0: "b", 2: "h", 3: "w"}}
    if dynamo:
        dims = {0: torch.export.Dim("b", min=1), 2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)}
        program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=(dims,), input_names=["x"], verbose=False)
        assert program is not None
        program.save(str(path))
    else:
        torch.onnx.export(module, (x,), str(path), dynamo=False, dynamic_axes=axes, input_names=["x"])
    return path


PIXELS = {"x": ((1, 3, 8, 8), (2, 3, 32, 32), (4, 3, 64, 64))}


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_both_exporters_and_precisions_build(tmp_path: Path, half: bool, dynamo: bool) -> None:
    facts = probe_build(exported(ConvBlock(), half, dynamo, tmp_path), PIXELS)
    assert facts.refused == ()
    assert 3 <= facts.launches <= facts.kernels <= 9
    assert facts.mha == 0
    floats = {kind for kernel in facts.kernel_list for kind in kernel.outputs if kind in {"Half", "Float"}}
    assert floats == {"Half" if half else "Float"}  # strongly typed: the graph decides
    parameters = 16 * 3 * 9 + 16 * 16 * 9 + 32
    width = 2 if half else 4
    assert parameters * width <= facts.weights_bytes <= 1.5 * parameters * width  # padded channels on top
    assert facts.engine_bytes > facts.weights_bytes
    assert facts.build_s > 0


def test_kernels_name_the_onnx_nodes_that_they_compute(tmp_path: Path) -> None:
    path = exported(ConvBlock(), True, False, tmp_path)
    facts = probe_build(path, PIXELS)
    computed = {name for kernel in facts.kernel_list for name in kernel.onnx}
    named = {n.name for n in onnx.load(path).graph.node if n.op_type in {"Conv", "Sigmoid", "Mul", "Add"}}
    assert named <= computed


def test_only_the_fusable_order_becomes_one_attention_kernel(tmp_path: Path) -> None:
    fused, unfused = (probe_build(exported(Attention(f), True, False, tmp_path), PIXELS) for f in (False, True))
    assert (fused.mha, unfused.mha) == (1, 0)
    assert fused.kernels < unfused.kernels
    scores = 4 * 4096 * 4096 * 2  # `[4, 4096, 4096]` half, which only the unfused form keeps in memory
    assert fused.activation_bytes < scores <= unfused.activation_bytes
    (attention,) = [kernel for kernel in fused.kernel_list if kernel.is_mha]
    assert [name for name in attention.onnx if name.endswith("Softmax")]


def test_fp32_attention_is_not_fused(tmp_path: Path) -> None:
    assert probe_build(exported(Attention(False), False, False, tmp_path), PIXELS).mha == 0


def test_activation_memory_grows_with_the_shape() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.random((64, 3, 3, 3), np.float32), "v": rng.random((8, 64, 3, 3), np.float32)}
    deep = model(node("Conv", "x", "w", output="a"), node("Conv", "a", "v"), **weights)
    sizes = activation_per_shape(deep, [{"x": (b, 3, 64, 64)} for b in (1, 4, 16)])
    image = 64 * 62 * 62 * 4
    assert sizes[1] - sizes[0] >= 3 * image * 0.9
    assert sizes[2] - sizes[1] == pytest.approx(4 * (sizes[1] - sizes[0]), rel=0.1)


def test_one_engine_for_several_targets() -> None:
    one, four = (
        probe_build(model(node("Relu")), RANGE, targets=targets)
        for targets in (["SM86"], ["SM80", "SM86", "SM89", "SM120"])
    )
    assert four.kernels == one.kernels


def test_jumps_and_shape_calls_of_a_loop_are_no_launches() -> None:
    state = [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("go", 9, []), ("a", 1, None))]
    results = [helper.make_tensor_value_info(n, t, s) for n, t, s in (("on", 9, []), ("more", 1, None))]
    steps = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["a", "one"], ["more"])]
    body = helper.make_graph(steps, "body", state, results)
    start, loop = node("Relu", output="start"), node("Loop", "n", "yes", "start", body=body)
    facts = probe_build(model(start, loop, n=np.int64(5), yes=np.bool_(True), one=np.float32(1)), RANGE)
    assert "cjmp" in {kernel.kind for kernel in facts.kernel_list if not kernel.is_launch}
    assert 0 < facts.launches < facts.kernels


# Refusals


def refused(facts: BuildFacts, text: str) -> None:
    with pytest.raises(BuildError, match=text):
        _ = facts.kernels  # never 0
    assert facts.to_json()["kernels"] is None


def test_unsupported_operator_is_refused_by_the_parser_with_its_node() -> None:
    facts = probe_build(model(node("Det")), RANGE)
    assert [(r.by, r.node, r.operator) for r in facts.refused] == [("parser", "the_Det", "Det")]
    refused(facts, r"refused model\.onnx:\n  parser at node 'the_Det' \(Det\): UNSUPPORTED_NODE")


def test_operator_without_a_runner_is_refused_by_the_builder_with_its_node() -> None:
    boxes, scores = (helper.make_tensor_value_info(n, 1, s) for n, s in (("b", [1, 9, 4]), ("s", [1, 1, 9])))
    nms = helper.make_node("NonMaxSuppression", ["b", "s", "k", "iou"], ["y"], name="the_nms")
    constants = {"k": np.array([5]), "iou": np.array([0.5], np.float32)}
    limits = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([nms], "g", [boxes, scores], [helper.make_tensor_value_info("y", 7, None)], limits)
    facts = probe_build(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString(), {})
    assert facts.refused[0].by == "builder"
    assert facts.refused[0].node == "the_nms" or facts.refused[0].node.startswith("the_nms_")
    refused(facts, "has no runners")


def test_mixed_types_are_refused_because_the_network_is_strongly_typed() -> None:
    mixed = model(node("Cast", to=TensorProto.FLOAT16, output="h"), node("Add", "x", "h"))
    refused(probe_build(mixed, RANGE), "at node 'the_Add'.*must have same input types.*Float and Half")


def test_too_large_topk_is_refused() -> None:
    flat, top = node("Flatten", output="f"), helper.make_node("TopK", ["f", "k"], ["y", "i"], name="the_topk")
    facts = probe_build(model(flat, top, k=np.array([4000])), {"x": ((1, 3, 80, 80),) * 3})
    refused(facts, r"the_topk.*K exceeds the maximum value allowed \(3840\)")


# Bad models, none of which may end this process


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "its graph has no outputs"),
        (b"hello world, this is text", "is not an ONNX model"),
        (model(node("Relu"))[:-20], "is not an ONNX model, or is truncated"),
        (model(node("Relu"), opset=99), "says opset 99. Expected 1 to"),
    ],
    ids=["empty", "text", "truncated", "opset-99"],
)
def test_what_the_parser_accepts_in_silence_is_an_error(data: bytes, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        probe_build(data, RANGE)


def recursive() -> bytes:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("t", 1)]
    proto = onnx.load_from_string(model(helper.make_node("F", ["x"], ["y"], domain="t")))
    for name, called in (("F", "G"), ("G", "F")):
        call = helper.make_node(called, ["a"], ["b"], domain="t")
        proto.functions.append(helper.make_function("t", name, ["a"], ["b"], [call], opsets))
    return proto.SerializeToString()


def test_recursive_function_is_named() -> None:
    with pytest.raises(ModelError, match="a function calls itself: F -> G -> F"):
        probe_build(recursive(), RANGE)


def test_crash_of_the_library_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in crashes at once; the real library needs 10 s to overflow its stack on a recursive function."""
    (tmp_path / "tensorrt_rtx.py").write_text("import os\nos.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BuildError, match=r"Building model\.onnx with TensorRT-RTX crashed the library \(SIGABRT\)"):
        probe_build(model(node("Relu")), RANGE)


def test_time_limit() -> None:
    names = ["x", *(f"a{i}" for i in range(2999)), "y"]
    nodes = [helper.make_node("Sigmoid", [a], [b]) for a, b in itertools.pairwise(names)]
    with pytest.raises(BuildError, match="did not finish within 1 seconds"):
        probe_build(model(*nodes), RANGE, timeout_s=1)


def test_missing_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trtdeploy\[rtx\]'"):
        probe_build(b"", RANGE)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({}, r"'x' has the open shape \[-1, 3, -1, -1\]"),
        ({"z": RANGE["x"]}, r"no input 'z'. Its inputs are \['x'\]"),
        ({"x": ((1, 4, 8, 8),) * 3}, r"has shape \[-1, 3, -1, -1\], which the shapes .* do not fit"),
        ({"x": ((1, 3, 8),) * 3}, "do not fit"),
        ({"x": ((2, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))}, "are not a range"),
        ({"x": ((0, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))}, "are not a range"),
    ],
    ids=["none", "unknown-input", "wrong-channels", "wrong-rank", "min-above-opt", "batch-0"],
)
def test_wrong_shapes_say_what_was_expected(shapes: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        probe_build(model(node("Relu")), shapes)


def test_unknown_target() -> None:
    with pytest.raises(UsageError, match="Expected one of SM75, SM80"):
        probe_build(model(node("Relu")), RANGE, targets=["SM87"])


def test_external_data_beside_the_file(tmp_path: Path) -> None:
    proto = onnx.load_from_string(model(node("Conv", "x", "w"), w=np.ones((8, 3, 3, 3), np.float32)))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert probe_build(tmp_path / "m.onnx", RANGE).weights_bytes >= 8 * 27 * 4
    (tmp_path / "w.bin").unlink()
    refused(probe_build(tmp_path / "m.onnx", RANGE), "w.bin")


# The log's format

ENTRY = (
    "Name: {name}, LayerType: kgen, Inputs: [ {{ Name: a, Dimensions: [1], Datatype: Half, Format: (Linear) }}], "
    "Constants: [], Outputs: [ {{ Name: b, Dimensions: [1], Datatype: Float, Format: (Linear) }}], "
    "TacticName: {tactic}, StreamId: 0, Metadata: {metadata}"
)


def entry(name: str = "k", tactic: str = "__myl_Add_0x1", metadata: str = "") -> str:
    return ENTRY.format(name=name, tactic=tactic, metadata=metadata)


def test_entry_with_awkward_names() -> None:
    metadata = "[ONNX Layer: /a[0]/Conv][ONNX Layer: b, c]__gemm_from_conv1x1\x1f[ONNX Layer: Inputs: [ (SimAM)]"
    text = "\n".join(["Layers:", entry("x, LayerType: y", "_gemm_mha_v2_0x2b", metadata), "", "I/O Tensors:"])
    (kernel,) = rtx_log.parse_kernels(["noise", text])
    assert kernel.onnx == ("/a[0]/Conv", "b, c", "Inputs: [ (SimAM)")
    assert (kernel.inputs, kernel.outputs, kernel.is_mha) == (("Half",), ("Float",), True)


def test_layer_that_a_user_called_mha_is_none() -> None:
    (kernel,) = rtx_log.parse_kernels(["Layers:\n" + entry("_gemm_mha/MatMul_myl0_1", "__myelin_CASK_STUB")])
    assert not kernel.is_mha


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["Layers:\n"],
        ["Layers:\n" + entry(), "Layers:\n" + entry()],
        ["Layers:\n" + entry() + "\nA kernel of another form"],
        ["Layers:\n" + entry(metadata="[TF Layer: a]")],
        ["Layers:\n" + entry(tactic="_fused_mha_v3_0x1")],
        ["Kernels:\n" + entry()],
    ],
    ids=["missing", "no-entry", "twice", "other-entry", "other-origin", "other-attention", "other-title"],
)
def test_another_log_is_an_error_and_never_a_number(messages: list[str]) -> None:
    with pytest.raises(BuildError, match=r"log is not understood: .*, expected .*trtdeploy\[rtx\]"):
        rtx_log.parse_kernels(messages)


@pytest.mark.parametrize("line", ["Total Activation Memory: 3 MiB", "Total Activation Memory 3", "Activations: 3"])
def test_another_memory_line_is_an_error(line: str) -> None:
    with pytest.raises(BuildError, match="log is not understood"):
        rtx_log.parse_bytes([line], rtx_log.ACTIVATION)
    assert rtx_log.parse_bytes(["Total Activation Memory: 3 bytes"], rtx_log.ACTIVATION) == 3


def test_log_of_a_build_is_read_from_its_messages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A built engine whose log lost its list must not count as an engine without kernels."""
    monkeypatch.setattr(rtx_log, "LAYERS", "Kernels:")
    with pytest.raises(BuildError, match="0 messages that start with 'Kernels:'"):
        probe_build(model(node("Relu")), RANGE)
