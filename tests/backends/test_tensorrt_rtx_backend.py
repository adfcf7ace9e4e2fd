"""Real plans of TensorRT-RTX: what is in them, how they are read without the library, and what is refused."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny_detector as tiny
import tiny_network
from onnx import helper, numpy_helper

import trtdeploy
from trtdeploy.backends import registry
from trtdeploy.backends.tensorrt_rtx import DEFAULT_TARGETS
from trtdeploy.backends.trt_options import ProfileOptions, TensorRtOptions
from trtdeploy.cli.main import main
from trtdeploy.core.engine_info import EngineInfo, PlanInfo, decode_info
from trtdeploy.core.errors import BuildError, EngineError, MissingDependencyError, UsageError
from trtdeploy.core.plan_file import read_plan
from trtdeploy.core.types import BatchRange, Precision, Size, SizeRange
from trtdeploy.engine.sniff import read_info
from trtdeploy.models.family import Network, NetworkOptions

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
)
DEMO = Path(trtdeploy.__file__).parent / "demo_data" / "circuit_boards.onnx"
INFO = tiny.info("tensorrt-rtx", class_names=["a", "b", "c", "d", "e"])
SM86 = TensorRtOptions(targets=("sm86",))


def build(model: ir.Model, path: Path, options: TensorRtOptions = SM86, info: EngineInfo = INFO) -> list[str]:
    steps: list[str] = []
    registry.get("tensorrt-rtx").build(model, info, path, steps.append, options)
    return steps


def plan_of(path: Path) -> PlanInfo:
    plan = read_info(path).plan
    assert plan is not None
    return plan


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a plan of the tiny detector for three GPUs with two profiles."""
    path = tmp_path_factory.mktemp("plan") / "tiny.engine"
    day = ProfileOptions(name="day", batches=BatchRange(1, 2, 4))
    night = ProfileOptions(name="night", batches=BatchRange(1, 1, 2), sizes=SizeRange.fixed(Size(128, 128)))
    build(tiny.detector(), path, TensorRtOptions(targets=("sm80", "sm86", "sm121"), profiles=(day, night)))
    return path


@pytest.fixture
def copy(engine: Path, tmp_path: Path) -> Path:
    """Return a copy of the plan that a test may spoil, with the file beside it."""
    for path in engine.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / engine.name


# What is in a plan


def test_the_header_has_targets_version_and_size(engine: Path) -> None:
    header = read_plan(engine)
    assert header.kind == "tensorrt-rtx"
    assert header.targets == ("sm80", "sm86", "sm121")
    assert header.version == registry.get("tensorrt-rtx").availability().version
    assert header.declared_bytes == engine.stat().st_size


def test_all_metadata_are_beside_the_plan_and_what_was_known_before_is_inside(engine: Path) -> None:
    full = read_info(engine)
    assert full.plan is not None
    assert 10 < (full.plan.launches or 0) <= (full.plan.kernels or 0)
    assert full.plan.mha == 0
    assert full.plan.activation_bytes
    assert full.plan.weights_bytes
    inside = read_plan(engine).metadata
    assert inside is not None
    figures = dict.fromkeys(("kernels", "launches", "mha", "activation_bytes", "weights_bytes"))
    assert decode_info(inside, "x") == msgspec.structs.replace(full, plan=msgspec.structs.replace(full.plan, **figures))


def test_profiles_have_their_names_and_shapes(engine: Path) -> None:
    profiles = [(p.name, p.min, p.opt, p.max) for p in plan_of(engine).profiles]
    assert profiles == [
        ("day", (1, 96, 96, 3), (2, 128, 128, 3), (4, 160, 192, 3)),
        ("night", (1, 128, 128, 3), (1, 128, 128, 3), (2, 128, 128, 3)),
    ]


def test_a_plan_without_the_file_beside_it_is_read_all_the_same(copy: Path) -> None:
    Path(f"{copy}.sha256").unlink()
    info = read_info(copy)
    assert info.class_names == INFO.class_names
    assert info.plan is not None
    assert info.plan.kernels is None


def test_smallest_and_largest_shapes_are_tried_first(tmp_path: Path) -> None:
    steps = build(tiny.detector(), tmp_path / "x.engine")
    tried = [step for step in steps if "alone" in step]
    assert tried == [
        "TensorRT-RTX: trying batch 1 of 96x96, the smallest of profile 'default', alone",
        "TensorRT-RTX: trying batch 4 of 160x192, the largest of profile 'default', alone",
    ]
    assert steps.index(tried[-1]) < steps.index("TensorRT-RTX: building the plan")


# Reading plans on a machine without the library and without a GPU


