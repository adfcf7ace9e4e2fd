"""The C++ plugins compute expressions as trtdeploy.kernels.expression does, and refuse what 64 bits cannot hold."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugin_cases import tiny_definition, tiny_operation
from plugin_probes import Probe

from trtdeploy.kernels.expression import BINARY, Expr, Numbers, attr, bits, const, dim, evaluate

SHAPES = ((3, 70000), (1, 2**31 + 5, 8))
VALUES = {"heads": [4, -9], "epsilon": [-1e-4]}
INPUTS = [{"name": "x", "rank": 2, "image": False}, {"name": "z", "rank": 3, "image": False}]


class SixtyFourBits(Numbers):
    """Arithmetic that fails where C++'s would overflow."""

    def binary(self, op: str, a: int, b: int) -> int:
        result = super().binary(op, a, b)
        if not -(2**63) <= result < 2**63:
            raise OverflowError
        return result


numbers = st.one_of(st.integers(-9, 300), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**31, -(2**63), 2**62]))
leaves = st.one_of(
    numbers.map(const),
    st.sampled_from([dim(0, 0), dim(0, 1), dim(1, 0), dim(1, 1), dim(1, 2), attr("heads", 0), attr("heads", 1)]),
    st.just(bits("epsilon")),
)
trees = st.recursive(
    leaves,
    lambda below: st.tuples(st.sampled_from(BINARY), st.tuples(below, below)).map(lambda t: Expr(*t)),
    max_leaves=12,
)


def in_python(tree: Expr) -> str:
    """Return the value as the probe says it."""
    try:
        return str(evaluate(tree, SixtyFourBits(SHAPES), VALUES))
    except OverflowError:
        return "error An expression overflows 64 bits."
    except ZeroDivisionError:
        return "error division by zero"


def in_cpp(probe: Probe, json_tree: Any) -> str:
    """Return what the probe makes of an expression as the size of an output."""
    operation = tiny_operation(inputs=INPUTS, outputs=[{"name": "y", "dims": [json_tree], "image": False}])
    assert probe.ask("define", tiny_definition(operation)) == "ok"
    epsilon = struct.unpack("<i", struct.pack("<f", VALUES["epsilon"][0]))[0]
    return probe.ask("outputs", "3x70000,1x2147483653x8", f"4,-9;{epsilon}")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_any_expression_has_the_value_that_python_computes(probe: Probe, tree: Expr) -> None:
    expected, found = in_python(tree), in_cpp(probe, tree.to_json())
    if expected.startswith("error"):  # which of several errors comes first depends on the order of evaluation
        assert found.startswith("error An expression"), tree.to_json()
    else:
        assert found == expected, tree.to_json()


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(
    ("a", "b"), [(7, 2), (-7, 2), (7, -2), (-7, -2), (8, 2), (0, 3), (2**63 - 1, 2), (-(2**63), -1)]
)
def test_every_operation_rounds_and_overflows_as_in_python(probe: Probe, op: str, a: int, b: int) -> None:
    expected = in_python(Expr(op, (const(a), const(b))))
    found = in_cpp(probe, [op, a, b])
    assert found == expected


def test_division_by_zero_is_an_error(probe: Probe) -> None:
    assert in_cpp(probe, ["//", 5, 0]) == "error An expression divides 5 by zero."
    assert in_cpp(probe, ["cdiv", 5, ["-", ["dim", 0, 0], 3]]) == "error An expression divides 5 by zero."


def test_deep_expressions_need_no_recursion(probe: Probe) -> None:
    left: Any = 0
    right: Any = 0
    for _ in range(2000):
        left, right = ["+", left, 1], ["+", 1, right]
    assert in_cpp(probe, left) == "2000"
    assert in_cpp(probe, right) == "2000"


def test_longer_programs_than_the_limit_are_refused(probe: Probe) -> None:
    tree: Any = 0
    for _ in range(2100):
        tree = ["+", tree, 1]
    operation = tiny_operation(outputs=[{"name": "y", "dims": [tree], "image": False}])
    assert "Length of an expression: 4201, expected at most 4096" in probe.ask("define", tiny_definition(operation))
