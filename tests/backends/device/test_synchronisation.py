"""Each synchronisation of the session is needed: a few are removed here, all of them by the script."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from simulated_device import remove_synchronisation as script

STEP = 12
"""One of so many is removed here: three, each in two runs of at most `LIMIT_S`."""


def test_every_mutation_is_valid_python_that_differs_from_the_file() -> None:
    mutations = script.mutations()
    assert len(mutations) >= 30
    for mutation in mutations:
        ast.parse(mutation.source)
        assert mutation.source != script.text_of(mutation.file)


def test_all_waits_in_the_package_are_removed_by_some_mutation() -> None:
    found = sum(
        len(re.findall(rf"\.({'|'.join(script.WAITS)})\(", script.text_of(path.name)))
        for path in script.PACKAGE.glob("*.py")
    )
    removed = [mutation for mutation in script.mutations() if not mutation.what.startswith("no longer")]
    assert len(removed) == found


@pytest.mark.timeout(800)
def test_removed_synchronisations_are_noticed() -> None:
    command = [sys.executable, script.__file__, "--every", str(STEP), "--from", "3"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=780)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\n[2-4] removed one at a time, 0 not noticed", result.stdout), result.stdout
