"""A backend whose engines are wrong, or wrong where they compute in FP16: ONNX Runtime with a fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtdeploy.backends.base import Availability, Progress, SessionOptions
from trtdeploy.backends.onnxruntime import OnnxRuntimeBackend
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.engine_info import METADATA_KEY, EngineInfo, encode_info
from trtdeploy.core.onnx_file import write_onnx


class SpoiledBackend(OnnxRuntimeBackend):
    """Opens right engines with a fault.

    Args:
        fault: Spoils the outputs of each batch; see `gate_faults`.
        cannot_run: What `availability` says.
    """

    def __init__(self, fault: Callable[..., Any] | None = None, cannot_run: str = "") -> None:
        self.fault = fault
        self._cannot_run = cannot_run
        self.builds = 0

    def availability(self) -> Availability:
        return Availability(usable=True, version="1.0", reason="for tests", cannot_run=self._cannot_run)

    def build(
        self,
        model: ir.Model,
        info: EngineInfo,
        target: Path,
        progress: Progress | None = None,
        tensorrt: TensorRtOptions | None = None,
    ) -> None:
        """Write the model as it is; trying it in a child process is tested elsewhere."""
        self.builds += 1
        self.spoil(model)
        model.metadata_props[METADATA_KEY] = encode_info(info)
        with write_onnx(model, target):
            pass

    def spoil(self, model: ir.Model) -> None:
        """Change the model before it is written."""

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> Any:
        session = super().open(path, info, options)
        if self.fault is not None:
            create, fault = session.create_context, self.fault

            class Spoiled:
                def __init__(self) -> None:
                    self._context = create()

                def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
                    result: dict[str, NDArray[Any]] = fault(self._context.infer(images), images)
                    return result

            session.create_context = Spoiled  # type: ignore[method-assign, assignment]
        return session


class HalfDevice(SpoiledBackend):
    """Miscompiles blocks that compute in FP16: their results are a tenth too large.

    Args:
        blocks: Beginnings of the names of the nodes that are miscompiled.
        always: Miscompile them in FP32 too.
    """

    half_in_graph = True
    int8_form = "standard"

    def __init__(self, *blocks: str, always: bool = False) -> None:
        super().__init__()
        self._blocks = blocks
        self._always = always

    def spoil(self, model: ir.Model) -> None:
        for node in list(model.graph):
            if node.op_type != "Conv" or not (node.name or "").startswith(self._blocks):
                continue
            value = node.outputs[0]
            dtype = value.dtype
            if dtype == ir.DataType.FLOAT16 or (self._always and dtype == ir.DataType.FLOAT):
                factor = ir.Value(
                    name=f"{node.name}/factor", const_value=ir.tensor(np.array(1.1, dtype.numpy())), shape=ir.Shape([])
                )
                factor.type = ir.TensorType(dtype)
                model.graph.register_initializer(factor)
                wrong = ir.node("Mul", [value, factor], name=f"{node.name}/wrong")
                wrong.outputs[0].type, wrong.outputs[0].shape = ir.TensorType(dtype), value.shape
                wrong.outputs[0].name = f"{value.name}/wrong"
                value.replace_all_uses_with(wrong.outputs[0])
                wrong.replace_input_with(0, value)
                model.graph.insert_after(node, wrong)
