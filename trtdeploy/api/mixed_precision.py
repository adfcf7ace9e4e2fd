"""Finds the layers that must stay out of INT8, so that an INT8 engine is as accurate as it was asked to be."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtdeploy.api.trial_options import TrialOptions
from trtdeploy.core.errors import GateError, UsageError
from trtdeploy.quantize.search import MIN_BUDGET, Candidate, search
from trtdeploy.quantize.trials import Score, TrialFile, Trials

if TYPE_CHECKING:
    from trtdeploy.api.build import BuildOptions
    from trtdeploy.api.int8_advice import Int8Advice
    from trtdeploy.api.passes import Progress
    from trtdeploy.evaluate.datasets import LabelledImages
    from trtdeploy.quantize import Calibration

DEFAULT_BUDGET = 24
_SURE = 2.0
"""Standard errors that a drop must be away from the limit to be on its side of it."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(TrialOptions):
    """How to search.

    Attributes:
        budget: How often the network is evaluated on all images at most.
        builder: Whether to ask TensorRT-RTX's builder where INT8 pays, and to keep INT8 from where it does not; None
            asks it for engines for a GPU, where it is installed.

    Raises:
        UsageError: A number is out of range.
    """

    what = "A search"

    budget: int = DEFAULT_BUDGET
    builder: bool | None = None

    def __post_init__(self) -> None:
        TrialOptions.__post_init__(self)
        if self.budget < MIN_BUDGET:
            raise UsageError(f"--trials {self.budget}: a search needs {MIN_BUDGET} evaluations or more, such as 24.")


@dataclass(frozen=True, kw_only=True)
class MixedOptions:
    """The search of a build.

    Attributes:
        data: Images to measure accuracy on; None takes the calibration images, without labels.
        search: How to search.
    """

    data: LabelledImages | None = None
    search: SearchOptions = field(default_factory=SearchOptions)


