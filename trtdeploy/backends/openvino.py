"""OpenVINO on the CPU: reads the same ONNX engines, and computes in 16 bits where the CPU can."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.backends.base import Availability, Int8Form, Progress, SessionOptions
from trtdeploy.backends.contract import Contract
from trtdeploy.backends.onnx_engine import first_lines, run_probes, write_engine
from trtdeploy.backends.threads import core_plans, threads_per_context
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.discovery import is_installed, require, version_of
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import Precision, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import openvino as ov
    from numpy.typing import NDArray

    from trtdeploy.backends.openvino_parts import Part

_DEVICE = "CPU"


class OpenVinoBackend:
    """Builds and runs engines that are ONNX files, with OpenVINO's CPU plugin."""

    name = "openvino"
    fuses_attention = False
    half_in_graph = False
    int8_form: Int8Form = "standard"
    on_gpu = False
    takes: frozenset[str] = frozenset()

    def availability(self) -> Availability:
        """Return whether OpenVINO is installed, without importing it."""
        if not is_installed("openvino"):
            return Availability(usable=False, version=None, reason="not installed: pip install 'trtdeploy[openvino]'")
        return Availability(usable=True, version=version_of("openvino"), reason="installed")

    def build(
        self,
        model: ir.Model,
        info: EngineInfo,
        target: Path,
        progress: Progress | None = None,
        tensorrt: TensorRtOptions | None = None,
    ) -> None:
        """Write the engine after it ran in a child process; see `Backend.build`.

        Raises:
            UsageError: Options of TensorRT were given.
            BuildError: OpenVINO refused the model or crashed.
            SinkError: The file could not be written.
            MissingDependencyError: OpenVINO is not installed.
        """
        require("openvino", "the backend openvino", "openvino")
        (tensorrt or TensorRtOptions()).check(self.name, self.takes)
        write_engine(model, info, target, library="OpenVINO", probe=_probe, progress=progress)

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> OpenVinoSession:
        """Load the engine; see `Backend.open`.

        Raises:
            EngineError: The file is not an engine of this backend, or OpenVINO refused it.
            MissingDependencyError: OpenVINO is not installed.
        """
        require("openvino", f"engine {path}", "openvino")
        return OpenVinoSession(path, info, options)

    def plans(self, cores: int) -> list[SessionOptions]:
        """Return contexts times threads that fill `cores`, one thread each first."""
        return core_plans(cores)

    def precision_note(self, precision: Precision) -> str:
        """Return what `precision` means on this CPU."""
        if precision is Precision.INT8:
            return (
                "Convolutions and products are INT8 by Q/DQ in the graph, attention and the head's last layers "
                "excepted; OpenVINO runs the rest as it does FP32 models."
            )
        if precision is Precision.FP32:
            return "Weights and arithmetic in FP32."
        if precision is Precision.BF16:
            here = "This CPU has it" if is_installed("openvino") and _half_of(precision) else "This CPU has none"
            return (
                "The network runs in BF16 on CPUs that have it, in FP32 on others; weights in the file, box decoding "
                f"and NMS stay FP32. {here}."
            )
        half = native_half() if is_installed("openvino") else None
        if half is None:
            return (
                "Weights are stored in FP16 (half the file); this CPU has no 16-bit arithmetic, so OpenVINO computes "
                "in FP32: this saves space, not time."
            )
        return (
            f"Weights are stored in FP16 (half the file). This CPU runs the network in {half}; box decoding and NMS "
            "stay in FP32. A CPU without 16-bit arithmetic runs everything in FP32."
        )


