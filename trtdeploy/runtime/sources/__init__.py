"""Where frames come from. A new kind of source is one file and one line in `KINDS`."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from trtdeploy.core.errors import SourceError, UsageError
from trtdeploy.runtime.seams import Source
from trtdeploy.runtime.sources.camera import CameraSource
from trtdeploy.runtime.sources.csi import CsiSource
from trtdeploy.runtime.sources.gstreamer import GStreamerSource
from trtdeploy.runtime.sources.images import ImagesSource, is_image, natural_order
from trtdeploy.runtime.sources.known import KnownSource, redacted, safe_name
from trtdeploy.runtime.sources.network import NetworkSource
from trtdeploy.runtime.sources.synthetic import SyntheticSource
from trtdeploy.runtime.sources.video import VIDEO_SUFFIXES, VideoSource

__all__ = ["KINDS", "expand", "open_source"]

KINDS: tuple[type[KnownSource], ...] = (
    SyntheticSource,
    GStreamerSource,
    CsiSource,
    CameraSource,
    NetworkSource,
    ImagesSource,
    VideoSource,
)
"""All kinds of sources; the first that accepts an address opens it."""


def open_source(uri: str, *, name: str | None = None) -> Source:
    """Return the source for one address, not yet opened.

    Args:
        uri: File, folder, quoted pattern, camera, address or drawn picture; see `KINDS`.
        name: Name of the stream. Default: made from the address.

    Raises:
        UsageError: No kind of source knows the address, its options are wrong, or a pattern matches several videos.
        SourceError: A pattern matches nothing.
    """
    sources = _expand_one(uri, name)
    if len(sources) > 1:
        raise UsageError(f"Pattern '{uri}' matches {len(sources)} streams. Expected one; use expand() for several.")
    return sources[0]


def expand(uris: Sequence[str | Source]) -> list[Source]:
    """Return the sources for all addresses, not yet opened, each stream with a name of its own.

    A pattern gives one stream of all images it matches and one stream for each video. Names that occur twice get a
    number: `door`, `door-2`.

    Args:
        uris: Addresses, and sources that are taken as they are.

    Raises:
        UsageError: As for `open_source`, or two given sources have the same name.
        SourceError: A pattern matches nothing.
    """
    given = [uri.name for uri in uris if not isinstance(uri, str)]
    if len(set(given)) != len(given):
        raise UsageError(f"Sources have the same name: {', '.join(given)}. Give each a name of its own.")
    taken = set(given)
    sources: list[Source] = []
    for uri in uris:
        if not isinstance(uri, str):
            sources.append(uri)
            continue
        for source in _expand_one(uri, None):
            source.name = _unused(source.name, taken)
            taken.add(source.name)
            sources.append(source)
    return sources


def _expand_one(uri: str, name: str | None) -> list[Source]:
    if not uri:
        raise UsageError("The source is empty. Expected a file, a folder, a camera such as cam0, or an address.")
    if _is_pattern(uri):
        return _matches(uri, name)
    for kind in KINDS:
        if kind.accepts(uri):
            return [kind(uri, name=name)]
    forms = "; ".join(kind.forms for kind in KINDS)
    raise UsageError(f"Source '{redacted(uri)}' is of no known kind. Expected one of: {forms}.")


def _is_pattern(uri: str) -> bool:
    special = any(kind.accepts(uri) for kind in KINDS if kind is not ImagesSource and kind is not VideoSource)
    return not special and "://" not in uri and glob.has_magic(uri) and not Path(uri).expanduser().exists()


def _matches(pattern: str, name: str | None) -> list[Source]:
    found = (Path(path) for path in glob.glob(str(Path(pattern).expanduser()), recursive=True))
    files = natural_order(path for path in found if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if is_image(path)]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not images and not videos:
        what = f"{len(files)} files, none of them an image or a video" if files else "nothing"
        raise SourceError(
            f"Pattern '{pattern}' matches {what}. Check it, and quote it so that the shell leaves it alone."
        )
    sources: list[Source] = []
    if images:
        sources.append(ImagesSource(pattern, name=name or _pattern_name(images), files=images))
    sources += [VideoSource(str(path), name=name) for path in videos]
    return sources


def _pattern_name(files: Iterable[Path]) -> str:
    """Return the name of the folder that the files are in, `images` if there are several."""
    folders = {path.resolve().parent.name for path in files}
    return safe_name(folders.pop()) if len(folders) == 1 else "images"


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    return candidate
