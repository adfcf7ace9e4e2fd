"""A model with its attention blocks, and what variants of it cost: counted, measured, and asked of NVIDIA's builder."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtdeploy.api.passes import Progress
from trtdeploy.core.errors import BuildError, MissingDependencyError, ModelError, UsageError
from trtdeploy.core.types import Size

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from trtdeploy.backends.paired import PairedRate
    from trtdeploy.graph.analysis import Analysis, BlockCost

DEFAULT_SIZE = Size(640, 640)
"""Image size where neither the model nor the user says one."""


class AttentionModel:
    """An ONNX model, prepared and analysed at one batch and image size.

    Args:
        path: The ONNX file.
        batch: Images at once; None takes the model's own, else 1.
        size: Image size; None takes the model's own, else 640x640.
        progress: Called with the name of each step as it starts.
        fits: Whether a batch or size that is not the model's own is an error; else the model's own is taken.

    Raises:
        ModelError: The model cannot be read.
        UsageError: The model has another fixed batch or size.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch: int | None = None,
        size: Size | None = None,
        progress: Progress | None = None,
        *,
        fits: bool = True,
    ) -> None:
        from trtdeploy.graph.analysis import fused_places
        from trtdeploy.graph.load import load_model
        from trtdeploy.graph.prepare import Prepare

        self.path = Path(path)
        self._step = progress or (lambda _name: None)
        self._step("load")
        loaded = load_model(self.path)
        self._places = fused_places(loaded.model)
        self._step("prepare")
        self.model: ir.Model = Prepare(verify=False).run(loaded.model).model
        self.batch, self.size = _shape(self.model, self.path, batch, size, fits=fits)
        self._step("analyse")
        self.analysis = self.analyse(self.model)

    @property
    def blocks(self) -> Sequence[BlockCost]:
        return self.analysis.blocks

    def analyse(self, model: ir.Model) -> Analysis:
        """Return the costs of a variant of the model, at the same batch and size."""
        from trtdeploy.graph.analysis import analyse

        return analyse(model, self.batch, self.size, places=self._places)

    def figures(self, model: ir.Model) -> dict[str, int]:
        """Return parameters, operations, bytes and peak memory of a variant."""
        found = self.analyse(model).to_dict()
        names = ("parameters", "flops", "bytes_fp32", "bytes_fp16", "peak_bytes", "peak_bytes_fused", "nodes")
        return {name: found[name] for name in names}

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Return random inputs of the analysed shapes."""
        rng = np.random.default_rng(0)
        feeds: dict[str, NDArray[Any]] = {}
        by_name = {value.name: value for value in self.model.graph.inputs}
        for name, dims in self.analysis.costs.input_dims().items():
            dtype = by_name[name].dtype
            kind = np.dtype(np.float32) if dtype is None else dtype.numpy()
            whole = not np.issubdtype(kind, np.floating)
            data = np.full(dims, self.size.height) if whole else rng.random(dims)
            feeds[name] = data.astype(kind)
        return feeds

    def measure(self, model: ir.Model, seconds: float) -> PairedRate:
        """Measure the model and a variant in turn; ratios above 1 say that the variant is faster.

        Raises:
            EngineError: ONNX Runtime refuses one of them.
            ModelError: The weights are too large for a comparison in memory.
        """
        from trtdeploy.backends.paired import measure_pair
        from trtdeploy.graph.reference import ReferenceRunError, to_bytes

        try:
            pair = to_bytes(self.model), to_bytes(model)
        except ReferenceRunError as error:
            raise ModelError(f"{self.path} is not measured: {error}. Use --seconds 0 to leave that out.") from error
        return measure_pair(*pair, self.feeds(), seconds)

    def check_runs(self, model: ir.Model) -> str:
        """Run the model and a variant once; return what was found.

        Raises:
            ModelError: The variant does not run, or its outputs have other names or shapes. That is a defect.
        """
        from trtdeploy.graph.reference import ReferenceModel, ReferenceRunError

        feeds = self.feeds()
        try:
            before = ReferenceModel(self.model).run(feeds)
        except ReferenceRunError as error:
            return f"not run: the model itself does not run in ONNX Runtime at {self.batch}x{self.size}: {error}"
        report = "This is a defect of trtdeploy: please report it with the model. Nothing was written."
        try:
            after = ReferenceModel(model).run(feeds)
        except ReferenceRunError as error:
            raise ModelError(
                f"Without the blocks, {self.path} does not run in ONNX Runtime: {error}. {report}"
            ) from error
        shapes = [{name: array.shape for name, array in outputs.items()} for outputs in (before, after)]
        if shapes[0] != shapes[1]:
            raise ModelError(f"Without the blocks, outputs of {self.path} are {shapes[1]}, not {shapes[0]}. {report}")
        return f"runs in ONNX Runtime at {self.batch}x{self.size}, outputs keep their shapes"

    def builder(self, model: ir.Model) -> dict[str, Any]:
        """Return what TensorRT-RTX's builder makes of a variant after surgery, in FP16; with a reason where it cannot.

        Kernels and peak activation memory from its log, without a GPU: see `trtdeploy.backends.rtx_probe`.
        """
        from trtdeploy.backends.rtx_probe import probe_build
        from trtdeploy.graph.precision.fp16 import ToFp16
        from trtdeploy.graph.reference import ReferenceRunError, to_bytes
        from trtdeploy.graph.surgery import operate

        shapes = {name: (dims, dims, dims) for name, dims in self.analysis.costs.input_dims().items()}
        try:
            ready = ToFp16().run(operate(model, verify=False)[0]).model
            facts = probe_build(to_bytes(ready), shapes)
            return {"kernels": facts.kernels, "mha": facts.mha, "activation_bytes": facts.activation_bytes}
        except (BuildError, ModelError, UsageError, ReferenceRunError) as error:
            return {"refused": str(error)}

    def select(self, kinds: Sequence[str] = (), at: Sequence[str] = (), stage: int | None = None) -> list[BlockCost]:
        """Return the blocks that are meant.

        Args:
            kinds: Names of kinds; empty means any, and then blocks that hold or belong to another are not counted.
            at: Patterns of places such as `model.4*`; empty means anywhere.
            stage: Blocks of the backbone at this stage and shallower, where stage 2 has stride 4.

        Raises:
            UsageError: A kind does not exist, or no block is meant.
        """
        from trtdeploy.attention import catalogue
        from trtdeploy.graph.analysis import BACKBONE

        for name in kinds:
            catalogue.kind(name)
        found = [block for block in self.blocks if block.kind.name in kinds or (not kinds and block.principal)]
        if at:
            found = [block for block in found if any(fnmatchcase(block.place, pattern) for pattern in at)]
        if stage is not None:
            found = [b for b in found if b.part == BACKBONE and b.stage is not None and b.stage <= stage]
        if not found:
            asked = [*(f"--kind {k}" for k in kinds), *(f"--at {p}" for p in at)]
            asked += [] if stage is None else [f"--stage {stage}"]
            have = "; ".join(f"{b.kind.name} at {b.place} ({_where(b)})" for b in self.blocks) or "none"
            raise UsageError(
                f"No attention block of {self.path} is meant by {' '.join(asked) or 'this'}. Its blocks: {have}."
            )
        return found


def has_builder() -> bool:
    """Return whether TensorRT-RTX is installed."""
    return importlib.util.find_spec("tensorrt_rtx") is not None


def check_builder(wanted: bool | None) -> bool:
    """Return whether to ask the builder; by default where it is installed.

    Raises:
        MissingDependencyError: It is wanted and not installed.
    """
    if wanted and not has_builder():
        raise MissingDependencyError("TensorRT-RTX", "--builder", "pip install 'trtdeploy[rtx]'")
    return has_builder() if wanted is None else wanted


def _where(block: BlockCost) -> str:
    return block.part if block.stage is None else f"{block.part}, stage {block.stage}"


def _shape(model: ir.Model, path: Path, batch: int | None, size: Size | None, *, fits: bool) -> tuple[int, Size]:
    """Return batch and size to analyse at.

    Raises:
        UsageError: The model has another fixed batch or size.
        ModelError: It has no input whose shape is known.
    """
    from trtdeploy.graph.costs import inputs_of

    inputs = inputs_of(model)
    image = next((v for v in inputs if v.shape is not None and len(v.shape) == 4), None)
    if image is None or image.shape is None:
        names = ", ".join(value.name or "?" for value in inputs) or "none"
        raise ModelError(f"{path} has no input of four dimensions (its inputs: {names}). Expected an image [B,C,H,W].")
    dims = list(image.shape)
    own_batch = dims[0] if isinstance(dims[0], int) else None
    if fits and batch is not None and own_batch is not None and batch != own_batch:
        raise UsageError(f"--batch {batch} does not fit: {path} takes {own_batch} images. Leave --batch out.")
    sides = [dim if isinstance(dim, int) else None for dim in dims[2:]]
    wanted = size or DEFAULT_SIZE
    height, width = sides[0] or wanted.height, sides[1] or wanted.width
    if fits and size is not None and (height, width) != (size.height, size.width):
        raise UsageError(f"--imgsz {size} does not fit: {path} takes {height}x{width}. Leave --imgsz out.")
    return own_batch or batch or 1, Size(height, width)
