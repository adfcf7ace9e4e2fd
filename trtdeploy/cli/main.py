"""The `trtdeploy` command: a group that loads a command when it runs, and the one place that decides exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence

import click

from trtdeploy import __version__
from trtdeploy.cli.console import Screen
from trtdeploy.cli.interrupts import Interrupts, Terminated
from trtdeploy.core.errors import MissingDependencyError, SinkError, TrtdeployError, UsageError

INTERRUPTED = 130
BROKEN_PIPE = 141
UNEXPECTED = 1

COMMANDS = {
    "export": "Export a torch model to ONNX, checked against torch.",
    "build": "Build an engine from an ONNX model.",
    "optimize": "Find, canonicalise and fuse an ONNX model's attention.",
    "remove-attention": "Remove attention blocks from an ONNX model.",
    "advise": "Advise to keep, drop or replace each attention block.",
    "baseline": "Compare an ONNX model with itself without attention.",
    "infer": "Run an engine over videos, cameras and images.",
    "val": "Measure an engine's accuracy on labelled images.",
    "sensitivity": "Measure what INT8 does to each block of a network.",
    "compare": "Compare the boxes and tensors of two engines on images.",
    "inspect": "Say what is in an engine or an ONNX model.",
    "bench": "Measure an engine on this machine.",
    "doctor": "Say what is installed, what is missing and how to get it.",
    "demo": "Build the packaged model and run it over a drawn video.",
}
"""Commands and their first help line. A command `x-y` is the attribute `command` of the module `trtdeploy.cli.x_y`."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; its help imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"trtdeploy.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trtdeploy")
def cli() -> None:
    """Turn ONNX detectors into engines with preprocessing and NMS inside, and run them over any number of streams."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; after an interrupt, end the process with it."""
    args = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is not an error
    with Interrupts() as interrupts:
        code = _run(args or ["--help"])
    if interrupts.received:
        # The outputs are closed; what remains are threads inside libraries, which interpreter shutdown would wait for.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    return code


def _run(args: list[str]) -> int:
    """Run one command; every way to fail becomes a message and an exit code here."""
    screen = Screen(as_json="--json" in args, verbose="--verbose" in args or "-v" in args)
    try:
        # not `cli.main`, which turns Ctrl-C and a broken pipe into exit code 1
        with cli.make_context("trtdeploy", args) as ctx, _screen_of(ctx, screen):
            cli.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame
        if _is_broken_pipe(error):
            return _close_stdout()
        try:
            code = _report(screen, error)
            sys.stdout.flush()
        except (OSError, KeyboardInterrupt) as second:
            _close_stdout()
            return INTERRUPTED if isinstance(second, KeyboardInterrupt) else SinkError.exit_code
        return code
    return 0


@contextlib.contextmanager
def _screen_of(ctx: click.Context, screen: Screen) -> Iterator[None]:
    """Copy the state of the command's own screen to `screen` when the command fails."""
    try:
        yield
    except BaseException:
        if isinstance(ctx.obj, Screen):
            screen.__dict__.update(ctx.obj.__dict__)
        raise


def _report(screen: Screen, error: BaseException) -> int:
    """Print `error` and return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        code = error.exit_code if isinstance(error, Terminated) else INTERRUPTED
        screen.interrupted(type(error).__name__, code)
        return code
    if isinstance(error, click.UsageError):
        hint = f"\nSee '{error.ctx.command_path} --help'." if error.ctx is not None else ""
        screen.error(UsageError.__name__, error.format_message() + hint, UsageError.exit_code)
        return UsageError.exit_code
    if screen.verbose:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True)
    if isinstance(error, TrtdeployError):
        screen.error(type(error).__name__, str(error), error.exit_code)
        return error.exit_code
    if isinstance(error, ImportError) and not (error.name or "trtdeploy").startswith("trtdeploy"):
        message = f"A library that trtdeploy needs does not load: {error}. See what is missing with: trtdeploy doctor"
        screen.error(MissingDependencyError.__name__, message, MissingDependencyError.exit_code)
        return MissingDependencyError.exit_code
    if isinstance(error, MemoryError):
        screen.error("MemoryError", "Out of memory. Use a smaller batch, image size or number of streams.", UNEXPECTED)
        return UNEXPECTED
    if isinstance(error, OSError) and error.filename is None and error.errno is not None:
        screen.error(SinkError.__name__, f"Cannot write to standard output: {error.strerror}.", SinkError.exit_code)
        return SinkError.exit_code
    advice = (
        "Please report it, with what"
        if screen.verbose
        else "Run it again with --verbose, and please report it with what"
    )
    summary = (
        f"Unexpected {type(error).__name__}: {error}. This is a defect of trtdeploy. {advice} the command printed."
    )
    screen.error(type(error).__name__, summary, UNEXPECTED)
    return UNEXPECTED


def _is_broken_pipe(error: BaseException | None) -> bool:
    """Return whether the reader of our output went away, directly or as the cause of a sink's error."""
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        error = error.__cause__
    return False


def _close_stdout() -> int:
    """Send what is still buffered to nowhere, so that the interpreter's exit does not complain."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return BROKEN_PIPE
