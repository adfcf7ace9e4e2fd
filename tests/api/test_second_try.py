"""Which blocks stay FP32: found by few builds, and on a network whose FP16 really is rounded to 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from trtdeploy.api.gate import Gate
from trtdeploy.api.gate_options import GateOptions, gate_images
from trtdeploy.api.second_try import Block, blocks_of, names_of, smallest_set
from trtdeploy.core.engine_info import EngineInfo, NmsInfo, SourceInfo, TensorInfo
from trtdeploy.engine.tolerance import FP16
from trtdeploy.graph.precision.fp16 import ToFp16

BLOCKS = [Block(f"block{index}", (f"/block{index}/Conv",)) for index in range(20)]


@pytest.mark.parametrize("guilty", [{0}, {19}, {7}, {3, 4}, {2, 15}, {0, 9, 19}], ids=str)
def test_guilty_blocks_are_found_and_no_others(guilty: set[int]) -> None:
    calls = []
    wanted = {BLOCKS[index] for index in guilty}

    def passes(kept: list[Block]) -> bool:
        calls.append(len(kept))
        return wanted <= set(kept)

    assert smallest_set(BLOCKS, passes, trials=64) == [BLOCKS[index] for index in sorted(guilty)]
    assert len(calls) <= 11 * len(guilty)


def test_when_trials_are_used_up_what_is_known_to_suffice_is_kept() -> None:
    wanted = {BLOCKS[0], BLOCKS[9], BLOCKS[19]}
    calls = []

    def passes(kept: list[Block]) -> bool:
        calls.append(kept)
        return wanted <= set(kept)

    for trials in range(1, 30):
        calls.clear()
        found = smallest_set(BLOCKS, passes, trials=trials)
        assert wanted <= set(found), trials
        assert len(calls) <= trials


def test_nothing_is_kept_where_all_blocks_do_not_suffice() -> None:
    assert smallest_set(BLOCKS, lambda _kept: False) == []
    assert smallest_set([], lambda _kept: True) == []


def test_names_are_patterns_that_match_themselves_alone() -> None:
    assert names_of([Block("a", ("/a[0]/Conv*", "/b"))]) == ["/a[[]0]/Conv[*]", "/b"]


def network(names: list[str]) -> ir.Model:
    """Return a chain over `images [B,32,32,3]`: every layer doubles contrast and halves it again; one overflows FP16.

    The layer whose name contains `big` multiplies by 65,000 and divides by it.
    """
    nodes = [helper.make_node("Cast", ["images"], ["x"], name="in/Cast", to=TensorProto.FLOAT)]
    weights = [numpy_helper.from_array(np.float32(1 / 255), "scale")]
    nodes.append(helper.make_node("Mul", ["x", "scale"], ["y0"], name="in/Mul"))
    for index, name in enumerate(names):
        factor = 60_000.0 if "big" in name else 2.0
        weights += [
            numpy_helper.from_array(np.float32(factor), f"up{index}"),
            numpy_helper.from_array(np.float32(1 / factor if "big" not in name else 1 / 256), f"down{index}"),
            numpy_helper.from_array(np.float32(256 / factor), f"rest{index}"),
        ]
        nodes.append(helper.make_node("Mul", [f"y{index}", f"up{index}"], [f"u{index}"], name=f"{name}/up"))
        squared = f"u{index}"
        if "big" in name:
            nodes.append(helper.make_node("Add", [squared, squared], [f"a{index}"], name=f"{name}/twice"))
            nodes.append(helper.make_node("Sub", [f"a{index}", squared], [f"s{index}"], name=f"{name}/once"))
            nodes.append(helper.make_node("Mul", [f"s{index}", f"down{index}"], [f"d{index}"], name=f"{name}/down"))
            nodes.append(helper.make_node("Mul", [f"d{index}", f"rest{index}"], [f"y{index + 1}"], name=f"{name}/rest"))
        else:
            nodes.append(helper.make_node("Mul", [squared, f"down{index}"], [f"y{index + 1}"], name=f"{name}/down"))
    nodes.append(helper.make_node("Identity", [f"y{len(names)}"], ["features"], name="out/Identity"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("images", TensorProto.UINT8, ["B", 32, 32, 3])],
        [value("features", TensorProto.FLOAT, ["B", 32, 32, 3])],
        weights,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def rounded(model: ir.Model) -> Any:
    """Return a function that opens `model` on a device whose FP16 tensors have 16 bits."""
    evaluator = ReferenceEvaluator(ir.to_proto(model))

    @contextmanager
    def open_engine() -> Iterator[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            yield lambda images: {"features": evaluator.run(None, {"images": images})[0]}

    return open_engine


def gate_of(model: ir.Model) -> Gate:
    info = EngineInfo(
        backend="simulated", precision="fp16", input_kind="canvas",
        inputs=[TensorInfo(name="images", dtype="uint8", shape=["B", 32, 32, 3])],
        outputs=[TensorInfo(name="features", dtype="float32", shape=["B", 32, 32, 3])],
        batch_min=1, batch_opt=1, batch_max=2, size_min=(32, 32), size_opt=(32, 32), size_max=(32, 32), stride=32,
        head="none", nms=NmsInfo(method="none"), source=SourceInfo(name="m.onnx", sha256="0" * 64, opset=17),
    )  # fmt: skip
    return Gate(model, info, gate_images(GateOptions(), 2), FP16)


NAMES = [f"net.{index}/layer" for index in range(10)]


@pytest.mark.parametrize("names", [NAMES, [f"n{index}" for index in range(10)]], ids=["paths", "plain names"])
def test_layer_that_overflows_is_found_on_a_device_with_real_rounding(names: list[str]) -> None:
    names = [f"{name}_big" if index == 6 else name for index, name in enumerate(names)]
    model = network(names)
    gate = gate_of(model)
    half = ToFp16().run(model.clone()).model
    report = gate.check(rounded(half))
    assert report.verdict == "failed"
    assert "NaN or infinite where the reference is not" in report.reason
    blocks = blocks_of(half)

    def passes(kept: list[Block]) -> bool:
        built = ToFp16(keep=names_of(kept)).run(model.clone()).model
        return gate.check(rounded(built)).verdict == "passed"

    found = smallest_set(blocks, passes, trials=20)
    kept = {node for block in found for node in block.nodes}
    assert {f"{names[6]}/twice"} <= kept, found
    assert len(kept) <= 6, "few nodes beside the guilty ones"


def test_blocks_follow_the_paths_of_modules() -> None:
    half = ToFp16().run(network(NAMES)).model
    names = [block.name for block in blocks_of(half)]
    assert names[:3] == ["in", "net.0", "net.1"]
    flat = ToFp16().run(network(["layer"])).model
    assert all(" to " in block.name for block in blocks_of(flat))
