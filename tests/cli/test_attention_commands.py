"""`remove-attention`, `advise`, `baseline` and `optimize --plot`: what they say, write and refuse."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.api.advice import DEVICES, BlockFacts, Situation, advise_block, network_advice
from trtdeploy.backends.paired import measure_pair
from trtdeploy.cli import detector_score
from trtdeploy.cli.attention_plot import _spread
from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import Detections

Cli = Callable[..., Any]
QUICK = ("--seconds", "0", "--no-builder", "--imgsz", "64")


def _with_gate(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put squeeze and excitation before the detector's last level: its gates are nearly 1."""
    rng = np.random.default_rng(0)
    weights = {
        "se/w1": rng.normal(0, 0.1, (2, 2, 1, 1)), "se/w2": rng.normal(0, 0.1, (2, 2, 1, 1)),
        "se/b2": np.full(2, 6.0),
    }  # fmt: skip
    nodes = [
        helper.make_node("GlobalAveragePool", ["d32"], ["se/pool"], name="se/Pool"),
        helper.make_node("Conv", ["se/pool", "se/w1"], ["se/c1"], name="se/Conv"),
        helper.make_node("Relu", ["se/c1"], ["se/r"], name="se/Relu"),
        helper.make_node("Conv", ["se/r", "se/w2", "se/b2"], ["se/c2"], name="se/Conv_1"),
        helper.make_node("Sigmoid", ["se/c2"], ["se/s"], name="se/Sigmoid"),
        helper.make_node("Mul", ["d32", "se/s"], ["se/y"], name="se/Mul"),
    ]
    reader = next(i for i, n in enumerate(model.graph.node) if n.op_type == "Sigmoid" and n.input[0] == "d32")
    model.graph.node[reader].input[0] = "se/y"
    for offset, node in enumerate(nodes):
        model.graph.node.insert(reader + offset, node)
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()
    )
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def gated(detector: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    """A detector with one block of squeeze and excitation at stride 32."""
    onnx.save(_with_gate(detector()), tmp_path / "gated.onnx")
    return tmp_path / "gated.onnx"


def _ends(path: Path) -> list[tuple[str, list[Any]]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [(v.name, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]


def test_remove_attention_writes_a_model_without_it(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    done = cli_inside("remove-attention", gated, "-o", "o.onnx", "--kind", "se", *QUICK, "--json")
    assert done.code == 0, done.text
    report = done.json()
    assert [(b["kind"], b["place"], b["stage"]) for b in report["removed"]] == [("se", "se", 5)]
    assert report["refused"] == []
    assert report["before"]["parameters"] - report["after"]["parameters"] == 10
    assert report["after"]["flops"] < report["before"]["flops"]
    assert (report["rate"], report["score"]) == (None, None)
    assert "outputs keep their shapes" in report["checked"]
    assert _ends(tmp_path / "o.onnx") == _ends(gated)
    assert cli_inside("remove-attention", "o.onnx", "--list", "--json").json()["blocks"] == []


def test_remove_attention_measures_and_says_so(cli_inside: Cli, gated: Path) -> None:
    args = ("-o", "o.onnx", "--all", "--seconds", "0.05", "--no-builder", "--imgsz", "64", "--batch", "2")
    done = cli_inside("remove-attention", gated, *args)
    assert done.code == 0, done.text
    for words in (
        "removed squeeze and excitation at se",
        "its input takes its output's place",
        "peak activations",
        "one run here",
        "Speed after",
        "pairs",
        "Accuracy was not compared",
        "2x64x64",
    ):
        assert words in done.out
    assert "\x1b" not in done.text


def test_blocks_of_an_optimized_model_keep_their_places(cli_inside: Cli, gated: Path) -> None:
    assert cli_inside("optimize", gated, "-o", "o.onnx").code == 0
    blocks = cli_inside("remove-attention", "o.onnx", "--list", "--imgsz", "64", "--json").json()["blocks"]
    assert [(b["kind"], b["place"]) for b in blocks] == [("se", "se")]


def test_list_shows_blocks_and_writes_nothing(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    done = cli_inside("remove-attention", gated, "--list", "--imgsz", "64")
    assert done.code == 0, done.text
    line = next(line for line in done.out.splitlines() if line.startswith("se "))
    assert line.split()[:4] == ["se", "se", "backbone", "5"]
    assert line.endswith("yes")
    assert os.listdir(tmp_path) == ["gated.onnx"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("-o", "o.onnx"), 2, "Which blocks shall go?"),
        (("--all",), 2, "Give a file with -o"),
        (("-o", "o.onnx", "--all", "--kind", "se"), 2, "--all excludes"),
        (("-o", "o.onnx", "--kind", "sse"), 2, "Did you mean"),
        (("-o", "o.onnx", "--kind", "cbam"), 2, "No attention block"),
        (("-o", "o.onnx", "--at", "model.9*"), 2, "Its blocks: se at se"),
        (("-o", "o.onnx", "--stage", "2"), 2, "stage 5"),
        (("-o", "gated.onnx", "--all"), 2, "is the input"),
        (("-o", "nowhere/o.onnx", "--all"), 7, "nowhere"),
        (("-o", "o.onnx", "--all", "--imgsz", "x"), 2, "--imgsz"),
        (("-o", "o.onnx", "--all", "--seconds", "-1"), 2, "negative"),
        (("-o", "o.onnx", "--all", "--data", "nothing"), 2, "no such file"),
        (("-o", "o.onnx", "--all", "--imgsz", "63", "--seconds", "0.1", "--no-builder"), 0, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_removal_is_refused_and_writes_nothing(
    args: tuple[str, ...], code: int, words: str, cli_inside: Cli, gated: Path, tmp_path: Path
) -> None:
    done = cli_inside("remove-attention", gated, *args)
    if code == 0:
        assert done.code == 0, done.text
        return
    done.failed(code, words)
    assert os.listdir(tmp_path) == ["gated.onnx"]


def test_block_that_cannot_go_stays_with_the_reason(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    model = onnx.load(gated)
    model.graph.output.append(helper.make_tensor_value_info("se/s", TensorProto.FLOAT, ["batch", 2, 1, 1]))
    onnx.save(model, tmp_path / "watched.onnx")
    done = cli_inside("remove-attention", "watched.onnx", "-o", "o.onnx", "--all", *QUICK)
    done.failed(3, "None of the blocks can be removed", "'se/s' is also an output")
    assert not (tmp_path / "o.onnx").exists()
    listed = cli_inside("remove-attention", "watched.onnx", "--list", *QUICK)
    assert "no: its inner tensor 'se/s' is also an output" in listed.out
    advice = cli_inside("advise", "watched.onnx", *QUICK, "--json").json()["blocks"][0]
    assert (advice["action"], advice["without"]) == ("keep", {})
    cli_inside("baseline", "watched.onnx", *QUICK).failed(2, "nothing to compare", "'se/s'")


def test_result_that_would_not_be_the_same_network_is_not_written(
    cli_inside: Cli, gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of the removal, made on purpose: the map is replaced by what pools it."""
    from trtdeploy.graph import remove

    wrong = remove.Removal((("se/y", "se/s"),), "wrong")
    monkeypatch.setattr(remove, "plan_removal", lambda *_: wrong)
    done = cli_inside("remove-attention", gated, "-o", "o.onnx", "--all", *QUICK)
    done.failed(3, "Without the blocks", "Nothing was written")
    assert os.listdir(tmp_path) == ["gated.onnx"]


@pytest.mark.parametrize("command", ["remove-attention", "advise", "baseline"])
def test_file_that_is_no_model_is_refused(command: str, cli_inside: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_text("no model\n" * 99)
    extra = ("-o", "o.onnx", "--all") if command == "remove-attention" else ()
    cli_inside(command, "bad.onnx", *extra).failed(3, "bad.onnx", "not an ONNX")
    assert os.listdir(tmp_path) == ["bad.onnx"]


def test_existing_output_needs_force(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    (tmp_path / "o.onnx").write_text("mine")
    args = ("remove-attention", gated, "-o", "o.onnx", "--all", *QUICK)
    cli_inside(*args).failed(2, "exists", "--force")
    assert (tmp_path / "o.onnx").read_text() == "mine"
    assert cli_inside(*args, "--force").code == 0


def _images(folder: Path, count: int) -> list[dict[str, Any]]:
    """Write images of a red patch each; return COCO annotations of what the detector finds in the network's pixels."""
    folder.mkdir()
    entries = []
    for index in range(count):
        image = np.full((64, 64, 3), 90, np.uint8)
        cv2.rectangle(image, (8 * index, 16), (8 * index + 31, 47), (0, 0, 255), -1)
        cv2.imwrite(str(folder / f"{index}.png"), image)
        entries.append({"image_id": index, "category_id": 7, "bbox": [8 * index, 16, 32, 32], "id": index + 1,
                        "area": 1024, "iscrowd": 0})  # fmt: skip
    return entries


def test_map_before_and_after_on_coco_labels(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    entries = _images(tmp_path / "images", 3)
    document = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(3)],
        "categories": [{"id": 7, "name": "red"}, {"id": 9, "name": "green"}],
        "annotations": entries,
    }
    (tmp_path / "labels.json").write_text(json.dumps(document))
    args = ("--data", "labels.json", "--images", "images")
    done = cli_inside("remove-attention", gated, "-o", "o.onnx", "--all", *QUICK, *args, "--json")
    assert done.code == 0, done.text
    score = done.json()["score"]
    assert score["what"] == "COCO mAP"
    assert score["images"] == 3
    assert 0 < score["before"]["map50"] <= 1
    assert score["after"]["map50"] == pytest.approx(score["before"]["map50"], abs=0.2)
    (tmp_path / "labels.json").write_text(json.dumps({**document, "categories": [{"id": 7, "name": "cat"}]}))
    again = cli_inside("remove-attention", gated, "-o", "p.onnx", "--all", *QUICK, *args)
    again.failed(2, "No class of the labels (cat)", "red, blue")
    assert not (tmp_path / "p.onnx").exists()


def test_images_without_labels_give_agreement(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    _images(tmp_path / "images", 2)
    done = cli_inside("remove-attention", gated, "-o", "o.onnx", "--all", *QUICK, "--data", "images")
    assert done.code == 0, done.text
    assert "Boxes on 2 images without labels" in done.out
    assert "agreement, not accuracy" in done.out


def _found(boxes: list[list[float]], classes: list[int]) -> Detections:
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(classes, np.int32))


def test_agreement_counts_boxes_of_the_same_class_alone() -> None:
    boxes = [[0, 0, 10, 10], [20, 20, 40, 40]]
    same = detector_score.agreement([_found(boxes, [0, 1])], [_found(boxes, [0, 1])])
    assert same == {"boxes_before": 2, "boxes_after": 2, "matched": 2}
    other = detector_score.agreement([_found(boxes, [0, 1])], [_found(boxes[:1], [1])])
    assert other == {"boxes_before": 2, "boxes_after": 1, "matched": 0}


def test_advice_states_a_reason_and_figures(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    done = cli_inside("advise", gated, "--device", "orin-nx", "--fps", "50", *QUICK)
    assert done.code == 0, done.text
    for words in ("KEEP  squeeze and excitation at se (backbone, stage 5)", "because: it is already as simple",
                  "without it: parameters", "paper estimate", "not measured on a GPU", "Jetson Orin NX"):  # fmt: skip
        assert words in done.out
    assert os.listdir(tmp_path) == ["gated.onnx"]


def test_advice_as_json_measures_each_variant(cli_inside: Cli, gated: Path) -> None:
    args = ("--seconds", "0.05", "--no-builder", "--imgsz", "64")
    report = cli_inside("advise", gated, *args, "--json").json()
    (block,) = report["blocks"]
    assert block["reason"]
    assert block["without"]["rate"]["pairs"] >= 5
    assert block["without"]["images_per_s"] > 0
    assert report["fps_here"] > 0
    assert report["advised"] is None
    assert set(block["replaced"]) == {"se", "simam"}
    assert block["kept"][0]["bytes"] > 0


def test_advice_without_attention_says_so(cli_inside: Cli, assets: Path) -> None:
    done = cli_inside("advise", assets / "model.onnx", *QUICK)
    assert done.code == 0, done.text
    assert "No attention block was found" in done.out
    cli_inside("baseline", assets / "model.onnx", *QUICK).failed(2, "no attention block")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--fps", "0"), "--fps 0"),
        (("--device", "abacus"), "abacus"),
        (("--plot", "x.bmp"), ".png"),
        (("--plot", "gated.onnx"), "suffix"),
        (("--imgsz", "0"), "--imgsz"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_option_of_advise_is_a_usage_error(
    args: tuple[str, ...], words: str, cli_inside: Cli, gated: Path, tmp_path: Path
) -> None:
    cli_inside("advise", gated, *QUICK, *args).failed(2, words)
    assert os.listdir(tmp_path) == ["gated.onnx"]


def test_baseline_compares_with_and_without(cli_inside: Cli, gated: Path) -> None:
    args = ("--seconds", "0.05", "--no-builder", "--imgsz", "64")
    report = cli_inside("baseline", gated, *args, "--json").json()
    first, second = report["rows"]
    assert (first["variant"], first["blocks"], second["variant"], second["blocks"]) == ("as it is", 1, "without se", 0)
    assert first["parameters"] - second["parameters"] == 10
    assert first["images_per_s"] > 0
    assert second["rate"]["ratio"] > 0
    text = cli_inside("baseline", gated, *args).out
    assert "without se" in text


def test_model_of_a_fixed_size_refuses_another(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    model = onnx.load(gated)
    for dim, value in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 64, 96), strict=True):
        dim.dim_value = value
    onnx.save(model, tmp_path / "fixed.onnx")
    cli_inside("baseline", "fixed.onnx", "--imgsz", "64", "--seconds", "0").failed(2, "takes 64x96")
    cli_inside("baseline", "fixed.onnx", "--batch", "2", "--seconds", "0").failed(2, "takes 1 images")
    report = cli_inside("baseline", "fixed.onnx", "--seconds", "0", "--no-builder", "--json").json()
    assert (report["batch"], report["height"], report["width"]) == (1, 64, 96)


def test_plot_is_a_picture_with_the_blocks_colour(cli_inside: Cli, gated: Path, tmp_path: Path) -> None:
    done = cli_inside("optimize", gated, "-o", "o.onnx", "--plot", "p.png", "--json")
    assert done.code == 0, done.text
    assert done.json()["plot"] == "p.png"
    picture = cv2.imread(str(tmp_path / "p.png"))
    assert picture.shape[0] > 500
    assert picture.shape[1] > 1000
    blue = np.abs(picture.astype(int) - np.array([0xB2, 0x72, 0x00])).max(axis=2) < 3  # BGR of the first kind
    assert blue.sum() > 1000
    assert sorted(os.listdir(tmp_path)) == ["gated.onnx", "o.onnx", "p.png"]
    cli_inside("optimize", gated, "-o", "q.onnx", "--plot", "p.png").failed(2, "p.png exists")
    assert not (tmp_path / "q.onnx").exists()


def test_plot_without_matplotlib_gives_the_pip_line(
    cli_inside: Cli, gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    for command in (("optimize", gated, "-o", "o.onnx"), ("advise", gated)):
        cli_inside(*command, "--plot", "p.png").failed(8, "matplotlib", "pip install 'trtdeploy[viz]'")
    assert os.listdir(tmp_path) == ["gated.onnx"]


@pytest.mark.parametrize("count", [1, 7, 60])
def test_numbers_above_the_strip_keep_their_order_and_distance(count: int) -> None:
    middles = sorted(np.random.default_rng(count).uniform(0, 100, count).tolist())
    places = _spread(middles, 2.0, 100)
    gaps = np.diff(places)
    assert (gaps >= min(2.0, 100 / count) - 1e-9).all()
    assert -0.5 <= min(places) <= max(places) < 100


def _facts(**changes: Any) -> BlockFacts:
    return BlockFacts(**{"kind": "cbam", "in_backbone": True, "stage": 4, "gates": ("se", "simam"), **changes})


@pytest.mark.parametrize(
    ("block", "situation", "action", "words"),
    [
        (_facts(stays="it has 3 inputs"), Situation(fps=200), "keep", "it has 3 inputs"),
        (_facts(stage=2), Situation(hard_scenes=True), "keep", "small objects"),
        (_facts(stage=2), Situation(), "drop", "stage 2"),
        (_facts(stage=1), Situation(fps=200), "drop", "stage 1"),
        (_facts(stage=2, in_backbone=False), Situation(), "keep", "neck"),
        (_facts(), Situation(fps=101), "replace by se", "101 images/s"),
        (_facts(), Situation(fps=100), "keep", "cheap"),
        (_facts(gates=()), Situation(fps=200), "drop", "no feature map"),
        (_facts(kind="simam"), Situation(fps=200), "keep", "already as simple"),
        (_facts(in_backbone=False), Situation(fps=200), "replace by se", "train the new gate"),
        (_facts(), Situation(device=DEVICES["orin-nx"], parameters=20_000_000), "replace by se", "8 GB"),
        (_facts(), Situation(device=DEVICES["orin-nx"], parameters=9_000_000), "keep", "cheap"),
        (_facts(share=0.3), Situation(), "replace by se", "30 %"),
        (_facts(share=0.3), Situation(hard_scenes=True), "keep", "small objects"),
        (
            _facts(gain=1.4, gain_is_sure=True), Situation(device=DEVICES["cpu"], fps=30, fps_here=20.0),
            "replace by se", "1.40 times",
        ),
        (_facts(gain=1.4), Situation(device=DEVICES["cpu"], fps=30, fps_here=20.0), "keep", "cheap"),
    ],
)  # fmt: skip
def test_rules_of_advice(block: BlockFacts, situation: Situation, action: str, words: str) -> None:
    advice = advise_block(block, situation)
    assert str(advice) == action
    assert words in advice.reason


def test_advice_for_the_network_names_memory_and_conflicts() -> None:
    tight = network_advice(Situation(device=DEVICES["orin-nx"], parameters=20_000_000))
    assert any("size n or s" in line for line in tight)
    assert any("pull apart" in line for line in network_advice(Situation(fps=200, hard_scenes=True)))


def test_paired_measure_sees_a_model_of_twice_the_work() -> None:
    def stack(depth: int) -> bytes:
        names = ["x", *(f"t{i}" for i in range(1, depth)), "y"]
        nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [256, 256]) for name in ("x", "y")]
        weight = numpy_helper.from_array(np.eye(256, dtype=np.float32), "w")
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        data: bytes = model.SerializeToString()
        return data

    feeds = {"x": np.ones((256, 256), np.float32)}
    rate = measure_pair(stack(40), stack(4), feeds, 0.2)
    assert rate.ratio > 2
    assert rate.ratio_low <= rate.ratio <= rate.ratio_high
    assert rate.pairs >= 5
    with pytest.raises(EngineError, match="does not load"):
        measure_pair(stack(1), b"nothing", feeds, 0.1)
    with pytest.raises(EngineError, match="does not run the model at x"):
        measure_pair(stack(1), stack(1), {"x": np.ones((3, 3), np.float32)}, 0.1)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
def test_builder_gives_kernels_with_and_without(cli_inside: Cli, gated: Path) -> None:
    report = cli_inside("baseline", gated, "--seconds", "0", "--imgsz", "64", "--builder", "--json").json()
    with_gate, without = (row["builder"]["kernels"] for row in report["rows"])
    assert without < with_gate


def test_builder_that_is_not_installed_gives_the_pip_line(
    cli_inside: Cli, gated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdeploy.api.attention.has_builder", lambda: False)
    cli_inside("baseline", gated, "--builder").failed(8, "TensorRT-RTX", "pip install 'trtdeploy[rtx]'")
