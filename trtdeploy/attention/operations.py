"""All operations with kernels: the nodes inside fused blocks for which there are plugins."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

from trtdeploy.attention.kind import DOMAIN
from trtdeploy.attention.operation_form import Form
from trtdeploy.kernels.spec import Operation

_FOLDERS = ("simam", "cbam", "spatial_attention", "coordatt", "channel_attention", "mhsa", "se")
"""In the order in which their forms are looked for: larger ones first."""


@cache
def operations() -> dict[str, Operation]:
    """Return the operations by op_type."""
    return {operation.op_type: operation for module in _modules() for operation in module.OPERATIONS}


@cache
def forms() -> tuple[Form, ...]:
    """Return what operations look like in a graph, larger ones first."""
    return tuple(form for module in _modules() for form in module.FORMS)


def is_operation(domain: str, op_type: str) -> bool:
    """Return whether a node is an operation; its body takes FP32 and FP16 as it comes."""
    return domain == DOMAIN and op_type in operations()


def _modules() -> list[ModuleType]:
    return [importlib.import_module(f"trtdeploy.attention.{folder}.operation") for folder in _FOLDERS]
