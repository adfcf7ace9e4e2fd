"""The operations that have kernels, with their launches. Triton is not needed for it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from types import MappingProxyType
from typing import TYPE_CHECKING

import trtdeploy.attention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtdeploy.kernels.spec import PluginSpec


@functools.cache
def plugin_specs() -> Mapping[str, PluginSpec]:
    """Return the spec of every operation by its `op_type`, collected from the folders that have a `plugin` module."""
    specs: dict[str, PluginSpec] = {}
    for entry in pkgutil.iter_modules(trtdeploy.attention.__path__, f"{trtdeploy.attention.__name__}."):
        if not entry.ispkg or importlib.util.find_spec(f"{entry.name}.plugin") is None:
            continue
        for spec in importlib.import_module(f"{entry.name}.plugin").PLUGINS:
            if spec.operation.op_type in specs:
                raise ValueError(
                    f"{spec.operation.op_type} of {entry.name} is defined twice. Expected unique op_types."
                )
            specs[spec.operation.op_type] = spec
    return MappingProxyType(specs)
