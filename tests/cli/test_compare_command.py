"""`trtdeploy compare`: engines and models that agree, that lost small objects, that compute otherwise."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from cli_support import draw_frame
from simulated_device.plans import make_plan

from trtdeploy import api
from trtdeploy.core.types import Precision, Size, SizeRange
from trtdeploy.engine.sniff import read_info
from trtdeploy.engine.stamp import stamp
from trtdeploy.engine.tolerance import Tolerance
from trtdeploy.scenes.circuit_boards import CircuitBoardScene

pytestmark = pytest.mark.usefixtures("tried_in_this_process")
Cli = Callable[..., Any]
SIDE, BOARDS = 320, 3


@pytest.fixture(scope="module")
def demo() -> Iterator[Path]:
    with resources.as_file(resources.files("trtdeploy.demo_data") / "circuit_boards.onnx") as path:
        yield path


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawings of circuit boards."""
    folder = tmp_path_factory.mktemp("boards")
    scene = CircuitBoardScene(4_000_001, width=64, height=64)
    for index in range(BOARDS):
        cv2.imwrite(str(folder / f"board{index}.png"), scene.sample(index, width=640, height=480)[0])
    return folder


@pytest.fixture(scope="module")
def engine(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with weights stored in FP16."""
    return built(demo, tmp_path_factory.mktemp("engines") / "half.engine", precision=Precision.FP16)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder with two images for the small detector of patches."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"frame{index}.png"), draw_frame(index, (120, 160)))
    return folder


def built(model: Path, target: Path, backend: str = "onnxruntime", **options: Any) -> Path:
    """Build an engine at the size of the tests, ungated."""
    fields = {"sizes": SizeRange.fixed(Size(SIDE, SIDE)), "gate": api.GateOptions(mode="off"), **options}
    return api.build(model, target, api.BuildOptions(backend=backend, **fields)).path


def changed(demo: Path, target: Path, suffix: str, change: Callable[[np.ndarray], np.ndarray], index: int) -> Path:
    """Write the demo model with another weight (1) or bias (2) in the convolution whose name ends with `suffix`."""
    model = ir.load(demo)
    node = next(node for node in model.graph if (node.name or "").endswith(suffix))
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.Tensor(change(value.const_value.numpy().copy()), name=value.name)
    ir.save(model, target)
    return target


def test_fp16_storage_agrees_with_its_model(cli_inside: Cli, demo: Path, engine: Path, boards: Path) -> None:
    done = cli_inside("compare", demo, engine, "--images", boards, "--enforce", "--json")
    assert done.code == 0, done.text
    document = done.json()
    assert document["verdict"] == "agree"
    total = document["boxes"]["total"]
    assert total["boxes"] >= 40
    assert total["found"] == total["boxes"]
    assert document["a"]["built"]
    assert document["a"]["size"] == [SIDE, SIDE], "the size of the engine it is compared with"
    assert document["b"]["precision"] == "fp16"


def test_small_objects_that_are_lost_are_told_by_size(
    cli_inside: Cli, demo: Path, engine: Path, boards: Path, tmp_path: Path
) -> None:
    """The scores of the finest level are lowered: what it finds are the small objects."""
    model = changed(demo, tmp_path / "pruned.onnx", "/heads.0/score_out/Conv", lambda bias: bias - 6, 2)
    pruned = built(model, tmp_path / "pruned.engine", surgery=False)
    done = cli_inside("compare", engine, pruned, "--images", boards, "--json")
    assert done.code == 0, "without --enforce a difference is no failure"
    document = done.json()
    sizes = {row["name"]: row for row in document["boxes"]["sizes"]}
    assert document["verdict"] == "differ"
    assert sizes["small"]["lost"] > 0.3
    assert sizes["large"]["lost"] < 0.1
    assert any(text.startswith("size of object small:") for text in document["boxes"]["failures"])
    text = cli_inside("compare", engine, pruned, "--images", boards, "--enforce")
    text.failed(9, "does not agree", "differ", "missing")


def test_a_spoiled_weight_is_named_by_its_block(
    cli_inside: Cli, demo: Path, engine: Path, boards: Path, tmp_path: Path
) -> None:
    spoiled = changed(demo, tmp_path / "spoiled.onnx", "/stage3/stage3.1/steps.0/second/conv/Conv", np.negative, 1)
    done = cli_inside(
        *("compare", engine, spoiled, "--images", boards, "--tensors", "--limit", 2),
        *("--report", "out.html", "--enforce", "--json"),
    )
    done.failed(9, "first diverging block: stage3")
    document = done.json()
    assert document["error"]["exit_code"] == 9
    assert document["tensors"]["first_diverging_block"] == "stage3"
    assert [block["name"] for block in document["tensors"]["blocks"] if block["diverges"]] == ["stage3"]
    page = (tmp_path / "out.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "board0.png" in page


def test_emulated_fp16_of_the_graph_for_gpus_diverges_nowhere(
    cli_inside: Cli, demo: Path, engine: Path, boards: Path, tmp_path: Path
) -> None:
    """Its attention blocks are arranged otherwise than in A, with names that A gives to other tensors."""
    emulated = built(demo, tmp_path / "e.engine", precision=Precision.FP16, backend="emulated")
    done = cli_inside(
        *("compare", engine, emulated, "--images", boards, "--tensors", "--enforce", "--limit", 2),
        *("--report", "out.png"),
    )
    assert done.code == 0, done.text
    assert "no block diverges" in done.out
    assert "Emulated on the CPU" in done.out
    assert cv2.imread(str(tmp_path / "out.png")).shape[1] == 1320


def test_int8_is_judged_by_the_limits_that_the_gate_has_for_it(
    cli_inside: Cli, assets: Path, frames: Path, tmp_path: Path
) -> None:
    engine = Path(shutil.copy(assets / "x.engine", tmp_path / "q.engine"))
    stamp(engine, msgspec.structs.replace(read_info(engine), precision="int8"))
    for given, expected in ((), Precision.INT8), (("--tolerance", "fp16"), Precision.FP16):
        done = cli_inside("compare", assets / "x.engine", "q.engine", "--images", frames, "--json", *given)
        assert done.code == 0, done.text
        assert done.json()["boxes"]["tolerance"] == dataclasses.asdict(Tolerance.of(expected))


def test_networks_of_different_sizes_are_compared_and_said(cli_inside: Cli, assets: Path, frames: Path) -> None:
    cli_inside("build", assets / "model.onnx", "-o", "s.engine", "--imgsz", 64, "--backend", "onnxruntime")
    done = cli_inside("compare", assets / "x.engine", "s.engine", "--images", frames)
    assert done.code == 0, done.text
    assert "The networks have different sizes: 96x96 in A and 64x64 in B." in done.out
    small = cli_inside("compare", assets / "x.engine", "s.engine", "--images", frames, "--tensors")
    assert small.code == 0, "x.engine takes 64x64 too"
    cli_inside("build", assets / "model.onnx", "-o", "t.engine", "--imgsz", 160, "--backend", "onnxruntime")
    done = cli_inside("compare", "t.engine", "s.engine", "--images", frames, "--tensors")
    done.failed(2, "take no network size in common", "--imgsz")


def test_too_little_to_compare_is_inconclusive_and_no_agreement(cli_inside: Cli, assets: Path, frames: Path) -> None:
    (frames / "frame1.png").unlink()
    arguments = ("compare", assets / "x.engine", assets / "x.engine", "--images", frames)
    assert "inconclusive" in cli_inside(*arguments).out
    cli_inside(*arguments, "--enforce").failed(9, "inconclusive", "clearly above the threshold")


def test_other_classes_are_refused(cli_inside: Cli, assets: Path, frames: Path, tmp_path: Path) -> None:
    model = onnx.load(assets / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "names":
            entry.value = "{0: 'red', 1: 'green'}"
    onnx.save(model, tmp_path / "other.onnx")
    done = cli_inside("compare", assets / "x.engine", "other.onnx", "--images", frames)
    done.failed(2, "do not detect the same classes", "class 1 is 'blue' in A and 'green' in B", "--names")


def test_raw_outputs_have_no_boxes_but_tensors(cli_inside: Cli, assets: Path, frames: Path) -> None:
    cli_inside(
        "build", assets / "model.onnx", "-o", "raw.engine", "--nms", "none", "--backend", "onnxruntime", "--imgsz", 64
    )
    done = cli_inside("compare", assets / "model.onnx", "raw.engine", "--images", frames)
    done.failed(2, "raw outputs (nms none)", "--tensors", "build it with NMS")
    done = cli_inside("compare", assets / "model.onnx", "raw.engine", "--images", frames, "--tensors", "--json")
    assert done.code == 0, done.text
    assert done.json()["boxes"] is None
    assert done.json()["tensors"]["first_diverging_block"] is None


def test_a_plan_that_cannot_run_here_names_what_can(
    cli_inside: Cli, assets: Path, frames: Path, tmp_path: Path
) -> None:
    engine = assets / "x.engine"
    info = msgspec.structs.replace(read_info(engine), backend="tensorrt", precision="fp16")
    make_plan(tmp_path / "plan.engine", engine.read_bytes(), info)
    done = cli_inside("compare", engine, "plan.engine", "--images", frames)
    done.failed(5, "B, plan.engine, needs the GPU", "(fp16)", "--backend emulated")
    done = cli_inside("compare", engine, "plan.engine", "--images", frames, "--tensors")
    done.failed(5, "the tensors inside an engine of tensorrt cannot be seen", "--backend emulated")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--images", "nowhere"), 2, ("--images nowhere", "does not exist")),
        (("--images", "empty"), 2, ("there is no image in it", ".jpg")),
        (("--images", "broken"), 6, ("none of its 1 images can be read", "a.jpg")),
        (("--images", "frames", "--limit", "0"), 2, ("--limit 0",)),
        (("--images", "frames", "--conf", "0.1"), 2, ("below the threshold of", "0.25")),
        (("--images", "frames", "--conf", "1.5"), 2, ("--conf 1.5", "0 <= conf < 1")),
        (("--images", "frames", "--report", "x.pdf"), 2, ("--report x.pdf", ".html or .png")),
        (("--images", "frames", "--report", "there.html"), 2, ("there.html exists", "--force")),
    ],
    ids=[
        "no such folder", "empty folder", "broken images", "limit of none", "conf below the engine's",
        "conf out of range", "unknown report", "report exists",
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said(
    cli_inside: Cli,
    assets: Path,
    frames: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xff no image")
    (tmp_path / "there.html").write_text("mine")
    done = cli_inside("compare", assets / "x.engine", assets / "x.engine", *options)
    done.failed(code, *words)
    assert (tmp_path / "there.html").read_text() == "mine"


def test_one_broken_image_is_left_out_and_named(cli_inside: Cli, assets: Path, frames: Path) -> None:
    (frames / "cut.jpg").write_bytes(b"\xff\xd8\xff no image")
    done = cli_inside("compare", assets / "x.engine", assets / "x.engine", "--images", frames, "--json")
    assert done.code == 0, done.text
    assert done.json()["skipped_images"] == ["cut.jpg"]
    assert "1 images cannot be read and were left out: cut.jpg." in done.json()["notes"]
    assert done.json()["boxes"]["images"] == 2
