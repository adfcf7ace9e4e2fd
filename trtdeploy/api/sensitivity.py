"""Sensitivity of a network to INT8, block by block: what it does to outputs and accuracy, and what it brings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtdeploy.api.trial_network import TrialNetwork
from trtdeploy.api.trial_options import TrialOptions
from trtdeploy.quantize.search import Candidate
from trtdeploy.quantize.sensitivity import Noise, Sensitivity, advise, damages, finite, worst_first
from trtdeploy.quantize.trials import Score, TrialFile, Trials

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.api.build import BuildOptions
    from trtdeploy.api.int8_advice import Int8Advice
    from trtdeploy.api.passes import Progress
    from trtdeploy.evaluate.datasets import LabelledImages


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(TrialOptions):
    """How sensitivity is measured; `max_drop` decides what is advised.

    Attributes:
        builder: Whether to ask TensorRT-RTX's builder; None asks it where it is installed.
    """

    what = "Sensitivity"

    builder: bool | None = False


@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """How sensitive a network is.

    Attributes:
        blocks: Its blocks, the one that is worth keeping out of INT8 most first.
        all_db: Signal to error of the outputs with every block in INT8, the lowest.
        images: Calibration images on which outputs were compared.
        measure: What the scores are; empty where nothing was scored.
        scored_on: Images that were scored.
        fp32, int8: Scores of the network as it is and with every block in INT8; None where nothing was scored.
        advice: What TensorRT-RTX's builder makes of INT8; None where it was not asked.
        warnings: What makes the result doubtful, one sentence each.
    """

    blocks: tuple[Sensitivity, ...]
    all_db: float
    images: int
    measure: str
    scored_on: int
    fp32: Score | None
    int8: Score | None
    advice: Int8Advice | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        fp32, int8 = self.fp32, self.int8
        scores: dict[str, Any] = {"fp32": None, "int8": None, "drop": None, "drop_error": None}
        if fp32 is not None and int8 is not None:
            drops = {"drop": fp32.drop(int8), "drop_error": fp32.drop_error(int8)}
            scores = {"fp32": fp32.value, "int8": int8.value, **drops}
        return {
            "blocks": [block.to_dict() for block in self.blocks],
            "all_db": finite(self.all_db), "images": self.images, "measure": self.measure,
            "scored_on": self.scored_on, **scores,
            "advice": None if self.advice is None else self.advice.to_dict(), "warnings": list(self.warnings),
        }  # fmt: skip


def sensitivity(
    model: str | os.PathLike[str],
    options: BuildOptions,
    data: LabelledImages | None = None,
    how: SensitivityOptions | None = None,
    progress: Progress | None = None,
) -> SensitivityReport:
    """Return how sensitive each block of a network is to INT8: one by one, the others in FP32.

    Outputs are compared on calibration images; with `data` the network is scored on them once for each block, and twice
    more.

    Args:
        model: Path of the ONNX file.
        options: What would be built: sizes, head, NMS, class names, calibration.
        data: Images to score on, with labels or without; None scores nothing.
        how: How it is measured.
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
    from trtdeploy.api.trial_scores import TrialScores, trial_nms

    how, step = how or SensitivityOptions(), progress or (lambda _name: None)
    ask = check_builder(how.builder)
    nms = trial_nms(options.nms, labels=data is not None and data.labels is not None)
    network = TrialNetwork(Path(model), replace(options, nms=nms), step)
    advice = builder_advice(network, step) if ask else None
    every = {block.name for block in network.blocks}
    whole, noises = measure_noise(network, how.images, step)
    scores: dict[str, Score] = {}
    fp32 = int8 = None
    measure = ""
    if data is not None:
        scorer = TrialScores(network, data, how.draws)
        file = None if how.cache is None else TrialFile(how.cache, scorer.key())
        trials = Trials(scorer, len(every) + 2, file, step)
        measure = scorer.measure
        fp32, int8 = trials.score(every, "the network without INT8"), trials.score((), "every block in INT8")
        scores = {name: trials.score(every - {name}, f"{name} alone in INT8") for name in sorted(every)}
    found = _blocks(network, noises, fp32, scores, how.max_drop)
    return SensitivityReport(
        blocks=tuple(worst_first(found)),
        all_db=whole.worst_db,
        images=how.images,
        measure=measure,
        scored_on=0 if data is None else len(data.paths),
        fp32=fp32,
        int8=int8,
        advice=advice,
        warnings=network.calibration.warnings,
    )


