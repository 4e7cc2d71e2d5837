"""Measures the time and memory of actions that take turns, and prints tables."""

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

from brainplug.results.documents import write_between_marks


class Measured(ABC):
    """An action to measure, which can be repeated."""

    @abstractmethod
    def __call__(self) -> None:
        """Runs the action once."""

    @abstractmethod
    def tensors(self) -> Iterable[torch.Tensor]:
        """The tensors that outlive a run."""


@dataclass(frozen=True)
class Cost:
    """The seconds of each run, and the peak memory of its tensors."""

    seconds: list[float]
    peak_bytes: int

    def relative_to(self, other: "Cost") -> tuple[float, float]:
        """The median quotient of times, and the quotient of memory; `other` was measured in turn with this one.

        Example
        -------
        >>> Cost([2.0, 4.0, 9.0], 30).relative_to(Cost([1.0, 2.0, 3.0], 10))
        (2.0, 3.0)
        """
        quotients = [own / others for own, others in zip(self.seconds, other.seconds, strict=True)]
        return statistics.median(quotients), self.peak_bytes / other.peak_bytes


def measure(actions: Sequence[Measured], repeats: int, device: str) -> list[Cost]:
    """Measures actions that take turns, over a warm-up round and `repeats` rounds; returns a cost for each action."""
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
    """Memory of tensors; shared storage counts once."""
    storages = {storage.data_ptr(): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def _most_allocated(action: Callable[[], None], device: str) -> int:
    """The peak of the memory that an action allocates."""
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
    """The machine (on a CPU with the number of threads), torch's version and the date."""
    machine = _processor() if device == "cpu" else torch.cuda.get_device_name(device)
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    return f"{machine}{threads}, torch {torch.__version__}, {datetime.date.today():%Y-%m-%d}"


def _processor() -> str:
    """The processor's name; only Linux lists it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def from_1_on(text: str) -> int:
    """Reads an option whose value is a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def measuring_parser(description: str, repeats: int, methods: str) -> argparse.ArgumentParser:
    """A parser with the options that benchmarks of methods share.

    Arguments
    ---------
    repeats : int
        The default number of rounds.
    methods : str
        The default names, separated by commas; an empty text means all entries of ``methods.yaml``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ast")
    parser.add_argument("--frames", type=from_1_on, default=500, help="length of a clip, in frames of 10 ms")
    parser.add_argument("--repeats", type=from_1_on, default=repeats, help="rounds after a warm-up")
    parser.add_argument("--methods", default=methods, help=f"names separated by commas (default: {methods or 'all'})")
    parser.add_argument("--threads", type=from_1_on, default=torch.get_num_threads())
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--device", choices=devices, default="cpu")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between its marks")
    return parser


def show(text: str, document: str | None, marks: tuple[str, str]) -> None:
    """Prints Markdown, and puts it between the marks of a document if one is given."""
    print(text)
    if document:
        write_between_marks(text, document, marks)
