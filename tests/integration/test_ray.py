"""Cells on a cluster of two nodes; one of them is lost."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from brainplug.errors import UsageError
from brainplug.sweep.cell import Job, state_of
from brainplug.sweep.executors import run_here, run_on_cluster
from tests.processes import LONGEST, kill, living, parent_of, until

ray = pytest.importorskip("ray")
CELLS = 4
# Notes its start, waits until it may go on, and computes; the last one is broken.
PROGRAM = """
import os, sys, time
from pathlib import Path

number, shared = int(sys.argv[1]), Path(sys.argv[2])
folder = shared / str(number)
with open(folder / "started", "a") as file:
    file.write(f"{os.getpid()} {time.time()}\\n")
while not (shared / "go").exists():
    time.sleep(0.02)
with open(folder / "ended", "a") as file:
    file.write(f"{time.time()}\\n")
if number == 3:
    sys.exit("error: This cell was to break.")
(folder / "results.json").write_text(str(number ** 2))
"""


def make_jobs(folder: Path) -> list[Job]:
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    command = (sys.executable, "-S", "program.py")
    return [Job(folder / str(n), (*command, str(n), str(folder)), folder, {"row": n}) for n in range(CELLS)]


def outcome(jobs: list[Job]) -> list[str]:
    return [(job.folder / "results.json").read_text() if state_of(job.folder) == "finished" else "" for job in jobs]


@pytest.fixture(scope="module")
def cluster(environment) -> Iterator[object]:
    """A head without cores, and two nodes with one each; each is processes of this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


def running(jobs: list[Job]) -> dict[int, int]:
    """The processes of the cells that run, by place."""
    actual = {}
    for position, job in enumerate(jobs):
        starts = (job.folder / "started").read_text() if (job.folder / "started").exists() else ""
        if starts.endswith("\n") and not (job.folder / "ended").exists():  # else it is just being written
            actual.update((position, number) for number in living([int(starts.splitlines()[-1].split()[0])]))
    return actual


def test_whoever_stops_listening_ends_the_cells(cluster, tmp_path):
    jobs = make_jobs(tmp_path / "cluster")
    # One that ends at once, so that there is an event.
    first = Job(jobs[0].folder, (sys.executable, "-c", "import sys; sys.exit('at once')"), *jobs[0][2:])
    events = run_on_cluster([first, *jobs[1:]], cluster.address, cpus=1, gpus=0)
    assert next(events).reason == "at once"
    until(lambda: running(jobs))
    processes = running(jobs).values()
    events.close()
    until(lambda: not living(processes))
    assert outcome(jobs) == [""] * CELLS


def lost_of(processes: dict[int, int], parents: dict[int, int]) -> list[int]:
    """The places whose processes have ended, or run without what started them."""
    return [position for position, number in processes.items() if parent_of(number) != parents[position]]


def test_the_cells_of_a_lost_node_run_again(cluster, tmp_path):
    alone, jobs = make_jobs(tmp_path / "alone"), make_jobs(tmp_path / "cluster")
    (tmp_path / "alone" / "go").touch()
    expected = sorted((event.job, event.reason) for event in run_here(alone, 2) if event.kind == "ended")

    events = []
    listener = threading.Thread(target=lambda: events.extend(run_on_cluster(jobs, cluster.address, cpus=1, gpus=0)))
    listener.start()
    until(lambda: len(running(jobs)) == 2)
    processes = running(jobs)
    parents = {position: parent_of(number) for position, number in processes.items()}
    cluster.remove_node(min(cluster.worker_nodes, key=id), allow_graceful=False)
    until(lambda: lost_of(processes, parents))
    [lost] = lost_of(processes, parents)
    kill(processes[lost])  # a machine that is lost takes all of its processes with it
    (tmp_path / "cluster" / "go").touch()
    listener.join(LONGEST)
    assert sorted((event.job, event.reason) for event in events) == expected
    assert outcome(jobs) == outcome(alone) == ["0", "1", "4", ""]
    starts = [len((job.folder / "started").read_text().splitlines()) for job in jobs]
    assert starts == [2 if position == lost else 1 for position in range(CELLS)]


def test_a_cluster_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("Could not find any")))
    with pytest.raises(UsageError, match="The cluster 'auto' was asked for.*Could not find any.*ray start --head"):
        list(run_on_cluster(make_jobs(tmp_path / "cluster"), "auto", 1, 0))
