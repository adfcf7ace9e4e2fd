"""16-bit arithmetic on a CPU: engines of the graph that a GPU's builder gets, every tensor rounded as it says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.backends.base import Availability, Int8Form, Progress, SessionOptions
from trtdeploy.backends.onnx_engine import run_probes, write_engine
from trtdeploy.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeSession
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import Precision

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime as ort


class EmulatedBackend(OnnxRuntimeBackend):
    """Shows on a CPU what 16 bits do to a model; see `half_arithmetic.round_half` for what is rounded where.

    ONNX Runtime itself computes FP16 graphs in FP32 on a CPU and proves nothing about FP16. These engines are FP32
    graphs with explicit casts, run with ONNX Runtime's graph optimisations off. They are for measuring accuracy: slower
    than FP32, and never the choice of `auto`.
    """

    name = "emulated"
    fuses_attention = True
    half_in_graph = True
    int8_form: Int8Form = "standard"

    def availability(self) -> Availability:
        """Return whether ONNX Runtime, which runs the engines, is installed."""
        found = super().availability()
        if not found.usable:
            return found
        reason = "16-bit arithmetic in ONNX Runtime on the CPU, to measure accuracy"
        return Availability(usable=True, version=found.version, reason=reason)

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
            BuildError: The model cannot be emulated, or ONNX Runtime refused it or crashed.
            SinkError: The file could not be written.
        """
        from trtdeploy.backends.half_arithmetic import round_half

        (tensorrt or TensorRtOptions()).check(self.name, self.takes)
        rounded = round_half(model)
        write_engine(rounded, info, target, library="ONNX Runtime", probe=_probe, progress=progress, half_weights=False)

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> EmulatedSession:
        """Load the engine; see `Backend.open`.

        Raises:
            EngineError: The file is not an engine of this backend, or ONNX Runtime refused it or does not round.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        self.require_library(path)
        if lost := lost_roundings():
            raise EngineError(
                f"{path}: this ONNX Runtime leaves out casts to {lost}, so that nothing would be emulated. Install "
                "another version of onnxruntime."
            )
        return EmulatedSession(path, info, options)

    def precision_note(self, precision: Precision) -> str:
        """Return what `precision` means here."""
        if precision is Precision.FP32:
            return "Weights and arithmetic in FP32, in ONNX Runtime on the CPU without its graph optimisations."
        what = "Q/DQ round to 8 bits, and 16-bit tensors" if precision is Precision.INT8 else "16-bit tensors"
        return (
            f"Emulated on the CPU, no GPU involved, slower than FP32: {what} are rounded after every operator (to "
            "nearest even, subnormals kept, overflow to infinity); products, reductions, normalisations and softmax "
            "sum in FP32 and round once. Kernels that fuse operators round less."
        )


class EmulatedSession(OnnxRuntimeSession):
    """An engine open in ONNX Runtime, whose graph optimisations are off so that no cast is left out."""

    def _session_options(self) -> ort.SessionOptions:
        import onnxruntime as ort

        options = super()._session_options()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options


@cache
def lost_roundings() -> str:
    """Return the types to which ONNX Runtime does not round when asked: 1 + 2048 - 2048 is 0 in 16 bits."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper

    lost = []
    for name, kind, large in (("FP16", TensorProto.FLOAT16, 2048.0), ("BF16", TensorProto.BFLOAT16, 256.0)):
        nodes = [helper.make_node("Add", ["x", "large"], ["sum"])]
        for source, result in (("sum", "rounded"), ("difference", "y")):
            nodes += [
                helper.make_node("Cast", [source], [f"{source}/half"], to=kind),
                helper.make_node("Cast", [f"{source}/half"], [result], to=TensorProto.FLOAT),
            ]
        nodes.insert(3, helper.make_node("Sub", ["rounded", "large"], ["difference"]))
        inputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1]) for x in ("x", "large")]
        graph = helper.make_graph(nodes, name, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {"x": np.array([1], np.float32), "large": np.array([large], np.float32)}
        if session.run(None, feeds)[0][0] != 0:
            lost.append(name)
    return " and ".join(lost)


def _probe(report: Progress, path: str, metadata: str) -> None:
    """Open and run a new engine, in the child process. NaN is what an overflow leads to: the gate's matter."""
    run_probes(report, EmulatedBackend(), path, metadata, allow_nan=True)
