"""Remove attention blocks from an ONNX model, and say what that changes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.api.attention import AttentionModel, check_builder
from trtdeploy.api.passes import Progress, check_target
from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.core.onnx_file import write_onnx
from trtdeploy.core.types import Size

if TYPE_CHECKING:
    from trtdeploy.backends.paired import PairedRate
    from trtdeploy.graph.analysis import BlockCost


@dataclass(frozen=True, kw_only=True)
class RemoveOptions:
    """Which blocks go, and how their cost is found.

    Attributes:
        kinds: Names of kinds.
        at: Patterns of places such as `model.4*`.
        stage: Blocks of the backbone at this stage and shallower; stage 2 has stride 4.
        everything: Every block, where none of the above is given.
        batch, size: What figures are for; None takes the model's own, else one image of 640x640.
        seconds: How long the model is measured before and after, in turn; 0 leaves that out.
        builder: Whether to ask TensorRT-RTX's builder; None asks it where it is installed.
        force: Replace an existing output.
    """

    kinds: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    stage: int | None = None
    everything: bool = False
    batch: int | None = None
    size: Size | None = None
    seconds: float = 3.0
    builder: bool | None = False
    force: bool = False

    def __post_init__(self) -> None:
        narrowed = bool(self.kinds or self.at or self.stage is not None)
        if not narrowed and not self.everything:
            raise UsageError(
                "Which blocks shall go? Give --kind, --at or --stage, or --all for every one. --list shows them."
            )
        if narrowed and self.everything:
            raise UsageError("--all excludes --kind, --at and --stage. Give one or the other.")
        if self.seconds < 0:
            raise UsageError(f"--seconds {self.seconds} is negative. Expected 0 or more.")


@dataclass(frozen=True, kw_only=True)
class RemoveReport:
    """What was removed, and what that changed.

    Attributes:
        path: The new ONNX file.
        removed: Blocks, each with how it was taken out.
        refused: Blocks that were meant and stay, each with the reason.
        before, after: Parameters, operations, bytes, peak memory; with the builder's figures where it was asked.
        rate: The model and the result measured in turn, None where that was left out.
        batch, size: What the figures are for.
        score: What the caller's comparison of detections found.
        checked: What running the result once found.
    """

    path: Path
    removed: tuple[dict[str, Any], ...]
    refused: tuple[dict[str, Any], ...]
    before: dict[str, Any]
    after: dict[str, Any]
    rate: PairedRate | None
    batch: int
    size: Size
    score: dict[str, Any] | None = None
    checked: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "model": str(self.path), "batch": self.batch, "height": self.size.height, "width": self.size.width,
            "removed": list(self.removed), "refused": list(self.refused), "before": self.before, "after": self.after,
            "rate": None if self.rate is None else self.rate.to_dict(), "score": self.score, "checked": self.checked,
        }  # fmt: skip


def remove_attention(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: RemoveOptions,
    progress: Progress | None = None,
    compare: Callable[[Path, Size], dict[str, Any]] | None = None,
) -> RemoveReport:
    """Write a copy of an ONNX model without some of its attention blocks; inputs and outputs stay.

    A block that adds attention to what it was computed from loses the branch; any other block's input takes its
    output's place. Blocks that change shapes, have several inputs, or whose inner tensors are used elsewhere stay.

    Args:
        model: Path of the ONNX file.
        output: Path of the result.
        options: Which blocks.
        progress: Called with the name of each step as it starts.
        compare: Called with the new model's temporary file and the image size; what it returns is the report's
            `score`. Nothing is written where it raises.

    Raises:
        UsageError: No block is meant, an option is wrong, or the output exists and `options.force` is not set.
        ModelError: The model cannot be read, or none of the blocks can be removed; nothing is written.
        EngineError: ONNX Runtime does not run the model at the size.
        SinkError: The output cannot be written.
        MissingDependencyError: The builder is wanted and not installed.
    """
    from trtdeploy.graph.finish import check_model
    from trtdeploy.graph.fuse.region import Refusal
    from trtdeploy.graph.remove import Removal, plan_removal, remove_blocks

    step = progress or (lambda _name: None)
    target = Path(output)
    check_target(target, Path(model), force=options.force)
    ask_builder = check_builder(options.builder)
    whole = AttentionModel(model, options.batch, options.size, step)
    removals: list[Removal] = []
    removed, refused = [], []
    for block in whole.select(options.kinds, options.at, options.stage):
        plan = plan_removal(block, whole.analysis.facts)
        if isinstance(plan, Refusal):
            refused.append({**_entry(block), "reason": plan.reason, "node": plan.node})
        else:
            removals.append(plan)
            removed.append({**_entry(block), "how": plan.how})
    if not removals:
        reasons = "; ".join(f"{r['title']} at {r['place']}: {r['reason']}" for r in refused)
        raise ModelError(f"None of the blocks can be removed from {whole.path}, so nothing was written. {reasons}.")
    step("remove")
    result = remove_blocks(whole.model, removals)
    check_model(result)
    step("check")
    checked = whole.check_runs(result)
    before: dict[str, Any] = dict(whole.figures(whole.model))
    after: dict[str, Any] = dict(whole.figures(result))
    rate = None
    if options.seconds:
        step("measure")
        rate = whole.measure(result, options.seconds)
    if ask_builder:
        step("builder")
        before["builder"], after["builder"] = whole.builder(whole.model), whole.builder(result)
    score = None
    if compare is not None:
        with tempfile.TemporaryDirectory() as folder:  # what is compared is a file, and the target is not one yet
            with write_onnx(result, Path(folder) / "removed.onnx"):
                step("compare")
            score = compare(Path(folder) / "removed.onnx", whole.size)
    with write_onnx(result, target):
        step("write")
    return RemoveReport(
        path=target,
        removed=tuple(removed),
        refused=tuple(refused),
        before=before,
        after=after,
        rate=rate,
        batch=whole.batch,
        size=whole.size,
        score=score,
        checked=checked,
    )


def list_blocks(
    model: str | os.PathLike[str], batch: int | None = None, size: Size | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Return every attention block with its costs, and why it cannot be removed where that is so.

    Raises:
        ModelError: The model cannot be read.
        UsageError: The model has another fixed batch or size.
    """
    from trtdeploy.graph.fuse.region import Refusal
    from trtdeploy.graph.remove import plan_removal

    whole = AttentionModel(model, batch, size, progress)
    found = []
    for block in whole.blocks:
        plan = plan_removal(block, whole.analysis.facts)
        stays = plan.reason if isinstance(plan, Refusal) else ""
        found.append({**block.to_dict(), "stays": stays, "how": "" if isinstance(plan, Refusal) else plan.how})
    return found


def _entry(block: BlockCost) -> dict[str, Any]:
    return {
        "kind": block.kind.name, "title": block.kind.title, "place": block.place, "stage": block.stage,
        "part": block.part,
    }  # fmt: skip
