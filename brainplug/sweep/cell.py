"""Runs one cell of a table, in a process of its own."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from brainplug.errors import UsageError
from brainplug.files import write_json

CELL_NAME = "cell.json"
FAILURE_NAME = "failure.json"
OUTPUT_NAME = "output.txt"
LOCK_NAME = "cell.lock"
TOLD = 2000  # bytes at the end of what a broken cell printed, of which the reason is a part
POLL = 0.2  # seconds
PATIENCE = 30  # seconds, for a cell that was asked to end
ASKED_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # by a person or a shutdown: the cell is not broken


class Job(NamedTuple):
    """A cell, as executors see it.

    Arguments
    ---------
    folder : Path
        The run's.
    command : tuple[str, ...]
        Runs it.
    started_in : Path
        The folder that relative paths in the command start from.
    description : dict
        Which cell it is, and all that decides its numbers; ``cell.json`` keeps it.
    """

    folder: Path
    command: tuple[str, ...]
    started_in: Path
    description: dict


@dataclass(frozen=True)
class Share:
    """What one cell may use of a machine.

    Arguments
    ---------
    cores : tuple[int, ...]
        Those that it is pinned to; empty for all.
    threads : int
        Threads of torch.
    gpu : str | None
        The only GPU that it sees; None leaves that as it is.
    """

    cores: tuple[int, ...] = ()
    threads: int = 1
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """The process's environment.

        Returns
        -------
        dict[str, str]
            That of this process, with the share in it.

        Example
        -------
        >>> Share(threads=2).environment()["OMP_NUM_THREADS"]
        '2'
        """
        own = {"OMP_NUM_THREADS": str(self.threads)} | ({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {})
        return {**os.environ, **own}


def command_of(recipe: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a recipe.

    Arguments
    ---------
    recipe : str
        The YAML. The next train.py in its folder or one above runs it.
    arguments : Sequence[str]
        The command line of train.py.

    Returns
    -------
    list[str]
        With this process's Python.

    Raises
    ------
    UsageError
        There is no train.py.
    """
    for folder in Path(recipe).resolve().parents:
        if (folder / "train.py").is_file():
            return [sys.executable, str(folder / "train.py"), *arguments, "--noprogressbar"]
    raise UsageError(
        f"The recipe {recipe!r} was asked for.", "No train.py lies in its folder or one above.", "Name another recipe"
    )


def run_cell(job: Job, share: Share, stopping: Callable[[], bool] = lambda: False) -> str | None:
    """Runs a cell, or goes on with it, unless it is finished.

    What it prints goes to ``output.txt`` in its folder. A broken cell leaves ``failure.json`` there. While it runs it
    holds a lock there, which outlives whoever started it: a second process that wants the same cell waits for it.

    Arguments
    ---------
    job : Job
        The cell.
    share : Share
        What it may use.
    stopping : Callable[[], bool]
        Asked again and again; once True, the process is ended, and goes on in a later call.

    Returns
    -------
    str | None
        Why it is not finished; None where it is, or was stopped.
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
                os.sched_setaffinity(process.pid, share.cores)  # its threads are yet to come, and take it over
        code = _wait(process, stopping)
    if stopping() or state_of(job.folder) == "finished":
        return None
    if -code in ASKED_TO_END:
        return f"it was ended by {signal.Signals(-code).name}; the same command goes on with it"
    told = (job.folder / OUTPUT_NAME).read_bytes()[start:][-TOLD:].decode(errors="replace")
    reason = _reason(code, told)
    with contextlib.suppress(OSError):  # a full disk: the reason is told at least
        write_json({"exit_code": code, "reason": reason}, job.folder / FAILURE_NAME)
    return reason


def failure_of(folder: Path) -> str | None:
    """Why a cell broke.

    Arguments
    ---------
    folder : Path
        The run's.

    Returns
    -------
    str | None
        The reason; None where it did not break.

    Example
    -------
    >>> failure_of(getfixture("tmp_path")) is None
    True
    """
    path = folder / FAILURE_NAME
    return json.loads(path.read_text())["reason"] if path.exists() else None


@contextlib.contextmanager
def _lock(folder: Path, stopping: Callable[[], bool]) -> Iterator[int]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_NAME, "w") as file:
        while not stopping():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(POLL)
        yield file.fileno()


def _wait(process: subprocess.Popen, stopping: Callable[[], bool]) -> int:
    """Waits for a process, or ends it, with those that it has started."""
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


def _reason(code: int, told: str) -> str:
    """The error that a process named, or its last line."""
    if code < 0:
        killed = signal.Signals(-code).name
        return f"it was ended by {killed}" + (", as happens where memory is short" if killed == "SIGKILL" else "")
    if code == 0:
        return "it ended well, but left no results.json"
    lines = [line for line in told.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1]


def state_of(folder: Path) -> str:
    """How far a cell is, as its folder shows it.

    Arguments
    ---------
    folder : Path
        The run's.

    Returns
    -------
    str
        ``finished``, ``broken`` or ``not run``.

    Example
    -------
    >>> state_of(getfixture("tmp_path"))
    'not run'
    """
    if (folder / "results.json").exists():
        return "finished"
    return "broken" if (folder / FAILURE_NAME).exists() else "not run"
