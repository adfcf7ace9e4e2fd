"""All operations with kernels: the nodes inside fused blocks for which there are plugins."""

from __future__ import annotations

import importlib
from functools import cache

from trtdeploy.kernels.spec import Operation

_FOLDERS = ("simam", "coordatt", "channel_attention", "spatial_attention", "cbam", "se", "mhsa")


@cache
def operations() -> dict[str, Operation]:
    """Return the operations by op_type."""
    modules = [importlib.import_module(f"trtdeploy.attention.{folder}.operation") for folder in _FOLDERS]
    return {operation.op_type: operation for module in modules for operation in module.OPERATIONS}
