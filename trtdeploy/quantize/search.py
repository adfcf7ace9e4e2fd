"""Finds the blocks of a network that must stay out of INT8 for its accuracy to stay within a limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from trtdeploy.quantize.trials import Score, Trials

MIN_BUDGET = 4
"""The network itself, all of it in INT8, and two tries to mix them."""
Outcome = Literal["int8", "mixed", "impossible"]


@dataclass(frozen=True)
class Candidate:
    """A block that can be INT8.

    Attributes:
        name: Its name.
        damage: What INT8 in this block alone does to the outputs, on any scale that adds up over blocks.
        gain: What INT8 brings there: its share of the network's multiply-adds.
        pays: Whether INT8 is worth anything there. A block where it is not is kept from the start.
    """

    name: str
    damage: float
    gain: float
    pays: bool = True


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        outcome: `int8`: all blocks where INT8 pays are INT8; `mixed`: some more are kept; `impossible`: no tried set of
            INT8 blocks is within the limit.
        keep: Names of the blocks that stay out of INT8, in the order of the candidates.
        fp32, int8, mixed: Scores of the network as it is, with every block in INT8, and as found; the last is that of
            the network itself where it is impossible.
        trials: Sets that were scored.
        log: What was tried and what came of it, in a sentence each.
        stopped: The budget ended the search: fewer blocks may do.
    """

    outcome: Outcome
    keep: tuple[str, ...]
    fp32: Score
    int8: Score
    mixed: Score
    trials: int
    log: tuple[str, ...]
    stopped: bool


def search(candidates: Sequence[Candidate], trials: Trials, limit: float) -> Found:
    """Return few blocks to keep, so that the score drops by `limit` at most.

    Blocks are kept in the order of damage by gain, the worst first: a bisection finds how many. Then each of them is
    given back to INT8 where the rest suffices, the least damage for its gain first. What is returned was scored itself.

    Args:
        candidates: Every block that can be INT8, with unique names.
        trials: Scores a set of kept blocks; at least `MIN_BUDGET` of them.
        limit: Largest drop of the score.

    Raises:
        ValueError: There is no candidate, a name is there twice, or fewer trials are left than `MIN_BUDGET`.
    """
    if len({candidate.name for candidate in candidates}) != len(candidates) or not candidates:
        raise ValueError("A search needs candidates with unique names.")
    if trials.left < MIN_BUDGET:
        raise ValueError(f"A search needs {MIN_BUDGET} evaluations, got {trials.left}.")
    return _Search(candidates, trials, limit).run()


class _Search:
    def __init__(self, candidates: Sequence[Candidate], trials: Trials, limit: float) -> None:
        self._candidates = candidates
        self._trials = trials
        self._limit = limit
        self._all = frozenset(candidate.name for candidate in candidates)
        self._unpaid = frozenset(candidate.name for candidate in candidates if not candidate.pays)
        self._log: list[str] = []
        self._stopped = False
        self._base = trials.score(self._all, "the network without INT8")

    def run(self) -> Found:
        int8 = self._trials.score((), "every block in INT8")
        self._note((), int8)
        if self._unpaid == self._all:
            self._log.append("INT8 pays in no block.")
            return self._found("impossible", self._all, int8)
        if self._passes(self._unpaid):
            return self._found("int8", self._unpaid, int8)
        worst_first = sorted(
            (candidate for candidate in self._candidates if candidate.pays),
            key=lambda candidate: (-candidate.damage / max(candidate.gain, 1e-12), candidate.name),
        )
        keep = self._bisected([candidate.name for candidate in worst_first])
        if keep == self._all:
            keep = self._least_damage_alone(worst_first)
        if keep == self._all:
            return self._found("impossible", keep, int8)
        return self._found("mixed", self._given_back(keep, worst_first), int8)

    def _bisected(self, order: Sequence[str]) -> frozenset[str]:
        """Return a short start of `order` that passes when kept; all blocks where none was found to."""
        fails, passes = 0, len(order)
        while passes - fails > 1:
            middle = (fails + passes) // 2
            if self._passes(self._unpaid.union(order[:middle])):
                passes = middle
            else:
                fails = middle
        return self._unpaid.union(order[:passes])

    def _least_damage_alone(self, blocks: Sequence[Candidate]) -> frozenset[str]:
        """Return all but the block that INT8 harms least where that passes, else all."""
        best = min(blocks, key=lambda candidate: (candidate.damage, candidate.name)).name
        return self._all - {best} if self._passes(self._all - {best}) else self._all

    def _given_back(self, keep: frozenset[str], worst_first: Sequence[Candidate]) -> frozenset[str]:
        """Return `keep` without the blocks that are not needed, tried from the least damage for its gain on."""
        for name in (candidate.name for candidate in reversed(worst_first)):
            if name in keep and self._passes(keep - {name}):
                keep -= {name}
        return keep

    def _passes(self, keep: Collection[str]) -> bool:
        """Return whether a set is within the limit; a set that is not scored any more counts as not."""
        known = frozenset(keep) in self._trials.scores
        if not known and not self._trials.left:
            self._stopped = True
            return False
        score = self._trials.score(keep, f"{len(keep)} of {len(self._all)} blocks kept out of INT8")
        if not known:
            self._note(keep, score)
        return self._base.drop(score) <= self._limit

    def _note(self, keep: Collection[str], score: Score) -> None:
        names = ", ".join(c.name for c in self._candidates if c.name in keep) or "nothing"
        drop = self._base.drop(score)
        verdict = "within" if drop <= self._limit else "beyond"
        self._log.append(f"kept {names}: score {score.value:.4f}, drop {drop:.4f}, {verdict} the limit")

    def _found(self, outcome: Outcome, keep: frozenset[str], int8: Score) -> Found:
        return Found(
            outcome=outcome,
            keep=tuple(c.name for c in self._candidates if c.name in keep),
            fp32=self._base,
            int8=int8,
            mixed=self._trials.scores[keep],
            trials=len(self._trials.scores),
            log=tuple(self._log),
            stopped=self._stopped,
        )
