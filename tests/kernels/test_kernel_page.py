"""docs/kernels.md is made by `make kernel-table`; it must not fall behind the kernels."""

from __future__ import annotations

from pathlib import Path

from mutants import MUTANTS

from trtdeploy.attention.plugins import plugin_specs

PAGE = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")


def test_the_page_has_every_launch_and_every_seeded_bug() -> None:
    launches = [launch.name.removeprefix("trtdeploy_") for spec in plugin_specs().values() for launch in spec.launches]
    assert [name for name in launches if f"| {name} |" not in PAGE] == []
    assert [mutant.what for mutant in MUTANTS if f"| {mutant.what} | caught |" not in PAGE] == []
    assert "**missed**" not in PAGE


def test_the_page_claims_no_speed() -> None:
    assert "No kernel has run on a GPU, and no speed was measured." in PAGE
