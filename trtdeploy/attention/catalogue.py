"""The kinds by name. A kind is a folder: adding one touches nothing else."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

import trtdeploy.attention
from trtdeploy.attention.kind import AttentionKind
from trtdeploy.core.errors import UsageError

_added: dict[str, AttentionKind] = {}


def names() -> list[str]:
    """Return the names of all kinds, sorted."""
    return sorted({*_own(), *_added})


def kinds() -> list[AttentionKind]:
    """Return all kinds, sorted by name."""
    return [kind(name) for name in names()]


def kind(name: str) -> AttentionKind:
    """Return the kind `name`.

    Raises:
        UsageError: There is no such kind.
    """
    found = _added.get(name) or _own().get(name)
    if found is None:
        close = difflib.get_close_matches(name, names(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"There is no attention kind {name!r}.{hint} The kinds are: {', '.join(names())}.")
    return found


def add(folder: str | Path) -> AttentionKind:
    """Add the kind whose package lies in `folder`, outside of trtdeploy; an earlier one of that name is replaced.

    Raises:
        UsageError: The folder holds no kind.
    """
    path = Path(folder).resolve()
    init = path / "__init__.py"
    package = f"trtdeploy_added_attention.{path.name}"
    if not init.is_file() or not path.name.isidentifier():
        raise UsageError(f"{folder} is not a folder of an attention kind: expected a Python package with KIND in it.")
    spec = importlib.util.spec_from_file_location(package, init, submodule_search_locations=[str(path)])
    if spec is None or spec.loader is None:
        raise UsageError(f"{folder}: Python cannot load {init}.")
    for loaded in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[loaded]
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    spec.loader.exec_module(module)
    found = getattr(module, "KIND", None)
    if not isinstance(found, AttentionKind):
        del sys.modules[package]
        raise UsageError(f"{init} defines no KIND. Expected KIND = AttentionKind(package=__name__, ...).")
    _added[found.name] = found
    return found


@functools.cache
def _own() -> dict[str, AttentionKind]:
    """Return the kinds in trtdeploy's own folder."""
    found = {}
    for entry in pkgutil.iter_modules(trtdeploy.attention.__path__):
        if entry.ispkg:
            module = importlib.import_module(f"trtdeploy.attention.{entry.name}")
            found[entry.name] = module.KIND
    return found
