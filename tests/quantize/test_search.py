"""The search for blocks that stay out of INT8, on networks whose score is known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from trtdeploy.core.errors import UsageError
from trtdeploy.quantize.search import MIN_BUDGET, Candidate, Found, search
from trtdeploy.quantize.trials import Score, TrialFile, Trials

FP32 = 0.9


class Network:
    """A network whose score drops by a known amount for each block in INT8, and by more for some pairs."""

    def __init__(self, drops: Mapping[str, float], pairs: Mapping[tuple[str, str], float] | None = None) -> None:
        self.drops = dict(drops)
        self.pairs = dict(pairs or {})
        self.asked: list[frozenset[str]] = []

    def __call__(self, keep: frozenset[str]) -> Score:
        self.asked.append(keep)
        return Score(self.score(keep))

    def score(self, keep: frozenset[str]) -> float:
        int8 = self.drops.keys() - keep
        pairs = sum(drop for pair, drop in self.pairs.items() if set(pair) <= int8)
        return FP32 - sum(self.drops[name] for name in int8) - pairs

    def candidates(self, **changes: Candidate) -> list[Candidate]:
        return [changes.get(name, Candidate(name, drop, gain=1 / len(self.drops))) for name, drop in self.drops.items()]


def find(network: Network, limit: float = 0.005, budget: int = 24, **changes: Candidate) -> Found:
    return search(network.candidates(**changes), Trials(network, budget), limit)


def small(count: int = 12, drop: float = 0.0001) -> dict[str, float]:
    return {f"model.{index}": drop for index in range(count)}


def test_a_network_that_keeps_its_score_is_all_int8_after_two_evaluations() -> None:
    network = Network(small())
    found = find(network)
    assert (found.outcome, found.keep, found.trials, found.stopped) == ("int8", (), 2, False)
    assert network.asked == [frozenset(network.drops), frozenset()]
    assert found.int8 == found.mixed


@pytest.mark.parametrize("bad", ["model.0", "model.5", "model.11"])
def test_exactly_the_block_that_fails_is_kept(bad: str) -> None:
    network = Network({**small(), bad: 0.2})
    found = find(network)
    assert (found.outcome, found.keep) == ("mixed", (bad,))
    assert found.int8.value == pytest.approx(FP32 - 0.2 - 11 * 0.0001)
    assert found.mixed.value == pytest.approx(network.score(frozenset({bad})))


def test_several_blocks_that_fail_are_kept_and_no_others() -> None:
    bad = {"model.1": 0.01, "model.4": 0.02, "model.9": 0.3}
    assert find(Network({**small(), **bad})).keep == tuple(bad)


def test_a_block_that_a_wrong_damage_put_first_is_given_back() -> None:
    network = Network({**small(), "model.3": 0.2})
    wrong = Candidate("model.7", damage=9.0, gain=0.5)
    assert find(network, **{"model.7": wrong}).keep == ("model.3",)


def test_of_two_blocks_with_equal_damage_the_one_with_the_smaller_gain_is_kept() -> None:
    network = Network({**small(), "model.2": 0.003, "model.8": 0.003})
    large = Candidate("model.2", damage=0.003, gain=0.5)
    assert find(network, **{"model.2": large}).keep == ("model.8",)


def test_blocks_that_fail_only_together_lose_one_of_them() -> None:
    network = Network(small(), {("model.2", "model.6"): 0.1})
    found = find(network)
    assert found.outcome == "mixed"
    assert found.keep in {("model.2",), ("model.6",)}
    assert FP32 - network.score(frozenset(found.keep)) <= 0.005


def test_a_block_where_int8_does_not_pay_is_kept_from_the_start() -> None:
    network = Network(small())
    found = find(network, **{"model.5": Candidate("model.5", 0.0, gain=0.1, pays=False)})
    assert (found.outcome, found.keep) == ("int8", ("model.5",))
    assert found.int8.value == pytest.approx(network.score(frozenset()))
    assert found.mixed.value == pytest.approx(network.score(frozenset({"model.5"})))


def test_a_network_where_int8_pays_nowhere_stays_as_it_is() -> None:
    network = Network(small(2))
    blocks = {name: Candidate(name, 0.0, 0.5, pays=False) for name in network.drops}
    found = find(network, **blocks)
    assert (found.outcome, found.keep, found.mixed) == ("impossible", ("model.0", "model.1"), found.fp32)
    assert found.log[-1] == "INT8 pays in no block."


def test_int8_is_impossible_where_every_block_alone_is_too_much() -> None:
    network = Network(dict.fromkeys(small(), 0.1))
    found = find(network)
    assert (found.outcome, set(found.keep)) == ("impossible", set(network.drops))
    assert found.mixed == found.fp32


def test_the_block_of_least_damage_is_tried_alone_where_the_order_by_gain_misses_it() -> None:
    network = Network({**dict.fromkeys(small(), 0.1), "model.4": 0.001})
    tiny = Candidate("model.4", damage=0.001, gain=1e-9)  # most damage for what it brings, yet the only one to pass
    found = find(network, **{"model.4": tiny})
    assert found.outcome == "mixed"
    assert set(found.keep) == network.drops.keys() - {"model.4"}


@pytest.mark.parametrize("budget", range(MIN_BUDGET, 30))
def test_the_budget_is_never_exceeded_and_the_result_is_within_the_limit(budget: int) -> None:
    rng = np.random.default_rng(budget)
    drops = {f"b{index}": float(drop) for index, drop in enumerate(rng.exponential(0.003, 16))}
    pairs = {pair: float(rng.exponential(0.01)) for pair in itertools.combinations(drops, 2) if rng.random() < 0.05}
    network = Network(drops, pairs)
    noisy = {name: Candidate(name, drop * float(rng.lognormal()), float(rng.random())) for name, drop in drops.items()}
    found = find(network, budget=budget, **noisy)
    assert len(network.asked) == found.trials <= budget
    assert len(set(network.asked)) == len(network.asked)
    # measured again, by the network itself and not from what the search remembers
    assert FP32 - network.score(frozenset(found.keep)) <= 0.005
    assert found.mixed.value == network.score(frozenset(found.keep))


def test_no_set_is_scored_beyond_the_budget_and_known_ones_stay_known() -> None:
    network = Network(small(3))
    trials = Trials(network, 1)
    first = trials.score((), "all")
    assert trials.score((), "again") == first
    with pytest.raises(ValueError, match="All 1 evaluations are used"):
        trials.score({"model.0"}, "one more")
    assert len(network.asked) == 1


def test_a_search_that_its_budget_ends_says_so() -> None:
    bad = {f"model.{index}": 0.01 for index in range(8)}
    assert find(Network({**small(), **bad}), budget=5).stopped
    assert not find(Network({**small(), **bad}), budget=40).stopped


def test_every_evaluation_is_in_the_log_with_its_drop() -> None:
    found = find(Network({**small(4), "model.2": 0.2}))
    assert found.log[0] == "kept nothing: score 0.6997, drop 0.2003, beyond the limit"
    assert "kept model.2: score 0.8997, drop 0.0003, within the limit" in found.log
    assert len(found.log) == found.trials - 1


@pytest.mark.parametrize("stop", range(8))
def test_an_interrupted_search_goes_on_where_it_was_and_ends_equally(tmp_path: Path, stop: int) -> None:
    bad = {"model.1": 0.01, "model.4": 0.02, "model.9": 0.3}
    whole = find(Network({**small(), **bad}))

    class Stopped(Network):
        def __call__(self, keep: frozenset[str]) -> Score:
            if len(self.asked) == stop:
                raise KeyboardInterrupt
            return super().__call__(keep)

    path = tmp_path / "trials.json"
    first, second = Stopped({**small(), **bad}), Network({**small(), **bad})
    with pytest.raises(KeyboardInterrupt):
        search(first.candidates(), Trials(first, 24, TrialFile(path, "key")), 0.005)
    found = search(second.candidates(), Trials(second, 24, TrialFile(path, "key")), 0.005)
    assert found == whole
    assert not set(first.asked) & set(second.asked)
    assert len(first.asked) + len(second.asked) == whole.trials


def test_scores_survive_the_file_to_the_last_bit(tmp_path: Path) -> None:
    score = Score(0.1 + 0.2, (1 / 3, 2e-17))
    TrialFile(tmp_path / "trials.json", "key").add(frozenset({"a|b", "c"}), score)
    assert TrialFile(tmp_path / "trials.json", "key").scores == {frozenset({"a|b", "c"}): score}


def test_scores_of_another_model_are_not_used(tmp_path: Path) -> None:
    TrialFile(tmp_path / "trials.json", "one").add(frozenset(), Score(0.5))
    assert TrialFile(tmp_path / "trials.json", "two").scores == {}


@pytest.mark.parametrize("content", ["", "{", '{"version": 1}', json.dumps([1, 2])])
def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trials.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"trials\.json is no file of trials: .*remove it to start anew"):
        TrialFile(path, "key")
    assert path.read_text() == content


def test_a_file_in_no_folder_is_refused_before_the_first_evaluation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The folder .*/none of the file of trials does not exist"):
        TrialFile(tmp_path / "none" / "trials.json", "key")


def test_progress_says_how_many_evaluations_there_may_be() -> None:
    said: list[str] = []
    network = Network({**small(4), "model.2": 0.2})
    search(network.candidates(), Trials(network, 9, say=said.append), 0.005)
    assert said[0] == "evaluation 1 of at most 9: the network without INT8"
    assert said[1].startswith("evaluation 2 of at most 9, at most 0 s left: every block in INT8")


def test_the_error_of_a_drop_is_taken_draw_by_draw() -> None:
    rng = np.random.default_rng(1)
    draws = rng.normal(0.9, 0.05, 400)
    fp32, int8 = Score(0.9, tuple(draws)), Score(0.89, tuple(draws - 0.01 + rng.normal(0, 0.002, 400)))
    assert fp32.drop(int8) == pytest.approx(0.01)
    assert fp32.drop_error(int8) == pytest.approx(0.002, rel=0.15)  # not the 0.05 by which both move together
    assert fp32.drop_error(Score(0.89)) is None


@pytest.mark.parametrize(
    ("candidates", "budget", "message"),
    [
        ([], 9, "unique names"),
        ([Candidate("a", 1, 1), Candidate("a", 1, 1)], 9, "unique names"),
        ([Candidate("a", 1, 1)], MIN_BUDGET - 1, "needs 4 evaluations, got 3"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(candidates: list[Candidate], budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(candidates, Trials(Network({"a": 0.0}), budget), 0.005)
