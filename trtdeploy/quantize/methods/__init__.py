"""Ways to choose a tensor's range from its magnitudes. One file per method, listed here."""

from __future__ import annotations

from trtdeploy.core.errors import UsageError
from trtdeploy.quantize.methods.entropy import Entropy
from trtdeploy.quantize.methods.method import Method
from trtdeploy.quantize.methods.minmax import MinMax
from trtdeploy.quantize.methods.mse import MeanSquaredError
from trtdeploy.quantize.methods.percentile import Percentile

__all__ = ["METHODS", "Method", "parse_method"]

METHODS: dict[str, type[Method]] = {method.name: method for method in (Entropy, MinMax, MeanSquaredError, Percentile)}


def parse_method(text: str) -> Method:
    """Return the method that `text` names: `entropy`, `minmax`, `mse`, `percentile`, or `percentile:99.9`.

    Raises:
        UsageError: It names none, or its number is wrong.
    """
    name, _, argument = text.partition(":")
    if name not in METHODS:
        raise UsageError(f"Calibration method {text!r} is not known. Choose one of {', '.join(sorted(METHODS))}.")
    return METHODS[name].parse(argument)
