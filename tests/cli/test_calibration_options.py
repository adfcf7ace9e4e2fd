"""The options of calibration as the commands take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from trtdeploy.api.calibration import CalibrationOptions
from trtdeploy.cli.model_options import calibration, parse_calibration
from trtdeploy.core.errors import UsageError


def _parsed(*arguments: str) -> CalibrationOptions:
    found: list[CalibrationOptions] = []

    @click.command()
    @calibration
    def command(**values: Any) -> None:
        found.append(parse_calibration(values))

    result = CliRunner().invoke(command, arguments)
    if result.exception is not None:
        raise result.exception
    return found[0]


def test_defaults_are_the_librarys() -> None:
    assert _parsed() == CalibrationOptions()


def test_every_option_arrives() -> None:
    given = ("--calib", "photos", "--calib-method", "percentile:99.9", "--calib-images", "7", "--calib-cache", "c")
    assert _parsed(*given) == CalibrationOptions(
        images=Path("photos"), method="percentile:99.9", limit=7, cache=Path("c")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--calib-cache", "c"), "--calib-cache keeps what --calib measures. Give --calib too."),
        (("--calib", "p", "--calib-method", "max"), "Calibration method 'max' is not known"),
        (("--calib", "p", "--calib-images", "0"), "a limit of 0 allows none"),
    ],
)
def test_wrong_values_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        _parsed(*arguments)
    assert message in str(error.value)
