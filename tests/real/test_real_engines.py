"""Real architectures as TensorRT-RTX engines for three GPUs, built and read on a machine without a GPU."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from architectures import LAYERS, exported, tier_1
from calibrated import export
from helmet_network import helmet_wrapper

from trtdeploy.attention import catalogue
from trtdeploy.backends.device_files import why_no_gpu

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"),
]

OPTIONS = "--backend tensorrt-rtx --target sm80,sm86,sm89 --fp16 --dynamic 480:640:1080"
NETWORKS = {
    "yolov8n": ("fixpoint", 0, 0),
    "yolov10n": ("topk", 1, 1),
    "yolo11n": ("fixpoint", 1, 1),
    "yolo12n": ("fixpoint", 10, 8),
    "yolo26n": ("topk", 2, 2),
    "yolov12m-trained": ("fixpoint", 10, 8),
}
"""Method of NMS; blocks of attention that become one node, of which two are A2C2f around area attention in YOLO12; and
fused attention kernels of the builder."""
KINDS = [kind.name for kind in tier_1() if kind.levels == 1]
GROUPS = [list(KINDS[at : at + len(LAYERS)]) for at in range(0, len(KINDS), len(LAYERS))]
GROUPS[-1] += [kind.name for kind in tier_1() if kind.levels > 1]
"""Kinds of attention that share one YOLO11n, each behind a layer of its own."""

Built = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return a function from the name of a network to its ONNX file and its engine, each made once."""
    folder = tmp_path_factory.mktemp("engines")

    @functools.cache
    def make(name: str) -> tuple[Path, Path]:
        if name == "yolov12m-trained":
            model = export(helmet_wrapper(), folder / f"{name}.onnx", 640)
        else:
            model = exported(name, folder)
        engine = folder / f"{name}.engine"
        run = trtdeploy("build", str(model), *OPTIONS.split(), "-o", str(engine))
        assert run.returncode == 0, run.stderr
        return model, engine

    return make


def trtdeploy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trtdeploy", *arguments], capture_output=True, text=True, check=False)


@functools.cache
def inspected(engine: Path) -> dict[str, Any]:
    """Return what `inspect --json` says where neither TensorRT-RTX nor a GPU's bindings can be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorrt', 'tensorrt_rtx', 'cuda']))\n"
        f"from trtdeploy.cli.main import main; sys.exit(main(['inspect', {str(engine)!r}, '--json']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(run.stdout)
    return document


def fused(document: dict[str, Any]) -> list[str]:
    """Return what the engine's metadata say of each block of attention that became one node."""
    (item,) = (item for item in document["passes"] if item["name"] == "fuse-attention")
    return [change for change in item["changes"] if " is one node Trtdeploy" in change]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_engine_has_nms_and_frames_inside_and_its_attention_fused(name: str, built: Built) -> None:
    model, engine = built(name)
    said = inspected(engine)
    method, blocks, mha = NETWORKS[name]
    assert (said["input_kind"], said["size_opt"], said["precision"]) == ("frames", [640, 640], "fp16")
    assert [tensor["name"] for tensor in said["outputs"]] == ["num_dets", "boxes", "scores", "classes"]
    assert said["nms"]["method"] == method
    assert (len(fused(said)), said["plan"]["mha"]) == (blocks, mha)
    assert said["source"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [*NETWORKS, *("yolo11n+" + "+".join(group) for group in GROUPS)])
def test_inspect_reads_targets_hash_and_figures_without_a_gpu(name: str, built: Built) -> None:
    _, engine = built(name)
    said = inspected(engine)
    plan = said["plan"]
    assert plan["targets"] == ["sm80", "sm86", "sm89"]
    assert (said["file_sha256"], said["file_verified"]) == (hashlib.sha256(engine.read_bytes()).hexdigest(), True)
    assert said["size_bytes"] == engine.stat().st_size > plan["weights_bytes"] > 1 << 20
    assert 100 < plan["launches"] < plan["kernels"] < 300
    # The least that the letterbox holds is the largest frame.
    assert 2160 * 3840 * 3 < plan["activation_bytes"] < 200 << 20
    assert plan["profiles"][0]["max"] == [1, 2160, 3840, 3]


@pytest.mark.skipif(not why_no_gpu(), reason="there is a GPU, so the gate runs")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_engine_says_that_it_was_not_compared_and_why(name: str, built: Built) -> None:
    gate = inspected(built(name)[1])["gate"]
    assert (gate["verdict"], gate["reason"]) == ("ungated", why_no_gpu())


@pytest.mark.parametrize("kind", [kind.name for kind in tier_1()])
def test_every_kind_becomes_one_node_where_it_was_inserted(kind: str, built: Built) -> None:
    (group,) = (group for group in GROUPS if kind in group)
    _, engine = built("yolo11n+" + "+".join(group))
    place = f"{LAYERS[group.index(kind)]}/attention" if kind in KINDS else "inserted_attention"
    # C2PSA with one block has the graph of PSA; HyperACE's two branches are one block each.
    found = catalogue.kind("psa" if kind == "c2psa" else kind)
    said = [change for change in fused(inspected(engine)) if f"{found.title} at {place}" in change]
    assert len(said) == (2 if kind == "hyperace" else 1)
    assert all(f" is one node {found.op_type}" in change for change in said)
