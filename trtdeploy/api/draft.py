"""A model between its passes and its engine: finished as often as engines are tried."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trtdeploy import __version__
from trtdeploy.api.lowering import Lowering, LoweringOptions
from trtdeploy.api.passes import Passes, Progress
from trtdeploy.backends.base import Backend
from trtdeploy.core.discovery import version_of
from trtdeploy.core.engine_info import EngineInfo, GateInfo, InputKind, NmsInfo, PassInfo, SourceInfo, TensorInfo
from trtdeploy.core.errors import UsageError
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.core.types import BatchRange, PassReport, Precision, Size, SizeRange

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.api.build import BuildOptions
    from trtdeploy.graph.load import LoadedModel
    from trtdeploy.quantize import Calibration


class Draft:
    """A model up to PRECISION. Engines are built of it: with all blocks as asked, or some in a higher precision.

    Args:
        loaded: The model.
        backend: Who builds the engines.
        options: What to build.
        step: Called with the name of each step as it starts.
        calibration: Ranges for INT8 that were measured already on the same model. Default: none.

    Raises:
        ModelError: A pass is necessary and cannot be done on this model.
        UsageError: An option would have no effect.

    Attributes:
        reports: One report per graph pass of the engine that was built last.
        quantised: How the model came quantised; None where it did not.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        backend: Backend,
        options: BuildOptions,
        step: Progress,
        calibration: Calibration | None = None,
    ) -> None:
        from trtdeploy.graph.head import AppendHead
        from trtdeploy.graph.prepare import Prepare
        from trtdeploy.graph.quantised import quantised_facts
        from trtdeploy.graph.quantised_form import QuantisedForm
        from trtdeploy.graph.shapes import SetShapes

        self.backend = backend
        self._kind = _input_kind(options, backend)
        self.reports: list[PassReport] = []
        self._loaded = loaded
        self._options = options
        self._step = step
        self._passes = passes = Passes(loaded.model, step)
        passes.run(Prepare())
        self.quantised = quantised_facts(passes.model)
        if self.quantised is not None and backend.half_in_graph:
            passes.run(QuantisedForm())
        sizes, batches = _ranges(options)
        # an engine that takes frames letterboxes them to one size of its own, the optimum
        wanted = SizeRange.fixed(sizes.opt) if sizes and self._kind == "frames" else sizes
        self._shapes = SetShapes(wanted, batches)
        passes.run(self._shapes)
        suppression: Literal["loop", "fixpoint"] = "fixpoint" if backend.on_gpu else "loop"
        self._head = passes.run(AppendHead(options.head, options.nms, options.class_names, suppression))
        if options.surgery:
            passes.operate(pad=backend.fuses_attention, operations=backend.fuses_attention)
        lowering = LoweringOptions(
            precision=options.precision,
            half_in_graph=backend.half_in_graph,
            int8_form=backend.int8_form,
            calibration=options.calibration,
            keep=options.keep,
        )
        self._lowering = Lowering(lowering, self._preprocess, self._shapes.sizes.opt, step, calibration)

    @property
    def precision(self) -> Precision:
        return self._options.precision

    @property
    def judged_as(self) -> Precision:
        """The precision by whose limits engines are judged.

        Backends compute what came quantised in integers, which rounds elsewhere than the float reference of its Q/DQ.
        """
        return self.precision if self.quantised is None else Precision.INT8

    @property
    def calibration(self) -> Calibration | None:
        """The ranges for INT8; None where none were measured."""
        return self._lowering.calibration

    @property
    def largest_batch(self) -> int:
        return self._shapes.batches.max

    @property
    def lowers_precision(self) -> bool:
        """Whether a pass over the graph lowers the precision, so that `keep` of `build` has an effect."""
        return self._lowering.lowers

    @property
    def higher(self) -> str:
        """The precision of what `keep` of `build` names, in words."""
        return self._lowering.higher

    def build(self, target: Path, gate: GateInfo, keep: Collection[str] = ()) -> EngineInfo:
        """Build an engine at `target` and return its metadata.

        Args:
            target: Path of the engine.
            gate: What its metadata say of the gate until that has run.
            keep: Patterns of names of nodes that stay in `higher` precision.

        Raises:
            BuildError: The backend refused the model.
            SinkError: The engine cannot be written.
        """
        from trtdeploy.attention.plugins import plugin_specs
        from trtdeploy.backends.tensorrt import takes_bodies_first
        from trtdeploy.graph.dispatch import strip_bodies

        model = self.finish(keep)
        info = msgspec.structs.replace(self._info(model), gate=gate)
        if self.backend.name == "tensorrt" and takes_bodies_first(
            self._options.tensorrt, self.backend.availability().version
        ):
            model = strip_bodies(model, plugin_specs())
        self._step(f"build ({self.backend.name})")
        # what the options ask of TensorRT is checked before; an emulated twin has none of it
        self.backend.build(model, info, target, self._step, self._options.tensorrt if self.backend.takes else None)
        return info

    def finish(self, keep: Collection[str] = ()) -> ir.Model:
        """Return the finished model; see `build`."""
        passes = Passes(self._passes.model.clone(), self._step)
        self._lowering.run(passes, keep)
        model = self._finish(passes)
        self.reports = [*self._passes.reports, *passes.reports]
        return model

    def emulated(self) -> Draft:
        """Return a draft of the same graph whose engines run here: 16-bit arithmetic is emulated."""
        from trtdeploy.backends.emulated import EmulatedBackend

        twin = copy.copy(self)
        twin.backend = EmulatedBackend()
        return twin

    def reference(self) -> ir.Model:
        """Return the finished model in FP32."""
        return self._finish(Passes(self._passes.model.clone(), lambda _name: None))

    def _finish(self, passes: Passes) -> ir.Model:
        from trtdeploy.graph.finish import Finish
        from trtdeploy.graph.frames import FramesIn
        from trtdeploy.graph.inline import InlineAttention

        passes.run(FramesIn(self._kind, self._preprocess, self._shapes.sizes))
        if self._options.surgery and not self.backend.fuses_attention:
            passes.run(InlineAttention(self.backend.name))
        passes.run(Finish())
        return passes.model

    @property
    def _preprocess(self) -> Preprocess:
        return Preprocess(**self._head["preprocess"])

    def _precision_note(self) -> str:
        if self.quantised is None:
            return self.backend.precision_note(self.precision)
        # what the backend says of its own INT8 is not true of the model's
        asked = (
            Precision.FP32 if self.precision is Precision.INT8 and not self.backend.half_in_graph else self.precision
        )
        rest = self.backend.precision_note(Precision.FP16 if asked is Precision.INT8 else asked)
        return f"The model came quantised and stays so: {self.quantised}. The rest: {rest}"

    def _info(self, model: ir.Model) -> EngineInfo:
        loaded, sizes, batches = self._loaded, self._shapes.sizes, self._shapes.batches
        return EngineInfo(
            backend=self.backend.name,
            precision=self.precision.value,
            precision_note=self._precision_note(),
            input_kind=self._kind,
            fit=self._preprocess.fit,
            inputs=_tensors(model.graph.inputs),
            outputs=_tensors(model.graph.outputs),
            batch_min=batches.min,
            batch_opt=batches.opt,
            batch_max=batches.max,
            size_min=astuple(sizes.min),
            size_opt=astuple(sizes.opt),
            size_max=astuple(sizes.max),
            stride=self._shapes.stride,
            head=self._head["head"],
            class_names=self._head["class_names"],
            nms=NmsInfo(**self._head["nms"]),
            passes=[
                PassInfo(name=r.name, stage=r.stage, changes=list(r.changes), refusals=list(r.refusals))
                for r in self.reports
            ],
            source=SourceInfo(name=loaded.name, sha256=loaded.sha256, opset=loaded.opset, producer=loaded.producer),
            versions=_versions(self.backend),
        )


