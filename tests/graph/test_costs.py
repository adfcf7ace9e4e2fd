"""Costs against torch's own counter and counts by hand; memory against a naive simulation; blocks taken out."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from attention_nets import CHANNELS, network
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from trtdeploy.core.types import Size
from trtdeploy.graph.analysis import BACKBONE, NECK, Analysis, analyse
from trtdeploy.graph.costs import VIEWS, Costs, parameters_of
from trtdeploy.graph.fuse.region import Refusal, Region
from trtdeploy.graph.lifetimes import timeline
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.remove import Removal, can_gate, plan_removal, remove_blocks

torch.set_num_threads(1)


class _Layers(torch.nn.Module):
    """Every kind of product that torch counts."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.grouped = torch.nn.Conv2d(12, 12, 3, padding=1, groups=4, bias=False)
        self.up = torch.nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.linear = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.grouped(self.plain(x)).relu())
        tokens = x.flatten(2).transpose(1, 2)
        scores = (tokens @ tokens.transpose(1, 2)).softmax(-1)
        return self.linear(scores @ tokens)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (3, 6, 10)])
def test_products_and_parameters_are_those_that_torch_counts(batch: int, height: int, width: int) -> None:
    module = _Layers().eval()
    buffer = io.BytesIO()
    axes = {"x": {0: "b", 2: "h", 3: "w"}}
    torch.onnx.export(module, (torch.rand(2, 3, 16, 12),), buffer, dynamo=False, input_names=["x"], dynamic_axes=axes)
    model = Prepare(verify=False).run(ir.from_proto(onnx.load_from_string(buffer.getvalue()))).model
    costs = Costs(model, batch, Size(height, width))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(torch.rand(batch, 3, height, width))
    assert costs.unknown == []
    assert costs.total.products == counter.get_total_flops()
    assert parameters_of(model.graph) == sum(p.numel() for p in module.parameters())


def _small(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], dims: list[object]) -> ir.Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_operations_and_bytes_are_those_counted_by_hand() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),  # 1x1, 4 to 6 channels
        helper.make_node("Softmax", ["c"], ["s"], axis=1),
        helper.make_node("Reshape", ["s", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["t"], ["y"], axes=[1]),
    ]
    weights = {"w": np.ones((6, 4, 1, 1), np.float32), "b": np.ones(6, np.float32), "shape": np.array([0, 6, -1])}
    costs = Costs(_small(nodes, weights, ["b", 4, "h", "w"]), 2, Size(3, 5))
    places = 2 * 3 * 5
    conv, softmax, reshape, transpose, mean = (costs.of([node]) for node in costs.model.graph)
    assert (conv.products, conv.other) == (2 * places * 6 * 4, places * 6)
    assert conv.floats == places * 4 + places * 6 + 24 + 6
    assert (softmax.products, softmax.other, softmax.floats) == (0, 3 * places * 6, 2 * places * 6)
    assert (reshape.flops, reshape.floats, reshape.other_bytes) == (0, 0, 0)
    assert (transpose.flops, transpose.floats) == (0, 2 * places * 6)
    assert (mean.flops, mean.floats) == (places * 6, places * 6 + 2 * 6)
    total = costs.total
    assert total.bytes_moved(4) == 4 * total.floats
    assert total.bytes_moved(2) == 2 * total.floats


def test_what_depends_on_data_is_named_and_not_counted() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"], name="places"),
        helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT, name="cast"),
    ]
    costs = Costs(_small(nodes, {}, ["b", 4]), 1, Size(4, 4))
    assert costs.unknown == ["places", "cast"]
    assert costs.total.flops == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 3)), min_size=1, max_size=14))
