"""What the runtime needs to know of an engine before it opens sessions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trtdeploy.backends.base import Backend
from trtdeploy.core.engine_info import EngineInfo


class EngineHandle(Protocol):
    """An engine file and the backend that runs it; `trtdeploy.Engine` is one."""

    @property
    def path(self) -> Path:
        """The engine file."""

    @property
    def info(self) -> EngineInfo:
        """Its metadata."""

    @property
    def backend(self) -> Backend:
        """The backend that opens sessions."""


@dataclass(frozen=True)
class EngineFile:
    """An engine file, its metadata and its backend."""

    path: Path
    info: EngineInfo
    backend: Backend


def handle_of(engine: str | os.PathLike[str] | EngineHandle) -> EngineHandle:
    """Return a handle of `engine`, reading the metadata when it is a path.

    Raises:
        EngineError: The file is not an engine.
        MissingDependencyError: The backend that built it is not installed.
    """
    if not isinstance(engine, (str, os.PathLike)):
        return engine
    from trtdeploy.backends import registry
    from trtdeploy.engine.sniff import read_info

    path = Path(engine)
    info = read_info(path)
    backend, _reason = registry.choose(info.backend)
    return EngineFile(path, info, backend)
