"""Images without labels: one file, or those of a folder."""

from __future__ import annotations

from pathlib import Path

from trtdeploy.evaluate.datasets.labelled_images import LabelledImages

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def is_image(path: Path) -> bool:
    """Return whether the file's name says that it is an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_folder(data: Path, limit: int | None) -> LabelledImages:
    """Return the images of a folder by name, or the one image, without labels."""
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    return LabelledImages(title="images without labels", paths=tuple(filter(is_image, files))[:limit])
