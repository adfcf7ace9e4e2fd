"""Options of `build` for TensorRT and TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from trtdeploy.backends.trt_options import TensorRtOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--target", metavar="SM,...", help="GPUs of a tensorrt-rtx engine: sm80,sm86,sm89,sm120,sm121; default: these."
    ),
    click.option(
        "--profile",
        "profiles",
        multiple=True,
        metavar="NAME=BATCH[xSIZE]",
        help="A range of shapes tuned for its own optimum; may be given several times: night=1:1:4x480:640:640.",
    ),
    click.option(
        "--frame-size",
        metavar="HxW|MIN:OPT:MAX",
        help="Sizes of frames, for an engine that takes frames; default: 32x32:1080x1920:2160x3840.",
    ),
    click.option(
        "--attention",
        default="auto",
        metavar="auto|native|plugin",
        show_default=True,
        help="How TensorRT runs attention blocks; auto measures both.",
    ),
    click.option("--workspace", "workspace_mib", type=int, metavar="MIB", help="Most scratch memory of one layer."),
    click.option(
        "--dla", type=int, metavar="CORE", help="Run on this DLA core (Jetson Orin), and the rest on the GPU."
    ),
    click.option("--hardware-compatible", is_flag=True, help="The engine runs on every GPU from Ampere on."),
    click.option("--version-compatible", is_flag=True, help="The engine runs with later versions of TensorRT too."),
    click.option("--refit", is_flag=True, help="Weights can be replaced in the engine."),
    click.option("--sparsity", is_flag=True, help="Use 2:4 structured sparsity of the weights."),
    click.option(
        "--builder-level",
        "optimization_level",
        type=int,
        metavar="0-5",
        help="0: quick build, 5: fast engine; default: the library's.",
    ),
    click.option("--aux-streams", "max_aux_streams", type=int, default=0, help="Streams of one execution of its own."),
    click.option(
        "--timing-cache/--no-timing-cache", default=True, help="Keep measured times of kernels for the next build."
    ),
    click.option(
        "--build-timeout", "timeout_s", type=float, default=3600.0, metavar="SECONDS", help="Time limit of the build."
    ),
)


TENSORRT_NAMES = (
    "target", "profiles", "frame_size", "attention", "workspace_mib", "dla", "hardware_compatible",
    "version_compatible", "refit", "sparsity", "optimization_level", "max_aux_streams", "timing_cache", "timeout_s",
)  # fmt: skip
"""Names of the options as the command gets them."""


def tensorrt_options(command: Command) -> Command:
    """Add the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse_tensorrt(
    *, target: str | None, profiles: tuple[str, ...], frame_size: str | None, **values: Any
) -> TensorRtOptions:
    """Turn the options' texts into values.

    Raises:
        UsageError: A value is wrong.
    """
    from trtdeploy.backends.trt_options import FRAME_SIZES, TensorRtOptions, parse_frame_sizes, parse_profile

    return TensorRtOptions(
        targets=tuple(part.strip().lower() for part in target.split(",")) if target is not None else (),
        profiles=tuple(parse_profile(text) for text in profiles),
        frame_sizes=parse_frame_sizes(frame_size) if frame_size is not None else FRAME_SIZES,
        **values,
    )