def test_inspect_reads_a_plan_without_the_library(engine: Path) -> None:
    code = (
        "import sys; sys.modules['tensorrt_rtx'] = None; sys.modules['tensorrt'] = None\n"
        f"from trtdeploy.cli.main import main; sys.exit(main(['inspect', {str(engine)!r}, '--json']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    document = json.loads(run.stdout)
    assert document["plan"]["targets"] == ["sm80", "sm86", "sm121"]
    assert document["file_sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert document["file_verified"] is True


def test_inspect_says_what_a_plan_is(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(engine)]) == 0
    out = capsys.readouterr().out
    for text in (
        "sm80, sm86, sm121",
        "night: 1x128x128x3",
        "of them launches",
        "MiB of activations",
        "as it was built",
    ):
        assert text in out


def test_inspect_says_that_a_plan_is_not_verified(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"{copy}.sha256").unlink()
    assert main(["inspect", str(copy)]) == 0
    assert "not verified: there is no tiny.engine.sha256 beside it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "the plan was changed after it was built"),
        (lambda data: data[:-100], "the plan is truncated: it has .* bytes and says"),
        (lambda data: data[:40], "the plan is truncated: it has 40 bytes"),
        (lambda data: data + b"x", "the plan is truncated: it has .* bytes and says"),
        (
            lambda data: data.replace(b"trtdeploy-metadata", b"something-else-xyz"),
            "without trtdeploy's metadata.*infer",
        ),
    ],
    ids=["one byte changed", "cut", "cut in the header", "longer", "of somebody else"],
)
def test_inspect_refuses_what_is_not_as_it_was_built(
    copy: Path, spoil: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.write_bytes(spoil(copy.read_bytes()))
    assert main(["inspect", str(copy)]) == EngineError.exit_code
    assert re.search(message, capsys.readouterr().err)


def test_opening_a_plan_without_a_gpu_says_so(engine: Path) -> None:
    backend = registry.get("tensorrt-rtx")
    if not backend.availability().cannot_run:
        pytest.skip("there is a GPU")
    with pytest.raises((EngineError, MissingDependencyError), match=r"driver|GPU|cuda"):
        trtdeploy.open(engine)


# What is refused


@pytest.mark.parametrize(
    ("options", "precision", "message"),
    [
        (TensorRtOptions(targets=("sm75", "sm86")), "fp32", "Target sm75 has no FP32 .*--fp16"),
        (TensorRtOptions(targets=("sm75", "sm86")), "bf16", "Target sm75 has no BF16.*--fp16"),
        (TensorRtOptions(dla=0), "fp32", "--dla is not for the backend tensorrt-rtx.*--backend tensorrt"),
        (TensorRtOptions(refit=True), "fp32", "--refit is not for the backend tensorrt-rtx"),
        (TensorRtOptions(attention="plugin"), "fp32", "--attention is not for the backend tensorrt-rtx"),
    ],
    ids=["sm75 in FP32", "sm75 in BF16", "DLA", "refit", "plugins"],
)
def test_options_that_cannot_be_are_refused_at_once(
    options: TensorRtOptions, precision: str, message: str, tmp_path: Path
) -> None:
    info = tiny.info("tensorrt-rtx", precision)
    with pytest.raises(UsageError, match=message):
        build(tiny.detector(), tmp_path / "x.engine", options, info)
    assert not any(tmp_path.iterdir())


def with_nodes(*nodes: onnx.NodeProto, **constants: Any) -> ir.Model:
    """Return a network `images` to `y`, cut out of nothing."""
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["B", "H", "W", 3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    cast = helper.make_node("Cast", ["images"], ["x"], to=onnx.TensorProto.FLOAT, name="cast")
    graph = helper.make_graph([cast, *nodes], "g", [images], [y], tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def table_of(rows: int) -> ir.Model:
    """Return a network that adds a table cut to the image's height; images higher than it do not fit."""
    return with_nodes(
        helper.make_node("Shape", ["x"], ["h"], start=1, end=2, name="height"),
        helper.make_node("Slice", ["table", "zero", "h", "one"], ["cut"], name="cut"),
        helper.make_node("Add", ["x", "cut"], ["y"], name="add_table"),
        table=np.ones((1, rows, 1, 3), np.float32), zero=np.array([0]), one=np.array([1]),
    )  # fmt: skip


def test_a_network_that_fails_at_the_largest_size_alone_is_refused_with_that_size(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"batch 4 of 160x192, the largest of profile 'default'.*--dynamic") as caught:
        build(table_of(128), tmp_path / "x.engine")
    assert "add_table" in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_the_network_without_its_limit_builds(tmp_path: Path) -> None:
    build(table_of(160), tmp_path / "x.engine")
    assert plan_of(tmp_path / "x.engine").kernels


def test_an_unknown_operator_is_refused_with_node_and_model(tmp_path: Path) -> None:
    model = with_nodes(helper.make_node("Unique", ["x"], ["y"], name="the_unique"))
    with pytest.raises(BuildError, match=r"refused tiny\.onnx.*\n  parser at node 'the_unique' \(Unique\): UNS"):
        build(model, tmp_path / "x.engine")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os\nos.abort()\n", r"Building tiny\.onnx with TensorRT-RTX crashed the library \(SIGABRT\)"),
        ("import time\ntime.sleep(60)\n", r"Building tiny\.onnx with TensorRT-RTX did not finish within 2 seconds"),
        ("raise MemoryError\n", r"ran out of memory. Use a smaller model, image size or batch"),
    ],
    ids=["crash", "time limit", "memory"],
)
def test_a_library_that_dies_is_an_error_that_says_where(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "tensorrt_rtx.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "library")
    with pytest.raises(BuildError, match=message) as caught:
        build(tiny.detector(), tmp_path / "x.engine", TensorRtOptions(targets=("sm86",), timeout_s=2))
    assert "It happened at: TensorRT-RTX: trying batch 1 of 96x96" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["library"]


# From the ONNX file on


@pytest.mark.parametrize("kind", ["", "simam", "mhsa"], ids=lambda kind: kind or "no attention")
def test_networks_with_attention_build_with_frames_and_nms_inside(kind: str, tmp_path: Path) -> None:
    model = tiny_network.export(tmp_path / "x.onnx", kind)
    options = trtdeploy.BuildOptions(
        backend="tensorrt-rtx", precision=Precision.FP16, sizes=SizeRange.fixed(Size(96, 96)), tensorrt=SM86
    )
    info = trtdeploy.build(model, tmp_path / "x.engine", options).info
    assert (info.input_kind, info.nms.method, info.gate.verdict) == ("frames", "fixpoint", "ungated")
    assert [tensor.name for tensor in info.outputs] == ["num_dets", "boxes", "scores", "classes"]
    assert info.plan is not None
    assert info.plan.mha == (kind == "mhsa")
    assert info.plan.profiles[0].max == (1, 2160, 3840, 3)
    assert any(item.name == "fp16" and item.changes for item in info.passes)


@pytest.mark.parametrize(("style", "nms", "mha"), [("v10", "topk", 1), ("v12", "fixpoint", 8)])
def test_networks_of_the_family_build_with_their_attention_fused(
    style: Any, nms: str, mha: int, tmp_path: Path
) -> None:
    model = tiny_network.write(Network(NetworkOptions(style=style)), tmp_path / "x.onnx")
    sizes = SizeRange(Size(480, 480), Size(640, 640), Size(1080, 1080))
    options = trtdeploy.BuildOptions(
        backend="tensorrt-rtx",
        precision=Precision.FP16,
        sizes=sizes,
        tensorrt=TensorRtOptions(targets=("sm80", "sm89")),
    )
    info = trtdeploy.build(model, tmp_path / "x.engine", options).info
    assert (info.input_kind, info.nms.method, info.size_opt) == ("frames", nms, (640, 640))
    assert info.plan is not None
    assert info.plan.mha == mha


def test_a_canvas_engine_keeps_the_range_of_sizes(tmp_path: Path) -> None:
    model = tiny_network.export(tmp_path / "x.onnx")
    sizes = SizeRange(Size(64, 64), Size(96, 96), Size(128, 160))
    options = trtdeploy.BuildOptions(
        backend="tensorrt-rtx", sizes=sizes, batches=BatchRange(1, 2, 4), frames=False, tensorrt=SM86
    )
    info = trtdeploy.build(model, tmp_path / "x.engine", options).info
    assert info.input_kind == "canvas"
    assert info.plan is not None
    shapes = info.plan.profiles[0]
    assert (shapes.min, shapes.opt, shapes.max) == ((1, 64, 64, 3), (2, 96, 96, 3), (4, 128, 160, 3))


def test_the_command_builds_the_packaged_model_for_three_gpus(tmp_path: Path) -> None:
    command = f"build {DEMO} --backend tensorrt-rtx --target sm80,sm86,sm89 --fp16 --dynamic 480:640:1080 -o x.engine"
    run = subprocess.run(
        [sys.executable, "-m", "trtdeploy", *command.split()],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (
        "the optimum alone: the letterbox in the engine has one size; --no-frames keeps 480x480:640x640:1080x1080"
        in (run.stdout)
    )
    info = read_info(tmp_path / "x.engine")
    assert (info.input_kind, info.nms.method, info.precision) == ("frames", "fixpoint", "fp16")
    assert read_plan(tmp_path / "x.engine").targets == ("sm80", "sm86", "sm89")
    checked = subprocess.run(["sha256sum", "-c", "x.engine.sha256"], cwd=tmp_path, capture_output=True, check=False)
    assert checked.returncode == 0
    again = subprocess.run(
        [sys.executable, "-m", "trtdeploy", *command.split()],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == UsageError.exit_code
    assert "x.engine" in again.stderr
    assert "exists" in again.stderr


def test_by_default_all_gpus_but_the_oldest_are_targets(tmp_path: Path) -> None:
    build(tiny.detector(), tmp_path / "x.engine", TensorRtOptions())
    assert read_plan(tmp_path / "x.engine").targets == DEFAULT_TARGETS
