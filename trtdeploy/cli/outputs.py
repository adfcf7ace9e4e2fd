"""Outputs are refused before any work is done: existing without --force, unwritable, or the same as an input."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from trtdeploy.core.errors import SinkError, UsageError


def check_outputs(
    outputs: Iterable[tuple[str, Path]], inputs: Iterable[str | Path], *, force: bool, makes_folders: bool = True
) -> None:
    """Check that every output can be written.

    Args:
        outputs: Options and the files they name; devices such as /dev/null are taken as they are.
        inputs: Files that are read; no output may replace one of them, `force` or not.
        force: Existing files may be replaced.
        makes_folders: Whoever writes makes the folders above the file.

    Raises:
        UsageError: An output exists, is a folder, is an input, or is given twice.
        SinkError: The folder does not exist or cannot be written.
    """
    taken = {os.path.realpath(path): f"the input {path}" for path in inputs if os.path.exists(path)}
    for option, path in outputs:
        real = os.path.realpath(path)
        if real in taken:
            raise UsageError(f"{option} {path} is {taken[real]}. Give another path.")
        mode = _mode(option, path)
        if mode is not None and stat.S_ISDIR(mode):
            raise UsageError(f"{option} {path} is a folder. Give the path of a file.")
        if mode is None or stat.S_ISREG(mode):
            taken[real] = f"already the output of {option}"
            if mode is not None and not force:
                raise UsageError(f"{option} {path} exists. Use --force to replace it, or give another path.")
            _check_writable(option, path, makes_folders=makes_folders)


def check_caches(
    caches: Iterable[tuple[str, Path | None]], outputs: Iterable[tuple[str, Path]], inputs: Iterable[str | Path]
) -> None:
    """Check that files in which minutes of work are kept can be written; existing ones are gone on with.

    Args:
        caches: Options and the files they name, None where one is not given.
        outputs: The command's checked outputs; a cache must be none of them.
        inputs: Files that are read.

    Raises:
        UsageError: A cache is a folder, an output, an input, or given twice.
        SinkError: The folder does not exist or cannot be written.
    """
    given = [(option, path) for option, path in caches if path is not None]
    if given:
        check_outputs([*outputs, *given], inputs, force=True, makes_folders=False)


def _check_writable(option: str, path: Path, *, makes_folders: bool) -> None:
    """Check that a file can be made at `path`, by making one beside it.

    Raises:
        SinkError: It cannot.
    """
    folder = Path(os.path.realpath(path)).parent
    while makes_folders and not folder.exists():
        folder = folder.parent
    if not folder.exists():
        raise SinkError(f"{option} {path}: there is no folder {folder}. Create it first, or give another path.")
    if not folder.is_dir():
        raise SinkError(f"{option} {path} cannot be written: {folder} is not a folder. Give another path.")
    try:
        if path.exists():
            with path.open("ab"):
                return
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise SinkError(
            f"{option} {path} cannot be written: {error.strerror}. Check the permissions, or give another path."
        ) from error


def _mode(option: str, path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SinkError(f"{option} {path} cannot be written: {error.strerror}. Give another path.") from error
