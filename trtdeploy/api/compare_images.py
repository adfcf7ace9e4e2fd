"""The images of a comparison: read one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.core.errors import SourceError
from trtdeploy.core.image_files import images_in, read_image, spread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class CompareImages:
    """The images in a folder, spread evenly by name.

    Args:
        folder: The folder.
        limit: Images at most; None takes all.

    Raises:
        UsageError: It does not exist, is no folder, or holds no image.
        SourceError: It cannot be read.

    Attributes:
        folder: The folder.
        unreadable: Names of images that could not be read, known once they were asked for.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder = folder
        self.unreadable: list[str] = []
        self._paths = spread(images_in(folder, "--images"), limit)

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield names and images, `[H, W, 3]` uint8 BGR; those that cannot be read are noted and left out.

        Raises:
            SourceError: None of them can be read.
        """
        for path in self._paths:
            image = read_image(path)
            if image is not None:
                yield path.name, image
            elif path.name not in self.unreadable:
                self.unreadable.append(path.name)
        if len(self.unreadable) == len(self._paths):
            raise SourceError(
                f"--images {self.folder}: none of its {len(self._paths)} images can be read, {self.unreadable[0]} "
                "among them. They are damaged, or in no format OpenCV knows."
            )

    def named(self, name: str) -> NDArray[np.uint8]:
        """Return one image again.

        Raises:
            SourceError: It cannot be read any more.
        """
        image = read_image(self.folder / name)
        if image is None:
            raise SourceError(
                f"--images {self.folder}: {name} can no longer be read. Do not change the folder meanwhile."
            )
        return image
