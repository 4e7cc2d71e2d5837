"""Runs one cell of a table, in a process of its own."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from brainplug.config.lock import is_held
from brainplug.files import RESULTS, read_json, write_json

CELL_NAME = "cell.json"
FAILURE_NAME = "failure.json"
OUTPUT_NAME = "output.txt"
LOCK_NAME = "cell.lock"
OUTPUT_TAIL = 2000  # bytes at the end of a broken cell's output, where its reason is looked for
POLL = 0.2  # seconds
PATIENCE = 30  # seconds, for a cell that was asked to end
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # of a person or a shutdown: the cell is not broken

State = Literal["finished", "broken", "not run"]


class Job(NamedTuple):
    """A cell, as executors run it: the run's folder, its command, and the folder that the command starts in.

    `description` is the content of ``cell.json``: which cell it is, and all that decides its numbers.
    """

    folder: Path
    command: tuple[str, ...]
    started_in: Path
    description: dict[str, Any]


@dataclass(frozen=True)
class Share:
    """What one cell may use of a machine: cores that it is pinned to (none for all), threads, and its only GPU."""

    cores: tuple[int, ...] = ()
    threads: int = 1
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """The environment of this process, with the share in it."""
        own = {"OMP_NUM_THREADS": str(self.threads)} | ({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {})
        return {**os.environ, **own}


def command_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """The command that does a run, with this process's Python; ``arguments`` are those of ``brainplug train``."""
    return (sys.executable, "-m", "brainplug", "train", *arguments, "--noprogressbar")


def run_cell(job: Job, share: Share, stopping: Callable[[], bool] = lambda: False) -> str | None:
    """Runs or continues a cell that is not finished; returns why it broke, or None if it finished or was stopped.

    Its output goes to ``output.txt`` in its folder; a broken cell leaves ``failure.json`` there. The running process
    holds a lock there, which outlives its parent: a second process that runs the same cell waits for it. Once
    `stopping` returns True, the process is ended; a later call continues.
    """
    try:
        with _lock(job.folder, stopping) as lock:
            if stopping() or state_of(job.folder) == "finished":
                return None
            return _run(job, share, lock, stopping)
    except OSError as error:
        return f"its folder {job.folder} cannot be used: {error}"


def _run(job: Job, share: Share, lock: int, stopping: Callable[[], bool]) -> str | None:
    (job.folder / FAILURE_NAME).unlink(missing_ok=True)
    write_json(job.description, job.folder / CELL_NAME)
    with open(job.folder / OUTPUT_NAME, "ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            job.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=job.started_in,
            env=share.environment(),
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C reaches the command alone, which then ends its cells
        )
        if share.cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(ProcessLookupError):  # it may have ended
                os.sched_setaffinity(process.pid, share.cores)  # later threads of the process inherit it
        code = _wait(process, stopping)
    if stopping() or state_of(job.folder) == "finished":
        return None
    if -code in ENDING_SIGNALS:
        return f"it was ended by {signal.Signals(-code).name}; the same command goes on with it"
    tail = (job.folder / OUTPUT_NAME).read_bytes()[start:][-OUTPUT_TAIL:].decode(errors="replace")
    reason = _reason(code, tail)
    with contextlib.suppress(OSError):  # of a full disk; the reason is returned at least
        write_json({"exit_code": code, "reason": reason}, job.folder / FAILURE_NAME)
    return reason


def failure_of(folder: Path) -> str | None:
    """Why the cell in a folder broke; None if it did not."""
    path = folder / FAILURE_NAME
    return read_json(path, ["reason"])["reason"] if path.exists() else None


@contextlib.contextmanager
def _lock(folder: Path, stopping: Callable[[], bool]) -> Iterator[int]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_NAME, "w") as file:
        while not stopping():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(POLL)
        while not stopping() and is_held(folder):  # by a run that no table started, or where this lock does not reach
            time.sleep(POLL)
        yield file.fileno()


def _wait(process: subprocess.Popen[bytes], stopping: Callable[[], bool]) -> int:
    """Waits for a process, or ends it and its children."""
    try:
        while process.poll() is None and not stopping():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
    finally:  # Ray stops a task by an exception
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _reason(code: int, output: str) -> str:
    """The error that a process printed, or its last line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"it was ended by {name}" + (", as happens where memory is short" if name == "SIGKILL" else "")
    if code == 0:
        return f"it ended well, but left no {RESULTS}"
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1]


def state_of(folder: Path) -> State:
    """How far the cell in a folder is."""
    if (folder / RESULTS).exists():
        return "finished"
    return "broken" if (folder / FAILURE_NAME).exists() else "not run"
