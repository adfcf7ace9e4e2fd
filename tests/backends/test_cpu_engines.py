"""Engines of ONNX Runtime and OpenVINO: build, open, run, refuse."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import child_jobs
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny_detector as tiny
from numpy.typing import NDArray

from trtdeploy.backends import openvino_parts, registry
from trtdeploy.backends.base import Context, SessionOptions
from trtdeploy.backends.onnx_engine import write_engine
from trtdeploy.backends.openvino import native_half
from trtdeploy.backends.openvino_parts import IMAGES, Part
from trtdeploy.core import onnx_file
from trtdeploy.core.engine_info import EngineInfo, TensorInfo
from trtdeploy.core.errors import BuildError, EngineError, SinkError
from trtdeploy.core.types import Precision
from trtdeploy.engine.sniff import read_info

Outputs = dict[str, NDArray[Any]]
BACKENDS = ["onnxruntime", "openvino"]
BOX_TOLERANCE = 0.125
"""In pixels, at the detector's stride of 8: half a pixel at the stride of 32 of a YOLO's coarsest level."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """One engine per backend and precision, built once."""
    folder = tmp_path_factory.mktemp("engines")
    paths = {(b, p): folder / f"{b}-{p}.engine" for b in BACKENDS for p in ("fp32", "fp16")}
    for (backend, precision), path in paths.items():
        registry.get(backend).build(tiny.detector(), tiny.info(backend, precision), path)
    return paths


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    """The detector as it was, in ONNX Runtime without our backend."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    ir.save(tiny.detector(), path)
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def expected(session: ort.InferenceSession, images: NDArray[np.uint8]) -> Outputs:
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, {"images": images}), strict=True))


def context_of(path: Path, contexts: int = 1, threads: int = 1, **changes: Any) -> Context:
    info = read_info(path)
    backend = changes.pop("backend", info.backend)
    return registry.get(backend).open(path, info, SessionOptions(contexts=contexts, threads=threads)).create_context()


