"""Export a model, and write the file only if it does what the model does."""

# mypy: allow-subclassing-any

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from trtdeploy import __version__
from trtdeploy.core.errors import GateError, ModelError, UsageError
from trtdeploy.core.files import atomic_write
from trtdeploy.export import parity, promises
from trtdeploy.export.opsets import in_opset
from trtdeploy.export.options import Attention, ExportOptions, ExportReport, Shape, Subject
from trtdeploy.export.prepare import check_graph_mode, check_mode, copied, replace_pools
from trtdeploy.export.trace import trace
from trtdeploy.models.insert import evaluating

_PREFIX = "network."
Results = list[np.ndarray[Any, Any]]
ROUNDING_FACTOR = 8.0
"""How many times torch's own rounding a difference may be, where it is above the tolerance."""
MOST_ROUNDING = 0.1
AWAKE_SEED = 99
LEAST_SPREAD = 0.2
"""A channel's standard deviation counts as this share of its mean, and of the layer's, at least."""
LEAST_LIVELINESS = 0.01
"""Outputs that change less between two images, relative to their size, hardly depend on the image."""
MOST_EXCUSED = 0.1
"""Share of equally weak detections above which the rest say too little."""


class Selected(nn.Module):
    """Return some outputs of a network as a tuple of tensors.

    Args:
        network: Any model.
        select: Takes the outputs; None: all tensors, from lists, tuples and mappings.
    """

    def __init__(self, network: nn.Module, select: Callable[[Any], Sequence[Tensor]] | None) -> None:
        super().__init__()
        self.network = network
        self.select = select

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the selected outputs."""
        found = self.network(*inputs)
        return tuple(self.select(found)) if self.select is not None else tuple(tensors_in(found))


def export_model(
    subject: Subject, path: Path, options: ExportOptions, step: Callable[[str], None] = lambda _name: None
) -> ExportReport:
    """Write a model as ONNX, checked against torch.

    The reference is the model as it was given, before anything was prepared for tracing. The file must give the same
    outputs at all shapes of `options.compared`, and every attention module of the model must have been run, traced
    and become operators of the graph.

    Args:
        subject: The model.
        path: File to write; its folder must exist.
        options: How.
        step: Told what is being done.

    Raises:
        UsageError: The file exists and `force` was not given.
        ModelError: The model cannot be exported, or attention would be lost; the message names the module.
        GateError: ONNX Runtime's outputs differ from torch's. Nothing is written.
        SinkError: The file cannot be written.
    """
    if path.exists() and not options.force:
        raise UsageError(f"{path} exists. Use --force to replace it, or give another path.")
    traced = _traced(subject, options, step)
    step("comparing with torch")
    compared, is_blind = _compare(traced, subject, options)
    notes = list(traced.notes)
    if is_blind:
        step("comparing once more with lively normalisation, since the outputs hardly depend on the image")
        twin = replace(subject, model=awakened(subject, options.shape))
        compared, still_blind = _compare(_traced(twin, options, step), twin, options)
        notes.append(
            "The outputs hardly depend on the image, as with fresh weights. A copy with the normalisation statistics "
            "of random images was exported and compared as well; the differences are the copy's."
        )
        if still_blind:
            notes.append("The copy's outputs hardly depend on the image either: the comparison shows little.")
    proto = traced.proto
    _note(proto, subject)
    data = proto.SerializeToString()
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return ExportReport(
        path=path,
        exporter=options.exporter,
        opset=options.opset,
        inputs=tuple(_spec(value) for value in proto.graph.input),
        outputs=tuple(_spec(value) for value in proto.graph.output),
        compared=compared,
        attention=traced.attention,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A model in ONNX, not yet compared.

    Attributes:
        proto: The graph, in the opset wanted.
        names: Of the outputs.
        expected: Torch's outputs at every shape.
        attention: What became of the attention modules.
        notes: What was changed for tracing.
    """

    proto: onnx.ModelProto
    names: tuple[str, ...]
    expected: list[Results]
    attention: tuple[Attention, ...]
    notes: tuple[str, ...]


