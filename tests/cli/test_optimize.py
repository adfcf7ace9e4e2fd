"""`trtdeploy optimize` as a user runs it: the demo's model with coordinate attention, kinds of one's own, bad input."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import trtdeploy
from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.graph import surgery

Cli = Callable[..., Any]
MODEL = Path(trtdeploy.__file__).parent / "demo_data" / "circuit_boards.onnx"

OWN_KIND = {
    "__init__.py": """
from trtdeploy.attention.kind import AttentionKind, Case
KIND = AttentionKind(package=__name__, title="contrast gate", tier=2, family="gate", paper="made for a test",
    class_name="ContrastGate", cases=(Case(channels=4),))
""",
    "rule.py": """
from trtdeploy.attention.pattern import P, Rule
x = P.input()
RULES = (Rule(pattern=x * P.sigmoid(P.max(x, "HW") - P.mean(x, "HW"))),)
""",
}


def _run(path: Path, **feeds: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    outputs: list[np.ndarray[Any, Any]] = onnxruntime.InferenceSession(path).run(None, feeds)
    return outputs


def _kinds(document: dict[str, Any]) -> list[str]:
    return [block["kind"] for block in document["blocks"] if block["fused"]]


@pytest.fixture(scope="module")
def contrast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a gate that the catalogue does not have."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["f"], name="/conv"),
        helper.make_node("ReduceMax", ["f"], ["peak"], axes=[2, 3], name="/gate/peak"),
        helper.make_node("ReduceMean", ["f"], ["mean"], axes=[2, 3], name="/gate/mean"),
        helper.make_node("Sub", ["peak", "mean"], ["contrast"], name="/gate/sub"),
        helper.make_node("Sigmoid", ["contrast"], ["gate"], name="/gate/sigmoid"),
        helper.make_node("Mul", ["f", "gate"], ["y"], name="/gate/mul"),
    ]
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32), "w")
    shape = ["batch", 3, "height", "width"]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "height", "width"])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weight])
    path = tmp_path_factory.mktemp("contrast") / "contrast.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_blocks_become_nodes_and_the_results_stay(cli: Cli, tmp_path: Path) -> None:
    done = cli("optimize", MODEL, "-o", "out.onnx", "--json")
    assert done.code == 0, done.text
    document = done.json()
    assert _kinds(document) == ["coordatt"] * 4
    model = onnx.load(tmp_path / "out.onnx")
    assert sum(node.domain == "trtdeploy" for node in model.graph.node) == 4
    assert [value.name for value in model.graph.input] == ["images"]
    assert {prop.key for prop in model.metadata_props} >= {"names", "stride"}
    images = np.random.default_rng(0).random((2, 3, 96, 64), np.float32)
    before, after = (_run(path, images=images)[0] for path in (MODEL, tmp_path / "out.onnx"))
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()


def test_the_report_for_people_names_kind_place_and_node(cli_inside: Cli, tmp_path: Path) -> None:
    done = cli_inside("optimize", MODEL, "-o", tmp_path / "out.onnx")
    assert done.code == 0, done.text
    for word in ("coordinate attention", "out4/out4.1", "TrtdeployCoordAtt", "4 blocks fused"):
        assert word in done.out


def test_an_optimized_model_is_built_and_optimized_again(cli_inside: Cli, tmp_path: Path) -> None:
    assert cli_inside("optimize", MODEL, "-o", tmp_path / "once.onnx").code == 0
    again = cli_inside("optimize", tmp_path / "once.onnx", "-o", tmp_path / "twice.onnx", "--json")
    assert _kinds(again.json()) == ["coordatt"] * 4
    built = cli_inside("build", tmp_path / "once.onnx", "-o", tmp_path / "x.engine", "--backend", "onnxruntime")
    assert built.code == 0, built.text


def test_nms_and_frames_are_added_only_when_asked(cli_inside: Cli, tmp_path: Path) -> None:
    options = ("--nms", "auto", "--frames", "--imgsz", "320")
    assert cli_inside("optimize", MODEL, "-o", tmp_path / "frames.onnx", *options).code == 0
    graph = onnx.load(tmp_path / "frames.onnx").graph
    assert [value.name for value in graph.input] == ["frames"]
    assert [value.name for value in graph.output] == ["num_dets", "boxes", "scores", "classes"]


def test_fp16_halves_the_weights(cli_inside: Cli, tmp_path: Path) -> None:
    assert cli_inside("optimize", MODEL, "-o", tmp_path / "half.onnx", "--fp16").code == 0
    types = [tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer]
    assert types.count(TensorProto.FLOAT16) > types.count(TensorProto.FLOAT)


def test_a_kind_of_ones_own_needs_only_its_folder(cli_inside: Cli, contrast: Path, tmp_path: Path) -> None:
    without = cli_inside("optimize", contrast, "-o", tmp_path / "a.onnx", "--json").json()
    assert [block["kind"] for block in without["blocks"]] == ["unrecognised"]
    folder = tmp_path / "contrast_gate"
    folder.mkdir()
    for name, text in OWN_KIND.items():
        (folder / name).write_text(text)
    found = cli_inside("optimize", contrast, "-o", tmp_path / "b.onnx", "--json", "--kinds", folder).json()
    assert [(block["kind"], block["op_type"]) for block in found["blocks"]] == [
        ("contrast_gate", "TrtdeployContrastGate")
    ]
    x = np.random.default_rng(1).standard_normal((3, 3, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(_run(tmp_path / "b.onnx", x=x)[0], _run(contrast, x=x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--only", "simm"), 2, "Did you mean simam"),
        (("--kinds", "nowhere"), 2, "nowhere is not a folder of an attention kind"),
        (("--int8",), 2, "--int8 needs images of what the network will see"),
        (("--frames",), 2, "Give --nms too"),
        (("--imgsz", "640", "--dynamic", "480:640:1080"), 2, "exclude each other"),
    ],
)
def test_wrong_options_are_refused(
    options: tuple[str, ...], code: int, word: str, cli_inside: Cli, tmp_path: Path
) -> None:
    cli_inside("optimize", MODEL, "-o", tmp_path / "out.onnx", *options).failed(code, word)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "cycle", "recursive function", "missing weight"])
def test_bad_models_are_refused_and_nothing_is_written(kind: str, cli_inside: Cli, tmp_path: Path) -> None:
    words = {
        "empty": "is empty", "text": "not an ONNX", "truncated": "cut short", "cycle": "has a cycle",
        "recursive function": "calls itself", "missing weight": "no node, input or initializer provides",
    }  # fmt: skip
    (tmp_path / "bad.onnx").write_bytes(_bad(kind))
    cli_inside("optimize", tmp_path / "bad.onnx", "-o", tmp_path / "out.onnx").failed(3, "bad.onnx", words[kind])
    assert os.listdir(tmp_path) == ["bad.onnx"]


def test_external_data_outside_the_folder_is_refused(cli_inside: Cli, contrast: Path, tmp_path: Path) -> None:
    model = onnx.load(contrast)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../../etc/passwd", 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    cli_inside("optimize", tmp_path / "bad.onnx", "-o", tmp_path / "out.onnx").failed(3, "outside the model's folder")


def test_an_existing_output_is_kept_without_force(cli_inside: Cli, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_text("precious")
    cli_inside("optimize", MODEL, "-o", tmp_path / "out.onnx").failed(2, "--force")
    assert (tmp_path / "out.onnx").read_text() == "precious"


def test_a_pass_that_would_change_results_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Wrong(surgery.FuseAttention):
        def run(self, model: Any) -> Any:
            result = super().run(model)
            weight = next(v for v in model.graph.initializers.values() if v.const_value.size > 100)
            weight.const_value = surgery.ir.tensor(weight.const_value.numpy() * 1.1, name=weight.name)
            return result

    monkeypatch.setattr(surgery, "FuseAttention", Wrong)
    with pytest.raises(ModelError, match="would change the model's results"):
        trtdeploy.optimize(MODEL, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []


def test_the_library_refuses_what_the_command_refuses() -> None:
    with pytest.raises(UsageError, match="Give --nms too"):
        trtdeploy.OptimizeOptions(frames=True)


def _bad(kind: str) -> bytes:
    good = MODEL.read_bytes()
    if kind in {"empty", "text", "truncated"}:
        return {"empty": b"", "text": b"class,x,y\npad,1,2\n" * 40, "truncated": good[: len(good) // 2]}[kind]
    model = onnx.load_from_string(good)
    if kind == "cycle":
        first = model.graph.node[0]
        model.graph.node.append(helper.make_node("Identity", [model.graph.output[0].name], ["loop"]))
        model.graph.node.append(helper.make_node("Add", ["loop", first.input[0]], ["looped"]))
        first.input[0] = "looped"
    elif kind == "recursive function":
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        body = [helper.make_node("Again", ["a"], ["b"], domain="mine")]
        model.functions.append(helper.make_function("mine", "Again", ["a"], ["b"], body, opsets))
        model.opset_import.append(helper.make_opsetid("mine", 1))
        model.graph.node[0].domain, model.graph.node[0].op_type = "mine", "Again"
        del model.graph.node[0].input[1:], model.graph.node[0].attribute[:]
    else:
        del model.graph.initializer[0]
    return model.SerializeToString()
