"""Signals end the process in bounded time, also while a library holds the main thread."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from trtdeploy.cli.interrupts import Interrupts, Terminated


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)]
)
def test_signal_becomes_an_exception(number: signal.Signals, error: type[BaseException]) -> None:
    previous = signal.signal(number, signal.SIG_DFL)
    try:
        with Interrupts(end=pytest.fail), pytest.raises(error) as caught:
            signal.raise_signal(number)
        assert type(caught.value) is error
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, previous)


def test_second_signal_soon_after_does_not_disturb_the_clean_up() -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts(end=pytest.fail):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_impatient_second_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdeploy.cli.interrupts.IMPATIENCE_S", -1.0)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    ended: list[int] = []
    try:
        with Interrupts(end=ended.append):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert ended == [130]


def test_clean_up_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdeploy.cli.interrupts.CLEANUP_S", 0.05)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = threading.Event()
    codes: list[int] = []
    try:
        with Interrupts(end=lambda code: (codes.append(code), ended.set())):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert ended.wait(30)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert codes == [130]


def test_ignored_signal_stays_ignored() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(end=pytest.fail):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see that the call blocks")
def test_library_call_that_never_returns_is_ended() -> None:
    """`ctypes` releases the interpreter lock and hides the signal from Python, as a compiling library does."""
    program = """
        import ctypes, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from trtdeploy.cli.interrupts import Interrupts
        libc = ctypes.CDLL(None)
        mutex = ctypes.create_string_buffer(64)
        with Interrupts():
            print("ready", flush=True)
            libc.pthread_mutex_lock(mutex)
            libc.pthread_mutex_lock(mutex)  # for ever, whatever signal comes
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    asleep = 0
    while asleep < 5:  # blocked in the call, no longer on its way there
        time.sleep(0.02)
        asleep = asleep + 1 if Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S" else 0
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
