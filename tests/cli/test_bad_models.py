"""Files that are no models or engines, and models that are not fit: a clear error and exit code, nothing left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Cli = Callable[..., Any]

BAD_FILES = ("missing", "empty", "text", "random", "truncated", "folder")


def _bad_file(kind: str, good: Path, path: Path) -> Path:
    """Make a file at `path` that looks like `good` and is not."""
    data = {
        "empty": b"",
        "text": b"class,x,y\npad,1,2\n" * 40,
        "random": np.random.default_rng(0).bytes(5000),
        "truncated": good.read_bytes()[: good.stat().st_size // 2],
    }
    if kind == "folder":
        path.mkdir()
    elif kind in data:
        path.write_bytes(data[kind])
    return path


MODEL_WORDS = {
    "missing": "No such file",
    "empty": "is empty",
    "text": "not an ONNX",
    "random": "not an ONNX",
    "truncated": "cut short",
    "folder": "is a folder",
}
ENGINE_WORDS = {
    "missing": "there is no such file",
    "empty": "the file is empty",
    "text": "this is a text file, not an engine",
    "random": "this is not an engine",
    "truncated": "the file is truncated",
    "folder": "this is a folder, not an engine",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_build_refuses_a_file_that_is_no_model(kind: str, cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    path = _bad_file(kind, assets / "model.onnx", tmp_path / "bad.onnx")
    before = sorted(os.listdir(tmp_path))
    cli_inside("build", path).failed(3, "bad.onnx", MODEL_WORDS[kind])
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("kind", BAD_FILES)
def test_infer_refuses_a_file_that_is_no_engine(kind: str, cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    path = _bad_file(kind, assets / "x.engine", tmp_path / "bad.engine")
    before = sorted(os.listdir(tmp_path))
    done = cli_inside("infer", "--engine", path, "--video", assets / "a.mp4", "--jsonl", "out.jsonl")
    done.failed(5, "bad.engine", ENGINE_WORDS[kind])
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("command", ["build", "infer"])
def test_refusal_is_the_same_in_a_process_of_its_own(command: str, cli: Cli, assets: Path, tmp_path: Path) -> None:
    path = _bad_file("random", assets / "model.onnx", tmp_path / "bad.onnx")
    args = ("build", path) if command == "build" else ("infer", "--engine", path, "--video", assets / "a.mp4")
    cli(*args).failed(3 if command == "build" else 5, "bad.onnx", "not an")
    assert os.listdir(tmp_path) == ["bad.onnx"]


def test_infer_of_a_model_says_to_build_it(cli_inside: Cli, assets: Path) -> None:
    done = cli_inside("infer", "--engine", assets / "model.onnx", "--video", assets / "a.mp4")
    done.failed(5, "this is an ONNX model, not an engine", "trtdeploy build")


def test_build_of_an_engine_says_to_take_its_model(cli_inside: Cli, assets: Path) -> None:
    cli_inside("build", assets / "x.engine", "-o", "y.engine").failed(3, "is an engine", "ONNX model")


@pytest.mark.parametrize(("name", "code"), [("bad.onnx", 3), ("bad.engine", 5)])
def test_inspect_refuses_a_damaged_file(name: str, code: int, cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    good = assets / ("model.onnx" if name.endswith("onnx") else "x.engine")
    done = cli_inside("inspect", _bad_file("truncated", good, tmp_path / name), "--json")
    done.failed(code, name)
    assert done.json()["error"]["exit_code"] == code


def _classifier() -> onnx.ModelProto:
    """Make a model with two outputs, none of which holds detections."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Softmax", ["features"], ["likelihoods"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("likelihoods", "features")]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(nodes, "classifier", [images], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_model_without_a_head_lists_its_outputs_and_the_option(cli: Cli, tmp_path: Path) -> None:
    onnx.save(_classifier(), tmp_path / "classifier.onnx")
    done = cli("build", "classifier.onnx")
    done.failed(3, "likelihoods", "features", "--head boxes=NAME,scores=NAME")
    assert os.listdir(tmp_path) == ["classifier.onnx"]


def test_model_with_nan_weights_names_the_tensor(cli: Cli, detector: Callable[..., Any], tmp_path: Path) -> None:
    model = detector()
    for tensor in model.graph.initializer:
        if tensor.name == "w16":
            values = numpy_helper.to_array(tensor).copy()
            values[0, 0, 0, 0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(values, "w16"))
    onnx.save(model, tmp_path / "nan.onnx")
    cli("build", "nan.onnx").failed(3, "NaN", "w16")
    assert os.listdir(tmp_path) == ["nan.onnx"]


@pytest.mark.parametrize("opset", [10, 99])
def test_model_of_an_unknown_opset_says_which_are_read(
    opset: int, cli_inside: Cli, detector: Callable[..., Any], tmp_path: Path
) -> None:
    model = detector()
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "other.onnx")
    cli_inside("build", "other.onnx").failed(3, f"opset {opset}", "11", "24")
    assert os.listdir(tmp_path) == ["other.onnx"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("640:480:1080", ["min 640x640 is larger than opt 480x480"]),
        ("0:640:1080", ["0 is out of range"]),
        ("-480:640:1080", ["-480 is out of range"]),
        ("small:640:1080", ["'small' is not a whole number"]),
        ("480:640", ["has 2 sizes", "480:640:1080"]),
    ],
    ids=["min above opt", "zero", "negative", "letters", "two sizes"],
)
def test_wrong_range_of_sizes_is_a_usage_error(
    text: str, words: list[str], cli_inside: Cli, assets: Path, tmp_path: Path
) -> None:
    cli_inside("build", assets / "model.onnx", "-o", "y.engine", f"--dynamic={text}").failed(2, "--dynamic", *words)
    assert os.listdir(tmp_path) == []


