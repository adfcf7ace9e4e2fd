"""The builder's parts that need no plan: time left, timing cache, refusals, options that only some devices have."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import tiny_detector as tiny

from trtdeploy.backends import tensorrt, trt_plan, trt_progress
from trtdeploy.backends.tensorrt import TensorRtBackend, takes_bodies_first
from trtdeploy.backends.timing_cache import timing_cache_path
from trtdeploy.backends.trt_build import PlanBuild, _TimingCache
from trtdeploy.backends.trt_options import ProfileOptions, TensorRtOptions
from trtdeploy.core.errors import BuildError, EngineError, MissingDependencyError, UsageError
from trtdeploy.core.types import BatchRange, Precision, Size, SizeRange

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
)
INFO = tiny.info("tensorrt")


# Progress


def test_progress_says_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, told = [100.0], []
    monkeypatch.setattr(trt_progress.time, "monotonic", lambda: now_s[0])
    text = trt_progress.ProgressText(told.append)
    text.start("Timing", 100)
    for step in range(10):
        now_s[0] += 8.0
        text.step("Timing", step)
    assert told[0] == "Timing: 1 of 100, about 13 min 12 s left"
    assert told[-1] == "Timing: 10 of 100, about 12 min 0 s left"
    now_s[0] += 0.1
    text.step("Timing", 10)
    assert len(told) == 10  # too soon
    text.finish("Timing")
    now_s[0] += 9
    text.step("Timing", 11)
    assert len(told) == 10  # the phase has ended


# Timing cache


class Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"+"


class Config:
    """Takes a cache that starts with `good` or is empty, as the library takes those of its own version."""

    def create_timing_cache(self, data: bytes) -> Cache:
        return Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data and not cache.data.startswith(b"good"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache:
        return self.cache


@pytest.mark.parametrize(
    ("before", "after", "warned"),
    [(None, b"+", False), (b"good", b"good+", False), (b"bad", b"+", True), (b"", b"+", False)],
    ids=["no file", "times of before", "damaged", "empty file"],
)
def test_the_timing_cache_is_read_kept_and_replaced_when_damaged(
    before: bytes | None, after: bytes, warned: bool, tmp_path: Path
) -> None:
    path, told = tmp_path / "x.cache", []
    if before is not None:
        path.write_bytes(before)
    with _TimingCache(None, Config(), str(path), told.append):
        pass
    assert path.read_bytes() == after
    assert [f"the timing cache {path} is damaged" in text for text in told] == [True] * warned


def test_a_failed_build_leaves_the_timing_cache(tmp_path: Path) -> None:
    (tmp_path / "x.cache").write_bytes(b"good")
    with pytest.raises(ZeroDivisionError), _TimingCache(None, Config(), str(tmp_path / "x.cache"), print):
        _ = 1 // 0
    assert (tmp_path / "x.cache").read_bytes() == b"good"


def test_the_timing_cache_has_a_file_for_each_version_gpu_and_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    combinations = [("10.3", "Orin (nvgpu)", "87", "L4T36.4"), ("10.16", "Orin (nvgpu)", "87", "L4T36.4")]
    combinations += [
        ("10.3", "RTX/4090", "87", "L4T36.4"),
        ("10.3", "Orin (nvgpu)", "89", "1"),
        ("10.3", "Orin", "87", "2"),
    ]
    paths = [timing_cache_path(*combination) for combination in combinations]
    assert len(set(paths)) == len(combinations)
    assert all(path is not None and path.parent == tmp_path / "trtdeploy" / "timing" for path in paths)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert timing_cache_path(*combinations[0]) is None


# The builder against the real library, where TensorRT and TensorRT-RTX share the names


@needs_rtx
@pytest.mark.parametrize(
    "settings",
    [{"workspace_mib": 512}, {"optimization_level": 1}, {"max_aux_streams": 2}, {"sparsity": True}],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_both_libraries_have_build(settings: dict[str, Any], tmp_path: Path) -> None:
    result = build_here(tmp_path, settings)
    assert result["engine_bytes"], result["refused"]


@needs_rtx
def test_a_dla_core_that_is_not_there_is_refused_with_who_has_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"DLA core 0 is not there: TensorRT-RTX .* sees 0 DLA cores.*Jetson Orin"):
        build_here(tmp_path, {"dla": 0})


def build_here(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    ir.save(tiny.detector(dynamic=False), folder / "x.onnx")
    return PlanBuild("tensorrt_rtx", str(folder / "x.onnx"), [{}], {"targets": ["SM86"], **settings}, print).run()


# Profiles and refusals


def test_profiles_of_a_frames_engine_have_no_sizes_of_their_own() -> None:
    frames = tiny.info("tensorrt", input_kind="frames", size_min=(128, 128), size_max=(128, 128))
    plain = ProfileOptions(name="many", batches=BatchRange(1, 2, 4))
    found = trt_plan.profiles_of(frames, TensorRtOptions(profiles=(plain,)))
    assert (found[0].min, found[0].opt, found[0].max) == ((1, 32, 32, 3), (2, 1080, 1920, 3), (4, 2160, 3840, 3))
    sized = replace(plain, sizes=SizeRange(Size(96, 96), Size(128, 128), Size(128, 128)))
    with pytest.raises(UsageError, match=r"Profile 'many' has network sizes .*the one size 128x128.*--no-frames"):
        trt_plan.profiles_of(frames, TensorRtOptions(profiles=(sized,)))


def test_a_refusal_for_want_of_memory_says_what_to_do() -> None:
    refusal = {"by": "builder", "text": "OutOfMemory: no 8 GiB", "node": "conv", "operator": ""}
    with pytest.raises(BuildError, match=r"not enough memory: use smaller maxima.*--workspace(.|\n)*at node 'conv'"):
        trt_plan._accept({"engine_bytes": None, "refused": [refusal]}, "TensorRT", "m.onnx")


# Plugins or native: measured where both can be had


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Make TensorRT 10.16 with a GPU of what a build needs; return the variants that are built, with their reasons."""
    found: list[tuple[str, str]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(model: ir.Model, request: trt_plan.PlanRequest, target: Path, progress: object) -> Any:
        found.append((str(request.attention[0]), request.attention[1]))
        target.write_text(str(request.attention[0]))
        return request.info

    monkeypatch.setattr(tensorrt, "write_plan_of", write)
    monkeypatch.setattr(tensorrt, "is_installed", lambda name: True)
    monkeypatch.setattr(tensorrt, "version_of", lambda *names: "10.16.1.11")
    monkeypatch.setattr(tensorrt, "why_no_gpu", lambda: "")
    monkeypatch.setattr(tensorrt, "_gpu", lambda: ("RTX", "89"))
    monkeypatch.setattr(tensorrt, "_why_no_plugins", lambda model, version, precision: "")
    return found


@pytest.mark.parametrize(
    ("native_s", "plugin_s", "chosen"), [(2e-3, 1e-3, "plugin"), (1e-3, 2e-3, "native"), (1e-3, 1e-3, "native")]
)
def test_the_faster_of_plugin_and_native_is_kept_with_the_figures(
    native_s: float, plugin_s: float, chosen: str, built: list[tuple[str, str]], tmp_path: Path
) -> None:
    seconds = {"native": native_s, "plugin": plugin_s}
    backend = TensorRtBackend(timer=lambda path, info: seconds[path.read_text()])
    backend.build(tiny.detector(), INFO, tmp_path / "x.engine")
    assert [choice for choice, _ in built] == ["native", "plugin", chosen]
    assert f"native {native_s * 1e3:.3f} ms, plugin {plugin_s * 1e3:.3f} ms" in built[-1][1]
    assert (tmp_path / "x.engine").read_text() == chosen


def test_plugins_that_do_not_run_leave_the_native_plan(built: list[tuple[str, str]], tmp_path: Path) -> None:
    def time(path: Path, info: object) -> float:
        if path.read_text() == "plugin":
            raise EngineError("illegal address")
        return 1e-3

    TensorRtBackend(timer=time).build(tiny.detector(), INFO, tmp_path / "x.engine")
    assert built[-1] == ("native", "with plugins: illegal address")


@pytest.mark.parametrize("asked", ["native", "plugin"])
def test_what_is_asked_for_is_built_alone(asked: Any, built: list[tuple[str, str]], tmp_path: Path) -> None:
    options = TensorRtOptions(attention=asked)
    TensorRtBackend().build(tiny.detector(), INFO, tmp_path / "x.engine", None, options)
    assert built == [(asked, "as asked")]


def test_a_model_without_operations_is_native_and_asking_for_plugins_is_an_error(
    built: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    reason = tensorrt._why_no_plugins(tiny.detector(), (10, 16), Precision.FP16)
    assert reason == "the model has no operation that there are plugins for."
    monkeypatch.setattr(tensorrt, "is_installed", lambda name: True)
    monkeypatch.setattr(tensorrt, "version_of", lambda *names: "11.4.0.106")
    monkeypatch.setattr(tensorrt, "why_no_gpu", lambda: "")
    monkeypatch.setattr(tensorrt, "_gpu", lambda: ("RTX", "89"))
    with pytest.raises(BuildError, match=r"--attention plugin: the model has no operation.*--attention native"):
        TensorRtBackend().build(
            tiny.detector(), INFO, tmp_path / "x.engine", None, TensorRtOptions(attention="plugin", timing_cache=False)
        )


def test_before_10_7_bodies_are_stripped_when_plugins_are_asked_for() -> None:
    asked = TensorRtOptions(attention="plugin")
    assert [takes_bodies_first(asked, version) for version in ("10.0.1", "10.6.0", "10.7.0", "11.4", None)] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert not takes_bodies_first(TensorRtOptions(), "10.3.0")


def test_without_a_gpu_tensorrt_says_where_to_build(
    built: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "why_no_gpu", lambda: "there is no NVIDIA GPU here.")
    with pytest.raises(
        BuildError, match=r"there is no NVIDIA GPU here\. Build on that machine, or with .*tensorrt-rtx"
    ):
        TensorRtBackend().build(tiny.detector(), INFO, tmp_path / "x.engine")
    monkeypatch.setattr(tensorrt, "is_installed", lambda name: False)
    with pytest.raises(MissingDependencyError, match="pip install tensorrt-cu13"):
        TensorRtBackend().build(tiny.detector(), INFO, tmp_path / "x.engine")
    assert not built
