"""Processes of other programs that a test waits for, looks at and ends; each may end by itself at any moment."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable

import psutil

LONGEST = 120  # seconds; only what hangs takes longer


def until(happened: Callable[[], object], printed: Callable[[], str] = "it did not happen".__str__) -> None:
    """Waits; what `told` gives is the error where it takes too long."""
    end = time.monotonic() + LONGEST
    while not happened():
        assert time.monotonic() < end, printed()
        time.sleep(0.005)


def parent_of(number: int) -> int | None:
    """The process, by number, that a process runs under now; None if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.ppid()
    return None


def living(numbers: Iterable[int]) -> list[int]:
    """Those of some processes, by number, that run."""
    return [number for number in numbers if parent_of(number) is not None]


def kill(number: int) -> None:
    """Kills a process, unless it has just ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def kill_together(number: int) -> None:
    """Kills a process and all that it started, as a machine does that loses its power."""
    os.kill(number, signal.SIGSTOP)  # it starts no other meanwhile, and writes nothing about those that die before it
    for process in [*psutil.Process(number).children(recursive=True), psutil.Process(number)]:
        kill(process.pid)
