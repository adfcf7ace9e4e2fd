"""Scores of a network with some of its blocks kept out of INT8: each set once, within a budget, kept in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trtdeploy.core.errors import UsageError
from trtdeploy.core.files import atomic_write

Say = Callable[[str], None]
_VERSION = 1


@dataclass(frozen=True)
class Score:
    """How good a network is on given images; more is better.

    Attributes:
        value: On all images.
        resampled: On as many images drawn from them with replacement, once per draw; every score has the same draws, so
            that differences can be taken draw by draw. May be empty.
    """

    value: float
    resampled: tuple[float, ...] = ()

    def drop(self, other: Score) -> float:
        """Return how much worse `other` is."""
        return self.value - other.value

    def drop_error(self, other: Score) -> float | None:
        """Return the standard error of `drop`: by how much other images of the same kind would move it.

        None where it is not known.
        """
        if len(self.resampled) < 2 or len(other.resampled) != len(self.resampled):
            return None
        return float(np.std(np.subtract(self.resampled, other.resampled), ddof=1))


Evaluate = Callable[[frozenset[str]], Score]
"""Scores the network with the named blocks kept out of INT8. Expensive."""


class Trials:
    """Asks for scores, each set of blocks once, and not more often than allowed.

    A score from the file counts like one that is computed, so that a search that was interrupted and goes on takes the
    same way as one that was not.

    Args:
        evaluate: Scores a set of kept blocks.
        budget: How many sets may be scored.
        file: Where scores are remembered; None for nowhere.
        say: Called before each evaluation with how far it has come.

    Attributes:
        scores: Every score that was asked for, in order.
        computed: How many of them were not in the file.
    """

    def __init__(self, evaluate: Evaluate, budget: int, file: TrialFile | None = None, say: Say | None = None) -> None:
        self.scores: dict[frozenset[str], Score] = {}
        self.computed = 0
        self._evaluate = evaluate
        self._budget = budget
        self._file = file
        self._say = say or (lambda _text: None)
        self._seconds = 0.0

    @property
    def left(self) -> int:
        """How many sets may still be scored."""
        return self._budget - len(self.scores)

    def score(self, keep: Collection[str], what: str) -> Score:
        """Return the score with the blocks `keep` kept.

        Args:
            keep: Names of blocks.
            what: What is tried, for the progress.

        Raises:
            ValueError: The budget is spent.
        """
        key = frozenset(keep)
        if key in self.scores:
            return self.scores[key]
        if not self.left:
            raise ValueError(f"All {self._budget} evaluations are used.")
        score = self._file.scores.get(key) if self._file is not None else None
        if score is None:
            self._say(f"evaluation {len(self.scores) + 1} of at most {self._budget}{self._time_left()}: {what}")
            start = time.monotonic()
            score = self._evaluate(key)
            self._seconds += time.monotonic() - start
            self.computed += 1
            if self._file is not None:
                self._file.add(key, score)
        self.scores[key] = score
        return score

    def _time_left(self) -> str:
        if not self.computed:
            return ""
        seconds = self._seconds / self.computed * self.left
        return f", at most {seconds / 60:.0f} min left" if seconds >= 90 else f", at most {seconds:.0f} s left"


class _Entry(msgspec.Struct):
    keep: list[str]
    value: float
    resampled: list[float]


class _Document(msgspec.Struct):
    version: int
    key: str
    scores: list[_Entry]


class TrialFile:
    """Scores in a JSON file that is whole at every moment.

    Args:
        path: The file; it need not exist.
        key: What the scores are of: a hash of model, data and options. A file of another key is started anew.

    Raises:
        UsageError: The file exists and holds something else, or its folder does not exist.

    Attributes:
        scores: The scores that are in the file.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self.scores: dict[frozenset[str], Score] = {}
        document = self._read()
        if document is not None and (document.version, document.key) == (_VERSION, key):
            for entry in document.scores:
                self.scores[frozenset(entry.keep)] = Score(entry.value, tuple(entry.resampled))

    def add(self, keep: frozenset[str], score: Score) -> None:
        """Remember a score.

        Raises:
            SinkError: The file cannot be written.
        """
        self.scores[keep] = score
        entries: list[dict[str, Any]] = [
            {"keep": sorted(names), "value": known.value, "resampled": list(known.resampled)}
            for names, known in self.scores.items()
        ]
        text = json.dumps({"version": _VERSION, "key": self._key, "scores": entries})
        with atomic_write(self._path) as temporary:
            temporary.write_text(text)

    def _read(self) -> _Document | None:
        if not self._path.absolute().parent.is_dir():
            raise UsageError(f"The folder {self._path.parent} of the file of trials does not exist. Create it first.")
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"The file of trials {self._path} cannot be read: {error.strerror}.") from error
        try:
            return msgspec.json.decode(content, type=_Document)
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{self._path} is no file of trials: {error}. Give another name, or remove it to start anew."
            ) from error
