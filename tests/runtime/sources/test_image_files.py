"""Image files: order, formats, sizes, and files that are damaged or missing."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from source_media import PlainPool, cut, picture, read_all, write_video

from trtdeploy.core.errors import SourceError
from trtdeploy.runtime.sources import expand, open_source
from trtdeploy.runtime.sources.images import ImagesSource, natural_order


def with_exif_orientation(path: Path, orientation: int) -> None:
    """Put an EXIF block with one tag into a JPEG."""
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\x00\x00" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])


def test_a_folder_gives_its_images_in_natural_order_with_their_names_and_sizes(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"shot{number}.png"), picture(number, 40 + number, 60))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._shot1.png").write_bytes(b"left behind by another system")
    source = open_source(str(tmp_path), name="door")
    info = source.open()
    images, times = read_all(source)
    source.close()
    assert info.items == ("shot1.png", "shot2.png", "shot10.png")
    assert (info.frames, info.height, info.width, info.fps, info.live) == (3, 41, 60, None, False)
    assert [image.shape[0] for image in images] == [41, 42, 50]
    assert all(np.array_equal(a, picture(n, 40 + n, 60)) for a, n in zip(images, (1, 2, 10), strict=True))
    assert times == [0.0, 1.0, 2.0]


def test_natural_order_counts_numbers_anywhere() -> None:
    names = ["b1", "a10.jpg", "a9.jpg", "A1.jpg", "a09.jpg", "x/2", "x/11"]
    assert [str(p) for p in natural_order(map(Path, names))] == [
        "A1.jpg", "a09.jpg", "a9.jpg", "a10.jpg", "b1", "x/2", "x/11",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["grey", "grey16", "colour16", "alpha"])
def test_every_kind_of_pixel_becomes_8_bit_bgr(tmp_path: Path, kind: str) -> None:
    bgr = picture(3)
    stored = {
        "grey": bgr[..., 1],
        "grey16": bgr[..., 1].astype(np.uint16) << 8,
        "colour16": bgr.astype(np.uint16) << 8,
        "alpha": np.dstack([bgr, np.full(bgr.shape[:2], 7, np.uint8)]),
    }[kind]
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    source = open_source(str(tmp_path / "a.png"))
    source.open()
    (image,), _ = read_all(source)
    source.close()
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    expected = np.repeat(bgr[..., 1:2], 3, 2) if kind.startswith("grey") else bgr
    assert np.array_equal(image, expected)


def test_a_photo_is_turned_upright_as_its_exif_says(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), picture(0, 64, 96), [cv2.IMWRITE_JPEG_QUALITY, 100])
    flat = cv2.imread(str(path))
    with_exif_orientation(path, 6)
    source = open_source(str(path))
    info = source.open()
    (image,), _ = read_all(source)
    assert (info.height, info.width) == (96, 64)
    assert np.abs(image.astype(int) - np.rot90(flat, -1)).max() <= 2


def test_a_damaged_image_is_named_and_the_ones_before_it_are_delivered(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    (tmp_path / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    source = ImagesSource(str(tmp_path))
    source.open()
    pool = PlainPool()
    assert source.read(pool) is not None
    assert source.read(pool) is not None
    with pytest.raises(SourceError, match=r"image '.*2\.png' cannot be decoded: damaged, or not an image"):
        source.read(pool)


@pytest.mark.parametrize(("content", "message"), [(b"", r"is empty \(0 bytes\)"), (b"text", "cannot be decoded")])
def test_a_file_that_is_no_image_is_refused_when_opened(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(SourceError, match=rf"a\.jpg' {message}"):
        open_source(str(tmp_path / "a.jpg")).open()


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"image '.*a\.jpg' does not exist"):
        open_source(str(tmp_path / "a.jpg")).open()


def test_an_image_that_vanishes_while_the_folder_is_read_is_named(tmp_path: Path) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    source = ImagesSource(str(tmp_path))
    source.open()
    (tmp_path / "1.png").unlink()
    source.read(PlainPool())
    with pytest.raises(SourceError, match=r"1\.png' does not exist"):
        source.read(PlainPool())


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceError, match=r"is a folder without images\. Expected jpg"):
        open_source(str(tmp_path)).open()


def test_a_folder_of_videos_is_refused_with_the_pattern_that_helps(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", "mp4v", frames=2)
    write_video(tmp_path / "b.mp4", "mp4v", frames=2)
    with pytest.raises(SourceError, match=r"holds 2 videos: give them one by one, or as '.*/\*'"):
        open_source(str(tmp_path)).open()
    assert [source.name for source in expand([f"{tmp_path}/*"])] == ["a", "b"]


def test_a_truncated_jpeg_in_a_folder_is_not_silently_skipped(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "whole.jpg"), picture(0))
    cut(tmp_path / "whole.jpg", tmp_path / "cut.jpg", 0.02)
    source = ImagesSource(str(tmp_path))
    with pytest.raises(SourceError, match=r"cut\.jpg' cannot be decoded"):
        source.open()


def test_names_of_a_pattern_over_folders_keep_the_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "1.png"), picture(0))
    source = open_source(f"{tmp_path}/**/*.png")
    info = source.open()
    assert (info.items, info.name) == (("a/1.png", "b/1.png"), "images")
