"""The cache of a calibration: what was measured up to some batch, in one file that is replaced as a whole."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.core.files import atomic_write
from trtdeploy.quantize.magnitudes import BINS, Magnitudes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"trtdeploy calibration\n"
_FORMAT = 1
_MAX_BYTES = 1 << 32
_DIGEST_BYTES = 64
HISTOGRAMS, PEAKS = "histograms", "largest magnitudes"
_UNREADABLE = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, msgspec.MsgspecError, NotImplementedError)
"""What numpy, zipfile and msgspec raise on content that is not as expected."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What a cache was measured on; with another it is worth nothing.

    Attributes:
        model: Hash of the observed model and of the tensors' names.
        batches: Hashes of the images, in order.
        preparation: How images became inputs.
        measured: What was measured: `HISTOGRAMS` or `PEAKS`.
        runtime: What ran the model: another version rounds otherwise.
        format: Version of the file.
    """

    model: str
    batches: tuple[str, ...]
    preparation: str
    measured: str
    runtime: str
    format: int = _FORMAT


@dataclass
class Checkpoint:
    """What was measured so far, and the file that holds it.

    Attributes:
        path: The file; None keeps nothing.
        key: What is measured on.
        magnitudes: Of each tensor.
        done: Batches that they hold.
    """

    path: Path | None
    key: Key
    magnitudes: dict[str, Magnitudes]
    done: int = 0

    @classmethod
    def open(cls, path: Path | None, key: Key, names: Sequence[str]) -> tuple[Checkpoint, str]:
        """Return what the file at `path` holds, or nothing measured yet; and a warning why, or an empty string.

        Raises:
            UsageError: The file is no calibration cache, so that it is not replaced; or its folder does not exist.
            SourceError: It cannot be read.
        """
        fresh = cls(path, key, {name: Magnitudes() for name in names})
        if path is None:
            return fresh, ""
        if not path.parent.is_dir():
            raise UsageError(f"The folder {path.parent} of the calibration cache {path} does not exist. Create it.")
        content = _read(path)
        if content is None:
            return fresh, ""
        digest, data = content[len(_MAGIC) :][:_DIGEST_BYTES], content[len(_MAGIC) + _DIGEST_BYTES :]
        if hashlib.sha256(data).hexdigest().encode() != digest:
            return fresh, _anew(path, "is damaged or cut short")
        try:
            known, found = _unpack(data)
        except _UNREADABLE:
            return fresh, _anew(path, "is of another version of trtdeploy")
        finished = found.done == len(key.batches)
        if known.measured == HISTOGRAMS and finished:  # they hold the largest magnitudes too
            known = msgspec.structs.replace(known, measured=key.measured)
        difference = _difference(known, key)
        if difference:
            return fresh, _anew(path, difference)
        return found.restored(path, key, names), ""

    def write(self) -> None:
        """Write the file, if there is one to write.

        Raises:
            SinkError: It cannot be written.
        """
        if self.path is None:
            return
        data = _pack(self)
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(_MAGIC + hashlib.sha256(data).hexdigest().encode() + data)


@dataclass(frozen=True)
class _Arrays:
    """What a file holds, one row per tensor."""

    counts: NDArray[np.int64]
    exponents: NDArray[np.int64]
    zeros: NDArray[np.int64]
    peaks: NDArray[np.float64]
    done: int

    def restored(self, path: Path, key: Key, names: Sequence[str]) -> Checkpoint:
        magnitudes = {name: Magnitudes() for name in names}
        for index, found in enumerate(magnitudes.values()):
            found.counts = self.counts[index].copy()
            found.exponent = int(self.exponents[index])
            found.zeros = int(self.zeros[index])
            found.peak = float(self.peaks[index])
        return Checkpoint(path, key, magnitudes, self.done)


def _pack(state: Checkpoint) -> bytes:
    found = list(state.magnitudes.values())
    file = io.BytesIO()
    np.savez(
        file,
        key=np.frombuffer(msgspec.json.encode(state.key), np.uint8),
        done=np.int64(state.done),
        counts=np.array([m.counts for m in found], np.int64).reshape(len(found), BINS),
        exponents=np.array([m.exponent for m in found], np.int64),
        zeros=np.array([m.zeros for m in found], np.int64),
        peaks=np.array([m.peak for m in found], np.float64),
    )
    return file.getvalue()


def _unpack(data: bytes) -> tuple[Key, _Arrays]:
    """Return a file's key and content.

    Raises:
        Exception: One of `_UNREADABLE`.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        key = msgspec.json.decode(file["key"].tobytes(), type=Key)
        return key, _Arrays(file["counts"], file["exponents"], file["zeros"], file["peaks"], int(file["done"]))


def _read(path: Path) -> bytes | None:
    """Return the file's content, or None where there is no file or an empty one.

    Raises:
        UsageError: It is no calibration cache.
        SourceError: It cannot be read.
    """
    try:
        if not path.exists():
            return None
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise _not_ours(path)
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
            if not _MAGIC.startswith(head):
                raise _not_ours(path)
            return head + file.read() if head else None
    except OSError as error:
        raise SourceError(f"The calibration cache {path} cannot be read: {error.strerror}. Check the path.") from error


def _not_ours(path: Path) -> UsageError:
    return UsageError(f"{path} is no calibration cache and is not replaced. Give another path, or remove it.")


def _anew(path: Path, reason: str) -> str:
    return f"The calibration cache {path} {reason}: calibrated anew, and replaced."


def _difference(known: Key, key: Key) -> str:
    """Return what a cache was measured on that is asked for otherwise, or an empty string."""
    if known == key:
        return ""
    if known.format != key.format:
        return "is of another version of trtdeploy"
    if known.model != key.model:
        return "is of another model, or of other tensors of it"
    if known.batches != key.batches:
        same = len(set(known.batches) & set(key.batches))
        return f"is of other images ({len(known.batches)}, of which {same} are among the {len(key.batches)} wanted now)"
    if known.preparation != key.preparation:
        return f"is of images prepared otherwise ({known.preparation}; now {key.preparation})"
    if known.measured != key.measured:
        return f"holds {known.measured}, and {key.measured} are wanted"
    return f"was made with {known.runtime}, and {key.runtime} rounds otherwise"
