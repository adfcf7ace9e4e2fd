"""Ask TensorRT-RTX's real parser and builder about an ONNX model, without a GPU: will it build, and into what?

The builder's log lists every fused kernel and the memory of activations. That is not a latency; it is what the builder
makes of the graph, from the parser family that TensorRT shares.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trtdeploy.backends.base import Progress
from trtdeploy.backends.child import run_in_child
from trtdeploy.backends.rtx_build import build_all
from trtdeploy.backends.rtx_check import check_model
from trtdeploy.backends.rtx_log import ACTIVATION, WEIGHTS, Kernel, parse_bytes, parse_kernels
from trtdeploy.core.errors import BuildError, MissingDependencyError, UsageError

Shape = tuple[int, ...]
ShapeRange = tuple[Shape, Shape, Shape]
"""Minimum, optimum and maximum shape of an input."""

ORACLE_IMAGES: ShapeRange = ((1, 3, 480, 480), (4, 3, 640, 640), (8, 3, 1088, 1088))
"""The shapes behind every kernel and memory figure of this project: batch 1 to 8, 480 to 1088 pixels.

Both depend on the optimum: for YOLO12n as exported the builder states 626, 605 and 572 MiB of activations with an
optimum of 1, 4 and 8 images of 640 pixels. Figures are comparable only between equal profiles.

Engines are built without auxiliary streams, as they run beside others. With them the builder adds `wait` and `signal`
entries where branches could overlap: for YOLO11n with cascaded group attention 119 to 196 others, and 7 MiB.
"""
ORACLE_TARGETS = ("SM86",)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why the parser or the builder refused a model.

    Attributes:
        by: `parser` or `builder`.
        text: The library's reason.
        node: Name of the ONNX node, empty where the library names none.
        operator: Its operator, where the parser names it.
    """

    by: str
    text: str
    node: str = ""
    operator: str = ""

    def __str__(self) -> str:
        place = f" at node {self.node!r}" if self.node else ""
        return f"{self.by}{place}{f' ({self.operator})' if self.operator else ''}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What the log says about a built engine.

    Attributes:
        kernel_list: Every entry of the builder's list, in order of execution. An engine for several targets has one
            list.
        activation_bytes: Memory of all activations at their peak, for the largest shapes.
        weights_bytes: Memory of the weights.
        engine_bytes: Size of the engine file.
    """

    kernel_list: tuple[Kernel, ...]
    activation_bytes: int
    weights_bytes: int
    engine_bytes: int


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """What parser and builder made of a model.

    A refused model has no figures: asking for one raises, so that a refusal never reads as "0 kernels".

    Attributes:
        what: Name of the model, for messages.
        parse_s, build_s: Seconds.
        refused: Reasons, empty when the engine was built.
        warnings: The library's warnings, each once.
        engine: The figures, None when refused.
    """

    what: str
    parse_s: float
    build_s: float
    refused: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    engine: EngineFacts | None

    @property
    def built(self) -> EngineFacts:
        """The figures of the engine.

        Raises:
            BuildError: The model was refused; the message has the reasons.
        """
        if self.engine is None:
            reasons = "\n  ".join(str(refusal) for refusal in self.refused)
            raise BuildError(f"TensorRT-RTX refused {self.what}:\n  {reasons}")
        return self.engine

    @property
    def kernel_list(self) -> tuple[Kernel, ...]:
        return self.built.kernel_list

    @property
    def kernels(self) -> int:
        """Entries of the builder's list. Counts synchronisation and shape calls too: see `launches`."""
        return len(self.built.kernel_list)

    @property
    def launches(self) -> int:
        """Entries that occupy the device."""
        return sum(kernel.is_launch for kernel in self.built.kernel_list)

    @property
    def mha(self) -> int:
        """Fused multi-head attention kernels."""
        return sum(kernel.is_mha for kernel in self.built.kernel_list)

    @property
    def activation_bytes(self) -> int:
        return self.built.activation_bytes

    @property
    def weights_bytes(self) -> int:
        return self.built.weights_bytes

    @property
    def engine_bytes(self) -> int:
        return self.built.engine_bytes

    def to_json(self) -> dict[str, Any]:
        """Return everything but the list of kernels as JSON values; figures are null when refused."""
        figures = ("kernels", "launches", "mha", "activation_bytes", "weights_bytes", "engine_bytes")
        return {
            **{name: getattr(self, name) if self.engine else None for name in figures},
            "parse_s": round(self.parse_s, 3),
            "build_s": round(self.build_s, 3),
            "refused": [asdict(refusal) for refusal in self.refused],
            "warnings": list(self.warnings),
        }


