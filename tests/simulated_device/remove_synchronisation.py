"""Removes one synchronisation after the other from the session on the device, and shows that a test fails each time.

    python tests/simulated_device/remove_synchronisation.py [--every N]

Waits, event records and stream orders are found in the syntax tree, so that a new one cannot be forgotten; what else
keeps runs apart (buffers, keys of graphs, lifetimes) is in the table below. Nothing is written: every mutation is
compiled in a process of its own, which runs the tests of the session; what fails or hangs must pass without the
mutation, so that neither a test that is broken nor a slow machine counts as noticing. Exit code 1: a mutation survived.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib.abc
import importlib.machinery
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "trtdeploy" / "backends" / "device"
TESTS = ROOT / "tests" / "backends" / "device"
WAITS = {"record", "synchronise", "synchronise_stream", "wait_event"}
"""Methods of `Cuda` that order work."""
FILES = ("test_device_arrays.py", "test_device_session.py", "test_device_failures.py")
"""In the order in which they are likely to notice."""
LIMIT_S = 120
"""Longest run of the tests, which take 10 s where nothing else runs."""
HANG = "the process hangs or crashes"

TABLE = [
    ("binding.py", ".reshape(output.shape).copy()", ".reshape(output.shape)", "outputs are copied out of the buffer"),
    (
        "context.py",
        "self._bindings[shape] = binding",
        "self._bindings[shape[1:]] = binding",
        "every batch has a binding",
    ),
    ("context.py", "self._bindings.get(shape)", "next(iter(self._bindings.values()), None)", "every shape has a graph"),
    ("context.py", "self._idle.pop(0)", "pass", "every binding has an execution context"),
    ("context.py", "self._held = batch", "pass", "a lent batch is kept until it was copied"),
    (
        "context.py",
        "self._scratch = cuda.allocate(self._scratch_size)",
        "self._scratch = cuda.__dict__.setdefault('scratch', 0) or cuda.__dict__.update(scratch=cuda.allocate("
        "self._scratch_size)) or cuda.scratch",
        "every context has scratch memory of its own",
    ),
    (
        "context.py",
        "self.stream = cuda.create_stream()",
        "self.stream = cuda.__dict__.setdefault('stream', 0) or cuda.__dict__.update(stream=cuda.create_stream()) or "
        "cuda.stream",
        "every context has a stream of its own",
    ),
    ("binding.py", "self._runs == 1", "self._runs == 0", "a shape runs once before it is captured"),
    ("interop.py", "self.pointer = cuda.allocate(size)", "self.pointer = _shared(cuda, size)", "every run has outputs"),
    ("interop.py", '"stream": self._block.stream', '"stream": None', "the array says which stream to wait for"),
    ("interop.py", "images.__dlpack__(stream=stream)", "images.__dlpack__(stream=-1)", "DLPack gets our stream"),
    ("interop.py", 'interface.get("stream") if', "None if", "the producer's stream is known by the array"),
    ("interop.py", "else LEGACY_STREAM\n", "else None\n", "an old array is ordered after the default stream"),
    (
        "session.py",
        "with self.libraries.cuda.current(), listening():\n            yield",
        "with listening():\n            yield",
        "the device is current in the thread",
    ),
    ("session.py", "self._failure = self._failure or error", "pass", "nothing runs after a failure"),
]
"""File, text, its replacement, and what that gives up."""
HELPERS = {
    "interop.py": "\ndef _shared(cuda, size):\n"
    "    return cuda.__dict__.setdefault('outputs', 0) or cuda.__dict__.update(outputs=cuda.allocate(size))"
    " or cuda.outputs\n"
}


@dataclass(frozen=True)
class Mutation:
    """A file of the package without one thing.

    Attributes:
        file: Its name.
        line: Where the thing was.
        what: What was removed.
        source: The file's text without it.
    """

    file: str
    line: int
    what: str
    source: str


def mutations() -> list[Mutation]:
    """Return every file of the package without one of its synchronisations."""
    found = []
    for file in sorted(path.name for path in PACKAGE.glob("*.py")):
        text = text_of(file)
        for call in _waits(ast.parse(text)):
            what = ast.get_source_segment(text, call) or ""
            lines = text.splitlines(keepends=True)
            start = sum(map(len, lines[: call.lineno - 1])) + call.col_offset
            assert text.startswith(what, start), "only ASCII may precede a call in its line"
            source = text[:start] + "None" + text[start + len(what) :]
            found.append(Mutation(file, call.lineno, " ".join(what.split()), source))
    return found + [_from_table(*row) for row in TABLE]


@functools.cache
def text_of(file: str) -> str:
    """Return the text of a file of the package, read once: all mutations are of the same state."""
    return (PACKAGE / file).read_text()


def _waits(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield the calls that order work."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WAITS:
            yield node


def _from_table(file: str, old: str, new: str, what: str) -> Mutation:
    text = text_of(file)
    if old not in text:
        raise SystemExit(f"{file} has no {old!r} any more: bring the table up to date")
    line = text[: text.index(old)].count("\n") + 1
    return Mutation(file, line, f"no longer: {what}", text.replace(old, new) + HELPERS.get(file, ""))


def first_failure(mutation: Mutation | None, tests: Sequence[str] = FILES) -> str | None:
    """Run tests with a mutation in a process of its own and return the first that fails, None where all pass."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_child(mutation, tests, writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        report = pipe.read()
    _, status = os.waitpid(child, 0)
    if report:
        return report
    return None if os.waitstatus_to_exitcode(status) == 0 else HANG


