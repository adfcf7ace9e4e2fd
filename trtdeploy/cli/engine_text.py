"""Engine metadata in words, for `inspect` and `build`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trtdeploy.cli.console import Screen

if TYPE_CHECKING:
    from trtdeploy.core.engine_info import EngineInfo, PassInfo, TensorInfo
    from trtdeploy.core.types import PassReport, SizeRange

SHOWN_NAMES = 12


def info_rows(info: EngineInfo, requested: SizeRange | None = None) -> list[tuple[str, object]]:
    """Return an engine's metadata as names and values for people.

    Args:
        info: The metadata.
        requested: Sizes that the user asked for, to say how they were snapped.
    """
    nms = info.nms
    suppression = f"{nms.method}, scores above {nms.conf:g}, IoU {nms.iou:g}, at most {nms.max_det} boxes per image"
    options = [name for name, on in (("class-agnostic", nms.class_agnostic), ("multi-label", nms.multi_label)) if on]
    letterbox = (
        "frames of any size; the letterbox is in the engine"
        if info.input_kind == "frames"
        else (f"letterboxed by the host ({info.fit})")
    )
    return [
        ("precision", f"{info.precision}: {info.precision_note}" if info.precision_note else info.precision),
        ("batch", info.batches),
        ("image size", _sizes_text(info, requested)),
        ("input", "\n".join([*map(tensor_text, info.inputs), letterbox])),
        ("outputs", "\n".join(map(tensor_text, info.outputs))),
        ("head", info.head),
        ("NMS", "none: raw outputs" if nms.method == "none" else ", ".join([suppression, *options])),
        ("classes", classes_text(info.class_names)),
        *_plan_rows(info),
        ("gate", info.gate),
    ]


def _plan_rows(info: EngineInfo) -> list[tuple[str, object]]:
    """Return what is known of a plan of TensorRT or TensorRT-RTX."""
    plan = info.plan
    if plan is None:
        return []
    profiles = "\n".join(
        f"{p.name}: {' to '.join('x'.join(map(str, shape)) for shape in dict.fromkeys((p.min, p.max)))}"
        + (f", tuned for {'x'.join(map(str, p.opt))}" if p.min != p.max else "")
        for p in plan.profiles
    )
    figures = []
    if plan.kernels is not None:
        launches = f", {plan.launches} of them launches" if plan.launches is not None else ""
        figures.append(f"{plan.kernels} kernels{launches}, {plan.mha} fused attention")
    if plan.activation_bytes is not None and plan.weights_bytes is not None:
        figures.append(
            f"{plan.activation_bytes / 2**20:.0f} MiB of activations at the largest shapes, "
            f"{plan.weights_bytes / 2**20:.0f} MiB of weights"
        )
    return [
        ("targets", ", ".join(plan.targets)),
        ("profiles", profiles),
        *([("options", ", ".join(plan.options))] if plan.options else []),
        ("attention", f"{plan.attention}: {plan.attention_reason}" if plan.attention_reason else plan.attention),
        *([("builder", "\n".join(figures))] if figures else []),
    ]


def tensor_text(tensor: TensorInfo) -> str:
    """Return a tensor as `name dtype[shape]`."""
    return f"{tensor.name} {tensor.dtype}[{','.join(map(str, tensor.shape))}]"


def classes_text(names: list[str]) -> str:
    """Return the number of classes and the first names."""
    if not names:
        return "not named by the model; --names gives names"
    more = f", and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{len(names)}: {', '.join(names[:SHOWN_NAMES])}{more}"


def print_passes(screen: Screen, passes: Sequence[PassInfo] | Sequence[PassReport]) -> None:
    """Print what each pass did and declined."""
    screen.say("passes")
    for item in passes:
        screen.say(f"  {item.stage} {item.name}" + ("" if item.changes or item.refusals else ": nothing to do"))
        for change in item.changes:
            screen.say(f"    {change}")
        for refusal in item.refusals:
            screen.say(f"    declined: {refusal}")


def _sizes_text(info: EngineInfo, requested: SizeRange | None) -> str:
    text = f"{info.sizes} (height x width)"
    if requested is None or requested == info.sizes:
        return text
    if info.input_kind == "frames" and not requested.is_fixed:
        return f"{text}\nthe optimum alone: the letterbox in the engine has one size; --no-frames keeps {requested}"
    pairs = zip(
        (requested.min, requested.opt, requested.max), (info.sizes.min, info.sizes.opt, info.sizes.max), strict=True
    )
    snapped = dict.fromkeys(
        f"{asked} -> {got}"
        for before, after in pairs
        for asked, got in ((before.height, after.height), (before.width, after.width))
        if asked != got
    )
    return f"{text}\nsnapped up to multiples of the stride {info.stride}: {', '.join(snapped)}"
