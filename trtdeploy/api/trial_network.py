"""A network with any set of its blocks in lower precision, run on this machine: detections and outputs."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy import __version__
from trtdeploy.api.build import BuildOptions
from trtdeploy.api.draft import Draft
from trtdeploy.api.evaluate import detect_all
from trtdeploy.api.second_try import grouped, names_of
from trtdeploy.backends import registry
from trtdeploy.backends.base import Backend, Progress
from trtdeploy.backends.onnxruntime import OnnxRuntimeBackend
from trtdeploy.backends.trt_options import TensorRtOptions
from trtdeploy.core.engine_info import METADATA_KEY, EngineInfo, GateInfo, encode_info
from trtdeploy.core.errors import UsageError
from trtdeploy.core.onnx_file import write_onnx
from trtdeploy.core.types import BatchRange, Detections, Precision, SizeRange
from trtdeploy.graph.head.append_head import PREFIX

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

_TRIAL = GateInfo(verdict="ungated", reason="a trial")


class TrialNetwork:
    """One model, calibrated once, of which engines with some blocks kept out of INT8 are tried.

    The graph is the one that the engine's backend gets, with attention as that takes it and the rest in FP32. ONNX
    Runtime computes its Q/DQ in integers, so that what is measured is INT8 and nothing else.

    Args:
        path: The ONNX file.
        options: What will be built: sizes, head, NMS, calibration, kept nodes, and for which backend.
        step: Called with the name of each step as it starts.

    Raises:
        ModelError: The model cannot be read or prepared, or its ranges cannot be measured.
        UsageError: No calibration images are given, or the model came quantised or has nothing to quantise.

    Attributes:
        blocks: The parts that can be INT8, with their layers, in the order of the graph.
        target: The backend that the engine is for.
        calibration: The ranges.
    """

    def __init__(self, path: Path, options: BuildOptions, step: Progress) -> None:
        from trtdeploy.graph.load import load_model

        self._say = step
        self._quiet = False
        self.path = path
        self.target, _ = registry.choose(options.backend)
        wanted = options.sizes or next((p.sizes for p in options.tensorrt.profiles if p.sizes), None)
        sizes = None if wanted is None else SizeRange.fixed(wanted.opt)
        options = replace(
            options, precision=Precision.INT8, mixed=None, sizes=sizes, batches=BatchRange(1, 1, 1), frames=False,
            backend="onnxruntime", tensorrt=TensorRtOptions(),
        )  # fmt: skip
        step("load")
        loaded = load_model(path)
        self._draft = Draft(loaded, _TrialBackend(self.target), options, self._step)
        if self._draft.quantised is not None:
            raise UsageError(
                f"{path} came quantised: its own Q/DQ stay as they are, there is nothing to choose. Give the "
                "float model instead."
            )
        with tempfile.TemporaryDirectory() as folder:
            self.info = self._draft.build(Path(folder) / "trial.engine", _TRIAL)
        details = {report.name: report for report in self._draft.reports}
        layers = [entry["layer"] for entry in details["int8"].details["layers"] if entry["int8"]]
        if not layers:
            raise UsageError(f"{path} has no layer that can be INT8: {'; '.join(details['int8'].refusals)}.")
        self.blocks = grouped(layers)
        assert self._draft.calibration is not None  # a layer is INT8
        self.calibration = self._draft.calibration
        self._images = options.calibration.images
        self._outputs = head_outputs(self.reference())
        self._quiet = True

    def model(self, keep: Collection[str]) -> ir.Model:
        """Return the finished network with the named blocks kept out of INT8."""
        return self._draft.finish(self.patterns(keep))

    def reference(self) -> ir.Model:
        """Return the finished network without INT8."""
        return self._draft.reference()

    def patterns(self, keep: Collection[str]) -> list[str]:
        """Return patterns of the names of the layers in blocks, as `BuildOptions.keep` takes them."""
        return names_of([block for block in self.blocks if block.name in keep])

    @property
    def key(self) -> str:
        """A hash of the network in INT8, ranges included, and of how it divides into blocks."""
        from trtdeploy.graph.reference import to_bytes

        digest = hashlib.sha256(to_bytes(self.model(())))
        digest.update(repr((__version__, self.info.fit, self.blocks)).encode())
        return digest.hexdigest()

    @contextlib.contextmanager
    def engine(self, keep: Collection[str]) -> Iterator[Path]:
        """Yield an engine with the named blocks kept out of INT8; it is removed after."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.engine"
            self._draft.build(path, _TRIAL, self.patterns(keep))
            yield path

    def detect(self, keep: Collection[str], paths: Sequence[Path]) -> list[Detections]:
        """Return the detections in image files with the named blocks kept out of INT8.

        Raises:
            SourceError: An image cannot be read.
        """
        with self.engine(keep) as engine:
            return detect_all(engine, paths)

    def inputs(self, limit: int) -> list[NDArray[np.uint8]]:
        """Return the network's input `[1, H, W, 3]` for some of the calibration images, spread evenly over all."""
        from trtdeploy.api.calibration_images import choose_images
        from trtdeploy.runtime.letterbox import Canvas

        assert self._images is not None  # it was calibrated on them
        size = self.info.sizes.opt
        images, _ = choose_images(self._images, limit, size)
        canvas = Canvas(1, self.info.fit)
        canvas.resize(size)
        found = []
        for image in images:
            canvas.draw(0, image.read())
            found.append(canvas.batch(1).copy())
        return found

    def outputs(self, model: ir.Model, inputs: Sequence[NDArray[np.uint8]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the head's outputs of a finished network for each input."""
        from trtdeploy.graph.observe import Observer

        observer = Observer(model, self._outputs, extremes_only=False)
        for canvas in inputs:
            yield observer.run({self.info.inputs[0].name: canvas})

    def _step(self, name: str) -> None:
        if not self._quiet:
            self._say(name)


class _TrialBackend(OnnxRuntimeBackend):
    """Runs the graph that another backend gets; what that fuses is inlined at the end."""

    def __init__(self, target: Backend) -> None:
        self.fuses_attention, self.int8_form = target.fuses_attention, target.int8_form

    def build(
        self,
        model: ir.Model,
        info: EngineInfo,
        target: Path,
        progress: Progress | None = None,  # noqa: ARG002
        tensorrt: TensorRtOptions | None = None,  # noqa: ARG002
    ) -> None:
        """Write the engine without trying it first: a trial runs at once."""
        from trtdeploy.graph.inline import inline_functions

        inline_functions(model)
        model.metadata_props[METADATA_KEY] = encode_info(info)
        with write_onnx(model, target):
            pass  # nothing is tried before the file is put in place


def head_outputs(model: ir.Model) -> tuple[str, ...]:
    """Return the names of what the network hands to its decoding and NMS; without NMS, the outputs."""
    found: dict[str, None] = {}
    for node in model.graph:
        if not (node.name or "").startswith(PREFIX):
            continue
        for value in node.inputs:
            if value is None or value.dtype is None or not value.dtype.is_floating_point():
                continue
            source = value.producer()
            if source is not None and not (source.name or "").startswith(PREFIX):
                found[value.name or ""] = None
    return tuple(found) or tuple(value.name or "" for value in model.graph.outputs)
