"""Options from a TOML file: below the command line, above the defaults."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from trtdeploy.core.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_CONFIG_BYTES = 1 << 20
_NOT_IN_CONFIG = {"config", "help"}


def apply_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Make the options in the file at `path` the defaults of the command; what the command line says goes first.

    The file has one table for each command, `[build]`, `[infer]`, `[export.yolo]`, and in it the long names of the
    options. Values are checked by the same code as the command line's.

    Raises:
        UsageError: The file cannot be read, is not TOML, or names a command or an option that does not exist.
    """
    if path is None:
        return
    group = ctx.find_root()
    names = ctx.command_path.split()[1:] or [ctx.command.name or ""]
    commands = group.command.list_commands(group) if isinstance(group.command, click.Group) else []
    table = read_table(path, names[0], commands)
    for name in names[1:]:
        table = table.get(name, {})
        if not isinstance(table, dict):
            raise UsageError(f"{path}: '{name}' in [{names[0]}] is {table!r}. Expected a table [{'.'.join(names)}].")
    options = {_key(param): param for param in ctx.command.params if param.name not in _NOT_IN_CONFIG}
    defaults: dict[str, Any] = {}
    for name, value in table.items():
        param = options.get(name.replace("_", "-"))
        if param is None or param.name is None:
            known = ", ".join(sorted(options))
            raise UsageError(f"{path}: [{'.'.join(names)}] has no option '{name}'. Options: {known}.")
        defaults[param.name] = _checked(path, name, param, value)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def read_table(path: Path, command: str, commands: Sequence[str]) -> dict[str, Any]:
    """Return the table of `command` in the TOML file at `path`, empty when it has none.

    Raises:
        UsageError: The file cannot be read, is too large, is not TOML, or holds something else than tables of commands.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise UsageError(f"{path}: a configuration of more than {MAX_CONFIG_BYTES} bytes is not read.")
        document = tomllib.loads(text.decode())
    except OSError as error:
        raise UsageError(f"Cannot read the configuration {path}: {error.strerror}. Check --config.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"{path}: not a TOML file: {error}. See docs/cli.md for an example.") from error
    for name, value in document.items():
        if name not in commands or not isinstance(value, dict):
            tables = ", ".join(f"[{known}]" for known in commands)
            raise UsageError(f"{path}: '{name}' is not a table of a command. Expected {tables}.")
    return dict(document.get(command, {}))


def _key(param: click.Parameter) -> str:
    """Return the name of an option in the file: its first long name without the dashes, or an argument's name."""
    longs = [name for name in param.opts if name.startswith("--")]
    return longs[0][2:] if longs else (param.name or "").replace("_", "-")


def _checked(path: Path, name: str, param: click.Parameter, value: Any) -> Any:
    """Return `value` as click expects it of a default, or refuse its kind."""
    if isinstance(param, click.Option) and param.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: '{name}' is {value!r}. Expected true or false.")
        return value
    many = param.multiple or param.nargs != 1
    values = value if isinstance(value, list) else [value]
    if (isinstance(value, list) and not many) or not all(isinstance(item, str | int | float) for item in values):
        raise UsageError(f"{path}: '{name}' is {value!r}. Expected {'a list of values' if many else 'one value'}.")
    texts = [str(item) for item in values]
    return texts if many else texts[0]
