"""Graph passes and the plan that runs them in order and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtdeploy.core.types import PassReport

if TYPE_CHECKING:
    import onnx_ir as ir

STAGES = ("PREPARE", "CANONICALISE", "FUSE", "SHAPES", "HEAD", "PRECISION", "FRAMES", "FINISH")


@dataclass(frozen=True)
class PassResult:
    """What a pass returns: the model, whether it was modified, and the report."""

    model: ir.Model
    modified: bool
    report: PassReport


class GraphPass(Protocol):
    """One pass: ONNX in, portable ONNX out.

    A pass may change `model` in place and returns it. It never leaves the model half changed: it refuses (in the
    report) or raises a `ModelError` before its first change.
    """

    name: str
    stage: str

    def run(self, model: ir.Model) -> PassResult:
        """Run the pass.

        Raises:
            ModelError: The pass is necessary for what the user asked, and cannot be done on this model.
        """


def run_passes(model: ir.Model, passes: Sequence[GraphPass]) -> tuple[ir.Model, list[PassReport]]:
    """Run `passes` in the order given, which must follow `STAGES`.

    Returns:
        The model and one report per pass.

    Raises:
        ModelError: A pass failed.
        ValueError: The passes are not in the order of the stages.
    """
    stages = [STAGES.index(p.stage) for p in passes]
    if stages != sorted(stages):
        raise ValueError(f"Passes are out of order: {[f'{p.stage}/{p.name}' for p in passes]}")
    reports = []
    for graph_pass in passes:
        result = graph_pass.run(model)
        model = result.model
        reports.append(result.report)
    return model, reports
