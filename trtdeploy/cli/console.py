"""What the commands print: rich on a terminal, plain text elsewhere, one JSON document with `--json`."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PROGRESS_S = 5.0
"""Seconds between two progress lines where the output is not a terminal."""
FIRST_PROGRESS_S = 2.0


_COUNTED = re.compile(r"(?P<what>.+) (?P<done>\d+)/(?P<total>\d+)")
"""Name of a step that tells how far it has come."""


class Screen:
    """Print what one command has to say.

    Standard output carries the result: text for people, or with `--json` exactly one JSON document. Progress,
    warnings and, with `--json`, all text go to standard error.

    Args:
        as_json: `--json` was given.
        verbose: `--verbose` was given.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.partial: dict[str, Any] = {}
        """What an error document carries beside the error: the results up to there."""
        self._stdout_is_data = as_json
        self._document_written = False

    def reserve_stdout(self) -> None:
        """Send all text to standard error, because data goes to standard output."""
        self._stdout_is_data = True

    def say(self, text: str = "") -> None:
        """Print a line of the result."""
        click.echo(printable(text), err=self._stdout_is_data)

    def note(self, text: str) -> None:
        """Print a line about progress to standard error."""
        click.echo(printable(text), err=True)

    def fields(self, rows: Sequence[tuple[str, object]]) -> None:
        """Print names and values, aligned. Values of several lines are indented."""
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            first, *rest = str(value).split("\n")
            self.say(f"{name:<{width}}  {first}".rstrip())
            for line in rest:
                self.say(f"{'':<{width}}  {line}".rstrip())

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; columns of numbers are aligned to the right."""
        cells = [[printable(str(value)) for value in row] for row in rows]
        if self._text_is_terminal():
            self._console(err=self._stdout_is_data).print(rich_table(headers, cells))
            return
        for line in plain_table(headers, cells):
            self.say(line)

    def document(self, data: dict[str, Any]) -> None:
        """Write the JSON document, if `--json` was given."""
        if self.as_json and not self._document_written:
            import json

            self._document_written = True
            click.echo(json.dumps(data, indent=2, ensure_ascii=False))

    def interrupted(self, kind: str, exit_code: int) -> None:
        """Report that the user or the system ended the command."""
        if self.as_json:
            error = {"type": kind, "message": "Interrupted.", "exit_code": exit_code}
            self.document({**self.partial, "error": error})
        self.note("Interrupted.")

    def error(self, kind: str, message: str, exit_code: int) -> None:
        """Report the error that ends the command: text on standard error, or the JSON document on standard output."""
        if self.as_json:
            self.document({**self.partial, "error": {"type": kind, "message": message, "exit_code": exit_code}})
        click.echo(click.style("Error: ", fg="red", bold=True) + printable(message), err=True)

    @contextlib.contextmanager
    def steps(self) -> Iterator[Callable[[str], None]]:
        """Give a function to call with the name of each step of long work as it starts.

        Names that end in a count, such as `calibrate 12/128`, are one step: a bar on a terminal, a line every few
        seconds elsewhere.
        """
        if not sys.stderr.isatty():
            yield _StepLines(self.note)
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        bar = BarColumn(bar_width=24)
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=self._console(err=True), transient=True) as progress:
            task = progress.add_task("starting")

            def show(name: str) -> None:
                counted = _COUNTED.fullmatch(name)
                progress.columns = (*columns, bar) if counted else columns
                if counted:
                    progress.update(task, completed=int(counted["done"]), total=int(counted["total"]))
                progress.update(task, description=printable(name))

            yield show

    @contextlib.contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """Show how far long work of `total` parts has come; give a function to call after each part."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1

        if not sys.stderr.isatty():
            with self.live(rich=lambda: "", plain=lambda: f"  {name}: {done} of {total}"):
                yield advance
            return
        from rich.progress import Progress

        with Progress(console=self._console(err=True), transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda: progress.advance(task)

    @contextlib.contextmanager
    def live(self, rich: Callable[[], RenderableType], plain: Callable[[], str]) -> Iterator[None]:
        """Show the state of long work on standard error: a live view on a terminal, a line every few seconds elsewhere.

        Args:
            rich: Returns the view as it is now; called from another thread.
            plain: Returns the line as it is now; called from another thread.
        """
        if sys.stderr.isatty():
            from rich.live import Live

            with Live(get_renderable=rich, console=self._console(err=True), refresh_per_second=4, transient=True):
                yield
            return
        ended = threading.Event()
        printer = threading.Thread(target=self._print_lines, args=(plain, ended), name="progress", daemon=True)
        printer.start()
        try:
            yield
        finally:
            ended.set()
            printer.join(timeout=1.0)

    def _print_lines(self, plain: Callable[[], str], ended: threading.Event) -> None:
        period_s = FIRST_PROGRESS_S
        with contextlib.suppress(OSError):  # nobody reads the progress any more; the work goes on
            while not ended.wait(period_s):
                self.note(plain())
                period_s = PROGRESS_S

    def _text_is_terminal(self) -> bool:
        return (sys.stderr if self._stdout_is_data else sys.stdout).isatty()

    def _console(self, *, err: bool) -> Console:
        from rich.console import Console

        return Console(stderr=err, highlight=False)


class _StepLines:
    """Prints a line per step, and of a step that counts one every few seconds and the last.

    Args:
        note: Prints a line.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._counting = ""
        self._printed_s = 0.0

    def __call__(self, name: str) -> None:
        counted = _COUNTED.fullmatch(name)
        what = counted["what"] if counted else ""
        now_s = time.monotonic()
        if counted is None or what != self._counting or counted["done"] == counted["total"]:
            due = True
        else:
            due = now_s - self._printed_s >= PROGRESS_S
        self._counting = what
        if due:
            self._printed_s = now_s
            self._note(f"  {name} ...")


def rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """Return a table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if _is_numeric(rows, index) else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in aligned columns, without any escape sequence."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [_is_numeric(rows, index) for index in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [line(headers), *(line(row) for row in rows)]


def printable(text: str) -> str:
    """Replace control characters, which a hostile file's names could carry into the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def megabytes(size_bytes: int) -> str:
    """Return a file size in a unit that suits it."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


def _is_numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    cells = [row[column] for row in rows]
    return bool(cells) and all(cell[:1].isdigit() or cell == "-" for cell in cells)
