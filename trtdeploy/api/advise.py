"""Advice for every attention block of a model: keep, drop or replace, with figures; and the model without each kind."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from trtdeploy.api.advice import Advice, BlockFacts, Device, Situation, advise_block, network_advice
from trtdeploy.api.attention import AttentionModel, check_builder
from trtdeploy.api.passes import Progress
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Size

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtdeploy.graph.analysis import BlockCost
    from trtdeploy.graph.fuse.region import Refusal
    from trtdeploy.graph.remove import Removal

ESTIMATE = "paper estimate from the data sheet's memory bandwidth, not measured on a GPU"


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """What advice is for, and how figures are found.

    Attributes:
        device: Where the network will run; None for no device in particular.
        fps: Images per second that are needed.
        hard_scenes: Small objects, occlusion, or objects of very different sizes.
        batch, size: What figures are for; None takes the model's own, else one image of 640x640.
        seconds: How long each variant is measured in turn with the model; 0 leaves that out.
        builder: Whether to ask TensorRT-RTX's builder; None asks it where it is installed.
    """

    device: Device | None = None
    fps: float | None = None
    hard_scenes: bool = False
    batch: int | None = None
    size: Size | None = None
    seconds: float = 2.0
    builder: bool | None = None

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise UsageError(f"--seconds {self.seconds} is negative. Expected 0 or more.")
        Situation(device=self.device, fps=self.fps)


def advise(
    model: str | os.PathLike[str], options: AdviseOptions | None = None, progress: Progress | None = None
) -> tuple[dict[str, Any], AttentionModel]:
    """Return advice as JSON values, and the analysed model.

    The first rule that applies decides: a block that cannot be taken out is kept; small objects and occlusion keep
    attention; the backbone's stage 2 and shallower is dropped first; above 100 images per second SE or SimAM take the
    place; the neck keeps attention; with little memory, large networks do not pile it up; what takes a tenth of the
    operations or bytes is replaced; the rest is kept.

    Args:
        model: Path of the ONNX file; it is not changed.
        options: What the advice is for.
        progress: Called with the name of each step as it starts.

    Raises:
        UsageError: An option is wrong.
        ModelError: The model cannot be read.
        EngineError: ONNX Runtime does not run the model at the size.
        MissingDependencyError: The builder is wanted and not installed.
    """
    options = options or AdviseOptions()
    work = _Advising(model, options, progress or (lambda _name: None))
    return work.run(), work.whole


def baseline(
    model: str | os.PathLike[str], options: AdviseOptions | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Return the figures of a model with all of its attention, without each kind, and without any, as JSON values.

    Raises:
        UsageError: An option is wrong, or the model has no attention block that can be taken out.
        ModelError: The model cannot be read.
        EngineError: ONNX Runtime does not run the model at the size.
        MissingDependencyError: The builder is wanted and not installed.
    """
    options = options or AdviseOptions()
    work = _Advising(model, options, progress or (lambda _name: None))
    return work.baseline()


