"""What is installed, found without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from trtdeploy.core.errors import MissingDependencyError


def is_installed(module: str) -> bool:
    """Return whether the top-level `module` can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version_of(*distributions: str) -> str | None:
    """Return the version of the first of `distributions` that is installed, or None."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def require(module: str, needed_for: str, extra: str) -> None:
    """Check that `module` is installed.

    Args:
        module: Top-level module name.
        needed_for: What the caller needs it for, as it should read in the error.
        extra: The extra of trtdeploy that brings it.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if not is_installed(module):
        raise MissingDependencyError(module, needed_for, f"pip install 'trtdeploy[{extra}]'")
