"""Options that every command has."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec

import click

from trtdeploy.cli.config import apply_config
from trtdeploy.cli.console import Screen

Arguments = ParamSpec("Arguments")

FilePath = click.Path(path_type=Path)
"""A path; whether it exists is checked by the code that opens it, whose message says more."""


def with_screen(function: Callable[Concatenate[Screen, Arguments], None]) -> Callable[Arguments, None]:
    """Give a command `--json`, `--verbose` and `--config`, and its `Screen` as the first argument."""

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        as_json, verbose = bool(kwargs.pop("as_json")), bool(kwargs.pop("verbose"))
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s: %(message)s", force=True)
        logging.getLogger("trtdeploy").setLevel(logging.INFO if verbose else logging.WARNING)
        screen = Screen(as_json=as_json, verbose=verbose)
        click.get_current_context().find_root().obj = screen
        function(screen, *args, **kwargs)

    config = click.option(
        "--config",
        type=FilePath,
        is_eager=True,
        expose_value=False,
        callback=apply_config,
        help="TOML file with options; the command line goes first.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Write one JSON document to standard output.")
    verbose = click.option("-v", "--verbose", is_flag=True, help="Say more; show tracebacks of unexpected errors.")
    decorated: Callable[Arguments, None] = config(as_json(verbose(wrapper)))
    return decorated