class _Advising:
    """One model, its blocks' removals, and the variants that are tried."""

    def __init__(self, path: str | os.PathLike[str], options: AdviseOptions, step: Progress) -> None:
        from trtdeploy.graph.remove import plan_removal

        self._options = options
        self._step = step
        self._ask_builder = check_builder(options.builder)
        self.whole = AttentionModel(path, options.batch, options.size, step)
        self._blocks = self.whole.analysis.principal
        self._plans: dict[int, Removal | Refusal] = {
            block.index: plan_removal(block, self.whole.analysis.facts) for block in self._blocks
        }

    def run(self) -> dict[str, Any]:
        """Return the advice."""
        whole = self.whole
        situation = Situation(
            device=self._options.device,
            fps=self._options.fps,
            hard_scenes=self._options.hard_scenes,
            parameters=whole.analysis.parameters,
        )
        before = self._figures(whole.model, "the model")
        without = {b.index: self._without(b) for b in self._blocks}
        situation = replace(situation, fps_here=self._fps(without))
        lines, changes = [], []
        for block in self._blocks:
            plan, found = self._plans[block.index], without[block.index]
            gates = self._gates(block)
            advice = advise_block(self._facts(block, found, tuple(gates)), situation)
            if advice.action != "keep" and _is_removal(plan):
                changes.append((plan, advice.replacement))
            lines.append(self._line(block, advice, found, gates))
        return {
            "model": str(whole.path), **whole.analysis.to_dict(),
            "device": None if self._options.device is None else self._options.device.name, "fps": self._options.fps,
            "hard_scenes": self._options.hard_scenes, "fps_here": situation.fps_here,
            "figures": before, "advice": network_advice(situation), "blocks": lines,
            "others": [_others(b) for b in whole.blocks if not b.principal],
            "advised": self._advised(changes), "estimate": self._estimate(),
        }  # fmt: skip

    def baseline(self) -> dict[str, Any]:
        """Return the table of variants."""
        whole = self.whole
        plans = {index: plan for index, plan in self._plans.items() if _is_removal(plan)}
        stay = [
            {"kind": b.kind.name, "place": b.place, "reason": _refusal(self._plans[b.index])}
            for b in self._blocks
            if b.index not in plans
        ]
        if not plans:
            reasons = "; ".join(f"{s['kind']} at {s['place']}: {s['reason']}" for s in stay)
            raise UsageError(
                f"{whole.path} has no attention block that can be taken out, so there is nothing to compare. "
                f"{reasons or 'It has no attention block at all'}."
            )
        kinds: dict[str, list[int]] = {}
        for block in self._blocks:
            if block.index in plans:
                kinds.setdefault(block.kind.name, []).append(block.index)
        rows = [{"variant": "as it is", "blocks": len(self._blocks), **self._figures(whole.model, "the model")}]
        chosen = {f"without {name}": indices for name, indices in kinds.items()}
        if len(kinds) > 1 or stay:
            chosen["without all that can go"] = list(plans)
        for title, indices in chosen.items():
            model = _changed(whole.model, [(plans[i], "") for i in indices])
            figures = self._figures(model, title)
            rows.append({"variant": title, "blocks": len(self._blocks) - len(indices), **figures,
                         **self._rate(model, title)})  # fmt: skip
        first = next((row["rate"]["first_ms"] for row in rows if row.get("rate")), None)
        rows[0]["images_per_s"] = None if first is None else round(1e3 * whole.batch / first, 2)
        return {
            "model": str(whole.path), "batch": whole.batch, "height": whole.size.height, "width": whole.size.width,
            "rows": rows, "stay": stay,
        }  # fmt: skip

    def _without(self, block: BlockCost) -> dict[str, Any]:
        """Return the figures of the model without a block, empty where it stays."""
        plan = self._plans[block.index]
        if not _is_removal(plan):
            return {}
        title = f"without {block.kind.name} at {block.place}"
        model = _changed(self.whole.model, [(plan, "")])
        return {**self._figures(model, title), **self._rate(model, title)}

    def _gates(self, block: BlockCost) -> dict[str, dict[str, int]]:
        """Return the figures of the model with each replacement in the block's place, fewest bytes first."""
        from trtdeploy.graph.remove import REPLACEMENTS, can_gate

        plan = self._plans[block.index]
        if not _is_removal(plan) or not can_gate(plan, self.whole.analysis):
            return {}
        found = {name: self.whole.figures(_changed(self.whole.model, [(plan, name)])) for name in REPLACEMENTS}
        return dict(sorted(found.items(), key=lambda item: item[1]["bytes_fp32"]))

    def _facts(self, block: BlockCost, without: dict[str, Any], gates: tuple[str, ...]) -> BlockFacts:
        from trtdeploy.graph.analysis import BACKBONE
        from trtdeploy.graph.costs import share

        costs = self.whole.analysis.costs.total
        plan, rate = self._plans[block.index], without.get("rate")
        return BlockFacts(
            kind=block.kind.name,
            in_backbone=block.part == BACKBONE,
            stage=block.stage,
            share=max(share(block.cost.flops, costs.flops), share(block.cost.bytes_moved(), costs.bytes_moved())),
            stays=_refusal(plan),
            gates=gates,
            gain=None if rate is None else rate["ratio"],
            gain_is_sure=rate is not None and rate["ratio_low"] > 1.0,
        )

    def _line(
        self, block: BlockCost, advice: Advice, without: dict[str, Any], gates: dict[str, dict[str, int]]
    ) -> dict[str, Any]:
        plan = self._plans[block.index]
        line = {
            **block.to_dict(), "action": advice.action, "replacement": advice.replacement, "reason": advice.reason,
            "without": without, "replaced": gates,
        }  # fmt: skip
        if advice.replacement and _is_removal(plan) and self._options.seconds:
            title = f"{advice.replacement} at {block.place}"
            model = _changed(self.whole.model, [(plan, advice.replacement)])
            line["replaced"] = {**gates, advice.replacement: {**gates[advice.replacement], **self._rate(model, title)}}
        return line

    def _advised(self, changes: list[tuple[Removal, str]]) -> dict[str, Any] | None:
        """Return the figures of the model that follows all advice, None where nothing changes."""
        if not changes:
            return None
        model = _changed(self.whole.model, changes)
        return {**self._figures(model, "all advice followed"), **self._rate(model, "all advice followed")}

    def _figures(self, model: ir.Model, title: str) -> dict[str, Any]:
        figures: dict[str, Any] = dict(self.whole.figures(model))
        if self._ask_builder:
            self._step(f"builder: {title}")
            figures["builder"] = self.whole.builder(model)
        return figures

    def _rate(self, model: ir.Model, title: str) -> dict[str, Any]:
        if not self._options.seconds:
            return {"rate": None, "images_per_s": None}
        self._step(f"measure: {title}")
        rate = self.whole.measure(model, self._options.seconds)
        return {"rate": rate.to_dict(), "images_per_s": round(1e3 * self.whole.batch / rate.second_ms, 2)}

    def _fps(self, without: dict[int, dict[str, Any]]) -> float | None:
        """Return the measured rate of the whole model: the median over all comparisons."""
        times = sorted(found["rate"]["first_ms"] for found in without.values() if found.get("rate"))
        return round(1e3 * self.whole.batch / times[len(times) // 2], 2) if times else None

    def _estimate(self) -> dict[str, Any] | None:
        """Return what the device's memory bandwidth alone allows, in FP16; None where it is not known."""
        from trtdeploy.graph.costs import weight_bytes_of

        device, costs = self._options.device, self.whole.analysis.costs
        if device is None or not device.bandwidth_gb_s:
            return None
        bandwidth = device.bandwidth_gb_s * 1e9
        graph = self.whole.model.graph
        ends = sum(costs.bytes_of(v, 2) for v in [*graph.inputs, *graph.outputs] if costs.is_data(v))
        return {
            "what": ESTIMATE, "device": device.title, "bandwidth_gb_s": device.bandwidth_gb_s,
            "memory_gb": device.memory_gb,
            "least_ms": round(1e3 * (weight_bytes_of(graph, 2) + ends) / bandwidth, 4),
            "unfused_ms": round(1e3 * costs.total.bytes_moved(2) / bandwidth, 4),
        }  # fmt: skip


def _is_removal(plan: Removal | Refusal) -> TypeGuard[Removal]:
    from trtdeploy.graph.remove import Removal

    return isinstance(plan, Removal)


def _refusal(plan: Removal | Refusal) -> str:
    """Return why a block stays, an empty string where it can go."""
    from trtdeploy.graph.fuse.region import Refusal

    return plan.reason if isinstance(plan, Refusal) else ""


def _changed(model: ir.Model, changes: list[tuple[Removal, str]]) -> ir.Model:
    from trtdeploy.graph.remove import change_blocks

    return change_blocks(model, changes)


def _others(block: BlockCost) -> dict[str, Any]:
    return {"kind": block.kind.name, "title": block.kind.title, "place": block.place}
