"""TensorRT for RTX: plans for several GPUs at once, built ahead of time on any x86 machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.backends.base import Availability, Int8Form, Progress, SessionOptions
from trtdeploy.backends.device_files import why_no_gpu
from trtdeploy.backends.trt_options import RTX_OPTIONS, TARGETS, TensorRtOptions
from trtdeploy.backends.trt_plan import PlanRequest, precision_note, write_plan_of
from trtdeploy.core.discovery import is_installed, require, version_of
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Precision

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.backends.base import Session

DEFAULT_TARGETS = tuple(target for target in TARGETS if target != "sm75")
_HALF_ONLY = "sm75"


class TensorRtRtxBackend:
    """Builds plans with TensorRT-RTX, and runs them on a GPU."""

    name = "tensorrt-rtx"
    fuses_attention = True
    half_in_graph = True
    int8_form: Int8Form = "factored"
    on_gpu = True
    takes = RTX_OPTIONS

    def availability(self) -> Availability:
        """Return whether TensorRT-RTX is installed, without importing it."""
        if not is_installed("tensorrt_rtx"):
            return Availability(
                usable=False,
                version=None,
                reason="not installed: pip install 'trtdeploy[rtx]'",
                cannot_run=why_no_gpu(),
            )
        return Availability(
            usable=True, version=version_of("tensorrt-rtx"), reason="installed", cannot_run=why_no_gpu()
        )

    def build(
        self,
        model: ir.Model,
        info: EngineInfo,
        target: Path,
        progress: Progress | None = None,
        tensorrt: TensorRtOptions | None = None,
    ) -> None:
        """Write a plan; see `Backend.build`. The smallest and largest shapes are built alone before it.

        Raises:
            UsageError: An option is not for this backend, or `sm75` in FP32 or BF16.
            BuildError: TensorRT-RTX refused the model, crashed, or took too long.
            SinkError: The file could not be written.
            MissingDependencyError: TensorRT-RTX is not installed.
        """
        require("tensorrt_rtx", "the backend tensorrt-rtx", "rtx")
        options = tensorrt or TensorRtOptions()
        options.check(self.name, self.takes)
        targets = options.targets or DEFAULT_TARGETS
        missing = {Precision.FP32: "FP32 matrix products in TensorRT-RTX", Precision.BF16: "BF16"}
        if _HALF_ONLY in targets and (what := missing.get(Precision(info.precision))):
            raise UsageError(f"Target {_HALF_ONLY} has no {what}. Build with --fp16, or without that target.")
        request = PlanRequest(
            library="tensorrt_rtx",
            info=info,
            options=options,
            probes=True,
            targets=targets,
            attention=("native", "TensorRT-RTX takes no plugins"),
        )
        write_plan_of(model, request, target, progress)

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> Session:
        """Load the plan; see `Backend.open`.

        Raises:
            EngineError: The file is no plan for this GPU and version, or there is no GPU.
            MissingDependencyError: TensorRT-RTX or cuda-python is not installed.
        """
        from trtdeploy.backends.device import open_plan

        return open_plan(path, info, options, library="tensorrt_rtx")

    def plans(self, cores: int) -> list[SessionOptions]:
        """Return the numbers of contexts worth measuring."""
        from trtdeploy.backends.device import device_plans

        return device_plans(cores)

    def precision_note(self, precision: Precision) -> str:
        """Return what `precision` means in a plan."""
        return precision_note(precision)