def test_peak_memory_is_that_of_a_naive_simulation(choices: list[tuple[int, int, int]]) -> None:
    """Random graphs of sums, concatenations, views and halves; memory counted step by step from its definition."""
    names, nodes = ["x"], []
    for index, (first, second, op) in enumerate(choices):
        a, b, out = names[first % len(names)], names[second % len(names)], f"t{index}"
        if op == 0:
            nodes.append(helper.make_node("Concat", [a, b], [out], axis=0))
        elif op == 1:
            nodes.append(helper.make_node("Relu", [a], [out]))
        elif op == 2:
            nodes.append(helper.make_node("Reshape", [a, "shape"], [out]))
        else:
            nodes.append(helper.make_node("Identity", [a], [out]))
        names.append(out)
    nodes.append(helper.make_node("Relu", [names[-1]], ["y"]))
    model = _small(nodes, {"shape": np.array([-1, 4])}, ["b", 4])
    costs = Costs(model, 3, Size(1, 4))
    found = timeline(costs)
    assert found.peak == _naive_peak(costs)
    assert len(found.live) == len(nodes)


def _naive_peak(costs: Costs) -> int:
    """Run the graph in order with a table of what is in memory; return the largest sum."""
    nodes = list(costs.model.graph)
    owner = {value: value for value in costs.model.graph.inputs}
    for node in nodes:
        owner[node.outputs[0]] = owner[node.inputs[0]] if node.op_type in VIEWS else node.outputs[0]
    table, worst = set(costs.model.graph.inputs), 0
    last = {owner[output] for output in costs.model.graph.outputs}
    for index, node in enumerate(nodes):
        table.add(owner[node.outputs[0]])
        worst = max(worst, sum(costs.bytes_of(value) for value in table))
        later = {owner[v] for n in nodes[index + 1 :] for v in n.inputs if v in owner}
        table = {value for value in table if value in later | last}
    return worst


def _analysis(model: onnx.ModelProto | None = None, size: int = 64, batch: int = 1) -> Analysis:
    prepared = Prepare(verify=False).run(ir.from_proto(model or network())).model
    return analyse(prepared, batch, Size(size, size))


def test_blocks_have_their_place_and_their_share() -> None:
    found = _analysis()
    told = [(b.kind.name, b.place, b.stage, b.part, b.principal) for b in found.blocks]
    assert told == [
        ("se", "shallow", 2, BACKBONE, True),
        ("self_attention", "deep", 4, BACKBONE, True),
        ("se", "neck", 3, NECK, True),
    ]
    gate = found.blocks[0]
    places = 16 * 16
    assert gate.parameters == 2 * 2 * CHANNELS
    # mean and product over the map, two layers of 2 x 8 products, relu of 2 and sigmoid of 8 numbers
    assert gate.cost.flops == 2 * places * CHANNELS + 2 * 2 * 2 * CHANNELS + 2 + CHANNELS
    assert gate.peak == 4 * (2 * places * CHANNELS + CHANNELS)
    assert gate.peak_share == gate.peak / found.memory.peak


def test_a_gate_keeps_its_input_until_its_product() -> None:
    found = _analysis()
    gate = found.blocks[0]
    features = next(k for k in gate.kept if k.value.name == "down2/Relu_output")
    assert (features.born, features.dies) == (gate.span[0] - 1, gate.span[1])
    assert features.size == 4 * CHANNELS * 16 * 16


def test_fusing_takes_the_probabilities_out_of_memory() -> None:
    size = 768  # 48 x 48 positions, whose matrix has 20 MiB
    found = _analysis(size=size)
    matrix = 4 * ((size // 16) ** 2) ** 2
    assert found.blocks[1].peak >= 2 * matrix
    assert found.memory.peak >= 2 * matrix
    assert found.memory_fused.peak < matrix
    assert found.memory_fp16.peak == found.memory.peak // 2


@pytest.mark.parametrize("size", [64, 128, 256])
def test_cost_of_attention_grows_with_the_square_of_positions(size: int) -> None:
    small, large = (_analysis(size=s).blocks[1].cost.products for s in (size, 2 * size))
    positions = (size // 16) ** 2
    square = 2 * (2 + CHANNELS)
    linear = 2 * (2 + 2 + CHANNELS) * CHANNELS
    assert small == square * positions**2 + linear * positions
    assert large == square * (4 * positions) ** 2 + linear * 4 * positions


def _run(model: ir.Model) -> dict[str, np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).normal(0, 1, (2, 3, 64, 96)).astype(np.float32)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"images": x}), strict=True))


