"""From a finished model to a plan file, for both libraries: profiles, metadata, probes, the child process, figures."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trtdeploy.backends.base import Progress
from trtdeploy.backends.child import run_in_child
from trtdeploy.backends.rtx_log import ACTIVATION, WEIGHTS, parse_bytes, parse_kernels
from trtdeploy.backends.trt_build import PlanBuild, Profile
from trtdeploy.backends.trt_libraries import TITLES
from trtdeploy.backends.trt_options import CLI_NAMES, TensorRtOptions
from trtdeploy.core.engine_info import EngineInfo, PlanInfo, ProfileInfo
from trtdeploy.core.errors import BuildError, ModelError, UsageError
from trtdeploy.core.onnx_file import write_onnx
from trtdeploy.core.plan_file import network_name, place_plan
from trtdeploy.core.types import BatchRange, Precision, Size, SizeRange

if TYPE_CHECKING:
    import onnx_ir as ir

_BUILD_FIELDS = (
    "workspace_mib", "dla", "hardware_compatible", "version_compatible", "refit", "sparsity", "optimization_level",
    "max_aux_streams",
)  # fmt: skip
"""Options that the builder in the child process gets as they are."""
_NOTED = frozenset(_BUILD_FIELDS) | {"frame_sizes"}
_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|cudaErrorMemoryAllocation|bad_alloc", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What a plan is built with.

    Attributes:
        library: Module name, `tensorrt` or `tensorrt_rtx`.
        info: Metadata of the engine.
        options: Options of the build.
        probes: Whether the smallest and largest shapes are built alone first, because the builder checks constraints at
            the optimum alone.
        inspects: Whether the plan is loaded for a report of its layers, which needs the GPU.
        cache: Path of the timing cache.
        targets: GPUs that the plan is built for ahead of time.
        gpu: The GPU here, such as `sm89`, where the plan is built for that.
        attention: `native` or `plugin`, and why.
    """

    library: str
    info: EngineInfo
    options: TensorRtOptions
    probes: bool = False
    inspects: bool = False
    cache: Path | None = None
    targets: Sequence[str] = ()
    gpu: str = ""
    attention: tuple[Any, str] = ("native", "")

    @property
    def title(self) -> str:
        return TITLES[self.library]


def write_plan_of(model: ir.Model, request: PlanRequest, target: Path, progress: Progress | None = None) -> EngineInfo:
    """Build `model` into a plan at `target`, with a checksum and all metadata beside it, and return the metadata.

    Raises:
        UsageError: The profiles do not fit the model.
        BuildError: The library refused the model, crashed, or took too long.
        SinkError: The plan could not be written.
    """
    profiles = profiles_of(request.info, request.options)
    plan = PlanInfo(
        targets=[request.gpu] if request.gpu else list(request.targets),
        profiles=profiles,
        options=_noted(request.options),
        attention=request.attention[0],
        attention_reason=request.attention[1],
    )
    info = msgspec.structs.replace(request.info, plan=plan)
    with tempfile.TemporaryDirectory(prefix="trtdeploy-") as folder, place_plan(target) as pending:
        onnx_path = Path(folder) / "model.onnx"
        with write_onnx(model, onnx_path):
            pass
        name = info.inputs[0].name
        shapes = [{name: [list(p.min), list(p.opt), list(p.max)]} for p in profiles]
        settings = {field: getattr(request.options, field) for field in _BUILD_FIELDS} | {
            "targets": [target.upper() for target in request.targets],
            "name": network_name(info),
            "output": str(pending.path),
            "cache": None if request.cache is None else str(request.cache),
            "inspect": request.inspects,
            "attention": request.attention[0],
            "gpu": request.gpu,
            "source": info.source.name,
        }
        result = _run(
            request, onnx_path, shapes, _corners(name, profiles) if request.probes else [], settings, progress
        )
        pending.info = msgspec.structs.replace(info, plan=_with_figures(plan, result))
    return pending.info


