"""What TensorRT and TensorRT-RTX can be told about a build."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import BatchRange, Size, SizeRange

AttentionChoice = Literal["auto", "native", "plugin"]
FRAME_SIZES = SizeRange(Size(32, 32), Size(1080, 1920), Size(2160, 3840))
"""Sizes of frames by default: up to 4K."""
TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX builds for without the GPU."""
MAX_LEVEL = 5
_PROFILE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """One optimization profile: a range of shapes that the builder tunes for its optimum.

    Attributes:
        name: Name in messages and metadata.
        batches: Batch sizes.
        sizes: Network sizes; None takes those of the build. Engines that take frames have one network size.
    """

    name: str
    batches: BatchRange
    sizes: SizeRange | None = None

    def __post_init__(self) -> None:
        if not _PROFILE_NAME.fullmatch(self.name):
            raise UsageError(
                f"Profile name {self.name!r} is not valid. Expected up to 64 of letters, digits, dots, dashes, "
                "underscores."
            )


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """Options of the backends `tensorrt` and `tensorrt-rtx`.

    Attributes:
        targets: GPUs that the engine runs on, such as `sm86`; TensorRT-RTX only. Empty: all but `sm75`, which has no
            FP32.
        profiles: Further ranges of shapes, each tuned for its own optimum. Empty: one profile with the build's ranges.
        frame_sizes: Sizes of frames, for engines that take frames. The largest decides about memory: a frame is
            expanded to floats.
        attention: Whether attention blocks run as plugins or as the library's own kernels; `auto` measures both where
            there is a GPU and plugins.
        workspace_mib: Most scratch memory of one layer in MiB; None leaves it to the library.
        dla: DLA core that runs the layers it can; the GPU runs the others. Jetson Orin with TensorRT 10.0 to 10.7.
        hardware_compatible: The engine runs on every GPU from Ampere on, at some cost in speed.
        version_compatible: The engine runs with later versions of the library too.
        refit: Weights can be replaced in the engine.
        sparsity: Kernels for weights with 2:4 structured sparsity.
        optimization_level: 0 (quick build) to 5 (fast engine); None leaves it to the library.
        max_aux_streams: Streams of its own that one execution may use. 0, because several executions run at once.
        timing_cache: Whether measured times of kernels are kept for the next build, in the user's cache folder.
        timeout_s: Time limit of the build in seconds.
    """

    targets: tuple[str, ...] = ()
    profiles: tuple[ProfileOptions, ...] = ()
    frame_sizes: SizeRange = FRAME_SIZES
    attention: AttentionChoice = "auto"
    workspace_mib: int | None = None
    dla: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    refit: bool = False
    sparsity: bool = False
    optimization_level: int | None = None
    max_aux_streams: int = 0
    timing_cache: bool = True
    timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        for target in self.targets:
            if target not in TARGETS:
                raise UsageError(f"Target {target!r} is unknown. Expected one or more of {', '.join(TARGETS)}.")
        _check_unique("Target", self.targets)
        _check_unique("Profile", [profile.name for profile in self.profiles])
        if self.attention not in get_args(AttentionChoice):
            raise UsageError(f"Attention {self.attention!r} is unknown. Expected auto, native or plugin.")
        _check_range("workspace", self.workspace_mib, 1, 1 << 20, " MiB")
        _check_range("DLA core", self.dla, 0, 15)
        _check_range("builder optimization level", self.optimization_level, 0, MAX_LEVEL)
        _check_range("number of auxiliary streams", self.max_aux_streams, 0, 128)
        if not self.timeout_s > 0:
            raise UsageError(f"Time limit {self.timeout_s:g} s is not positive. Expected seconds, such as 3600.")

    def check(self, backend: str, accepted: Collection[str]) -> None:
        """Check that only options in `accepted` were given.

        Raises:
            UsageError: Another option differs from its default.
        """
        for field in dataclasses.fields(self):
            if field.name not in accepted and getattr(self, field.name) != field.default:
                raise UsageError(
                    f"Option {CLI_NAMES[field.name]} is not for the backend {backend}. Leave it out, or build with "
                    f"{_takers(field.name)}."
                )


CLI_NAMES = {
    "targets": "--target",
    "profiles": "--profile",
    "frame_sizes": "--frame-size",
    "attention": "--attention",
    "workspace_mib": "--workspace",
    "dla": "--dla",
    "hardware_compatible": "--hardware-compatible",
    "version_compatible": "--version-compatible",
    "refit": "--refit",
    "sparsity": "--sparsity",
    "optimization_level": "--builder-level",
    "max_aux_streams": "--aux-streams",
    "timing_cache": "--no-timing-cache",
    "timeout_s": "--build-timeout",
}
"""The command line's name of each option."""

RTX_OPTIONS = frozenset(
    {"targets", "profiles", "frame_sizes", "workspace_mib", "optimization_level", "max_aux_streams", "timeout_s"}
)
TENSORRT_OPTIONS = frozenset(CLI_NAMES) - {"targets"}


def parse_profile(text: str) -> ProfileOptions:
    """Parse `NAME=BATCH` or `NAME=BATCHxSIZE`: `night=1:1:4x480:640:640`, `wide=8x640x1280`.

    Raises:
        UsageError: The form or a range is wrong.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    batch, _, size = value.partition("x")
    if not equals or not batch:
        raise UsageError(
            f"Profile {text!r} is not valid. Expected NAME=BATCH or NAME=BATCHxSIZE: night=1:1:4x480:640:640."
        )
    low, best, high = _triple(batch, text, _number)
    sizes = SizeRange(*_triple(size, text, _size)) if size else None
    return ProfileOptions(name=name, batches=BatchRange(low, best, high), sizes=sizes)


def parse_frame_sizes(text: str) -> SizeRange:
    """Parse the sizes of frames: `1080x1920` or `480x640:1080x1920:2160x3840`, height first.

    Raises:
        UsageError: The form or the order is wrong.
    """
    return SizeRange(*_triple(text, text, _size))


def _takers(option: str) -> str:
    names = [name for name, taken in (("tensorrt", TENSORRT_OPTIONS), ("tensorrt-rtx", RTX_OPTIONS)) if option in taken]
    return " or ".join(f"--backend {name}" for name in names)


def _check_unique(what: str, names: Collection[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise UsageError(f"{what} {name!r} is given twice. Give it once.")


def _check_range(what: str, value: int | None, low: int, high: int, unit: str = "") -> None:
    if value is not None and not low <= value <= high:
        raise UsageError(f"The {what} {value} is out of range. Expected {low} to {high}{unit}.")


def _triple(text: str, whole: str, parse: Any) -> tuple[Any, Any, Any]:
    """Return one value thrice, or three that are separated by colons."""
    values = [parse(part, whole) for part in text.split(":")]
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise UsageError(f"{text!r} in {whole!r} has {len(values)} values. Expected one, or MIN:OPT:MAX.")
    return values[0], values[1], values[2]


def _number(text: str, whole: str) -> int:
    if not re.fullmatch(r"\s*\d{1,6}\s*", text):
        raise UsageError(f"{text!r} in {whole!r} is not a whole number. Expected one, such as 4.")
    return int(text)


def _size(text: str, whole: str) -> Size:
    sides = [_number(side, whole) for side in text.split("x")]
    if len(sides) > 2:
        raise UsageError(f"{text!r} in {whole!r} is not a size. Expected N or HxW, such as 480x640.")
    return Size(sides[0], sides[-1])
