"""Load checkpoints that are pickles of whole models, without running code that they bring along."""

from __future__ import annotations

import importlib
import inspect
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trtdeploy.core.errors import ModelError, UsageError

MODULES = (
    "torch.nn.modules.activation",
    "torch.nn.modules.batchnorm",
    "torch.nn.modules.container",
    "torch.nn.modules.conv",
    "torch.nn.modules.dropout",
    "torch.nn.modules.flatten",
    "torch.nn.modules.fold",
    "torch.nn.modules.instancenorm",
    "torch.nn.modules.linear",
    "torch.nn.modules.normalization",
    "torch.nn.modules.padding",
    "torch.nn.modules.pixelshuffle",
    "torch.nn.modules.pooling",
    "torch.nn.modules.sparse",
    "torch.nn.modules.upsampling",
    "trtdeploy.models.inserted",
    "ultralytics.nn.modules.block",
    "ultralytics.nn.modules.conv",
    "ultralytics.nn.modules.head",
    "ultralytics.nn.modules.transformer",
    "ultralytics.nn.modules.utils",
    "ultralytics.nn.tasks",
)
"""Python modules of which a checkpoint may name `torch.nn.Module` classes that they define."""
CLASSES = (
    "trtdeploy.models.inserted.MapsAfter",
    "trtdeploy.models.inserted.MapsBefore",
    "ultralytics.utils.IterableSimpleNamespace",
)
"""Other classes that a checkpoint may name: our hooks, and a plain holder of settings."""


def load_checkpoint(path: Path, allow: Sequence[str] = ()) -> Any:
    """Load a checkpoint with torch's restricted unpickler and an allow-list of classes.

    Args:
        path: A `.pt` file.
        allow: Further classes that the user trusts, such as `mypackage.blocks.C2fCBAM`. They are imported.

    Raises:
        UsageError: A class of `allow` does not exist.
        ModelError: The file cannot be read, or names something that is not on the list; the message says what.
    """
    trusted = [_imported(name) for name in allow]
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        found = [(_permitted(name), name) for name in named if name not in allow]
        refused = [name for permitted, name in found if permitted is None]
        if refused:
            raise ModelError(
                f"{path}: the checkpoint names {', '.join(sorted(refused)[:8])}, which is not on the list of what "
                "a checkpoint may name. If you trust the file, allow it: --allow "
                f"{sorted(refused)[0]}. Otherwise export from a yaml file and a state_dict."
            )
        with torch.serialization.safe_globals([*trusted, *(permitted for permitted, _ in found)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the checkpoint: {error.strerror or error}.") from error
    except (RuntimeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path} is not a checkpoint that can be loaded with weights_only: {str(error).splitlines()[0][:300]}."
        ) from error


def _permitted(name: str) -> Any | None:
    """Return the class of this name if a checkpoint may name it."""
    module_name, _, class_name = name.rpartition(".")
    ours = module_name.startswith("trtdeploy.attention.") and module_name.endswith(".module")
    if name not in CLASSES and module_name not in MODULES and not ours:
        return None
    found = getattr(importlib.import_module(module_name), class_name, None)
    if not inspect.isclass(found) or found.__module__ != module_name:
        return None
    return found if name in CLASSES or issubclass(found, nn.Module) else None


def _imported(name: str) -> Any:
    """Return the class of this name.

    Raises:
        UsageError: There is none.
    """
    module_name, _, class_name = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"There is no class {name}: {error}. Give package.module.Class, importable from here."
        ) from error
