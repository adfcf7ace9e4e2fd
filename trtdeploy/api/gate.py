"""Runs the accuracy gate: images through the engine and through its model in ONNX Runtime, in every batch slot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtdeploy.api.gate_options import GateImage
from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import Size
from trtdeploy.engine.boxes import Found, Outputs, decisive, defect_of
from trtdeploy.engine.gate import GateReport, Place, Tally
from trtdeploy.engine.tolerance import Tolerance
from trtdeploy.graph.inline import inline_functions
from trtdeploy.graph.reference import ReferenceModel, ReferenceRunError
from trtdeploy.runtime.letterbox import Canvas

Infer = Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]]
"""The `infer` of an execution context."""
MAX_PIXELS = 1 << 24
"""Pixels of one batch. A detector in FP32 needs about 150 bytes of activations for each: larger batches than this are
left out, and the report says so. 8 images of 1088x1088 are less."""
_MIN_IMAGES, _MAX_IMAGES = 4, 8


OpenEngine = Callable[[], AbstractContextManager[Infer]]
"""Opens the engine that was built; raises an `EngineError` where that fails."""


def images_wanted(largest_batch: int) -> int:
    """Return how many different images fill the engine's slots: as many as the largest batch, 4 to 8."""
    return max(_MIN_IMAGES, min(_MAX_IMAGES, largest_batch))


class Gate:
    """Compares engines with one model. The model's answers are computed once, each image alone.

    Args:
        reference: The finished model before any pass lowered its precision.
        info: Metadata of the engines.
        images: What to show; at least two images.
        tolerance: How far detections may be apart.

    Raises:
        ReferenceRunError: ONNX Runtime does not load the model.
    """

    def __init__(
        self, reference: ir.Model, info: EngineInfo, images: Sequence[GateImage], tolerance: Tolerance
    ) -> None:
        model = reference.clone()
        inline_functions(model)
        self._reference = ReferenceModel(model)
        self._info = info
        self._images = list(images)
        self._tolerance = tolerance
        self._canvas = Canvas(1, info.fit)
        self._inputs: dict[tuple[int, Size], NDArray[np.uint8]] = {}
        self._answers: dict[tuple[int, Size], dict[str, NDArray[Any]]] = {}

    def check(self, open_engine: OpenEngine, kept: Sequence[str] = ()) -> GateReport:
        """Run an engine at its smallest, usual and largest size and batch, and compare.

        At every size: batches of different images in all slots, one batch of the same image in all slots, and the
        first batch once more.

        Args:
            open_engine: Opens the engine.
            kept: Blocks that stay in a higher precision in this engine, for the report.

        Raises:
            ReferenceRunError: ONNX Runtime does not run the model.
        """
        tally = Tally(self._info, self._tolerance)
        try:
            with open_engine() as infer:
                for size in self._sizes():
                    self._check_size(infer, size, tally)
        except EngineError as error:
            tally.defect(f"the engine does not run: {error}")
        return tally.report([image.name for image in self._images], kept)

    def _check_size(self, infer: Infer, size: Size, tally: Tally) -> None:
        batches: list[int] = []
        for batch in batches_of(self._info, size):
            if batches and batch * size.height * size.width > MAX_PIXELS:
                tally.skip(batch, size, f"more than {MAX_PIXELS >> 20} million pixels")
            else:
                batches.append(batch)
        first: _Batch | None = None
        shift = 0
        for batch in batches:
            for _ in range(self._rounds(batch, size)):
                run = self._run(infer, [(shift + slot) % len(self._images) for slot in range(batch)], size)
                self._compare(run, tally, "different images")
                first = first or run
                shift += batch
            shift += 1  # so that no two batches in a row are the same
        if batches[-1] > 1:
            self._check_identical(infer, batches[-1], size, tally)
        assert first is not None
        again = self._run(infer, first.images, size)
        self._compare(again, tally, "again")
        for slot, image in enumerate(again.images):
            place = Place("repeat", len(again.images), size, slot, self._images[image].name)
            tally.add(place, first.outputs, slot, again.outputs, slot)

    def _rounds(self, batch: int, size: Size) -> int:
        """Return how many batches to run: all images at the usual size and batch, two images elsewhere."""
        usual = batch == self._info.batch_opt and size == self._sizes()[0]
        return math.ceil((len(self._images) if usual else 2) / batch)

    def _check_identical(self, infer: Infer, batch: int, size: Size, tally: Tally) -> None:
        """Show the image with most boxes in all slots, and compare each slot with the first."""
        image = max(range(len(self._images)), key=lambda index: self._evidence(index, size))
        run = self._run(infer, [image] * batch, size)
        self._compare(run, tally, "the same image in all slots")
        for slot in range(1, batch):
            place = Place("identical slots", batch, size, slot, self._images[image].name)
            tally.add(place, run.outputs, 0, run.outputs, slot)

    def _run(self, infer: Infer, images: list[int], size: Size) -> _Batch:
        frames = np.stack([self._input(image, size) for image in images])
        outputs = infer(frames)
        for told in self._info.outputs:
            got = outputs.get(told.name)
            if got is None or got.ndim != len(told.shape) or (self._detects and got.shape[:1] != (len(images),)):
                what = "nothing" if got is None else f"{got.dtype}{list(got.shape)}"
                raise EngineError(
                    f"output {told.name} is {what} for a batch of {len(images)}, expected {told.shape}. Rebuild it."
                )
        return _Batch(images, size, outputs)

    def _compare(self, run: _Batch, tally: Tally, what: str) -> None:
        """Compare each slot of a batch with what the model says to that image alone."""
        tally.ran(len(run.images), run.size, what)
        for slot, image in enumerate(run.images):
            place = Place("reference", len(run.images), run.size, slot, self._images[image].name)
            tally.add(place, self._answer(image, run.size), 0, run.outputs, slot)

    def _answer(self, image: int, size: Size) -> dict[str, NDArray[Any]]:
        """Return what the model says to one image: alone, or in all slots where it takes no single one."""
        key = (image, size)
        if key not in self._answers:
            name = self._info.inputs[0].name
            batch = np.repeat(self._input(image, size)[np.newaxis], self._info.batch_min, axis=0)
            answer = self._reference.run({name: batch})
            if self._detects and (defect := defect_of(answer, 0, len(self._info.class_names))):
                raise ReferenceRunError(f"the model itself gives wrong outputs on {self._images[image].name}: {defect}")
            self._answers[key] = answer
        return self._answers[key]

    def _evidence(self, image: int, size: Size) -> int:
        if not self._detects:
            return 0
        return decisive(Found.of(self._answer(image, size), 0), self._tolerance, self._info.nms)

    def _input(self, index: int, size: Size) -> NDArray[np.uint8]:
        """Return an image as the engine takes it: on a canvas, or as a frame of that size."""
        key = (index, size)
        if key not in self._inputs:
            image = self._images[index].image
            if self._info.input_kind == "frames":
                scaled = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA)
                self._inputs[key] = np.asarray(scaled, np.uint8)
            else:
                self._canvas.resize(size)
                self._canvas.draw(0, image)
                self._inputs[key] = self._canvas.batch(1)[0].copy()
        return self._inputs[key]

    def _sizes(self) -> list[Size]:
        """Return the sizes to try, the usual one first."""
        info = self._info
        profiles = [] if info.plan is None else info.plan.profiles
        if info.input_kind == "frames":
            wanted = frame_sizes(info)
        else:
            own = [Size(*shape[1:3]) for p in profiles for shape in (p.opt, p.min, p.max)]
            wanted = list(dict.fromkeys([info.sizes.opt, info.sizes.min, info.sizes.max, *own]))
        return [size for size in wanted if batches_of(info, size)]

    @property
    def _detects(self) -> bool:
        return self._info.nms.method != "none"


