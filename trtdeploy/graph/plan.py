"""What a graph pass is, and in which order the stages run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtdeploy.core.types import PassReport

if TYPE_CHECKING:
    import onnx_ir as ir

STAGES = ("PREPARE", "SHAPES", "HEAD", "CANONICALISE", "FUSE", "PRECISION", "FRAMES", "FINISH")


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
