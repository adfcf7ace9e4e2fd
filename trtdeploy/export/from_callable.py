"""Export whatever a Python function returns."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.export.options import Subject


def callable_subject(name: str) -> Subject:
    """Call a function and return what exports its model.

    Args:
        name: `package.module:function` or `path/to/file.py:function`. It takes no arguments and returns a module that
            takes images `[B, 3, H, W]`, or a `Subject`, which says what the model takes and returns.

    Raises:
        UsageError: There is no such function.
        ModelError: It fails or returns something else.
    """
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name:
        raise UsageError(f"{name!r} names no function. Give package.module:function or file.py:function.")
    function = getattr(_module(module_name), function_name, None)
    if not callable(function):
        raise UsageError(f"{module_name} has no function {function_name!r}.")
    try:
        made = function()
    except Exception as error:
        raise ModelError(f"{name} failed: {type(error).__name__}: {error}. It is called without arguments.") from error
    if isinstance(made, Subject):
        return made
    if isinstance(made, nn.Module):
        return Subject(model=made)
    kind = "a tensor" if isinstance(made, Tensor) else f"a {type(made).__name__}"
    raise ModelError(f"{name} returned {kind}. Expected a torch.nn.Module or a trtdeploy.export Subject.")


def _module(name: str) -> Any:
    """Import a module by name or by file.

    Raises:
        UsageError: It cannot be imported.
    """
    path = Path(name)
    try:
        if path.suffix == ".py":
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise UsageError(f"There is no file {path}.")
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            return module
        return importlib.import_module(name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name} cannot be imported: {type(error).__name__}: {error}.") from error