def probe_build(
    model: bytes | str | Path,
    shapes: Mapping[str, ShapeRange],
    *,
    targets: Sequence[str] = ORACLE_TARGETS,
    strongly_typed: bool = True,
    timeout_s: float = 300.0,
    progress: Progress | None = None,
) -> BuildFacts:
    """Build `model` in a child process and return what the builder's log tells.

    Args:
        model: An ONNX file or its bytes. A file's external data lie beside it.
        shapes: Minimum, optimum and maximum shape of each input. Inputs of fixed shape may be left out. The builder
            checks constraints at the optimum alone: probe the minimum and the maximum as fixed shapes.
        targets: Compute capabilities: SM75, SM80, SM86, SM89, SM120, SM121.
        strongly_typed: Whether types are those of the graph, as everywhere in this project.
        timeout_s: Time limit in seconds.
        progress: Called in this thread with each step.

    Raises:
        MissingDependencyError: TensorRT-RTX is not installed.
        ModelError: It is no ONNX model, or one on which the library is known to crash or to stay silent.
        UsageError: `shapes` do not fit the model's inputs, or a target is unknown.
        BuildError: The library crashed or took too long, or its log is not understood. A refusal is not an error but
            `BuildFacts.refused`.
    """
    profiles = [shapes]
    return probe_builds(
        model, profiles, targets=targets, strongly_typed=strongly_typed, timeout_s=timeout_s, progress=progress
    )[0]


def activation_per_shape(
    model: bytes | str | Path,
    shapes: Sequence[Mapping[str, Shape]],
    *,
    targets: Sequence[str] = ORACLE_TARGETS,
    timeout_s: float = 300.0,
) -> list[int]:
    """Return the peak of activations in bytes at each of `shapes`, from one fixed build each (about 0.6 s).

    Raises:
        BuildError: A build was refused, crashed or took too long.
        TrtdeployError: As `probe_build`.
    """
    fixed = [{name: (shape, shape, shape) for name, shape in at.items()} for at in shapes]
    return [facts.activation_bytes for facts in probe_builds(model, fixed, targets=targets, timeout_s=timeout_s)]


def probe_builds(
    model: bytes | str | Path,
    profiles: Sequence[Mapping[str, ShapeRange]],
    *,
    targets: Sequence[str] = ORACLE_TARGETS,
    strongly_typed: bool = True,
    timeout_s: float = 300.0,
    progress: Progress | None = None,
) -> list[BuildFacts]:
    """Build `model` once per profile, in one child process; see `probe_build`."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise MissingDependencyError("TensorRT-RTX", "asking its builder", "pip install 'trtdeploy[rtx]'")
    if isinstance(model, bytes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            return probe_builds(
                path, profiles, targets=targets, strongly_typed=strongly_typed, timeout_s=timeout_s, progress=progress
            )
    path = Path(model)
    check_model(path)
    wanted = [{name: [list(shape) for shape in shapes] for name, shapes in profile.items()} for profile in profiles]
    for profile in wanted:
        _check_ranges(profile)
    options = {"targets": list(targets), "strongly_typed": strongly_typed}
    results = run_in_child(
        build_all,
        str(path),
        wanted,
        options,
        what=f"Building {path.name} with TensorRT-RTX",
        timeout_s=timeout_s,
        progress=progress,
    )
    return [_facts(path.name, result) for result in results]


def _check_ranges(profile: Mapping[str, Sequence[Sequence[int]]]) -> None:
    for name, shapes in profile.items():
        least, best, most = shapes
        sizes = zip(least, best, most, strict=True) if len(least) == len(best) == len(most) else [(0, 0, 0)]
        if not all(1 <= low <= middle <= high for low, middle, high in sizes):
            raise UsageError(
                f"Shapes {shapes} of input {name!r} are not a range. Expected 1 <= minimum <= optimum <= maximum in "
                "every dimension."
            )


def _facts(what: str, result: Mapping[str, Any]) -> BuildFacts:
    """Return the facts of one build from what the child sent.

    Raises:
        BuildError: The engine was built and its log is not understood.
    """
    engine = None
    if result["engine_bytes"] is not None:
        engine = EngineFacts(
            kernel_list=parse_kernels(result["messages"]),
            activation_bytes=parse_bytes(result["messages"], ACTIVATION),
            weights_bytes=parse_bytes(result["messages"], WEIGHTS),
            engine_bytes=result["engine_bytes"],
        )
    return BuildFacts(
        what=what,
        parse_s=result["parse_s"],
        build_s=result["build_s"],
        refused=tuple(Refusal(**refusal) for refusal in result["refused"]),
        warnings=tuple(result["warnings"]),
        engine=engine,
    )