@dataclass(frozen=True)
class _Batch:
    """A batch that ran: indices of its images, their size, and the outputs."""

    images: list[int]
    size: Size
    outputs: Outputs


def batches_of(info: EngineInfo, size: Size) -> list[int]:
    """Return the batches to try at `size`: smallest, usual and largest, of the optimization profiles that allow it."""
    if info.plan is None or not info.plan.profiles:
        return list(dict.fromkeys((info.batch_min, info.batch_opt, info.batch_max)))
    found = []
    for profile in info.plan.profiles:
        low, high = Size(*profile.min[1:3]), Size(*profile.max[1:3])
        if low.fits(size) and size.fits(high):
            found += [profile.min[0], profile.opt[0], profile.max[0]]
    return sorted(dict.fromkeys(found))


def frame_sizes(info: EngineInfo) -> list[Size]:
    """Return sizes of frames for an engine that letterboxes them itself: the network's, wide, high and odd ones.

    Sides that the engine fixes stay as they are.
    """
    opt = info.sizes.opt
    wanted = [opt, Size(opt.height * 9 // 8, opt.width * 2), Size(opt.height + opt.height // 2 + 1, opt.width - 1)]
    fixed = info.inputs[0].shape[1:3]
    sides = [
        Size(
            *(own if isinstance(own, int) else side for own, side in zip(fixed, (size.height, size.width), strict=True))
        )
        for size in wanted
    ]
    return list(dict.fromkeys(sides))
