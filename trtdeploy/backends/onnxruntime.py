"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.backends.base import Availability, Int8Form, Progress, SessionOptions
from trtdeploy.backends.contract import Contract
from trtdeploy.backends.onnx_engine import first_lines, run_probes, write_engine
from trtdeploy.backends.threads import core_plans, threads_per_context
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.discovery import is_installed, version_of
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError, MissingDependencyError, UsageError
from trtdeploy.core.types import Precision, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import onnxruntime as ort
    from numpy.typing import NDArray

_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool"}
_FATAL = 4
_INSTALL = "pip install onnxruntime"
_TOO_NEW = ("Unsupported model IR version", "onnx opset versions. Opset ")
"""Parts of what ONNX Runtime says of a model that is newer than itself."""


class OnnxRuntimeBackend:
    """Builds and runs engines that are ONNX files, with ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    fuses_attention = False
    half_in_graph = False
    int8_form: Int8Form = "runtime"
    on_gpu = False
    takes: frozenset[str] = frozenset()

    def availability(self) -> Availability:
        """Return whether ONNX Runtime is installed, without importing it."""
        if not is_installed("onnxruntime"):
            return Availability(usable=False, version=None, reason=f"not installed: {_INSTALL}")
        version = version_of("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
        return Availability(usable=True, version=version, reason="installed")

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
            UsageError: BF16 was asked, or options of TensorRT were given.
            BuildError: ONNX Runtime refused the model or crashed.
            SinkError: The file could not be written.
        """
        (tensorrt or TensorRtOptions()).check(self.name, self.takes)
        if Precision(info.precision) is Precision.BF16:
            raise UsageError(
                "ONNX Runtime has no BF16 on a CPU. Build with --fp16 (half the file), with --backend openvino (BF16 "
                "where the CPU has it), or with --backend emulated to see what BF16 does to the detections."
            )
        write_engine(model, info, target, library="ONNX Runtime", probe=_probe, progress=progress)

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> OnnxRuntimeSession:
        """Load the engine; see `Backend.open`.

        Raises:
            EngineError: The file is not an engine of this backend, or ONNX Runtime refused it.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        self.require_library(path)
        return OnnxRuntimeSession(path, info, options)

    def require_library(self, path: Path) -> None:
        """Raise when ONNX Runtime cannot open the engine at `path` because it is not installed."""
        if not is_installed("onnxruntime"):
            raise MissingDependencyError("onnxruntime", f"engine {path}", _INSTALL)

    def plans(self, cores: int) -> list[SessionOptions]:
        """Return contexts times threads that fill `cores`, one thread each first."""
        return core_plans(cores)

    def precision_note(self, precision: Precision) -> str:
        """Return what `precision` means here."""
        if precision is Precision.FP16:
            return (
                "Weights are stored in FP16 (half the file); ONNX Runtime computes in FP32 on a CPU, so this saves "
                "space, not time."
            )
        if precision is Precision.INT8:
            return (
                "Convolutions and products are INT8 by Q/DQ in the graph, attention and the head's last layers "
                "excepted; the rest is FP32. On CPUs without VNNI this is slower than FP32: measure with `bench`."
            )
        return "Weights and arithmetic in FP32."


class OnnxRuntimeSession:
    """An engine open in ONNX Runtime.

    Contexts of one thread each share one `InferenceSession`, so the weights are in memory once; contexts of several
    threads get their own, because threads of one pool would wait for each other.
    """

    def __init__(self, path: Path, info: EngineInfo, options: SessionOptions) -> None:
        self.info = info
        self._path = path
        self._threads = threads_per_context(options)
        self._contract = Contract(str(path), info)
        self._shared: ort.InferenceSession | None = self._load()
        self._closed = False
        self._contract.check_tensors(
            *(_specs(nodes) for nodes in (self._shared.get_inputs(), self._shared.get_outputs()))
        )

    def create_context(self) -> OnnxRuntimeContext:
        """Return a new execution context.

        Raises:
            EngineError: The session is closed, or ONNX Runtime could not load the engine once more.
        """
        if self._closed:
            raise EngineError(f"{self._path}: the engine is closed.")
        session = self._shared or self._load()
        if self._threads > 1:
            self._shared = None  # given away; the next context loads its own
        return OnnxRuntimeContext(session, self._contract, self._path)

    def close(self) -> None:
        """Release the engine; memory returns when its contexts are gone too."""
        self._closed = True
        self._shared = None

    def _load(self) -> ort.InferenceSession:
        import onnxruntime as ort

        options = self._session_options()
        try:
            return ort.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            if any(sign in str(error) for sign in _TOO_NEW):
                raise EngineError(_too_new(self._path, self.info, ort.__version__)) from error
            raise EngineError(f"{self._path}: ONNX Runtime cannot load the engine: {first_lines(error)}") from error

    def _session_options(self) -> ort.SessionOptions:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # plans of memory are kept per shape and only pay where there is one
        options.enable_mem_pattern = self.info.sizes.is_fixed and self.info.batches.is_fixed
        options.log_severity_level = _FATAL  # errors come as exceptions
        # a pool that spins between batches takes the core from decoding
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


class OnnxRuntimeContext:
    """One execution context: runs on the calling thread, and on a pool of its own when it has several threads."""

    def __init__(self, session: ort.InferenceSession, contract: Contract, path: Path) -> None:
        self._session = session
        self._contract = contract
        self._path = path
        self._names = contract.output_names
        self._input = contract.input_name

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run one batch `[B, H, W, 3]` uint8 BGR; see `Context.infer`.

        Raises:
            EngineError: The batch is outside the engine's ranges, or ONNX Runtime failed.
        """
        self._contract.check_images(images)
        try:
            outputs = self._session.run(self._names, {self._input: images})
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            shape = "x".join(map(str, images.shape))
            raise EngineError(
                f"{self._path}: ONNX Runtime failed on a batch of {shape}: {first_lines(error)}"
            ) from error
        return dict(zip(self._names, outputs, strict=True))


def _probe(report: Progress, path: str, metadata: str) -> None:
    """Open and run a new engine, in the child process."""
    run_probes(report, OnnxRuntimeBackend(), path, metadata)


def _too_new(path: Path, info: EngineInfo, version: str) -> str:
    """Return the message for a model newer than the installed ONNX Runtime, as Python 3.10 gets it."""
    return (
        f"{path}: ONNX Runtime {version} is older than the model's opset {info.source.opset}. Update onnxruntime, "
        "export the model with opset_version=17, or build with --backend openvino."
    )


def _specs(nodes: list[Any]) -> list[TensorSpec]:
    """Return ONNX Runtime's tensor descriptions as ours."""
    return [
        TensorSpec(
            node.name, _DTYPES.get(node.type, node.type[len("tensor(") : -1]), tuple(d or "?" for d in node.shape)
        )
        for node in nodes
    ]