def _traced(subject: Subject, options: ExportOptions, step: Callable[[str], None]) -> Traced:
    """Run the model as it is, then trace a copy of it.

    Raises:
        ModelError: The model fails, cannot be traced, or would lose attention.
    """
    modules = promises.promised(subject.model)
    promises.check_forwards(subject.model)
    step("running the model in torch")
    expected = _reference(subject, options, modules)
    model = copied(subject.model)
    notes = [*replace_pools(model), *subject.prepare(model)]
    names = _output_names(subject, len(expected[0]))
    axes = _axes(subject, options, names, expected)
    step(f"exporting with {options.exporter}")
    wrapped, prefix = _wrapped(model, subject, options)
    watch = promises.Watch(wrapped, [prefix + path for path in modules])
    with tempfile.TemporaryDirectory(prefix="trtdeploy-export-") as folder, watch, torch.no_grad():
        proto = trace(wrapped, replace(subject, output_names=names), options, axes, Path(folder) / "model.onnx")
    promises.check_runs(modules, watch.calls, prefix, options.allow_idle, "while it is traced")
    check_mode(model)
    check_graph_mode(proto.graph)
    attention = promises.check_nodes(proto.graph, modules, prefix, watch, options.allow_idle)
    proto = in_opset(proto, options.opset)
    _state_shapes(proto, axes, expected[0])
    return Traced(proto=proto, names=names, expected=expected, attention=attention, notes=tuple(notes))


def awakened(subject: Subject, shape: Shape) -> nn.Module:
    """Return a copy of a model whose batch normalisations have the statistics of random images.

    In a deep network with fresh weights the signal dies away; with these statistics it does not.
    """
    model = copied(subject.model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(*subject.inputs((max(8, shape[0]), *shape[1:]), AWAKE_SEED))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        _damp(norm)
    subject.loosen(model)
    return model


def _damp(norm: nn.BatchNorm2d) -> None:
    """Keep channels that hardly vary from being blown up, and their rounding with them."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is not None and variance is not None:
        variance.clamp_(min=LEAST_SPREAD**2 * float(variance.mean()))
        torch.maximum(variance, (LEAST_SPREAD * mean) ** 2, out=variance)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and mappings, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, list | tuple) else []


def _reference(subject: Subject, options: ExportOptions, modules: dict[str, nn.Module]) -> list[Results]:
    """Run the model as it is at every shape, and see that its attention is run.

    Raises:
        ModelError: The model fails, returns no tensors, or leaves attention out.
    """
    results = []
    model = Selected(subject.model, subject.select)
    with evaluating(subject.model), torch.no_grad(), promises.Watch(subject.model, list(modules)) as watch:
        for seed, shape in enumerate(options.compared):
            try:
                outputs = model(*subject.inputs(shape, seed))
            except Exception as error:
                raise ModelError(
                    f"The model fails in torch with images of batch, height and width {shape}: {type(error).__name__}: "
                    f"{error}. Give a shape that it takes."
                ) from error
            results.append([output.detach().cpu().numpy().copy() for output in outputs])
    if not results[0]:
        raise ModelError("The model returns no tensors. Export a model whose outputs are tensors.")
    promises.check_runs(modules, watch.calls, "", options.allow_idle, "in torch")
    return results


def _wrapped(model: nn.Module, subject: Subject, options: ExportOptions) -> tuple[nn.Module, str]:
    """Return what is traced and what precedes the paths of its modules."""
    with torch.no_grad():
        plain = subject.select is None and isinstance(model(*subject.inputs(options.shape, 0)), Tensor)
    return (model, "") if plain else (Selected(model, subject.select).eval(), _PREFIX)


def _output_names(subject: Subject, count: int) -> tuple[str, ...]:
    """Return a name for each output: those given, then `output` and a number."""
    names = subject.output_names[:count]
    return (*names, *(f"output{index}" for index in range(len(names), count)))


def _axes(
    subject: Subject, options: ExportOptions, names: Sequence[str], expected: list[Results]
) -> dict[str, dict[int, str]]:
    """Return the open dimensions of inputs and outputs: an output's are those that differ between the shapes."""
    if not options.dynamic:
        return {}
    if subject.axes is not None:
        return {name: dict(open_axes) for name, open_axes in subject.axes.items()}
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in subject.input_names}
    batches = [shape[0] for shape in options.compared]
    for index, name in enumerate(names):
        sizes = [result[index].shape for result in expected]
        varying = [axis for axis, dims in enumerate(zip(*sizes, strict=True)) if len(set(dims)) > 1]
        axes[name] = {
            axis: "batch" if [size[axis] for size in sizes] == batches else f"{name}_{axis}" for axis in varying
        }
    return axes