def _input_kind(options: BuildOptions, backend: Backend) -> InputKind:
    if options.frames is None:  # raw outputs have no boxes to map to frame pixels
        return "frames" if backend.on_gpu and options.nms.method != "none" else "canvas"
    return "frames" if options.frames else "canvas"


def _ranges(options: BuildOptions) -> tuple[SizeRange | None, BatchRange | None]:
    """Return the ranges of network sizes and batches that hold those of all profiles; the optimum is the first's.

    Raises:
        UsageError: Ranges and profiles are given.
    """
    profiles = options.tensorrt.profiles
    if not profiles:
        return options.sizes, options.batches
    if options.batches is not None:
        raise UsageError("--batch and --profile exclude each other: a profile has its own batches. Leave --batch out.")
    batches = BatchRange(
        min(p.batches.min for p in profiles), profiles[0].batches.opt, max(p.batches.max for p in profiles)
    )
    given = [sizes for sizes in (p.sizes or options.sizes for p in profiles) if sizes is not None]
    if not given:
        return None, batches
    lows, highs = [sizes.min for sizes in given], [sizes.max for sizes in given]
    low = Size(min(size.height for size in lows), min(size.width for size in lows))
    high = Size(max(size.height for size in highs), max(size.width for size in highs))
    return SizeRange(low, given[0].opt, high), batches


def _tensors(values: Iterable[ir.Value]) -> list[TensorInfo]:
    """Describe graph inputs or outputs; a dimension without a name is called `?`."""
    tensors = []
    for value in values:
        shape = [] if value.shape is None else value.shape.dims
        dims = [d if isinstance(d, int) else (d.value or "?") for d in shape]
        dtype = "unknown" if value.dtype is None else value.dtype.numpy().name
        tensors.append(TensorInfo(name=value.name or "", dtype=dtype, shape=dims))
    return tensors


def _versions(backend: Backend) -> dict[str, Any]:
    """Return the versions that made the engine."""
    versions = {"trtdeploy": __version__, "onnx": version_of("onnx"), "onnx-ir": version_of("onnx-ir")}
    versions[backend.name] = backend.availability().version
    return {name: version for name, version in versions.items() if version}
