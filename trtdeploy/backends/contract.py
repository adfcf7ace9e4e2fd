"""What an engine accepts and returns, checked on every call and at the build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdeploy.core.engine_info import EngineInfo, TensorInfo
from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import Size, TensorSpec

_ODD_FRAME = (241, 319)
"""Frames may have any size."""


class Contract:
    """The shapes and types that `info` promises for the engine `name`.

    Args:
        name: The engine's path, for messages.
        info: Its metadata.
    """

    def __init__(self, name: str, info: EngineInfo) -> None:
        self._name = name
        self._info = info
        self._sizes = info.sizes

    @property
    def output_names(self) -> list[str]:
        return [tensor.name for tensor in self._info.outputs]

    @property
    def input_name(self) -> str:
        return self._info.inputs[0].name

    def check_tensors(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Check that the library sees the inputs and outputs that the metadata names.

        Raises:
            EngineError: A tensor is missing, unexpected, or of another type.
        """
        for kind, seen, told in (("inputs", inputs, self._info.inputs), ("outputs", outputs, self._info.outputs)):
            found = {(t.name, t.dtype) for t in seen}
            if found != {(t.name, t.dtype) for t in told}:
                raise EngineError(
                    f"{self._name}: the network's {kind} are {_names(seen)}, and the engine's metadata promises "
                    f"{_names(told)}. The file was changed after it was built: build it again."
                )
        if len(inputs) != 1:
            raise EngineError(f"{self._name}: the network has {len(inputs)} inputs ({_names(inputs)}); expected one.")

    def check_images(self, images: NDArray[np.uint8]) -> None:
        """Check one batch of `[B, H, W, 3]` images.

        Raises:
            EngineError: The type, shape, layout, batch or size is not what the engine accepts.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            got = f"{images.dtype}{list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise EngineError(f"{self._name}: expected images [B, height, width, 3] of uint8 in BGR order, got {got}.")
        if not images.flags.c_contiguous:
            raise EngineError(f"{self._name}: the images are not C-contiguous. Use numpy.ascontiguousarray.")
        self.check_shape(images.shape)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Check the shape of one batch of uint8 images, wherever they are.

        Raises:
            EngineError: The shape, batch or size is not what the engine accepts.
        """
        info = self._info
        if len(shape) != 4 or shape[3] != 3:
            raise EngineError(f"{self._name}: expected images [B, height, width, 3], got {list(shape)}.")
        batch, height, width, _ = shape
        if not info.batch_min <= batch <= info.batch_max:
            allowed = _range(info.batch_min, info.batch_max)
            raise EngineError(
                f"{self._name}: the engine accepts batch {allowed}, got {batch}. "
                f"Send {allowed} images at a time, or rebuild with --batch {_batch_option(info, batch)}."
            )
        if info.input_kind == "canvas":
            self._check_canvas(height, width)
        elif height < 1 or width < 1:
            raise EngineError(f"{self._name}: the frames are empty: {height}x{width}.")

    def _check_canvas(self, height: int, width: int) -> None:
        size, sizes, stride = Size(height, width), self._sizes, self._info.stride
        if not (sizes.min.fits(size) and size.fits(sizes.max)):
            allowed = str(sizes.min) if sizes.is_fixed else f"from {sizes.min} to {sizes.max}"
            raise EngineError(
                f"{self._name}: the engine accepts images of {allowed}, got {size}. "
                "Letterbox the frames to an allowed size, or rebuild with --dynamic."
            )
        if size not in {sizes.min, sizes.opt, sizes.max} and (height % stride or width % stride):
            raise EngineError(
                f"{self._name}: image size {size} is not a multiple of the stride {stride}. "
                f"Letterbox the frames to {size.snapped(stride)}."
            )

    def check_outputs(
        self, images: NDArray[np.uint8], outputs: Mapping[str, NDArray[Any]], *, allow_nan: bool = False
    ) -> None:
        """Check the outputs of one run: types, ranks, batch and fixed dimensions, no NaN. Too slow for every call.

        Args:
            images: What was run.
            outputs: What came out.
            allow_nan: Accept NaN.

        Raises:
            EngineError: An output is not as the metadata promises.
        """
        for told in self._info.outputs:
            got = outputs[told.name]
            spec = TensorSpec(told.name, str(got.dtype), got.shape)
            wrong = len(told.shape) != got.ndim or any(
                isinstance(want, int) and want != have for want, have in zip(told.shape, got.shape, strict=False)
            )
            # standard outputs have the batch first; raw outputs may be anything
            wrong |= self._info.nms.method != "none" and got.shape[:1] != images.shape[:1]
            if wrong or spec.dtype != told.dtype:
                raise EngineError(
                    f"{self._name}: a batch of {len(images)} images of {images.shape[1]}x{images.shape[2]} gave "
                    f"{spec}, expected {_names([told])}."
                )
            if not allow_nan and got.dtype.kind == "f" and np.isnan(got).any():
                raise EngineError(
                    f"{self._name}: output {told.name!r} holds NaN for a test image of {images.shape[1]}x"
                    f"{images.shape[2]}. Check the model's weights."
                )

    def probes(self) -> list[NDArray[np.uint8]]:
        """Return batches of noise that reach both ends of the batch and of the size range, the optimum first."""
        info = self._info
        corners = [(info.batch_opt, info.size_opt), (info.batch_max, info.size_min), (info.batch_min, info.size_max)]
        random = np.random.default_rng(0)
        return [
            random.integers(0, 256, (batch, *size, 3), dtype=np.uint8)
            for batch, size in dict.fromkeys((batch, tuple(size)) for batch, size in corners)
        ]


def _names(tensors: Sequence[TensorSpec] | Sequence[TensorInfo]) -> str:
    return ", ".join(f"{t.name} {t.dtype}[{','.join(str(d) for d in t.shape)}]" for t in tensors) or "none"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _batch_option(info: EngineInfo, batch: int) -> str:
    """Return the value of `--batch` that allows `batch` too."""
    low, high = min(info.batch_min, max(batch, 1)), max(info.batch_max, batch)
    return f"{low}:{min(max(info.batch_opt, low), high)}:{high}"
