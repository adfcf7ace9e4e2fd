"""TensorRT 10.0 to 11.x: plans for the GPU of this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.backends.base import Availability, Int8Form, Progress, SessionOptions
from trtdeploy.backends.device_files import driver_version, why_no_gpu
from trtdeploy.backends.timing_cache import timing_cache_path
from trtdeploy.backends.trt_libraries import INSTALL, version_numbers
from trtdeploy.backends.trt_options import TENSORRT_OPTIONS, TensorRtOptions
from trtdeploy.backends.trt_plan import PlanRequest, precision_note, write_plan_of
from trtdeploy.core.discovery import is_installed, version_of
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import BuildError, EngineError, MissingDependencyError
from trtdeploy.core.types import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.backends.base import Session

_FIRST, _AFTER = (10, 0), (12, 0)
_FIRST_PLUGINS_BEFORE_BODIES = (10, 7)
_INSTALL = INSTALL["tensorrt"]
_DISTRIBUTIONS = (
    "tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings",
)  # fmt: skip

Timer = Callable[[Path, EngineInfo], float]
"""Returns the seconds of one run of a plan at its optimum."""


class TensorRtBackend:
    """Builds plans with TensorRT on the GPU that will run them.

    Args:
        timer: Measures a plan for `--attention auto`; default: on the first GPU.
    """

    name = "tensorrt"
    fuses_attention = True
    half_in_graph = True
    int8_form: Int8Form = "standard"
    on_gpu = True
    takes = TENSORRT_OPTIONS

    def __init__(self, timer: Timer | None = None) -> None:
        self._timer = timer or _time_on_device

    def availability(self) -> Availability:
        """Return whether TensorRT is installed in a version that is supported, without importing it."""
        version = version_of(*_DISTRIBUTIONS) if is_installed("tensorrt") else None
        if version is None:
            reason = f"not installed: {_INSTALL}"
            return Availability(usable=False, version=None, reason=reason, cannot_run=why_no_gpu())
        if not _FIRST <= version_numbers(version) < _AFTER:
            reason = f"TensorRT {version} is not supported, expected 10.0 to 11.x: {_INSTALL}"
            return Availability(usable=False, version=version, reason=reason, cannot_run=why_no_gpu())
        return Availability(usable=True, version=version, reason="installed", cannot_run=why_no_gpu())

    def build(
        self,
        model: ir.Model,
        info: EngineInfo,
        target: Path,
        progress: Progress | None = None,
        tensorrt: TensorRtOptions | None = None,
    ) -> None:
        """Write a plan; see `Backend.build`.

        Raises:
            UsageError: An option is not for this backend or device.
            BuildError: There is no GPU, or TensorRT refused the model, crashed, or took too long.
            SinkError: The file could not be written.
            MissingDependencyError: TensorRT is not installed, or in a version that is not supported.
        """
        available = self.availability()
        if not available.usable or available.version is None:
            raise MissingDependencyError("TensorRT 10.0 to 11.x", "the backend tensorrt", _INSTALL)
        options = tensorrt or TensorRtOptions()
        options.check(self.name, self.takes)
        if available.cannot_run:
            raise BuildError(
                f"TensorRT builds on the GPU that runs the plan: {available.cannot_run} Build on that machine, or with "
                " --backend tensorrt-rtx, which builds ahead of time."
            )
        gpu, capability = _gpu()
        cache = (
            timing_cache_path(available.version, gpu, capability, driver_version()) if options.timing_cache else None
        )
        request = PlanRequest(
            library="tensorrt", info=info, options=options, inspects=True, cache=cache, gpu=f"sm{capability}"
        )
        self._build_variants(model, request, version_numbers(available.version), target, progress)

    def _build_variants(
        self, model: ir.Model, request: PlanRequest, version: tuple[int, ...], target: Path, progress: Progress | None
    ) -> None:
        """Build with plugins, without, or both, and keep the faster.

        Raises:
            BuildError: Plugins were asked for and cannot be had.
        """
        asked = request.options.attention
        no_plugins = _why_no_plugins(model, version, Precision(request.info.precision))
        if asked == "auto" and not no_plugins and version < _FIRST_PLUGINS_BEFORE_BODIES:
            no_plugins = (
                "TensorRT before 10.7 takes either bodies or plugins from a file; --attention plugin gives these."
            )
        if asked == "plugin" and no_plugins:
            raise BuildError(f"--attention plugin: {no_plugins} Build with --attention native.")
        if asked != "auto" or no_plugins:
            reason = "as asked" if asked != "auto" else no_plugins
            choice = "plugin" if asked == "plugin" else "native"
            write_plan_of(model, replace(request, attention=(choice, reason)), target, progress)
            return
        seconds: dict[str, float] = {}
        with tempfile.TemporaryDirectory(prefix="trtdeploy-") as folder:
            for choice in ("native", "plugin"):
                trial = Path(folder) / f"{choice}.plan"
                try:
                    built = write_plan_of(model.clone(), replace(request, attention=(choice, "trial")), trial, progress)
                    seconds[choice] = self._timer(trial, built)
                except (BuildError, EngineError) as error:
                    if choice == "native":
                        raise
                    failure = str(error).splitlines()[0]
        choice, reason = _faster(seconds) if len(seconds) == 2 else ("native", f"with plugins: {failure}")
        write_plan_of(model, replace(request, attention=(choice, reason)), target, progress)

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> Session:
        """Load the plan; see `Backend.open`.

        Raises:
            EngineError: The file is no plan for this GPU and version, or there is no GPU.
            MissingDependencyError: TensorRT or cuda-python is not installed.
        """
        from trtdeploy.backends.device import open_plan

        return open_plan(path, info, options, library="tensorrt")

    def plans(self, cores: int) -> list[SessionOptions]:
        """Return the numbers of contexts worth measuring."""
        from trtdeploy.backends.device import device_plans

        return device_plans(cores)

    def precision_note(self, precision: Precision) -> str:
        """Return what `precision` means in a plan."""
        return precision_note(precision)


def takes_bodies_first(options: TensorRtOptions, version: str | None) -> bool:
    """Return whether this TensorRT would take an operation's body although its plugin is wanted."""
    return (
        options.attention == "plugin"
        and version is not None
        and version_numbers(version) < _FIRST_PLUGINS_BEFORE_BODIES
    )