@dataclass(frozen=True, kw_only=True)
class MixedPlan:
    """Which layers stay out of INT8, and what that brings.

    Attributes:
        outcome: `int8`: all layers where INT8 pays are INT8; `mixed`: further blocks are kept; `impossible`: no INT8 is
            possible within the limit, the model should stay FP16.
        keep: Patterns of the names of the layers that stay, for `BuildOptions.keep`.
        blocks: Names of the blocks that they are.
        int8_blocks: Names of the blocks that become INT8.
        measure: What the scores are: mAP50-95, or the agreement of boxes with FP32.
        images: Images that they are measured on.
        fp32, int8, mixed: Scores of the network as it is, all of it in INT8, and as planned.
        max_drop: The limit.
        trials: Evaluations that the plan rests on; `computed` of them in this run, the rest from the cache.
        log: What was tried, in a sentence each.
        warnings: What makes the result doubtful, in a sentence each.
        advice: What TensorRT-RTX's builder makes of INT8; None where it was not asked.
        calibration: The ranges that were tried.
        seconds: How long the search took.
    """

    outcome: Literal["int8", "mixed", "impossible"]
    keep: tuple[str, ...]
    blocks: tuple[str, ...]
    int8_blocks: tuple[str, ...]
    measure: str
    images: int
    fp32: Score
    int8: Score
    mixed: Score
    max_drop: float
    trials: int
    computed: int
    log: tuple[str, ...]
    warnings: tuple[str, ...]
    advice: Int8Advice | None
    calibration: Calibration
    seconds: float

    @property
    def drop(self) -> float:
        """How much the planned network is worse than FP32."""
        return self.fp32.drop(self.mixed)

    def check(self) -> None:
        """Check that there is something to build.

        Raises:
            GateError: INT8 is not possible within the limit.
        """
        if self.outcome == "impossible":
            raise GateError(
                f"INT8 is not possible within a drop of {self.max_drop:g} in {self.measure}: {self._why()} Keep FP16 "
                "(--fp16), allow a larger --max-map-drop, or calibrate with more or other images."
            )

    def lines(self) -> list[str]:
        """Return the result for people."""
        of_images = f"on {self.images} images"
        found = [
            f"{self.measure} {of_images}: FP32 {self.fp32.value:.4f}, all INT8 {self.int8.value:.4f} "
            f"({_drop_text(self.fp32, self.int8)})",
            f"{self.trials} evaluations, {self.trials - self.computed} of them from the cache, in "
            f"{self.seconds / 60:.1f} min",
        ]
        if self.outcome == "impossible":
            found.append(f"INT8 is not possible within a drop of {self.max_drop:g}: keep FP16. {self._why()}")
        else:
            kept = ", ".join(self.blocks) or "none"
            found.append(
                f"as planned {self.mixed.value:.4f} ({_drop_text(self.fp32, self.mixed)}); kept out of INT8: {kept} "
                f"({len(self.blocks)} of {len(self.blocks) + len(self.int8_blocks)} blocks)"
            )
        return [*found, *self.warnings]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        scores = {"fp32": self.fp32, "int8": self.int8, "mixed": self.mixed}
        return {
            "outcome": self.outcome, "keep": list(self.keep), "blocks": list(self.blocks),
            "int8_blocks": list(self.int8_blocks), "measure": self.measure, "images": self.images,
            "scores": {name: score.value for name, score in scores.items()},
            "drops": {name: self.fp32.drop(score) for name, score in scores.items()},
            "drop_errors": {name: self.fp32.drop_error(score) for name, score in scores.items()},
            "max_drop": self.max_drop, "trials": self.trials, "computed": self.computed, "log": list(self.log),
            "warnings": list(self.warnings), "advice": None if self.advice is None else self.advice.to_dict(),
            "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def _why(self) -> str:
        return f"{self.log[-1][0].upper()}{self.log[-1][1:].rstrip('.')}." if self.log else ""


def search_mixed(
    model: str | os.PathLike[str],
    options: BuildOptions,
    data: LabelledImages | None,
    search_options: SearchOptions | None = None,
    progress: Progress | None = None,
) -> MixedPlan:
    """Return which layers stay out of INT8 for the accuracy to stay within a limit.

    Trials run in ONNX Runtime on the CPU, Q/DQ in integers and the rest in FP32, whatever backend the engine is for.

    Args:
        model: Path of the ONNX file.
        options: What will be built: sizes, head, NMS, class names, calibration.
        data: Images to measure on, with labels or without; None takes the calibration images, without labels. They
            should not be the calibration images.
        search_options: How to search.
        progress: Called with the name of each step as it starts.

    Raises:
        UsageError: There are no calibration images, the model came quantised, or has nothing to quantise; the labels
            have none of its classes.
        ModelError: The model cannot be read, prepared or measured.
        SourceError: An image cannot be read.
        SinkError: The cache cannot be written.
        MissingDependencyError: Average precision cannot be computed here, or the builder is wanted and not installed.
        BuildError: The builder is wanted and refuses the network.
    """
    from trtdeploy.api.attention import check_builder
    from trtdeploy.api.sensitivity import builder_advice, candidates_of, measure_noise
    from trtdeploy.api.trial_network import TrialNetwork
    from trtdeploy.api.trial_scores import TrialScores, trial_nms

    how, step = search_options or SearchOptions(), progress or (lambda _name: None)
    start = time.monotonic()
    images = data or _calibration_images(options)
    nms = trial_nms(options.nms, labels=images.labels is not None)
    network = TrialNetwork(Path(model), replace(options, nms=nms), step)
    scores = TrialScores(network, images, how.draws)
    file = None if how.cache is None else TrialFile(how.cache, scores.key())
    wanted = how.builder if how.builder is not None or network.target.on_gpu else False
    advice = builder_advice(network, step) if check_builder(wanted) else None
    _, noises = measure_noise(network, how.images, step)
    trials = Trials(scores, how.budget, file, step)
    candidates = candidates_of(network, noises, advice)
    found = search(candidates, trials, how.max_drop)
    return MixedPlan(
        outcome=found.outcome,
        keep=tuple(network.patterns(found.keep)),
        blocks=found.keep,
        int8_blocks=tuple(block.name for block in network.blocks if block.name not in found.keep),
        measure=scores.measure,
        images=len(images.paths),
        fp32=found.fp32,
        int8=found.int8,
        mixed=found.mixed,
        max_drop=how.max_drop,
        trials=found.trials,
        computed=trials.computed,
        log=found.log,
        warnings=(
            *network.calibration.warnings,
            *_doubts(found.fp32, found.int8, found.mixed, len(images.paths), how.max_drop),
            *_unlabelled(data, images), *(_stopped(how.budget) if found.stopped else ()), *_unpaid(candidates),
        ),
        advice=advice,
        calibration=network.calibration,
        seconds=time.monotonic() - start,
    )  # fmt: skip


def _calibration_images(options: BuildOptions) -> LabelledImages:
    from trtdeploy.api.calibration_images import choose_images
    from trtdeploy.core.types import Size
    from trtdeploy.evaluate.datasets import LabelledImages

    calibration = options.calibration
    if calibration.images is None:
        raise UsageError("INT8 needs images of what the network will see. Give a folder of them with --calib.")
    size = Size(640, 640) if options.sizes is None else options.sizes.opt
    images, _ = choose_images(calibration.images, calibration.limit, size)
    return LabelledImages(title="calibration images", paths=tuple(image.path for image in images))


def _doubts(fp32: Score, int8: Score, mixed: Score, images: int, limit: float) -> Sequence[str]:
    """Return warnings about drops that chance may have made."""
    error = fp32.drop_error(mixed) or fp32.drop_error(int8)
    if error is None or limit >= _SURE * error:
        return ()
    wanted = math.ceil(images * (_SURE * error / limit) ** 2) if limit > 0 else 0
    advice = f"About {wanted} images would tell." if wanted else "No number of images proves a drop of 0."
    return (
        f"{images} images are few for a limit of {limit:g}: the standard error of the drop is {error:.4f}, so other "
        f"images may show a drop on the other side of it. {advice}",
    )


def _unlabelled(data: LabelledImages | None, images: LabelledImages) -> Sequence[str]:
    if images.labels is not None:
        return ()
    where = " on the calibration images, which flatters INT8," if data is None else ""
    return (
        f"There are no labels: the limit is applied to the agreement of boxes with FP32{where} instead of mAP. Give "
        "labelled images with --data to measure accuracy.",
    )


def _stopped(budget: int) -> Sequence[str]:
    return (
        f"The search used all of its {budget} evaluations: fewer blocks may do. The cache lets a longer one go on.",
    )


def _unpaid(candidates: Sequence[Candidate]) -> Sequence[str]:
    names = [candidate.name for candidate in candidates if not candidate.pays]
    return (f"INT8 costs more than it brings in {', '.join(names)}, says TensorRT-RTX's builder.",) if names else ()


def _drop_text(fp32: Score, other: Score) -> str:
    error = fp32.drop_error(other)
    return f"drop {fp32.drop(other):.4f}" + ("" if error is None else f" ± {error:.4f}")