def _compare(traced: Traced, subject: Subject, options: ExportOptions) -> tuple[tuple[tuple[Shape, float], ...], bool]:
    """Run the graph at every shape and compare.

    Returns:
        Per shape the largest difference; and whether the outputs depend on the image too little to tell.

    Raises:
        GateError: It differs, or ONNX Runtime refuses it.
    """
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    session_options.intra_op_num_threads = torch.get_num_threads()
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    data = traced.proto.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(data, session_options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GateError(f"ONNX Runtime refuses the exported graph: {error}. Try another opset.") from error
    compared, excused, is_empty = [], 0.0, True
    for seed, shape in enumerate(options.compared):
        got = _run(session, subject, shape, seed)
        differences = _differences(traced, subject, traced.expected[seed], got)
        allowed = options.tolerance
        if any(one.largest > allowed for one in differences):
            allowed = max(allowed, _rounding(traced, subject, shape, seed))
        worst = parity.check(differences, allowed)
        compared.append((shape, worst.largest))
        excused = max(excused, worst.excused)
        is_empty &= not any(output.size for output in got)
    other = _run(session, subject, options.compared[0], len(options.compared))
    alive = parity.liveliness(traced.expected[0], other)
    return tuple(compared), is_empty or excused > MOST_EXCUSED or alive < LEAST_LIVELINESS


def _differences(traced: Traced, subject: Subject, wanted: Results, got: Results) -> list[parity.Difference]:
    names = traced.names
    if subject.rows is not None:
        wanted, got = subject.rows(wanted), subject.rows(got)
        names = tuple(f"of detections {index}" for index in range(len(wanted)))
    return [
        parity.difference(name, ours, theirs, rows=subject.rows is not None)
        for name, ours, theirs in zip(names, wanted, got, strict=True)
    ]


def _rounding(traced: Traced, subject: Subject, shape: Shape, seed: int) -> float:
    """Return the difference that rounding explains: a multiple of torch's own between single and double precision.

    Deep networks with fresh weights amplify rounding; whatever is lost in an export is far larger.
    """
    model = Selected(copied(subject.model).double(), subject.select)
    inputs = [t.double() if t.is_floating_point() else t for t in subject.inputs(shape, seed)]
    try:
        with torch.no_grad():
            exact = [output.numpy() for output in model(*inputs)]
    except RuntimeError:
        return 0.0  # the model cannot run in double precision; then the tolerance stands
    own = max(one.largest for one in _differences(traced, subject, exact, traced.expected[seed]))
    return min(ROUNDING_FACTOR * own, MOST_ROUNDING)


def _run(session: onnxruntime.InferenceSession, subject: Subject, shape: Shape, seed: int) -> Results:
    """Run the graph on the images of a shape and a seed.

    Raises:
        GateError: It fails.
    """
    inputs = zip(subject.input_names, subject.inputs(shape, seed), strict=True)
    known = {value.name for value in session.get_inputs()}
    try:
        results: Results = session.run(None, {name: tensor.numpy() for name, tensor in inputs if name in known})
    except Exception as error:
        raise GateError(
            f"The exported graph fails in ONNX Runtime with images of batch, height and width {shape}: {error}. "
            "A size got stuck in it. Try the other exporter, or a fixed shape."
        ) from error
    return results


def _state_shapes(proto: onnx.ModelProto, axes: Mapping[str, Mapping[int, str]], first: Results) -> None:
    """State the shapes of inputs and outputs, which exporters lose in part.

    Args:
        proto: Changed in place.
        axes: Open dimensions.
        first: Outputs at the traced shape.

    Raises:
        ModelError: The graph is not well formed.
    """
    for value, result in zip(proto.graph.output, first, strict=True):
        open_axes = axes.get(value.name, {})
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for axis, size in enumerate(result.shape):
            dim = dims.add()
            if axis in open_axes:
                dim.dim_param = open_axes[axis]
            else:
                dim.dim_value = size
    for value in proto.graph.input:
        for axis, label in axes.get(value.name, {}).items():
            value.type.tensor_type.shape.dim[axis].dim_param = label
    del proto.graph.value_info[:]  # the exporters' own shapes name other dimensions
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"The exporter wrote a graph that is not well formed: {error}. Try the other one.") from error


def _note(proto: onnx.ModelProto, subject: Subject) -> None:
    proto.producer_name, proto.producer_version = "trtdeploy", __version__
    onnx.helper.set_model_props(proto, dict(subject.metadata))


def _spec(value: onnx.ValueInfoProto) -> str:
    dims = [dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
    return f"{value.name} [{', '.join(dims)}]"
