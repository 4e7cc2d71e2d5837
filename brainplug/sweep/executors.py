"""Where cells run: in processes of this machine, or on a cluster, with Ray."""

import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from queue import Queue
from typing import Any, Literal, NamedTuple

import torch

from brainplug.errors import UsageError
from brainplug.sweep.cell import PATIENCE, Job, Share, run_cell

RETRIES = 3  # of a cell whose node was lost


class Event(NamedTuple):
    """A job started or ended: its number, from 0, and why its cell is not finished, if it is not."""

    kind: Literal["started", "ended"]
    job: int
    reason: str | None = None


Events = Generator[Event, None, None]


def run_here(jobs: Sequence[Job], at_once: int) -> Events:
    """Runs jobs in processes, `at_once` at a time, each pinned to its share of the cores, or to one GPU.

    Yields events as they happen. Closing the generator ends all jobs; a later run continues them.
    """
    events: Queue[Event | Exception] = Queue()
    free: Queue[Share] = Queue()
    stop = threading.Event()
    for share in shares(at_once, sorted(_cores()), visible_gpus()):
        free.put(share)

    def run(number: int) -> None:
        share = free.get()
        try:
            if stop.is_set():
                return
            events.put(Event("started", number))
            events.put(Event("ended", number, run_cell(jobs[number], share, stop.is_set)))
        except Exception as error:  # noqa: BLE001  raised below, in the thread that reads the events
            events.put(error)
        finally:
            free.put(share)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            for number in range(len(jobs)):
                pool.submit(run, number)
            running = len(jobs)
            while running:
                event = events.get()
                if isinstance(event, Exception):
                    raise event
                running -= event.kind == "ended"
                yield event
        finally:
            stop.set()


def shares(at_once: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Share]:
    """Divides a machine into equal shares, with cores of their own while there are enough, and one GPU each.

    Example
    -------
    >>> [share.cores for share in shares(2, cores=[0, 1, 2, 3], gpus=[])]
    [(0, 1), (2, 3)]
    >>> [share.gpu for share in shares(3, cores=[0], gpus=["0", "1"])]
    ['0', '1', '0']
    """
    threads = max(1, len(cores) // at_once)
    core = cycle(cores)
    gpu: cycle[str | None] = cycle(gpus or [None])
    return [Share(tuple(islice(core, threads)), threads, next(gpu)) for _ in range(at_once)]


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    indices = range(torch.cuda.device_count())
    return named.split(",")[: len(indices)] if named else list(map(str, indices))


def run_on_cluster(jobs: Sequence[Job], address: str, cpus: float, gpus: float) -> Events:
    """Runs jobs as Ray's tasks, each with `cpus` and `gpus`; ``auto`` is the address of a cluster that runs here.

    The jobs' folders must be the same files on all nodes, as on a network drive. Yields an event as a job ends; jobs of
    a lost node run again.
    """
    ray = _connect(address)
    task = ray.remote(run_cell).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
    share = Share(threads=max(1, int(cpus)))
    numbers: dict[Any, int] = {}
    try:
        numbers |= {task.remote(job, share): number for number, job in enumerate(jobs)}
        while numbers:
            done, _ = ray.wait(list(numbers), num_returns=1)
            for reference in done:
                yield Event("ended", numbers.pop(reference), _reason(ray, reference))
    finally:
        for reference in numbers:
            ray.cancel(reference)
        if numbers:  # waits until they have ended their processes
            ray.wait(list(numbers), num_returns=len(numbers), timeout=PATIENCE)
        ray.shutdown()


def _connect(address: str) -> Any:
    """The module ray, connected to a cluster."""
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--executor=ray was asked for.", "Ray is not installed.", "Write: pip install 'brainplug[ray]'"
        ) from error
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"The cluster {address!r} was asked for.",
            f"Ray cannot reach it: {error}",
            "Start one with: ray start --head; or write --executor=processes",
        ) from error
    return ray


def _reason(ray: Any, reference: object) -> str | None:
    """What the task returned, or why Ray gave it up."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"Ray gave it up: {' '.join(str(error).split())}"