def build_plan(
    report: Progress,
    library: str,
    path: str,
    profiles: list[Profile],
    probes: list[tuple[str, Profile]],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Build a plan; runs in the child process.

    Args:
        report: Called with each step.
        library: `tensorrt` or `tensorrt_rtx`.
        path: The ONNX file.
        profiles: Shapes of the plan's profiles.
        probes: Names and shapes of fixed builds that come first.
        settings: See `PlanBuild`.

    Raises:
        BuildError: The library refused the model.
        UsageError, SinkError: See `PlanBuild.run`.
    """
    title = TITLES[library]
    for what, profile in probes:
        report(f"{title}: trying {what} alone")
        alone = {"targets": settings["targets"]}
        tried = PlanBuild(library, path, [profile], alone, lambda _step: None).run()
        _accept(tried, title, settings["source"], what)
    if settings["attention"] == "plugin":
        _register_plugins(library, settings["gpu"])
    report(f"{title}: building the plan")
    result = PlanBuild(library, path, profiles, settings, report).run()
    _accept(result, title, settings["source"])
    return result


def profiles_of(info: EngineInfo, options: TensorRtOptions) -> list[ProfileInfo]:
    """Return the plan's profiles: the build's own ranges, or those that were given.

    Raises:
        UsageError: The input is not one of images, or a profile does not fit it.
    """
    dims = info.inputs[0].shape
    is_frames = info.input_kind == "frames"
    if not options.profiles:
        sizes = options.frame_sizes if is_frames else info.sizes
        return [_profile("default", dims, info.batches, sizes)]
    found = []
    for given in options.profiles:
        if is_frames and given.sizes is not None and given.sizes != SizeRange.fixed(info.sizes.opt):
            raise UsageError(
                f"Profile {given.name!r} has network sizes {given.sizes}, and an engine that takes frames has the one "
                f"size {info.sizes.opt}. Build with --no-frames, or leave the sizes out of the profile."
            )
        sizes = options.frame_sizes if is_frames else (given.sizes or info.sizes).snapped(info.stride)
        found.append(_profile(given.name, dims, given.batches, sizes))
    return found


def _profile(name: str, dims: Sequence[int | str], batches: BatchRange, sizes: SizeRange) -> ProfileInfo:
    """Return a profile; dimensions that the network fixes stay as they are."""

    def shape(batch: int, size: Size) -> tuple[int, int, int, int]:
        wanted = (batch, size.height, size.width, 3)
        have = [own if isinstance(own, int) else value for own, value in zip(dims, wanted, strict=True)]
        return have[0], have[1], have[2], have[3]

    pairs = ((batches.min, sizes.min), (batches.opt, sizes.opt), (batches.max, sizes.max))
    return ProfileInfo(**dict(zip(("min", "opt", "max"), (shape(*pair) for pair in pairs), strict=True)), name=name)


def _corners(name: str, profiles: Sequence[ProfileInfo]) -> list[tuple[str, Profile]]:
    """Return the smallest and the largest shape of every profile, each once and other than an optimum, as builds."""
    corners: dict[tuple[int, ...], str] = {}
    for profile in profiles:
        for which, shape in (("smallest", profile.min), ("largest", profile.max)):
            if shape != profile.opt:
                text = f"batch {shape[0]} of {shape[1]}x{shape[2]}, the {which} of profile {profile.name!r},"
                corners.setdefault(shape, text)
    return [(text, {name: [list(shape)] * 3}) for shape, text in corners.items()]


def _run(
    request: PlanRequest,
    path: Path,
    profiles: list[Profile],
    probes: list[tuple[str, Profile]],
    settings: dict[str, Any],
    progress: Progress | None,
) -> dict[str, Any]:
    """Run `build_plan` in a child process; an error says what the child was at, and never its temporary file."""
    last = ""

    def note(step: str) -> None:
        nonlocal last
        last = step
        if progress is not None:
            progress(step)

    what = f"Building {request.info.source.name} with {request.title}"
    limit_s = request.options.timeout_s
    try:
        result: dict[str, Any] = run_in_child(
            build_plan,
            request.library,
            str(path),
            profiles,
            probes,
            settings,
            what=what,
            timeout_s=limit_s,
            progress=note,
        )
    except (BuildError, ModelError, UsageError) as error:
        text = str(error).replace(str(path), request.info.source.name)
        if last and what in text:  # the child said nothing itself: it crashed, hung or ran out of memory
            text += f"\n  It happened at: {last}."
        raise type(error)(text) from error
    return result


def _accept(result: Mapping[str, Any], title: str, source: str, shape: str = "") -> None:
    """Raise the library's refusals of the model `source`, alone at `shape` or whole.

    Raises:
        BuildError: There are some.
    """
    if result["engine_bytes"] is not None:
        return
    lines = []
    for refusal in result["refused"]:
        place = f" at node {refusal['node']!r}" if refusal["node"] else ""
        operator = f" ({refusal['operator']})" if refusal["operator"] else ""
        lines.append(f"{refusal['by']}{place}{operator}: {refusal['text']}")
    advice = ""
    if any(_MEMORY.search(line) for line in lines):
        advice = (
            " The device or host has not enough memory: use smaller maxima of --dynamic and --batch, or --workspace."
        )
    elif any("HW-specific datatypes" in line for line in lines):
        advice = " FP8 needs sm89 or newer: name such GPUs alone with --target, or quantise with INT8."
    elif shape:
        advice = " The optimum may build all the same: narrow --dynamic, --batch or --frame-size."
    subject = f"{source} at {shape}" if shape else source
    raise BuildError(f"{title} refused {subject.rstrip(',')}.{advice}\n  " + "\n  ".join(lines))


def _register_plugins(library: str, gpu: str) -> None:
    """Define the plugins of all operations with kernels in the library's registry."""
    from importlib import import_module

    from trtdeploy.attention.plugins import plugin_specs
    from trtdeploy.backends.plugin_library import load_plugin_library
    from trtdeploy.backends.quick_plugins import ptx_target, register_quick_plugins, supports_quick_plugins

    trt = import_module(library)
    if supports_quick_plugins(trt):
        number = int(gpu.removeprefix("sm"))
        register_quick_plugins(trt, plugin_specs().values(), ptx_target(divmod(number, 10)))
    else:
        load_plugin_library(trt)


def _noted(options: TensorRtOptions) -> list[str]:
    """Return the options that differ from their defaults, as on the command line."""
    noted = []
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in _NOTED and value != field.default:
            name = CLI_NAMES[field.name].removeprefix("--")
            noted.append(name if value is True else f"{name} {value}")
    return noted


def _with_figures(plan: PlanInfo, result: Mapping[str, Any]) -> PlanInfo:
    """Return `plan` with what the library said of what it built."""
    if result["layers"] is not None:
        layers = json.loads(result["layers"])["Layers"]
        mha = sum("mha" in json.dumps(layer).lower() for layer in layers)
        return msgspec.structs.replace(plan, kernels=len(layers), mha=mha)
    if not result["messages"]:
        return plan
    kernels = parse_kernels(result["messages"])
    return msgspec.structs.replace(
        plan,
        kernels=len(kernels),
        launches=sum(kernel.is_launch for kernel in kernels),
        mha=sum(kernel.is_mha for kernel in kernels),
        activation_bytes=parse_bytes(result["messages"], ACTIVATION, len(plan.profiles)),
        weights_bytes=parse_bytes(result["messages"], WEIGHTS),
    )


def precision_note(precision: Precision) -> str:
    """Return in a sentence what `precision` means in a plan."""
    if precision is Precision.FP16:
        return (
            "Tensors are FP16 in the graph, with islands of FP32 where FP16 would change detections; the network is "
            "strongly typed, so the builder lowers nothing by itself."
        )
    if precision is Precision.BF16:
        return (
            "Tensors are BF16 in the graph, with islands of FP32 where BF16 would change detections; the network is "
            "strongly typed, so the builder lowers nothing by itself. GPUs before Ampere have no BF16."
        )
    if precision is Precision.INT8:
        return (
            "Convolutions and products are INT8 by Q/DQ in the graph, attention and the head's last layers excepted; "
            "other tensors are FP16 with islands of FP32. The network is strongly typed. INT8 may be slower than FP16: "
            "measure both on the device."
        )
    return "Tensors are FP32; from Ampere on, products may be computed in TF32."
