"""Images without labels: one file, or those of a folder."""

from __future__ import annotations

from pathlib import Path

from trtdeploy.core.image_files import is_image
from trtdeploy.evaluate.datasets.labelled_images import LabelledImages


def read_folder(data: Path, limit: int | None) -> LabelledImages:
    """Return the images of a folder by name, or the one image, without labels."""
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    paths = tuple(path for path in files if is_image(path) and path.is_file())
    return LabelledImages(title="images without labels", paths=paths[:limit])