def measure_noise(network: TrialNetwork, images: int, step: Progress) -> tuple[Noise, list[Noise]]:
    """Return what INT8 in all blocks does to the outputs, and in each alone, in the order of the blocks.

    Args:
        network: The network.
        images: Calibration images to compare on.
        step: Called before each comparison.
    """
    every = {block.name for block in network.blocks}
    inputs = network.inputs(images)
    expected = list(network.outputs(network.reference(), inputs))
    found = []
    keeps = [set[str](), *(every - {block.name} for block in network.blocks)]
    for number, keep in enumerate(keeps, 1):
        step(f"compare outputs {number}/{len(keeps)}")
        noise = Noise()
        for first, second in zip(expected, network.outputs(network.model(keep), inputs), strict=True):
            noise.add(first, second)
        found.append(noise)
    return found[0], found[1:]


def candidates_of(network: TrialNetwork, noises: Sequence[Noise], advice: Int8Advice | None) -> list[Candidate]:
    """Return the blocks as the search takes them: damage to the outputs, and the multiply-adds that INT8 would take."""
    costs = block_costs(network)
    return [
        Candidate(
            name=block.name, damage=damage, gain=costs[block.name][0], pays=advice is None or advice.pays(block.name)
        )
        for block, damage in zip(network.blocks, damages(noises), strict=True)
    ]


def block_costs(network: TrialNetwork) -> dict[str, tuple[float, int]]:
    """Return each block's share of the network's multiply-adds, and the size of its weights in FP32."""
    from trtdeploy.graph.costs import share
    from trtdeploy.graph.multiply_adds import multiply_adds

    model = network.reference()
    macs = multiply_adds(model, {network.info.inputs[0].name: network.inputs(1)[0]})
    nodes = {node.name: node for node in model.graph}
    return {
        block.name: (
            share(sum(macs[name] for name in block.nodes), sum(macs.values())),
            sum(_weight_bytes(nodes[name]) for name in block.nodes),
        )
        for block in network.blocks
    }


def builder_advice(network: TrialNetwork, step: Progress) -> Int8Advice:
    """Return what TensorRT-RTX's builder makes of the network in INT8 against FP16, at the network's own size.

    Raises:
        MissingDependencyError: TensorRT-RTX is not installed.
        BuildError: The builder refuses one of them.
    """
    from trtdeploy.api.int8_advice import int8_advice
    from trtdeploy.graph.precision.fp16 import ToFp16

    fp16, int8 = (ToFp16().run(model).model for model in (network.reference(), network.model(())))
    shape = (1, *network.info.size_opt, 3)
    return int8_advice(fp16, int8, {network.info.inputs[0].name: (shape, shape, shape)}, network.blocks, step)


def _blocks(
    network: TrialNetwork, noises: Sequence[Noise], fp32: Score | None, scores: dict[str, Score], limit: float
) -> list[Sensitivity]:
    costs = block_costs(network)
    found = []
    for block, noise, damage in zip(network.blocks, noises, damages(noises), strict=True):
        macs, weights = costs[block.name]
        score = scores.get(block.name)
        drop = error = None
        if fp32 is not None and score is not None:
            drop, error = fp32.drop(score), fp32.drop_error(score)
        action, reason = advise(damage, macs, drop, error, limit)
        found.append(
            Sensitivity(
                block=block.name, layers=block.nodes, macs_share=macs, weight_bytes=weights, sqnr_db=noise.sqnr_db(),
                damage=damage, drop=drop, drop_error=error, action=action, reason=reason,
            )
        )  # fmt: skip
    return found


def _weight_bytes(layer: ir.Node) -> int:
    """Return the size of a layer's weights in FP32."""
    value = layer.inputs[1]
    return 0 if value is None or value.const_value is None else 4 * int(value.const_value.size)
