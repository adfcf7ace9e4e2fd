"""Build with TensorRT-RTX once per profile; runs in the child process of `rtx_probe`."""

from __future__ import annotations

from typing import Any

from trtdeploy.backends.base import Progress
from trtdeploy.backends.trt_build import PlanBuild, Profile


def build_all(report: Progress, path: str, profiles: list[Profile], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Build the ONNX file at `path` once per profile and return what each build told, as JSON.

    Args:
        report: Called with each step.
        path: The ONNX file; external data lie beside it.
        profiles: Shapes of the inputs, one mapping per build.
        options: `targets` (names of compute capabilities), `strongly_typed`.

    Raises:
        ModelError: The file holds no network.
        UsageError: A profile does not fit the network's inputs, or a target is unknown.
    """
    builds = []
    for number, profile in enumerate(profiles, 1):
        report(f"build {number} of {len(profiles)}")
        builds.append(PlanBuild("tensorrt_rtx", path, [profile], options, lambda _step: None).run())
    return builds
