"""Measures time and memory side by side, and shows what came of it."""

import argparse
import datetime
import os
import platform
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler writes to the terminal

import torch

from brainplug.results.report import write_table


class Measured(ABC):
    """Something that is run again and again."""

    @abstractmethod
    def __call__(self) -> None:
        """Runs it once."""

    @abstractmethod
    def tensors(self) -> Iterable[torch.Tensor]:
        """What it keeps from one run to the next."""


@dataclass(frozen=True)
class Cost:
    """What something costs.

    Arguments
    ---------
    seconds : list[float]
        Of each run.
    peak_bytes : int
        The most memory of its tensors.
    """

    seconds: list[float]
    peak_bytes: int

    def relative_to(self, other: "Cost") -> tuple[float, float]:
        """Compares it with what took turns with it.

        Arguments
        ---------
        other : Cost
            Measured at the same time.

        Returns
        -------
        tuple[float, float]
            How many times its time, and its memory.

        Example
        -------
        >>> Cost([2.0, 4.0, 9.0], 30).relative_to(Cost([1.0, 2.0, 3.0], 10))
        (2.0, 3.0)
        """
        quotients = [own / others for own, others in zip(self.seconds, other.seconds, strict=True)]
        return statistics.median(quotients), self.peak_bytes / other.peak_bytes


def measure(actions: Sequence[Measured], repeats: int, device: str) -> list[Cost]:
    """Measures actions that take turns.

    Arguments
    ---------
    actions : Sequence[Measured]
        What is compared.
    repeats : int
        Rounds that count.
    device : str
        Where they run.

    Returns
    -------
    list[Cost]
        One an action.
    """
    rounds = [[_seconds(action, device) for action in actions] for _ in range(1 + repeats)]
    peaks = [_bytes_of(action.tensors()) + _most_allocated(action, device) for action in actions]
    return [Cost(list(seconds), peak) for seconds, peak in zip(zip(*rounds[1:], strict=True), peaks, strict=True)]


def _seconds(action: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    action()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Memory of tensors, what several of them share counted once."""
    storages = {storage.data_ptr(): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def _most_allocated(action: Callable[[], None], device: str) -> int:
    """The most memory that an action has allocated at any time, beside what was there before it."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes, initial=0))


def describe_device(device: str) -> str:
    """What any measurement depends on.

    Arguments
    ---------
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    str
        The machine, on a CPU its threads, torch's version and the date.
    """
    machine = _processor() if device == "cpu" else torch.cuda.get_device_name(device)
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    return f"{machine}{threads}, torch {torch.__version__}, {datetime.date.today():%Y-%m-%d}"


def _processor() -> str:
    """The processor's name; Linux alone tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def from_1_on(text: str) -> int:
    """Reads a size of the command line.

    Arguments
    ---------
    text : str
        What was written.

    Returns
    -------
    int
        A whole number from 1 on.

    Raises
    ------
    ArgumentTypeError
        It is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def measuring_parser(description: str, repeats: int, methods: str) -> argparse.ArgumentParser:
    """The arguments that benchmarks of methods share.

    Arguments
    ---------
    description : str
        What is measured.
    repeats : int
        Rounds that count, by default.
    methods : str
        Entries of ``methods.yaml`` separated by commas, by default; nothing stands for all.

    Returns
    -------
    argparse.ArgumentParser
        With ``backbone``, ``frames``, ``repeats``, ``methods``, ``threads``, ``device`` and ``write``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ast")
    parser.add_argument("--frames", type=from_1_on, default=500, help="length of a clip, in frames of 10 ms")
    parser.add_argument("--repeats", type=from_1_on, default=repeats, help="rounds that count")
    parser.add_argument("--methods", default=methods, help=f"names separated by commas; {methods or 'all'} without")
    parser.add_argument("--threads", type=from_1_on, default=torch.get_num_threads())
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--device", choices=devices, default="cpu")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between marks")
    return parser


def show(text: str, document: str | None, marks: tuple[str, str]) -> None:
    """Prints what was measured.

    Arguments
    ---------
    text : str
        Markdown.
    document : str, optional
        Where it is put too, between marks.
    marks : tuple[str, str]
        As `brainplug.results.report.table_marks` returns them.
    """
    print(text)
    if document:
        write_table(text, document, marks)
