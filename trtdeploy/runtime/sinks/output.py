"""Output files: refusal to overwrite, folders, and how an operating system error reads."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from trtdeploy.core.errors import SinkError, UsageError

_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space, or write to another disk.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or write to another disk.",
    errno.EFBIG: "The file reached the largest size allowed here (see ulimit -f).",
    errno.EACCES: "Check the permissions, or write somewhere else.",
    errno.EROFS: "The file system is read-only: write somewhere else.",
    errno.ENOTDIR: "A part of the path is a file, not a folder.",
    errno.EISDIR: "It is a folder. Expected a file name.",
}


def sink_error(path: Path | str, error: OSError) -> SinkError:
    """Return the error for an output at `path` that the operating system refused."""
    advice = _ADVICE.get(error.errno or 0, "Check the disk, or write somewhere else.")
    return SinkError(f"Output '{path}' cannot be written: {error.strerror or error}. {advice}")


def refuse_existing(path: Path, *, force: bool) -> None:
    """Check that writing `path` destroys nothing. Devices and pipes are not files that could be lost.

    Raises:
        UsageError: It exists and `force` is not set.
    """
    if path.is_file() and not force:
        raise UsageError(f"Output '{path}' exists. Choose another name, or overwrite it with --force (force=True).")


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it.

    Raises:
        SinkError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise SinkError(f"Output folder '{path}' cannot be made: a file of that name exists.") from error
    except OSError as error:
        raise sink_error(path, error) from error


def room_left(path: Path) -> int:
    """Return how many more bytes `path` can take: free space of its disk and the process's file size limit.

    Raises:
        SinkError: The file or its disk is gone.
    """
    try:
        size = path.stat().st_size
        if not hasattr(os, "statvfs"):
            import shutil

            return shutil.disk_usage(path.parent).free
        disk = os.statvfs(path)
    except OSError as error:
        raise sink_error(path, error) from error
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    free = disk.f_bavail * disk.f_frsize
    return free if limit == resource.RLIM_INFINITY else min(free, limit - size)
