"""A child process answers, reports, and dies in every way without harm to its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import child_jobs
import pytest

from trtdeploy.backends.child import run_in_child
from trtdeploy.core.errors import BuildError, ModelError


def run(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return run_in_child(function, *args, what="Trying x.engine", **options)


def test_result_and_progress_come_back_in_spite_of_noise() -> None:
    steps: list[str] = []
    assert run(child_jobs.add, 2, 3, progress=steps.append) == 5
    assert steps == ["adding", "added"]


def test_arguments_larger_than_a_pipe_arrive() -> None:
    text = "ä" * 200_000
    assert run(child_jobs.return_arguments, text, [1, None, {"a": 0.5}]) == [text, [1, None, {"a": 0.5}]]


def test_our_own_error_keeps_its_class_and_message() -> None:
    with pytest.raises(ModelError, match=r"^The model is odd\. Export it again\.$"):
        run(child_jobs.raise_ours)


def test_foreign_error_becomes_a_build_error() -> None:
    with pytest.raises(BuildError, match=r"Trying x\.engine failed: KeyError: 'layer7'"):
        run(child_jobs.raise_theirs)


def test_memory_error_says_what_to_do() -> None:
    with pytest.raises(BuildError, match=r"ran out of memory\. Use a smaller model"):
        run(child_jobs.run_out_of_memory)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (child_jobs.abort, r"crashed the library \(SIGABRT\)(.|\n)*first line\n  last words of the library"),
        (child_jobs.read_null, r"crashed the library \(SIGSEGV\)"),
        (child_jobs.be_killed, r"was killed \(SIGKILL\), most likely because the machine ran out of memory"),
        (child_jobs.leave, "ended with exit code 3 and no result"),
    ],
)
def test_crash_names_the_signal_and_the_last_words(job: Callable[..., Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        run(job)


def test_endless_recursion_in_native_code_is_a_crash_not_ours() -> None:
    with pytest.raises(BuildError, match=r"SIGSEGV|RecursionError|SIGABRT"):
        run(child_jobs.recurse_without_end)


def test_time_limit_holds_while_the_child_reports() -> None:
    steps: list[str] = []
    with pytest.raises(BuildError, match=r"did not finish within 0\.5 seconds and was stopped"):
        run(child_jobs.sleep_reporting, timeout_s=0.5, progress=steps.append)


def test_interrupt_ends_the_child(tmp_path: Path) -> None:
    def interrupt(_step: str) -> None:
        raise KeyboardInterrupt

    before = _children()
    with pytest.raises(KeyboardInterrupt):
        run(child_jobs.sleep_reporting, progress=interrupt)
    assert _children() == before


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        f"import sys; sys.path[:] = {[str(Path(__file__).parent), *sys.path]!r}; import child_jobs; "
        "from trtdeploy.backends.child import run_in_child; "
        f"run_in_child(child_jobs.sleep_writing_pid, {str(pid_file)!r}, what='x')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    _wait_for(pid_file.exists)
    child = int(pid_file.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_for(lambda: not _alive(child))


def test_stack_is_deeper_than_the_system_gives() -> None:
    assert run(child_jobs.use_stack, 15_000) == 15_000


def test_children_run_side_by_side() -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(run(child_jobs.add, n, n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 2, 4]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Return whether the process runs; a zombie that waits for its reaper does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split())
