"""Matches a rule's pattern against a graph's terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtdeploy.attention.pattern import Pattern
from trtdeploy.graph.view.term import Term
from trtdeploy.graph.view.terms import Terms

Bindings = dict[Pattern, Term]
_COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum"})
_MAX_STEPS = 20_000
"""Term comparisons of one match; alternatives in a pattern multiply."""


@dataclass(frozen=True)
class Match:
    """A pattern found in a graph.

    Attributes:
        roots: The terms of the block's outputs.
        bindings: The terms of all patterns.
        terms: The graph's terms.
    """

    roots: tuple[Term, ...]
    bindings: Mapping[Pattern, Term]
    terms: Terms

    @property
    def inputs(self) -> list[tuple[str, Term]]:
        """Return the block's inputs by name, in the order of the names' first use."""
        return [(p.name or "", term) for p, term in self.bindings.items() if p.op == "any"]

    def attr(self, name: str, key: str) -> Any:
        term = self._named(name)
        return None if term is None else term.attrs.get(key)

    def sizes(self, name: str) -> list[tuple[int, ...] | None] | None:
        term = self._named(name)
        return None if term is None else self.terms.facts.dims(term.value)

    def _named(self, name: str) -> Term | None:
        return next((term for p, term in self.bindings.items() if p.name == name), None)


def match_at(
    patterns: Sequence[Pattern], term: Term, terms: Terms, refusal: Callable[[Match], str] | None
) -> Match | None:
    """Return how `patterns` fit, the first of them at `term`: the first way to which `refusal` does not object."""
    search = _Search()
    for bindings in search.fit(patterns[0], term, {}):
        for roots, bound in search.others(patterns[1:], terms, bindings, (term,)):
            match = Match(roots, bound, terms)
            if refusal is None or not refusal(match):
                return match
    return None


class _Search:
    """One search with a bounded number of steps; its depth is the pattern's, not the graph's."""

    def __init__(self) -> None:
        self._steps = 0

    def others(
        self, patterns: Sequence[Pattern], terms: Terms, bound: Bindings, roots: tuple[Term, ...]
    ) -> Iterator[tuple[tuple[Term, ...], Bindings]]:
        """Yield `roots` and terms anywhere in the graph that the remaining outputs' patterns fit, all different."""
        if not patterns:
            yield roots, bound
            return
        for term in terms.all:
            if term not in roots:
                for found in self.fit(patterns[0], term, bound):
                    yield from self.others(patterns[1:], terms, found, (*roots, term))

    def fit(self, pattern: Pattern, term: Term, bound: Bindings) -> Iterator[Bindings]:
        """Yield every way in which `pattern` fits `term`, given what is bound."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            return
        if pattern in bound:
            if bound[pattern] is term:
                yield bound
            return
        if pattern.op == "any":
            if term.op not in {"const", "size"}:
                yield {**bound, pattern: term}
            return
        if pattern.op == "either":
            for choice in pattern.args:
                for found in self.fit(choice, term, bound):
                    yield {**found, pattern: term}
            return
        if pattern.op != term.op or len(pattern.args) > len(term.args) or not _has(term, pattern.attrs):
            return
        if len(pattern.args) < len(term.args) and pattern.op != "sdpa":
            return
        for found in self._operands(pattern.args, term.args, bound):
            yield {**found, pattern: term}
        if pattern.op in _COMMUTATIVE and len(pattern.args) == 2:
            for found in self._operands(pattern.args, term.args[::-1], bound):
                yield {**found, pattern: term}

    def _operands(self, patterns: tuple[Pattern, ...], terms: tuple[Term, ...], bound: Bindings) -> Iterator[Bindings]:
        if not patterns:
            yield bound
            return
        for found in self.fit(patterns[0], terms[0], bound):
            yield from self._operands(patterns[1:], terms[1:], found)


def _has(term: Term, wanted: Mapping[str, Any]) -> bool:
    for key, value in wanted.items():
        actual = term.attrs.get(key)
        if actual not in value if isinstance(value, set | frozenset) else actual != value:
            return False
    return True
