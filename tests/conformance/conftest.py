"""Fixtures: what three TensorRT versions and TensorRT-RTX offer, read once per session from the real bindings."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BINDINGS = Path(__file__).parents[1] / "tensorrt_bindings"
sys.path.insert(0, str(BINDINGS))

import trt_bindings  # noqa: E402  (its folder is no package: NVIDIA's own package has that name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the bindings where they are not, with the reason and the command."""
    reason = trt_bindings.missing()
    for item in items:
        if reason and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def apis() -> dict[str, Any]:
    """Return the API of each version, by version, as trt_api.dump makes it."""
    return {version: trt_bindings.run(version, BINDINGS / "trt_api.py", "dump") for version in trt_bindings.VERSIONS}


@pytest.fixture(scope="session")
def all_apis(apis: dict[str, Any]) -> dict[str, Any]:
    """Return `apis` with TensorRT-RTX's, which has packages for x86-64 only."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return apis
    return apis | {trt_bindings.RTX: trt_bindings.run(trt_bindings.RTX, BINDINGS / "trt_api.py", "dump")}