def test_sizes_that_are_no_multiples_are_snapped_and_that_is_said(cli: Cli, assets: Path) -> None:
    done = cli("build", assets / "model.onnx", "-o", "y.engine", "--dynamic", "50:96:100")
    assert done.code == 0, done.text
    assert "50 -> 64" in done.out
    assert "100 -> 128" in done.out
    assert "64x64:96x96:128x128" in done.out


def test_two_wrong_options_at_once_are_refused(cli_inside: Cli, assets: Path) -> None:
    cli_inside("build", assets / "model.onnx", "--fp16", "--int8").failed(2, "--fp16 and --int8 exclude each other")


def _with_metadata(engine: Path, path: Path, metadata: str) -> Path:
    """Write a copy of `engine` with other metadata."""
    model = onnx.load(engine)
    for entry in model.metadata_props:
        if entry.key == "trtdeploy":
            entry.value = metadata
    onnx.save(model, path)
    return path


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "huge document": (lambda info: {**info, "precision_note": "x" * (2 << 20)}, "bytes"),
    "unknown field": (lambda info: {**info, "__class__": "os.system"}, "__class__"),
    "batch of a billion": (lambda info: {**info, "batch_max": 10**9}, "batch_max"),
    "negative size": (lambda info: {**info, "size_min": [-64, 64]}, "size_min"),
    "sizes out of order": (lambda info: {**info, "size_min": [4096, 4096]}, "order"),
    "classes that are numbers": (lambda info: {**info, "class_names": [1, 2]}, "class_names"),
    "other format": (lambda info: {**info, "format": 999}, "format 999"),
    "a list": (lambda info: [info], "not valid"),
    "deep nesting": (lambda info: json.loads("[" * 900 + "]" * 900), "not valid"),
    "no JSON": (lambda info: None, "not valid"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_metadata_is_refused(kind: str, cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    model = onnx.load(assets / "x.engine")
    info = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "trtdeploy"))
    change, words = HOSTILE[kind]
    text = "}{" if kind == "no JSON" else json.dumps(change(info))
    path = _with_metadata(assets / "x.engine", tmp_path / "hostile.engine", text)
    cli_inside("inspect", path).failed(5, "hostile.engine", words)


def test_escape_sequences_in_metadata_do_not_reach_the_terminal(cli_inside: Cli, assets: Path, tmp_path: Path) -> None:
    model = onnx.load(assets / "x.engine")
    info = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "trtdeploy"))
    info["class_names"] = ["\x1b[2Jred", "blue"]
    done = cli_inside("inspect", _with_metadata(assets / "x.engine", tmp_path / "x.engine", json.dumps(info)))
    assert done.code == 0, done.text
    assert "\x1b" not in done.text
    assert "[2Jred" in done.out
