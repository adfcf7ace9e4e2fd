"""Deploy attention-augmented YOLO models: ONNX surgery, engines, and a multi-stream runtime."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "BatchRange": "trtdeploy.core.types",
    "BuildOptions": "trtdeploy.api",
    "BuildReport": "trtdeploy.api",
    "Detections": "trtdeploy.core.types",
    "Engine": "trtdeploy.api",
    "EngineInfo": "trtdeploy.core.engine_info",
    "Frame": "trtdeploy.core.types",
    "OptimizeOptions": "trtdeploy.api",
    "OptimizeReport": "trtdeploy.api",
    "Pipeline": "trtdeploy.runtime.pipeline",
    "PipelineOptions": "trtdeploy.runtime.pipeline",
    "Precision": "trtdeploy.core.types",
    "Result": "trtdeploy.core.types",
    "Size": "trtdeploy.core.types",
    "SizeRange": "trtdeploy.core.types",
    "TrtdeployError": "trtdeploy.core.errors",
    "build": "trtdeploy.api",
    "inspect": "trtdeploy.api",
    "open": "trtdeploy.api",
    "optimize": "trtdeploy.api",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trtdeploy' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
