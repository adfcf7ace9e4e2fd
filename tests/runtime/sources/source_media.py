"""Real media files for the tests of sources, and an independent way to read them."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.runtime.seams import Source

Image = NDArray[np.uint8]


class PlainPool:
    """Gives out a new buffer each time and remembers it."""

    def __init__(self) -> None:
        self.given: list[Image] = []

    def take(self, height: int, width: int) -> Image:
        self.given.append(np.full((height, width, 3), 205, np.uint8))
        return self.given[-1]


def picture(index: int, height: int = 96, width: int = 128) -> Image:
    """Return a picture with a gradient, and a square whose place tells `index`."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 90)], axis=2).astype(np.uint8)
    left = index * 7 % (width - 16)
    image[20:36, left : left + 16] = (255, 255, 255)
    return image


def write_video(path: Path, codec: str, frames: int = 40, size: tuple[int, int] = (96, 128), fps: float = 30.0) -> Path:
    """Write a real video of `frames` pictures with cv2."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size[::-1])
    assert writer.isOpened(), f"this OpenCV cannot write {codec}"
    for index in range(frames):
        writer.write(picture(index, *size))
    writer.release()
    return path


def cut(path: Path, target: Path, fraction: float) -> Path:
    """Copy the first part of a file."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * fraction)])
    return target


def with_index_first(path: Path, target: Path) -> Path:
    """Copy an mp4 with its index (moov) before its pictures (mdat), as on the web."""
    data = path.read_bytes()
    boxes, offset = [], 0
    while offset < len(data):
        length = struct.unpack_from(">I", data, offset)[0]
        boxes.append((data[offset + 4 : offset + 8], data[offset : offset + length]))
        offset += length
    moov = bytearray(next(box for kind, box in boxes if kind == b"moov"))
    table = moov.index(b"stco") + 8
    for entry in range(struct.unpack_from(">I", moov, table)[0]):
        position = table + 4 + 4 * entry
        struct.pack_into(">I", moov, position, struct.unpack_from(">I", moov, position)[0] + len(moov))
    rest = [box for kind, box in boxes if kind != b"moov"]
    target.write_bytes(rest[0] + bytes(moov) + b"".join(rest[1:]))
    return target


def turned(path: Path, target: Path) -> Path:
    """Copy an mp4 with the rotation of a phone held upright in its metadata."""
    data = bytearray(path.read_bytes())
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def plain_read(path: Path) -> list[Image]:
    """Decode all frames with the simplest OpenCV loop."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        found, image = capture.read()
        if not found:
            return frames
        frames.append(image)


def read_all(source: Source, most: int = 10_000) -> tuple[list[Image], list[float]]:
    """Read an opened source to its end, or `most` frames."""
    images: list[Image] = []
    times: list[float] = []
    drain(source, images, times, most)
    return images, times


def drain(source: Source, images: list[Image], times: list[float] | None = None, most: int = 10_000) -> None:
    """Read an opened source to its end, keeping what came also when it ends with an error."""
    pool = PlainPool()
    while len(images) < most and (frame := source.read(pool)) is not None:
        images.append(frame[0])
        if times is not None:
            times.append(frame[1])
