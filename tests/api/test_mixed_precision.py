"""Sensitivity and the search on the packaged model, one of whose blocks was given wrong ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from trtdeploy.api import BuildOptions, GateOptions, build, lowering
from trtdeploy.api import sensitivity as sensitivity_module
from trtdeploy.api.calibration import CalibrationOptions
from trtdeploy.api.evaluate import CONF, evaluate
from trtdeploy.api.mixed_precision import MixedPlan, SearchOptions, search_mixed
from trtdeploy.api.sensitivity import SensitivityOptions, block_costs, sensitivity
from trtdeploy.api.trial_network import TrialNetwork
from trtdeploy.api.trial_scores import AGREEMENT, MAP, TrialScores, agreement, trial_nms
from trtdeploy.core.engine_info import NmsInfo
from trtdeploy.core.errors import GateError, UsageError
from trtdeploy.core.types import Detections, Precision, Size, SizeRange
from trtdeploy.evaluate.datasets import LabelledImages, coco, read_images
from trtdeploy.evaluate.datasets.boards import CLASS_NAMES, draw_boards
from trtdeploy.evaluate.resampled import draws_of
from trtdeploy.graph.head import NmsOptions
from trtdeploy.quantize import Calibration

FAULTY = "stage3"
LIMIT = 0.02


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO file of six labelled boards; the objects have the size that the network expects at 192x320."""
    folder = tmp_path_factory.mktemp("boards")
    return coco.write(folder, CLASS_NAMES, draw_boards(6, width=640, height=384))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> BuildOptions:
    folder = tmp_path_factory.mktemp("calibration")
    for sample in draw_boards(6, 5_000_000, width=640, height=384):
        cv2.imwrite(str(folder / f"{sample.name}.png"), sample.image)
    return BuildOptions(
        precision=Precision.INT8, sizes=SizeRange.fixed(Size(192, 320)), backend="onnxruntime",
        calibration=CalibrationOptions(images=folder, method="minmax"),
        nms=NmsOptions(conf=CONF),
        gate=GateOptions(mode="off"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def wrong_ranges() -> Iterator[None]:
    """Let every calibration give ranges inside one block that are 50 times too large."""
    patch = pytest.MonkeyPatch()
    right = lowering.calibrate_model

    def calibrate(*arguments: object) -> Calibration:
        found = right(*arguments)  # type: ignore[arg-type]
        factors = {name: 50.0 if f"/{FAULTY}.1/steps" in name else 1.0 for name in found.ranges}
        assert 50.0 in factors.values()
        return dataclasses.replace(found, ranges={n: r * factors[n] for n, r in found.ranges.items()})

    patch.setattr(lowering, "calibrate_model", calibrate)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def network(demo_model: Path, options: BuildOptions, wrong_ranges: None) -> Iterator[TrialNetwork]:
    """The network, prepared once for all tests; what a set of blocks detects, and does to outputs, is computed once."""
    made = TrialNetwork(demo_model, options, lambda _name: None)
    patch = pytest.MonkeyPatch()
    patch.setattr("trtdeploy.api.trial_network.TrialNetwork", lambda *_arguments: made)
    patch.setattr(sensitivity_module, "TrialNetwork", lambda *_arguments: made)
    patch.setattr(sensitivity_module, "measure_noise", once(sensitivity_module.measure_noise))
    patch.setattr(made, "detect", once(made.detect))
    yield made
    patch.undo()


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that remembers what it returned for the same arguments, progress aside."""
    known: dict[str, Any] = {}

    def remembered(*arguments: Any) -> Any:
        key = repr([sorted(a) if isinstance(a, (set, frozenset)) else a for a in arguments if not callable(a)])
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return remembered


def find(model: Path, options: BuildOptions, data: LabelledImages | None, **changes: object) -> MixedPlan:
    how = SearchOptions(**{"max_drop": LIMIT, "budget": 10, "images": 2, "draws": 50, "builder": False, **changes})  # type: ignore[arg-type]
    return search_mixed(model, options, data, how)


@pytest.fixture(scope="module")
def plan(demo_model: Path, options: BuildOptions, boards: Path, network: TrialNetwork) -> MixedPlan:
    return find(demo_model, options, read_images(boards))


def test_exactly_the_block_with_wrong_ranges_is_kept(plan: MixedPlan) -> None:
    assert (plan.outcome, plan.blocks, plan.measure, plan.images) == ("mixed", (FAULTY,), MAP, 6)
    assert plan.fp32.value - plan.int8.value > 0.1
    assert plan.drop <= LIMIT
    assert all(pattern.startswith(f"/{FAULTY}/") for pattern in plan.keep)
    assert plan.trials <= 10
    plan.check()


def test_an_engine_built_with_the_plan_has_the_accuracy_that_it_promises(
    demo_model: Path, options: BuildOptions, boards: Path, plan: MixedPlan, tmp_path: Path
) -> None:
    built = build(demo_model, tmp_path / "mixed.engine", dataclasses.replace(options, keep=plan.keep))
    measured = evaluate(built.path, read_images(boards)).accuracy.map50_95
    assert measured == pytest.approx(plan.mixed.value, abs=1e-3)
    assert plan.fp32.value - measured <= LIMIT < plan.fp32.value - plan.int8.value


def test_the_plan_says_what_it_rests_on(plan: MixedPlan) -> None:
    text = "\n".join(plan.lines())
    assert f"mAP50-95 on 6 images: FP32 {plan.fp32.value:.4f}, all INT8 {plan.int8.value:.4f} (drop " in text
    assert " ± " in text
    assert f"kept out of INT8: {FAULTY} (1 of 13 blocks)" in text
    assert f"{plan.trials} evaluations, 0 of them from the cache" in text
    document = plan.to_dict()
    assert document["drop_errors"]["int8"] > document["drop_errors"]["mixed"] > 0


def test_an_interrupted_search_goes_on_and_ends_equally(
    demo_model: Path, options: BuildOptions, boards: Path, plan: MixedPlan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data, cache = read_images(boards), tmp_path / "trials.json"
    count, score = 0, TrialScores.__call__

    def interrupted(self: TrialScores, keep: frozenset[str]) -> object:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return score(self, keep)

    monkeypatch.setattr(TrialScores, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find(demo_model, options, data, cache=cache)
    again = find(demo_model, options, data, cache=cache)
    assert again.computed == plan.trials - 2
    assert dataclasses.replace(again, computed=0, seconds=0) == dataclasses.replace(plan, computed=0, seconds=0)


def test_a_limit_that_nothing_meets_is_refused_with_advice(
    demo_model: Path, options: BuildOptions, boards: Path, network: TrialNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    every = frozenset(block.name for block in network.blocks)
    score = TrialScores.__call__

    def worse(self: TrialScores, keep: frozenset[str]) -> object:
        found = score(self, every)
        return found if keep == every else dataclasses.replace(found, value=found.value - 0.3)

    monkeypatch.setattr(TrialScores, "__call__", worse)
    found = find(demo_model, options, read_images(boards))
    assert (found.outcome, set(found.blocks), found.drop) == ("impossible", every, 0.0)
    assert "INT8 is not possible within a drop of 0.02: keep FP16." in "\n".join(found.lines())
    with pytest.raises(GateError, match=r"INT8 is not possible within a drop of 0\.02 in mAP50-95: Kept .*--fp16"):
        found.check()


def test_without_labels_the_boxes_of_fp32_stand_in_and_that_is_said(
    demo_model: Path, options: BuildOptions, network: TrialNetwork
) -> None:
    found = find(demo_model, options, None, max_drop=0.3, budget=12)
    assert found.measure == AGREEMENT
    assert found.fp32.value == 1.0
    assert found.int8.value < 0.7
    assert found.blocks == (FAULTY,)
    assert "agreement of boxes with FP32 on the calibration images, which flatters INT8" in "\n".join(found.warnings)


def test_few_images_for_the_limit_are_warned_about(demo_model: Path, options: BuildOptions, boards: Path) -> None:
    found = find(demo_model, options, read_images(boards), max_drop=1e-5, budget=4)
    assert any(
        warning.startswith("6 images are few for a limit of 1e-05: the standard error of the drop is 0.0")
        and warning.endswith("images would tell.")
        for warning in found.warnings
    )


def test_the_block_with_wrong_ranges_is_the_most_sensitive(
    demo_model: Path, options: BuildOptions, boards: Path, network: TrialNetwork
) -> None:
    report = sensitivity(demo_model, options, read_images(boards, limit=2), SensitivityOptions(images=2, draws=20))
    worst, *others = report.blocks
    assert (worst.block, worst.action) == (FAULTY, "keep")
    assert worst.damage > 0.5
    assert worst.worst_db < min(block.worst_db for block in others)
    assert worst.drop is not None
    assert worst.drop > 0.1 > max(block.drop or 0.0 for block in others)
    assert report.all_db <= worst.worst_db + 0.5
    assert sum(block.damage for block in report.blocks) == pytest.approx(1)
    assert {layer for block in report.blocks for layer in block.layers} == {n for b in network.blocks for n in b.nodes}


def test_multiply_adds_are_those_of_the_unfused_graph(demo_model: Path, network: TrialNetwork) -> None:
    from trtdeploy.api.attention import AttentionModel

    costs = AttentionModel(demo_model, 1, Size(192, 320), fits=False).analysis.costs
    products = {node.name: costs.of([node]).products for node in costs.model.graph}
    found = block_costs(network)
    for block in network.blocks:
        if set(block.nodes) <= products.keys():
            expected = sum(products[name] for name in block.nodes) / sum(products.values())
            assert found[block.name][0] == pytest.approx(expected, rel=0.01)
    assert 0.8 < sum(share for share, _ in found.values()) < 1


def test_all_blocks_kept_are_the_network_itself(network: TrialNetwork) -> None:
    inputs = network.inputs(1)
    every = [block.name for block in network.blocks]
    (kept,) = network.outputs(network.model(every), inputs)
    (reference,) = network.outputs(network.reference(), inputs)
    for name, values in reference.items():
        np.testing.assert_allclose(kept[name], values, atol=1e-4)


def test_average_precision_gets_all_candidates_and_agreement_those_of_the_engine() -> None:
    asked = NmsOptions(method="fixpoint", conf=0.4, max_det=50, steps=4, candidates=100)
    assert trial_nms(asked, labels=True) == NmsOptions(conf=CONF, max_det=300)
    assert trial_nms(asked, labels=False) == NmsOptions(conf=0.4, max_det=50, candidates=100)


def test_agreement_counts_lost_new_and_relabelled_boxes_and_none_at_the_threshold() -> None:
    def detections(*rows: tuple[float, float, int]) -> Detections:
        corners = np.array([[x, 0, x + 20, 20] for x, _, _ in rows], np.float32).reshape(-1, 4)
        scores = np.array([score for _, score, _ in rows], np.float32)
        return Detections(corners, scores, np.array([c for *_, c in rows], np.int32))

    nms = NmsInfo(method="loop", conf=0.25, iou=0.7, max_det=300)
    expected = detections((0, 0.9, 0), (100, 0.9, 0), (200, 0.9, 1), (300, 0.26, 0))  # the last is at the threshold
    got = detections((2, 0.7, 0), (200, 0.9, 0), (400, 0.8, 0))  # moved and weaker, relabelled, new; one is lost
    draws = draws_of(2, 3)
    score = agreement([expected, expected], [got, expected], nms, draws)
    assert score.value == pytest.approx((1 + 4) / (4 + 4))
    assert score.resampled == tuple(
        pytest.approx(sum((1, 4)[i] for i in drawn) / sum((4, 4)[i] for i in drawn)) for drawn in draws
    )
    assert agreement([detections()], [detections()], nms, draws_of(1, 2)).value == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_drop": 1.5}, r"--max-map-drop 1\.5 is out of range"),
        ({"budget": 3}, "--trials 3: a search needs 4 evaluations or more"),
        ({"images": 0}, "needs an image and two draws"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchOptions(**changes)  # type: ignore[arg-type]


def test_a_search_without_calibration_images_is_refused(demo_model: Path, options: BuildOptions) -> None:
    with pytest.raises(UsageError, match="Give a folder of them with --calib"):
        search_mixed(demo_model, dataclasses.replace(options, calibration=CalibrationOptions()), None)