class OpenVinoSession:
    """An engine open in OpenVINO.

    Contexts of one thread compute in the thread that calls them, each with a compiled model of its own: OpenVINO's
    streams would hand every inference to another thread and back, which left a core idle for 8 % of the time with two
    contexts on two cores. Contexts of several threads share one compiled model, a stream each.
    """

    def __init__(self, path: Path, info: EngineInfo, options: SessionOptions) -> None:
        self.info = info
        self._path = path
        self._contract = Contract(str(path), info)
        threads = threads_per_context(options)
        contexts = max(1, options.contexts)
        self._is_shared = threads > 1
        self._settings = {
            "NUM_STREAMS": str(contexts if self._is_shared else 0),
            "INFERENCE_NUM_THREADS": contexts * threads if self._is_shared else 1,
        }
        self._closed = False
        try:
            self._parts = self._read()
            self._compiled = self._compile()
        except EngineError:
            raise
        except Exception as error:  # OpenVINO raises RuntimeError and others
            raise EngineError(f"{path}: OpenVINO cannot load the engine: {first_lines(error)}") from error

    def create_context(self) -> OpenVinoContext:
        """Return a new execution context.

        Raises:
            EngineError: The session is closed, or OpenVINO cannot make another.
        """
        if self._closed:
            raise EngineError(f"{self._path}: the engine is closed.")
        try:
            if not self._compiled:
                self._compiled = self._compile()
            requests = [(part, compiled.create_infer_request()) for part, compiled in self._compiled]
            if not self._is_shared:
                self._compiled = []  # the next context gets its own
        except RuntimeError as error:
            raise EngineError(f"{self._path}: OpenVINO cannot make a context: {first_lines(error)}") from error
        return OpenVinoContext(requests, self._contract, self._path)

    def close(self) -> None:
        """Release the engine; memory returns when its contexts are gone too."""
        self._closed = True
        self._parts, self._compiled = [], []

    def _read(self) -> list[Part]:
        """Read and check the engine, and cut it where it computes in 16 bits."""
        import openvino as ov

        from trtdeploy.backends.openvino_parts import IMAGES, Part, split

        model = ov.Core().read_model(str(self._path))
        inputs = _specs(model.inputs, [self._contract.input_name])
        outputs = _specs(model.outputs, self._contract.output_names)
        self._contract.check_tensors(inputs, outputs)
        names = [spec.name for spec in outputs]
        self._half = _half_of(Precision(self.info.precision))
        if self._half is None:
            return [Part(model, [IMAGES], names, half=False)]
        return split(model, names, resampling=self.info.input_kind == "frames")

    def _compile(self) -> list[tuple[Part, ov.CompiledModel]]:
        import openvino as ov

        core = ov.Core()
        return [
            (part, core.compile_model(part.model, _DEVICE, self._settings | {"INFERENCE_PRECISION_HINT": precision}))
            for part in self._parts
            for precision in [self._half if part.half and self._half else "f32"]
        ]


class OpenVinoContext:
    """One execution context: an infer request per part; outputs of one part are inputs of the next, not copied."""

    def __init__(self, requests: list[tuple[Part, ov.InferRequest]], contract: Contract, path: Path) -> None:
        self._requests = requests
        self._contract = contract
        self._path = path

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run one batch `[B, H, W, 3]` uint8 BGR; see `Context.infer`.

        Raises:
            EngineError: The batch is outside the engine's ranges, or OpenVINO failed.
        """
        import openvino as ov

        from trtdeploy.backends.openvino_parts import IMAGES

        self._contract.check_images(images)
        # OpenVINO takes no read-only memory
        shared = images if images.flags.writeable else images.copy()
        try:
            tensors = {IMAGES: ov.Tensor(shared, shared_memory=True)}
            for part, request in self._requests:
                for port, name in enumerate(part.inputs):
                    request.set_input_tensor(port, tensors[name])
                request.infer()
                tensors.update(zip(part.outputs, request.output_tensors, strict=True))
            # the requests own these; the caller gets copies
            return {name: tensors[name].data.copy() for name in self._contract.output_names}
        except Exception as error:  # OpenVINO raises RuntimeError and others
            shape = "x".join(map(str, images.shape))
            raise EngineError(f"{self._path}: OpenVINO failed on a batch of {shape}: {first_lines(error)}") from error


def native_half() -> str | None:
    """Return the 16-bit type that this CPU computes in: `bf16`, `f16`, or None."""
    import openvino as ov

    capabilities = ov.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f16" if "FP16" in capabilities else None


def _half_of(precision: Precision) -> str | None:
    """Return the 16-bit type in which this CPU runs an engine of `precision`, None where that is FP32."""
    if precision not in {Precision.FP16, Precision.BF16}:
        return None
    half = native_half()
    return half if precision is Precision.FP16 or half == "bf16" else None


def _probe(report: Progress, path: str, metadata: str) -> None:
    """Open and run a new engine, in the child process."""
    run_probes(report, OpenVinoBackend(), path, metadata)


def _specs(values: list[ov.Output], wanted: list[str]) -> list[TensorSpec]:
    """Return OpenVINO's tensor descriptions as ours. A tensor may have several names: one of `wanted` is taken."""
    specs: list[TensorSpec] = []
    for value in values:
        names = value.get_names()
        taken = {spec.name for spec in specs}
        name = next((name for name in wanted if name in names and name not in taken), None) or min(names)
        shape = tuple(d.get_length() if d.is_static else "?" for d in value.get_partial_shape())
        specs.append(TensorSpec(name, str(value.get_element_type().to_dtype()), shape))
    return specs
