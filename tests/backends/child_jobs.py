"""Functions that the child process tests run; each takes the report callback first."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

from trtdeploy.backends.base import Progress
from trtdeploy.core.errors import ModelError


def add(report: Progress, a: int, b: int) -> int:
    print("noise on standard output")
    os.write(1, b"noise of a native library\n")
    report("adding")
    report("added")
    return a + b


def raise_ours(_report: Progress) -> None:
    raise ModelError("The model is odd. Export it again.")


def raise_theirs(_report: Progress) -> None:
    raise KeyError("layer7")


def run_out_of_memory(_report: Progress) -> None:
    raise MemoryError


def abort(_report: Progress) -> None:
    os.write(2, b"first line\nlast words of the library\n")
    os.abort()


def read_null(_report: Progress) -> None:
    ctypes.string_at(0)


def be_killed(_report: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_report: Progress) -> None:
    os._exit(3)


def sleep_reporting(report: Progress) -> None:
    while True:
        report("still at it")
        time.sleep(0.01)


def sleep_writing_pid(_report: Progress, path: str) -> None:
    with open(path + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".part", path)
    time.sleep(600)


def use_stack(_report: Progress, depth: int) -> int:
    """Recurse through C: each level of `map` inside `max` is a C call."""
    sys.setrecursionlimit(10**6)

    def down(level: int) -> int:
        return level if level == depth else max(map(down, [level + 1]))

    return down(0)


def recurse_without_end(_report: Progress) -> None:
    """Overflow the C stack: libc's qsort calls back into its caller."""
    compare_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    libc = ctypes.CDLL(None)
    numbers = (ctypes.c_int * 2)(2, 1)
    sys.setrecursionlimit(10**9)

    def compare(_a: int, _b: int) -> int:
        libc.qsort(numbers, 2, 4, callback)
        return 0

    callback = compare_type(compare)
    libc.qsort(numbers, 2, 4, callback)


def return_arguments(_report: Progress, *args: Any) -> list[Any]:
    return list(args)


def abort_probe(report: Progress, _path: str, _metadata: str) -> None:
    abort(report)
