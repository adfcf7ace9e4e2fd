"""Runs graph passes one after the other and keeps their reports; checks a target before any work."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import PassReport
from trtdeploy.graph.plan import STAGES

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.attention.kind import AttentionKind
    from trtdeploy.graph.plan import GraphPass

Progress = Callable[[str], None]
"""Called with the name of each step as it starts."""


class Passes:
    """A model on its way through the passes.

    Args:
        model: The model as it was loaded.
        step: Called with the name of each pass as it starts.

    Attributes:
        model: The model as the last pass left it.
        reports: One report per pass.
        step: Called with the name of each step as it starts.
    """

    def __init__(self, model: ir.Model, step: Progress) -> None:
        self.model = model
        self.reports: list[PassReport] = []
        self.step = step

    def run(self, graph_pass: GraphPass) -> dict[str, Any]:
        """Run a pass and return the details of its report.

        Raises:
            ModelError: The pass is necessary and cannot be done on this model.
            ValueError: The pass belongs before one that has run.
        """
        if self.reports and STAGES.index(graph_pass.stage) < STAGES.index(self.reports[-1].stage):
            raise ValueError(f"Pass {graph_pass.name} ({graph_pass.stage}) comes after {self.reports[-1].stage}.")
        self.step(graph_pass.name)
        result = graph_pass.run(self.model)
        self.model = result.model
        self.reports.append(result.report)
        return result.report.details

    def note(self, report: PassReport) -> None:
        """Add what was done beside the passes, such as measuring, to the reports."""
        self.reports.append(report)

    def operate(
        self, kinds: Sequence[AttentionKind] | None = None, *, pad: bool, operations: bool = True, verify: bool = True
    ) -> None:
        """Run the passes of attention surgery; see `trtdeploy.graph.surgery.operate`.

        Raises:
            ModelError: The model would compute something else.
        """
        from trtdeploy.graph.surgery import operate

        self.model, reports = operate(self.model, kinds, pad=pad, operations=operations, verify=verify, step=self.step)
        self.reports += reports


def check_target(target: Path, model: Path, *, force: bool) -> None:
    """Check that the result may be written, before any work is done.

    Raises:
        UsageError: It may not, with the reason.
    """
    if target.resolve() == model.resolve():
        raise UsageError(f"The output {target} is the model itself. Give another path with -o.")
    if target.is_dir():
        raise UsageError(f"The output {target} is a folder. Give the path of a file with -o.")
    if target.exists() and not force:
        raise UsageError(f"The output {target} exists. Use --force to replace it, or -o to write elsewhere.")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"The folder {folder} of the output {target.name} does not exist. Create it first.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"The folder {folder} of the output {target.name} is not writable. Use -o to write elsewhere.")