def _time_on_device(path: Path, info: EngineInfo) -> float:
    from trtdeploy.backends.device import time_plan

    return time_plan(path, info, "tensorrt")


def _faster(seconds: dict[str, float]) -> tuple[str, str]:
    native_s, plugin_s = seconds["native"], seconds["plugin"]
    figures = f"native {native_s * 1e3:.3f} ms, plugin {plugin_s * 1e3:.3f} ms at the optimum"
    return ("plugin" if plugin_s < native_s else "native"), f"the faster of both on this device: {figures}"


def _why_no_plugins(model: ir.Model, version: tuple[int, ...], precision: Precision) -> str:
    """Return in a sentence why no plugin can be used; empty where one can."""
    if precision is Precision.BF16:
        return "The kernels of the plugins take FP16 and FP32, not BF16."
    from trtdeploy.attention.plugins import plugin_specs
    from trtdeploy.backends.plugin_library import find_plugin_library
    from trtdeploy.backends.quick_plugins import FIRST_VERSION
    from trtdeploy.kernels.spec import NAMESPACE

    specs = plugin_specs()
    nodes = [*model.graph.all_nodes(), *(node for body in model.functions.values() for node in body.all_nodes())]
    if not any(node.op_type in specs and node.domain == NAMESPACE for node in nodes):
        return "the model has no operation that there are plugins for."
    if version < FIRST_VERSION:
        try:
            find_plugin_library(".".join(map(str, version)))
        except MissingDependencyError as error:
            return f"TensorRT before 10.9 takes no kernels compiled ahead of time. {error}"
    return ""


def _gpu() -> tuple[str, str]:
    """Return name and compute capability of the first GPU, such as `89`.

    Raises:
        BuildError: CUDA does not answer.
    """
    from trtdeploy.backends.device.cuda import load_cuda

    try:
        cuda = load_cuda("building with TensorRT")
        major, minor = cuda.compute_capability()
        return cuda.name(), f"{major}{minor}"
    except EngineError as error:
        raise BuildError(f"TensorRT builds on the GPU that runs the plan: {error}") from error
