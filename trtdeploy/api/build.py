"""Build an engine from an ONNX model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy import __version__
from trtdeploy.api.passes import Passes, Progress, check_target
from trtdeploy.backends import registry
from trtdeploy.backends.base import Backend
from trtdeploy.core.discovery import version_of
from trtdeploy.core.engine_info import EngineInfo, GateInfo, InputKind, NmsInfo, PassInfo, SourceInfo, TensorInfo
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.core.types import BatchRange, PassReport, Precision, SizeRange
from trtdeploy.engine.sniff import read_info
from trtdeploy.graph.head import HeadOptions, NmsOptions

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.graph.load import LoadedModel


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build.

    Attributes:
        precision: What `fp16` means on a backend is in the engine's `precision_note`.
        sizes: Network sizes; None keeps the model's own.
        batches: Batch sizes; None keeps the model's own.
        frames: Put the letterbox into the graph: frames of any size in, boxes in frame pixels out. The network then has
            one size, `sizes.opt`.
        head: Which detector head to expect; recognised by default.
        nms: How candidates become detections.
        class_names: Class names by index; None takes them from the model's metadata.
        backend: `auto` or the name of a backend.
        surgery: Whether attention blocks are canonicalised and fused.
        force: Replace an existing output.
    """

    precision: Precision = Precision.FP32
    sizes: SizeRange | None = None
    batches: BatchRange | None = None
    frames: bool = False
    head: HeadOptions = field(default_factory=HeadOptions)
    nms: NmsOptions = field(default_factory=NmsOptions)
    class_names: tuple[str, ...] | None = None
    backend: str = "auto"
    surgery: bool = True
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did.

    Attributes:
        path: The engine file.
        info: Its metadata.
        backend_reason: Why this backend was chosen, in a sentence.
        reports: One report per graph pass.
    """

    path: Path
    info: EngineInfo
    backend_reason: str
    reports: tuple[PassReport, ...]


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an engine from an ONNX model.

    Args:
        model: Path of the ONNX file.
        output: Path of the engine; default: beside the model, with the suffix `.engine`.
        options: What to build; default: FP32 at the model's own sizes.
        progress: Called with the name of each step as it starts.

    Raises:
        UsageError: An option is wrong, or the output exists and `options.force` is not set.
        ModelError: The model cannot be read, has no head that is recognised, or cannot take the sizes.
        BuildError: The backend refused the model.
        SinkError: The output cannot be written.
        MissingDependencyError: The backend asked for is not installed.
    """
    from trtdeploy.graph.load import load_model

    options = options or BuildOptions()
    step = progress or (lambda _name: None)
    model_path = Path(model)
    target = Path(output) if output is not None else model_path.with_suffix(".engine")
    check_target(target, model_path, force=options.force)
    backend, reason = registry.choose(options.backend)
    step("load")
    loaded = load_model(model_path)
    graph, info, reports = _optimize(loaded, backend, options, step)
    step(f"build ({backend.name})")
    backend.build(graph, info, target, step)
    return BuildReport(path=target, info=read_info(target), backend_reason=reason, reports=tuple(reports))


def _optimize(
    loaded: LoadedModel, backend: Backend, options: BuildOptions, step: Progress
) -> tuple[ir.Model, EngineInfo, list[PassReport]]:
    """Run the graph passes and put together the engine's metadata."""
    from trtdeploy.graph.finish import Finish
    from trtdeploy.graph.frames import FramesIn
    from trtdeploy.graph.head import AppendHead
    from trtdeploy.graph.inline import InlineAttention
    from trtdeploy.graph.prepare import Prepare
    from trtdeploy.graph.shapes import SetShapes

    passes = Passes(loaded.model, step)
    passes.run(Prepare())
    # an engine that takes frames letterboxes them to one size of its own, the optimum
    wanted = SizeRange.fixed(options.sizes.opt) if options.frames and options.sizes else options.sizes
    shapes = SetShapes(wanted, options.batches)
    passes.run(shapes)
    sizes, batches = shapes.sizes, shapes.batches
    head = passes.run(AppendHead(options.head, options.nms, options.class_names))
    if options.surgery:
        passes.operate(pad=backend.fuses_attention)
        if not backend.fuses_attention:
            passes.run(InlineAttention(backend.name))
    preprocess = Preprocess(**head["preprocess"])
    kind: InputKind = "frames" if options.frames else "canvas"
    passes.run(FramesIn(kind, preprocess, sizes))
    passes.run(Finish())
    model, reports = passes.model, passes.reports
    info = EngineInfo(
        backend=backend.name,
        precision=options.precision.value,
        precision_note=backend.precision_note(options.precision),
        input_kind=kind,
        fit=preprocess.fit,
        inputs=_tensors(model.graph.inputs),
        outputs=_tensors(model.graph.outputs),
        batch_min=batches.min,
        batch_opt=batches.opt,
        batch_max=batches.max,
        size_min=astuple(sizes.min),
        size_opt=astuple(sizes.opt),
        size_max=astuple(sizes.max),
        stride=shapes.stride,
        head=head["head"],
        class_names=head["class_names"],
        nms=NmsInfo(**head["nms"]),
        passes=[
            PassInfo(name=r.name, stage=r.stage, changes=list(r.changes), refusals=list(r.refusals)) for r in reports
        ],
        source=SourceInfo(name=loaded.name, sha256=loaded.sha256, opset=loaded.opset, producer=loaded.producer),
        versions=_versions(backend),
        gate=GateInfo(verdict="ungated", reason="the gate has not run"),
    )
    return model, info, reports


def _tensors(values: Iterable[ir.Value]) -> list[TensorInfo]:
    """Describe graph inputs or outputs; a dimension without a name is called `?`."""
    tensors = []
    for value in values:
        shape = [] if value.shape is None else value.shape.dims
        dims = [d if isinstance(d, int) else (d.value or "?") for d in shape]
        dtype = "unknown" if value.dtype is None else value.dtype.numpy().name
        tensors.append(TensorInfo(name=value.name or "", dtype=dtype, shape=dims))
    return tensors


def _versions(backend: Backend) -> dict[str, str]:
    """Return the versions that made the engine."""
    versions = {"trtdeploy": __version__, "onnx": version_of("onnx"), "onnx-ir": version_of("onnx-ir")}
    versions[backend.name] = backend.availability().version
    return {name: version for name, version in versions.items() if version}