def _run_child(mutation: Mutation | None, tests: Sequence[str], writer: int) -> None:
    import faulthandler
    import signal

    import pytest

    class Report:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                os.write(writer, report.nodeid.rpartition("/")[2].encode())

    signal.alarm(LIMIT_S)
    faulthandler.disable()
    if mutation is not None:
        sys.meta_path.insert(0, Finder(mutation))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout", "-o", "addopts="]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main([*options, *(str(TESTS / test) for test in tests)], plugins=[Report()])
    os._exit(int(code))


class Finder(importlib.abc.MetaPathFinder):
    """Gives the import of one module another text."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation
        self._name = f"trtdeploy.backends.device.{mutation.file.removesuffix('.py')}"

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        file = str(PACKAGE / self._mutation.file)
        spec = importlib.machinery.ModuleSpec(fullname, Loader(fullname, file, self._mutation.source), origin=file)
        spec.has_location = True
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles a text instead of the file."""

    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self._source, self.path, "exec")
        return code


def preload() -> None:
    """Import what every child needs, but nothing of the package under test."""
    # the folder of this script has a module `tensorrt` that nobody else must find
    sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "backends")]
    import tiny_detector

    assert tiny_detector
    with contextlib.suppress(ImportError):
        import torch

        assert torch
    assert not [name for name in sys.modules if name.startswith("trtdeploy.backends.device")]


def main() -> int:
    """Print a table of mutations and the tests that notice them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try only every N-th mutation")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K", help="begin with the K-th")
    options = parser.parse_args()
    preload()
    survivors = 0
    chosen = mutations()[options.first :: options.every]
    for mutation in chosen:
        begun = time.monotonic()
        failure = first_failure(mutation)
        if failure is not None and first_failure(None, FILES if failure == HANG else [failure]) is not None:
            raise SystemExit(f"without any mutation, too: {failure}")
        survivors += failure is None
        took_s = time.monotonic() - begun
        print(
            f"{mutation.file}:{mutation.line:<4} {mutation.what[:70]:70} {took_s:4.1f} s  {failure or 'SURVIVES'}",
            flush=True,
        )
    print(f"{len(chosen)} removed one at a time, {survivors} not noticed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
