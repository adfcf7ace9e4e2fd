"""Atomic files: a whole file at the target or what was there before, never half."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from trtdeploy.core.errors import SinkError

_ADVICE = {
    errno.ENOSPC: "Free some space on the disk, or write to another one.",
    errno.EDQUOT: "The quota is used up: free some space, or write to another disk.",
    errno.EACCES: "Check the permissions of the folder, or write to another one.",
    errno.EPERM: "Check the permissions of the folder, or write to another one.",
    errno.EROFS: "The file system is read-only: write to another folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success its file takes the place of `path` in one step.

    The temporary file exists, is empty, hidden and in the same folder. The caller writes it (by opening it, or by
    replacing it) and does nothing else inside the block, because every `OSError` is taken for a failed write. On any
    exception the temporary file is removed. A process killed half-way leaves at most that hidden file, which the
    next write to the same target removes. A symbolic link is followed, not replaced.

    Args:
        path: The target. Its folder must exist.

    Raises:
        SinkError: The target cannot be written: no such folder, no permission, disk full, not a regular file.
    """
    target = Path(os.path.realpath(path))
    try:
        _check_target(target)
        _remove_stale(target)
        temporary, lock = _create(target)
        try:
            yield temporary
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, target)
            _sync(target.parent, os.O_RDONLY)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            os.close(lock)
    except OSError as error:
        raise sink_error(path, error) from error


def sink_error(path: str | os.PathLike[str], error: OSError) -> SinkError:
    """Return the `SinkError` that says why `path` could not be written and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "Check the path, or write to another folder.")
    return SinkError(f"Cannot write {os.fspath(path)}: {reason}. {advice}")


def _check_target(target: Path) -> None:
    """Check that a file can stand at `target`; a device such as /dev/null must not be replaced by a file."""
    if not target.parent.is_dir():
        raise SinkError(f"Cannot write {target}: the folder {target.parent} does not exist. Create it first.")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise SinkError(f"Cannot write {target}: it is a folder. Give the name of a file.")
    if not stat.S_ISREG(mode):
        raise SinkError(f"Cannot write {target}: it is not a regular file. Give the name of a file.")


def _create(target: Path) -> tuple[Path, int]:
    """Create the temporary file; the lock on it tells a live writer from a dead one."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    with contextlib.suppress(OSError):  # some network file systems have no locks; then nobody removes stale files
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return temporary, lock


def _remove_stale(target: Path) -> None:
    """Remove temporary files that a killed writer of the same target left behind."""
    stale_name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.tmp")
    for entry in os.scandir(target.parent):
        if not stale_name.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):  # still being written, or somebody else's: leave it
            handle = os.open(entry.path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
            finally:
                os.close(handle)


def _sync(path: Path, flags: int) -> None:
    """Wait until the file or folder at `path` is on the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