def box_error(context: Context, session: ort.InferenceSession) -> float:
    """Return the largest error in pixels of the boxes that both find, over some images.

    Infinite when more than one detection in twenty has no partner of its class within 8 pixels: rounding may decide
    which of two neighbours with nearly equal scores survives.
    """
    errors: list[float] = []
    lost = 0
    for seed in range(8):
        images = tiny.images(seed, 4)
        got, want = context.infer(images), expected(session, images)
        for b in range(4):
            for slot in range(int(want["num_dets"][b, 0])):
                same = got["classes"][b] == want["classes"][b, slot]
                gaps = np.abs(got["boxes"][b][same] - want["boxes"][b, slot]).max(-1)
                near = gaps[gaps < 8]
                lost += not len(near)
                errors += [float(near.min())] if len(near) else []
    assert len(errors) > 100
    return max(errors) if lost * 20 <= len(errors) else float("inf")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_fp32_engine_equals_the_model(
    engines: dict[tuple[str, str], Path], reference: ort.InferenceSession, backend: str, threads: int
) -> None:
    context = context_of(engines[backend, "fp32"], threads=threads)
    for batch, height, width in ((1, 128, 128), (4, 96, 96), (3, 160, 192), (2, 128, 160)):
        images = tiny.images(batch, batch, height, width)
        got, want = context.infer(images), expected(reference, images)
        assert got.keys() == want.keys()
        assert want["num_dets"].min() >= 2
        for name in ("num_dets", "classes"):
            np.testing.assert_array_equal(got[name], want[name])
            assert got[name].dtype == np.int32
        np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5)
        np.testing.assert_allclose(got["boxes"], want["boxes"], atol=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fp16_boxes_lie_within_the_tolerance(
    engines: dict[tuple[str, str], Path], reference: ort.InferenceSession, backend: str
) -> None:
    assert box_error(context_of(engines[backend, "fp16"]), reference) < BOX_TOLERANCE


def test_boxes_would_round_if_the_whole_graph_ran_in_16_bits(
    engines: dict[tuple[str, str], Path], reference: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native_half() != "bf16":
        pytest.skip("this CPU has no bfloat16 arithmetic")

    def whole(model: Any, outputs: list[str], *, resampling: bool) -> list[Part]:
        return [Part(model, [IMAGES], outputs, half=True)]

    monkeypatch.setattr(openvino_parts, "split", whole)
    assert box_error(context_of(engines["openvino", "fp16"]), reference) > BOX_TOLERANCE


def test_fp16_file_is_half_as_large_and_onnx_runtime_says_that_it_computes_in_fp32(
    engines: dict[tuple[str, str], Path], reference: ort.InferenceSession
) -> None:
    full, half = (engines["onnxruntime", p].stat().st_size for p in ("fp32", "fp16"))
    weights = sum(v.const_value.nbytes for v in tiny.detector().graph.initializers.values() if v.const_value)
    assert full - half > 0.4 * weights
    assert "computes in FP32" in registry.get("onnxruntime").precision_note(Precision.FP16)
    images = tiny.images(0, 2)
    got = context_of(engines["onnxruntime", "fp16"]).infer(images)
    np.testing.assert_allclose(got["scores"], expected(reference, images)["scores"], atol=1e-3)


def test_openvino_runs_an_engine_that_onnx_runtime_built(
    engines: dict[tuple[str, str], Path], reference: ort.InferenceSession
) -> None:
    images = tiny.images(3, 2)
    got = context_of(engines["onnxruntime", "fp32"], backend="openvino").infer(images)
    np.testing.assert_allclose(got["boxes"], expected(reference, images)["boxes"], atol=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_contexts_running_at_the_same_time_agree_with_one_alone(
    engines: dict[tuple[str, str], Path], backend: str, precision: str
) -> None:
    path = engines[backend, precision]
    session = registry.get(backend).open(path, read_info(path), SessionOptions(contexts=3, threads=1))
    contexts = [session.create_context() for _ in range(3)]
    batches = [tiny.images(seed, 1 + seed % 4, 96 + 32 * (seed % 2)) for seed in range(12)]
    alone = [contexts[0].infer(images) for images in batches]
    results: list[list[Outputs]] = [[] for _ in contexts]

    def work(index: int) -> None:
        order = range(len(batches)) if index % 2 else reversed(range(len(batches)))
        found = {i: contexts[index].infer(batches[i]) for i in order}
        results[index] = [found[i] for i in range(len(batches))]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(contexts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got in results:
        for one, want in zip(got, alone, strict=True):
            for name, value in want.items():
                np.testing.assert_array_equal(one[name], value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_belong_to_the_caller_and_inputs_stay_as_they_were(
    engines: dict[tuple[str, str], Path], backend: str
) -> None:
    context = context_of(engines[backend, "fp32"])
    first, second = tiny.images(1), tiny.images(2)
    copy = first.copy()
    got = context.infer(first)
    kept = {name: value.copy() for name, value in got.items()}
    other = context.infer(second)
    assert not np.array_equal(other["boxes"], kept["boxes"])
    for name, value in kept.items():
        np.testing.assert_array_equal(got[name], value)
    np.testing.assert_array_equal(first, copy)
    first.flags.writeable = False
    np.testing.assert_array_equal(context.infer(first)["boxes"], kept["boxes"])


BAD_INPUTS = {
    "float images": (np.zeros((1, 128, 128, 3), np.float32), r"expected images \[B, height, width, 3\] of uint8"),
    "planar images": (np.zeros((1, 3, 128, 128), np.uint8), r"got uint8\[1, 3, 128, 128\]"),
    "one image without batch": (np.zeros((128, 128, 3), np.uint8), r"got uint8\[128, 128, 3\]"),
    "a list": ([[1]], "got list"),
    "batch 0": (np.zeros((0, 128, 128, 3), np.uint8), "accepts batch 1 to 4, got 0"),
    "batch 5": (np.zeros((5, 128, 128, 3), np.uint8), "got 5.*rebuild with --batch 1:2:5"),
    "too small": (np.zeros((1, 64, 128, 3), np.uint8), "images of from 96x96 to 160x192, got 64x128"),
    "too wide": (np.zeros((1, 160, 224, 3), np.uint8), "got 160x224.*rebuild with --dynamic"),
    "no multiple": (
        np.zeros((1, 100, 128, 3), np.uint8),
        r"multiple of the stride 32\. Letterbox the frames to 128x128",
    ),
    "strided view": (np.zeros((1, 128, 256, 3), np.uint8)[:, :, ::2], "not C-contiguous"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_input_outside_the_contract_is_refused(engines: dict[tuple[str, str], Path], backend: str, name: str) -> None:
    images, message = BAD_INPUTS[name]
    with pytest.raises(EngineError, match=message):
        context_of(engines[backend, "fp32"]).infer(images)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_damaged_engine_is_refused(engines: dict[tuple[str, str], Path], backend: str, tmp_path: Path) -> None:
    data = bytearray(engines[backend, "fp32"].read_bytes())
    at = data.index(b"Transpose")
    data[at : at + 9] = b"Transpoze"
    path = tmp_path / "x.engine"
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"x\.engine: .* cannot load the engine: "):
        context_of(path)


@pytest.mark.parametrize("newer", ["opset", "IR version"])
def test_a_model_newer_than_onnx_runtime_is_refused_with_what_helps(
    engines: dict[tuple[str, str], Path], newer: str, tmp_path: Path
) -> None:
    proto = onnx.load(engines["onnxruntime", "fp32"])
    if newer == "opset":
        proto.opset_import[0].version = 99
    else:
        proto.ir_version = 99
    path = tmp_path / "x.engine"
    onnx.save(proto, path)
    with pytest.raises(
        EngineError, match=r"x\.engine: ONNX Runtime \S+ is older than .* opset 17\. Update onnxruntime"
    ):
        context_of(path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_engine_whose_metadata_lies_about_its_tensors_is_refused(
    engines: dict[tuple[str, str], Path], backend: str
) -> None:
    path = engines[backend, "fp32"]
    info = tiny.info(backend, outputs=[TensorInfo(name="detections", dtype="float32", shape=["B", 300, 6])])
    with pytest.raises(EngineError, match=r"outputs are .*num_dets int32.* promises detections float32\[B,300,6\]"):
        registry.get(backend).open(path, info, SessionOptions())


@pytest.mark.parametrize("backend", BACKENDS)
def test_closed_session_makes_no_context(engines: dict[tuple[str, str], Path], backend: str) -> None:
    path = engines[backend, "fp32"]
    session = registry.get(backend).open(path, read_info(path), SessionOptions())
    session.close()
    session.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        session.create_context()


def build(model: ir.Model, info: EngineInfo, path: Path, steps: list[str] | None = None) -> None:
    registry.get(info.backend).build(model, info, path, None if steps is None else steps.append)


@pytest.mark.parametrize("backend", BACKENDS)
def test_build_tries_both_ends_of_the_ranges_and_reports(backend: str, tmp_path: Path) -> None:
    steps: list[str] = []
    build(tiny.detector(), tiny.info(backend), tmp_path / "x.engine", steps)
    assert steps == [
        "loading the engine",
        "running batch 2 of 128x128",
        "running batch 4 of 96x96",
        "running batch 1 of 160x192",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_that_cannot_take_the_promised_sizes_is_no_engine(backend: str, tmp_path: Path) -> None:
    target = tmp_path / "x.engine"
    target.write_bytes(b"the old engine")
    wrong = tiny.info(backend, dynamic=False, batch_max=4, size_max=(160, 160))
    with pytest.raises(BuildError, match="failed on a batch of"):
        build(tiny.detector(dynamic=False), wrong, target)
    assert [p.name for p in tmp_path.iterdir()] == ["x.engine"]
    assert target.read_bytes() == b"the old engine"


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_are_not_numbers_are_found_at_the_build(backend: str, tmp_path: Path) -> None:
    model = tiny.detector()
    value = next(
        v for v in model.graph.initializers.values() if v.const_value is not None and v.const_value.size > 4000
    )
    assert value.const_value is not None
    value.const_value = ir.Tensor(np.full(value.const_value.shape.numpy(), np.nan, np.float32), name=value.name)
    with pytest.raises(BuildError, match="holds NaN for a test image"):
        build(model, tiny.info(backend), tmp_path / "x.engine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_folder_that_does_not_exist_is_a_sink_error(backend: str, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="does not exist"):
        build(tiny.detector(), tiny.info(backend), tmp_path / "none" / "x.engine")


def test_library_that_crashes_is_a_build_error_and_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "x.engine"
    with pytest.raises(BuildError, match=r"Trying x\.engine in ONNX Runtime crashed the library \(SIGABRT\)"):
        write_engine(
            tiny.detector(), tiny.info("onnxruntime"), target, library="ONNX Runtime", probe=child_jobs.abort_probe
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_beyond_one_file_lie_beside_the_engine(
    backend: str, reference: ort.InferenceSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "MAX_SINGLE_FILE_BYTES", 10_000)
    path = tmp_path / "x[1].engine"
    for _ in range(2):  # the second build replaces the weights of the first
        build(tiny.detector(), tiny.info(backend, "fp16"), path)
        names = sorted(p.name for p in tmp_path.iterdir())
        assert len(names) == 2
        assert names[0] == path.name
        assert names[1].startswith(f"{path.name}-")
        assert path.stat().st_size < 40_000
    assert box_error(context_of(path), reference) < BOX_TOLERANCE


def test_fixed_shape_engine_runs(tmp_path: Path, reference: ort.InferenceSession) -> None:
    for backend in BACKENDS:
        path = tmp_path / f"{backend}.engine"
        build(tiny.detector(dynamic=False), tiny.info(backend, dynamic=False), path)
        images = tiny.images(4)
        got = context_of(path).infer(images)
        np.testing.assert_allclose(got["boxes"], expected(reference, images)["boxes"], atol=2e-3)


def test_availability_imports_no_library() -> None:
    code = (
        "import sys; from trtdeploy.backends.registry import choose; b, why = choose(); b.plans(2); print(why); "
        "bad = {'openvino', 'onnxruntime', 'onnx', 'onnx_ir', 'torch'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
