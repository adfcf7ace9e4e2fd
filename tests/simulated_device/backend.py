"""A backend whose engines run on the simulated device, for tests of everything above the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from simulated_device.machine import Machine
from simulated_device.plans import Traits, make_plan
from trtdeploy.backends.base import Availability, Progress, SessionOptions
from trtdeploy.backends.device import device_plans, open_plan
from trtdeploy.backends.device.session import DeviceSession
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.types import Precision


class SimulatedBackend:
    """TensorRT on a simulated machine.

    Args:
        machine: The machine.
        traits: Of the plans that it builds.
        version: Of TensorRT.
    """

    name = "tensorrt"
    fuses_attention = False
    half_in_graph = False
    int8_form = "standard"
    on_gpu = True
    takes: frozenset[str] = frozenset()

    def __init__(self, machine: Machine, traits: Traits | None = None, version: str = "10.13.3.9") -> None:
        self._machine = machine
        self._traits = traits
        self._version = version

    def availability(self) -> Availability:
        return Availability(usable=True, version=self._version, reason="simulated")

    def build(
        self,
        model: ir.Model,
        info: EngineInfo,
        target: Path,
        progress: Progress | None = None,
        tensorrt: TensorRtOptions | None = None,
    ) -> None:
        make_plan(target, ir.to_proto(model).SerializeToString(), info, self._traits, self._version)

    def open(self, path: Path, info: EngineInfo, options: SessionOptions) -> DeviceSession:
        libraries: Any = self._machine.libraries(self._version)
        return open_plan(path, info, options, library="tensorrt", libraries=libraries)

    def plans(self, cores: int) -> list[SessionOptions]:
        return device_plans(cores)

    def precision_note(self, precision: Precision) -> str:
        return "simulated"
