"""Where cells run: in processes of this machine, or on a cluster, with Ray."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from queue import Queue
from typing import NamedTuple

import torch

from brainplug.errors import UsageError
from brainplug.sweep.cell import PATIENCE, Job, Share, run_cell

RETRIES = 3  # of a cell whose node was lost


class Event(NamedTuple):
    """What happened to a job.

    Arguments
    ---------
    kind : str
        ``started`` or ``ended``.
    place : int
        The job's place among all.
    reason : str | None
        Why the cell is not finished, if it is not.
    """

    kind: str
    place: int
    reason: str | None = None


def run_here(jobs: Sequence[Job], at_once: int) -> Iterator[Event]:
    """Runs jobs in processes of this machine, each pinned to its share of the cores, or to one GPU.

    Arguments
    ---------
    jobs : Sequence[Job]
        In the order in which they start.
    at_once : int
        How many run at the same time.

    Yields
    ------
    Event
        As it happens. Whoever stops listening ends all jobs; what they had done is kept.
    """
    events, free, stop = Queue(), Queue(), threading.Event()
    for share in shares(at_once, sorted(_cores()), visible_gpus()):
        free.put(share)

    def run(place: int) -> None:
        share = free.get()
        try:
            if stop.is_set():
                return
            events.put(Event("started", place))
            events.put(Event("ended", place, run_cell(jobs[place], share, stop.is_set)))
        except Exception as error:  # noqa: BLE001  whoever listens raises it
            events.put(error)
        finally:
            free.put(share)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            for place in range(len(jobs)):
                pool.submit(run, place)
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
    """Divides a machine.

    Arguments
    ---------
    at_once : int
        Into how many shares.
    cores : Sequence[int]
        Its cores.
    gpus : Sequence[str]
        Its GPUs.

    Returns
    -------
    list[Share]
        Each with its own cores while there are enough, and one GPU.

    Example
    -------
    >>> [share.cores for share in shares(2, cores=[0, 1, 2, 3], gpus=[])]
    [(0, 1), (2, 3)]
    >>> [share.gpu for share in shares(3, cores=[0], gpus=["0", "1"])]
    ['0', '1', '0']
    """
    each = max(1, len(cores) // at_once)
    of_gpus = list(islice(cycle(gpus or [None]), at_once))
    of_cores = [tuple(islice(cycle(cores), place * each, (place + 1) * each)) for place in range(at_once)]
    return [Share(some, each, gpu) for some, gpu in zip(of_cores, of_gpus, strict=True)]


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use.

    Returns
    -------
    list[str]
        As ``CUDA_VISIBLE_DEVICES`` names them.

    Example
    -------
    >>> len(visible_gpus()) == torch.cuda.device_count()
    True
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    there = range(torch.cuda.device_count())
    return named.split(",")[: len(there)] if named else list(map(str, there))


def run_on_cluster(jobs: Sequence[Job], address: str, cpus: float, gpus: float) -> Iterator[Event]:
    """Runs jobs as Ray's tasks. The jobs' folders must be the same files on all nodes, as on a network drive.

    Arguments
    ---------
    jobs : Sequence[Job]
        Ray chooses the order and the nodes.
    address : str
        Of the cluster; ``auto`` for the one that runs here.
    cpus, gpus : float
        What each job asks for.

    Yields
    ------
    Event
        As a job ends; those of a lost node run again.

    Raises
    ------
    UsageError
        Ray is not installed, or there is no cluster.
    """
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
    task = ray.remote(run_cell).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
    share, places = Share(threads=max(1, int(cpus))), {}
    try:
        places |= {task.remote(job, share): place for place, job in enumerate(jobs)}
        while places:
            done, _ = ray.wait(list(places), num_returns=1)
            for reference in done:
                yield Event("ended", places.pop(reference), _reason(ray, reference))
    finally:
        for reference in places:
            ray.cancel(reference)
        if places:  # until they have ended their processes
            ray.wait(list(places), num_returns=len(places), timeout=PATIENCE)
        ray.shutdown()


def _reason(ray: object, reference: object) -> str | None:
    """What the task returned; of one that Ray gave up, why."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"Ray gave it up: {' '.join(str(error).split())}"