def _remove(found: Analysis, *places: str) -> ir.Model:
    plans = [plan_removal(b, found.facts) for b in found.blocks if b.place in places]
    assert all(isinstance(plan, Removal) for plan in plans)
    return remove_blocks(found.model, [plan for plan in plans if isinstance(plan, Removal)])


def test_removed_gate_leaves_the_network_that_never_had_it() -> None:
    found = _analysis()
    removed = _run(_remove(found, "shallow"))
    # the weights of the other layers are drawn later, so they are copied over
    bare = network(shallow_gate=False)
    kept = {t.name: t for t in network().graph.initializer}
    for tensor in bare.graph.initializer:
        tensor.CopyFrom(kept[tensor.name])
    expected = _run(ir.from_proto(bare))
    for name, array in expected.items():
        np.testing.assert_allclose(removed[name], array, rtol=1e-5, atol=1e-6)
    assert np.abs(_run(found.model)["fine"] - expected["fine"]).max() > 1e-3


def test_removed_attention_leaves_what_it_was_added_to() -> None:
    found = _analysis()
    removed = _run(_remove(found, "deep"))
    proto = ir.to_proto(found.model)
    proto.graph.output.append(helper.make_tensor_value_info("down4/Relu_output", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).normal(0, 1, (2, 3, 64, 96)).astype(np.float32)
    (before,) = session.run(["down4/Relu_output"], {"images": x})
    np.testing.assert_array_equal(removed["coarse"], before)


def test_all_removed_leaves_no_attention_and_the_same_outputs() -> None:
    found = _analysis()
    model = _remove(found, "shallow", "deep", "neck")
    assert analyse(model, 1, Size(64, 64)).blocks == ()
    assert {n: a.shape for n, a in _run(model).items()} == {n: a.shape for n, a in _run(found.model).items()}
    gone = sum(b.parameters for b in found.blocks)
    assert parameters_of(model.graph) == found.parameters - gone


@pytest.mark.parametrize("kind", ["se", "simam"])
def test_replacement_is_found_as_its_kind(kind: str) -> None:
    found = _analysis()
    plan = plan_removal(found.blocks[1], found.facts)
    assert isinstance(plan, Removal)
    assert can_gate(plan, found)
    model = remove_blocks(found.model, [plan], kind)
    _run(model)
    assert [b.kind.name for b in analyse(model, 1, Size(64, 64)).blocks] == ["se", kind, "se"]


def _watched(model: onnx.ModelProto) -> None:
    """Make the gate itself an output."""
    model.graph.output.append(
        helper.make_tensor_value_info("shallow/Sigmoid_output", TensorProto.FLOAT, ["batch", CHANNELS, 1, 1])
    )


def test_block_whose_inner_tensor_is_an_output_stays() -> None:
    model = network()
    _watched(model)
    found = _analysis(model)
    (block,) = [b for b in found.blocks if b.place.startswith("shallow")]
    plan = plan_removal(block, found.facts)
    assert isinstance(plan, Refusal)
    assert "'shallow/Sigmoid_output' is also an output" in plan.reason


def test_block_that_makes_another_shape_or_has_several_inputs_stays() -> None:
    found = _analysis()
    (images,) = found.model.graph.inputs
    gate = found.blocks[0]
    region = gate.block.region
    assert isinstance(region, Region)
    for inputs, words in (((images,), "so its input cannot take"), ((images, *region.inputs), "it has 2 inputs")):
        changed = replace(gate, block=replace(gate.block, region=replace(region, inputs=inputs)))
        plan = plan_removal(changed, found.facts)
        assert isinstance(plan, Refusal)
        assert words in plan.reason
