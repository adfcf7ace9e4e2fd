"""Running plans of TensorRT and TensorRT-RTX on the GPU."""

from __future__ import annotations

from trtdeploy.backends.device.opening import open_plan
from trtdeploy.backends.device.timing import device_plans, time_plan

__all__ = ["device_plans", "open_plan", "time_plan"]
