"""A folder beside the target in which an engine is made and tried before it takes its place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from trtdeploy.core.errors import BuildError, EngineError, GateError, SinkError
from trtdeploy.core.files import sink_error

_LOCK = ".lock"
_WEIGHTS = ".weights"
"""End of the name of a file without which the target does not load."""
_TOLD = (".sha256", ".gate.json")
"""Ends of the names of files that tell something about the target."""


class Staging:
    """A folder for the files of one target. Use `open_staging`.

    Attributes:
        path: Where to make the target; files that belong to it go beside it, under names that begin with its name.
            Others beside it are thrown away.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.path = folder / target.name
        self._target = target

    def publish(self) -> None:
        """Move everything that was made to the target's folder, and remove what belonged to the old target.

        What the target needs comes before it. What is told about it (checksum, report) goes before it and comes after
        it: a process killed half-way leaves a whole target without them, never with those of another.

        Raises:
            SinkError: A file cannot be moved.
        """
        folder, name = self._target.parent, self._target.name
        made = {path.name for path in self.path.parent.iterdir() if path.name.startswith(name)}
        needed = sorted(entry for entry in made if entry.endswith(_WEIGHTS))
        told = sorted(made - {name, *needed})
        try:
            _remove(self._target, re.escape(name) + f"({'|'.join(map(re.escape, _TOLD))})")
            for entry in (*needed, name, *told):
                os.replace(self.path.with_name(entry), folder / entry)
            _remove(self._target, rf"{re.escape(name)}-[0-9a-f]{{16}}{re.escape(_WEIGHTS)}", kept=made)
        except OSError as error:
            raise sink_error(self._target, error) from error


@contextlib.contextmanager
def open_staging(target: Path) -> Iterator[Staging]:
    """Yield a staging folder beside `target`, and remove it at the end with all that was not published.

    A process killed half-way leaves the hidden folder, which the next build of the same target removes. A symbolic link
    is followed, not replaced. Errors of what is made there name the target.

    Raises:
        SinkError: The folder cannot be made, or the target is not a regular file.
    """
    real = Path(os.path.realpath(target))
    if real.exists() and not real.is_file():
        raise SinkError(f"Cannot write {target}: it is not a regular file. Give the name of a file.")
    try:
        _remove_stale(real)
        folder = real.with_name(f".{real.name}.{secrets.token_hex(6)}.staging")
        folder.mkdir()
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise sink_error(target, error) from error
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks; then nobody removes stale folders
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Staging(folder, real)
    except (BuildError, EngineError, GateError, SinkError) as error:
        staged = str(folder / real.name)
        if staged not in str(error):
            raise
        raise type(error)(str(error).replace(staged, str(target))) from error
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(target: Path) -> None:
    """Remove staging folders that killed builds of the same target left behind."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.staging")
    for entry in os.scandir(target.parent):
        if not pattern.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):  # in use, or somebody else's: leave it
            handle = os.open(Path(entry.path) / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path)
            finally:
                os.close(handle)


def _remove(target: Path, pattern: str, kept: Collection[str] = ()) -> None:
    """Remove the files beside `target` whose whole name matches `pattern`."""
    for entry in os.scandir(target.parent):
        if re.fullmatch(pattern, entry.name) and entry.name not in kept and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)
