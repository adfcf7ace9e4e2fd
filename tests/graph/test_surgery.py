"""Surgery on graphs as they come: every opset, slimmed, fixed, mixed precision, shared weights, taps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import onnxslim
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from trtdeploy.attention import catalogue
from trtdeploy.core.errors import ModelError
from trtdeploy.graph.load import load_model
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.reference import difference
from trtdeploy.graph.surgery import operate

KINDS = ("cbam", "self_attention")
SHAPES = ((1, 12, 10), (3, 9, 14), (8, 5, 7))


class Net(nn.Module):
    """Attention of several kinds between convolutions."""

    def __init__(self, *kinds: str, channels: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.SiLU())
        self.blocks = nn.ModuleList(catalogue.kind(name).make(channels) for name in kinds)
        self.head = nn.Conv2d(channels, 5, 1)
        for name, tensor in self.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(tensor, 0.7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


def export(module: nn.Module, path: Path, opset: int = 17, *, dynamic: bool = True) -> Path:
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.rand(2, 3, 9, 12),), str(path), dynamo=False, opset_version=opset,
            input_names=["images"], dynamic_axes=axes,
        )  # fmt: skip
    return path


def cut(model: str | Path | onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, list[dict[str, Any]], list[str]]:
    """Run surgery on a file; return the model, the blocks and the refusals."""
    path = folder / "given.onnx"
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, path)
    loaded = load_model(path if isinstance(model, onnx.ModelProto) else model).model
    result, reports = operate(Prepare(verify=False).run(loaded).model, verify=False)
    proto = ir.to_proto(result)
    onnx.checker.check_model(proto)
    report = next(r for r in reports if r.stage == "FUSE")
    return proto, report.details["blocks"], list(report.refusals)


def run(model: Path | onnx.ModelProto, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))


def gap(before: Path | onnx.ModelProto, after: onnx.ModelProto, shapes: Any = SHAPES) -> float:
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((b, 3, h, w)).astype(np.float32) for b, h, w in shapes]
    return max(difference(run(before, x), run(after, x)) for x in inputs)


def kinds(blocks: list[dict[str, Any]]) -> list[str]:
    return sorted(block["kind"] for block in blocks if block["fused"])


@pytest.mark.parametrize("opset", range(13, 21))
def test_every_opset_of_the_tracing_exporter(opset: int, tmp_path: Path) -> None:
    path = export(Net(*KINDS, "se", "simam", "coordatt"), tmp_path / "net.onnx", opset)
    model, blocks, _ = cut(path, tmp_path)
    assert kinds(blocks) == sorted([*KINDS, "se", "simam", "coordatt"])
    assert gap(path, model) <= 1e-5


@pytest.mark.parametrize("opset", range(18, 25))
def test_every_opset_of_the_dynamo_exporter(opset: int, tmp_path: Path) -> None:
    limit = onnxruntime.__version__.split(".")[:2]
    if opset == 24 and (int(limit[0]), int(limit[1])) < (1, 24):
        return  # the newest ONNX Runtime for Python 3.10 does not read it
    path, dynamic = tmp_path / "net.onnx", torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Net(*KINDS).eval(), (torch.rand(2, 3, 9, 12),), str(path), dynamo=True, opset_version=opset,
            external_data=False, verbose=False, dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        )  # fmt: skip
    model, blocks, _ = cut(path, tmp_path)
    assert kinds(blocks) == sorted(KINDS)
    assert gap(path, model) <= 1e-5


def test_a_graph_slimmed_by_another_tool(tmp_path: Path) -> None:
    path = export(Net(*KINDS, "area", "psa", "coordatt"), tmp_path / "net.onnx")
    slim = onnxslim.slim(str(path))
    assert isinstance(slim, onnx.ModelProto)
    model, blocks, _ = cut(slim, tmp_path)
    assert kinds(blocks) == sorted([*KINDS, "area", "psa", "coordatt"])
    assert gap(path, model, ((1, 8, 12), (3, 4, 8))) <= 1e-5


def test_a_graph_of_fixed_shapes(tmp_path: Path) -> None:
    path = export(Net(*KINDS, "coordatt", "simam"), tmp_path / "net.onnx", dynamic=False)
    model, blocks, _ = cut(path, tmp_path)
    assert kinds(blocks) == sorted([*KINDS, "coordatt", "simam"])
    assert gap(path, model, ((2, 9, 12),)) <= 1e-5


def test_names_do_not_matter(tmp_path: Path) -> None:
    path = export(Net(*KINDS), tmp_path / "net.onnx")
    model = onnx.load(path)
    names: dict[str, str] = {model.graph.input[0].name: "images", model.graph.output[0].name: "out"}
    for node in model.graph.node:
        node.name = ""
        for field in (node.input, node.output):
            field[:] = [names.setdefault(name, f"v{len(names)}") if name else "" for name in field]
    for tensor in model.graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"v{len(names)}")
    model.graph.output[0].name = "out"
    del model.graph.value_info[:]
    result, blocks, _ = cut(model, tmp_path)
    assert kinds(blocks) == sorted(KINDS)
    assert gap(model, result) <= 1e-5


def test_weights_shared_by_two_blocks(tmp_path: Path) -> None:
    net = Net("cbam", "cbam")
    net.blocks[1] = net.blocks[0]
    path = export(net, tmp_path / "net.onnx")
    model, blocks, _ = cut(path, tmp_path)
    assert kinds(blocks) == ["cbam", "cbam"]
    assert gap(path, model) <= 1e-5
    assert sum(function.name.startswith("TrtdeployCBAM") for function in model.functions) == 1


def _tap(
    index: Callable[[onnx.NodeProto], bool], *, as_output: bool, rank: int = 4
) -> Callable[[onnx.ModelProto], str]:
    """Use an inner tensor of a block outside: as an output of the graph, or in another node."""

    def change(model: onnx.ModelProto) -> str:
        inner: str = next(node.output[0] for node in model.graph.node if index(node))
        shape = [None] * rank
        if as_output:
            model.graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, shape))
        else:
            model.graph.node.append(helper.make_node("Neg", [inner], ["tapped"], name="tap"))
            model.graph.output.append(helper.make_tensor_value_info("tapped", TensorProto.FLOAT, shape))
        return inner

    return change


@pytest.mark.parametrize(("as_output", "words"), [(True, "is also an output"), (False, "is also used by node 'tap'")])
def test_a_block_whose_inner_tensor_is_used_elsewhere_is_left_alone(
    as_output: bool, words: str, tmp_path: Path
) -> None:
    model = onnx.load(export(Net("se", "cbam"), tmp_path / "net.onnx"))
    gates = [node.output[0] for node in model.graph.node if node.op_type == "Sigmoid" and "blocks.0" in node.name]
    inner = _tap(lambda node: node.output[0] == gates[0], as_output=as_output)(model)
    result, blocks, refusals = cut(model, tmp_path)
    assert kinds(blocks) == ["cbam"]
    left = next(block for block in blocks if block["kind"] == "se")
    assert (left["fused"], words in left["reason"], inner in left["reason"]) == (False, True, True)
    assert any(words in refusal and "squeeze and excitation" in refusal for refusal in refusals)
    assert gap(model, result) <= 1e-5


def test_a_probability_that_is_read_elsewhere_keeps_attention_as_it_is(tmp_path: Path) -> None:
    model = onnx.load(export(Net("self_attention"), tmp_path / "net.onnx"))
    _tap(lambda node: node.op_type == "Softmax", as_output=True, rank=3)(model)
    result, blocks, _ = cut(model, tmp_path)
    assert kinds(blocks) == []
    assert gap(model, result) <= 1e-5


def test_a_block_of_unknown_rank_computes_the_same(tmp_path: Path) -> None:
    model = onnx.load(export(Net("se"), tmp_path / "net.onnx"))
    first = next(node for node in model.graph.node if node.op_type == "Mul")  # the stem's SiLU
    name, first.output[0] = first.output[0], "stem"
    model.graph.node.insert(
        list(model.graph.node).index(first) + 1, helper.make_node("Reshape", ["stem", "target"], [name])
    )
    model.graph.input.append(helper.make_tensor_value_info("target", TensorProto.INT64, ["rank"]))
    del model.graph.value_info[:]
    result, _, _ = cut(model, tmp_path)
    feeds = {"images": np.random.default_rng(0).random((2, 3, 6, 8), np.float32), "target": np.array([2, 16, 6, 8])}
    sessions = [onnxruntime.InferenceSession(m.SerializeToString()) for m in (model, result)]
    before, after = (session.run(None, feeds)[0] for session in sessions)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_an_input_without_a_shape_is_refused(tmp_path: Path) -> None:
    model = onnx.load(export(Net("se"), tmp_path / "net.onnx"))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="is not valid ONNX: Field 'shape'"):
        cut(model, tmp_path)


def test_a_block_in_half_precision_between_casts(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(*KINDS)
            self.net.blocks.half()

        def forward(self, images: Tensor) -> Tensor:
            x = self.net.stem(images).half()
            for block in self.net.blocks:
                x = block(x)
            out: Tensor = self.net.head(x.float())
            return out

    path = export(Mixed(), tmp_path / "net.onnx")
    model, blocks, _ = cut(path, tmp_path)
    assert kinds(blocks) == sorted(KINDS)
    assert gap(path, model) <= 2e-3  # ONNX Runtime rounds at other places when it runs half precision in single


def test_attention_inside_control_flow_stays_and_computes_the_same(tmp_path: Path) -> None:
    inner = onnx.load(export(Net("se"), tmp_path / "net.onnx"))
    then = helper.make_graph(
        list(inner.graph.node), "then", [], [helper.make_empty_tensor_value_info(inner.graph.output[0].name)],
        list(inner.graph.initializer),
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["plain"])], "else", [],
        [helper.make_empty_tensor_value_info("plain")],
        [numpy_helper.from_array(np.ones((5, 3, 1, 1), np.float32), "w")],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Greater", ["mean", "zero"], ["bright"]),
        helper.make_node("If", ["bright"], ["y"], then_branch=then, else_branch=other, name="choice"),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5, None, None])
    graph = helper.make_graph(nodes, "net", [inner.graph.input[0]], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    result, _, _ = cut(model, tmp_path)
    assert gap(model, result) <= 1e-5


def test_a_chain_of_many_thousand_nodes_is_cut(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["images", "w0"], ["t0"])]
    for i in range(4000):
        nodes.append(helper.make_node("Sigmoid", [f"t{2 * i}"], [f"t{2 * i + 1}"]))
        nodes.append(helper.make_node("Mul", [f"t{2 * i}", f"t{2 * i + 1}"], [f"t{2 * i + 2}"]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["t8000"], ["p"]),
        helper.make_node("Conv", ["p", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["s"]),
        helper.make_node("Mul", ["t8000", "s"], ["y"]),
    ]
    shapes = {"w0": (4, 3, 1, 1), "w1": (2, 4, 1, 1), "w2": (4, 2, 1, 1)}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, "h", "w"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4, "h", "w"])
    graph = helper.make_graph(nodes, "chain", [image], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    _, blocks, _ = cut(model, tmp_path)
    assert kinds(blocks) == ["se"]
