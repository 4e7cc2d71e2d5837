"""Cells as processes: finished once, broken with a reason, stopped at once; small programs are run in their place."""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from brainplug.config.lock import hold_folder
from brainplug.errors import UsageError
from brainplug.sweep.cell import CELL_NAME, FAILURE_NAME, Job, Share, command_of, failure_of, run_cell, state_of
from brainplug.sweep.executors import Event, run_here, run_on_cluster, shares
from tests.processes import LONGEST, living, until

FINISHES = "Path('results.json').write_text('{}')"
HANGS = "Path('started').touch(); time.sleep(300)"


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Makes a cell of a line of Python, which is run in the cell's folder."""

    def make(code: str = FINISHES, name: str = "cell") -> Job:
        (tmp_path / name).mkdir(exist_ok=True)
        code = f"import os, signal, sys, time; from pathlib import Path; os.chdir({str(tmp_path / name)!r}); {code}"
        return Job(tmp_path / name, (sys.executable, "-S", "-c", code), tmp_path, {"row": name})

    return make


class TestShares:
    def test_cores_are_divided_and_belong_to_one_share_each(self):
        actual = shares(3, cores=range(12), gpus=[])
        assert [len(share.cores) for share in actual] == [4, 4, 4]
        assert sorted(core for share in actual for core in share.cores) == list(range(12))
        assert {(share.threads, share.gpu) for share in actual} == {(4, None)}

    def test_all_have_as_many_threads(self):
        """So that no cell's sums are rounded in another order because of its place."""
        assert {share.threads for share in shares(2, cores=range(3), gpus=[])} == {1}

    def test_more_shares_than_cores_take_turns(self):
        assert [share.cores for share in shares(3, cores=[4, 7], gpus=[])] == [(4,), (7,), (4,)]

    def test_each_has_one_gpu(self):
        assert [share.gpu for share in shares(4, cores=range(4), gpus=["2", "5"])] == ["2", "5", "2", "5"]

    def test_the_environment_says_so(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        assert Share(threads=3, gpu="1").environment()["CUDA_VISIBLE_DEVICES"] == "1"
        assert Share(threads=3).environment()["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert Share(threads=3).environment()["OMP_NUM_THREADS"] == "3"


class TestCell:
    def test_it_finishes_once(self, make_job):
        job = make_job("open('runs', 'a').write('x'); " + FINISHES)
        assert [run_cell(job, Share()) for _ in range(2)] == [None, None]
        assert (job.folder / "runs").read_text() == "x"
        assert state_of(job.folder) == "finished"
        assert json.loads((job.folder / CELL_NAME).read_text()) == {"row": "cell"}

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
    def test_it_has_its_share(self, make_job):
        core = max(os.sched_getaffinity(0))
        # The process is pinned just after it was started.
        job = make_job(
            f"[time.sleep(0.01) for _ in range(1000) if os.sched_getaffinity(0) != {{{core}}}]; "
            f"print(os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'])"
        )
        run_cell(job, Share((core,), threads=5))
        assert (job.folder / "output.txt").read_text().strip() == f"{{{core}}} 5"

    def test_ctrl_c_in_a_terminal_reaches_the_command_alone(self, make_job):
        job = make_job("print(os.getsid(0) == os.getpid())")
        run_cell(job, Share())
        assert (job.folder / "output.txt").read_text() == "True\n"

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("sys.exit('error: The lr 0 was asked for.')", "The lr 0 was asked for."),
            ("print('error: first'); sys.exit('at the end')", "first"),
            ("raise MemoryError('all of it')", "MemoryError: all of it"),
            ("sys.exit(3)", "exit code 3"),
            ("os.kill(os.getpid(), signal.SIGKILL)", "it was ended by SIGKILL, as happens where memory is short"),
            ("os.kill(os.getpid(), signal.SIGSEGV)", "it was ended by SIGSEGV"),
            ("print('done')", "it ended well, but left no results.json"),
            ("os.write(1, bytes([255]) * 5000); sys.exit(3)", None),
        ],
    )
    def test_a_broken_one_says_why(self, code, reason, make_job):
        job = make_job(code)
        output = run_cell(job, Share())
        assert output == reason or (reason is None and output)
        assert failure_of(job.folder) == output
        assert state_of(job.folder) == "broken"

    def test_the_reason_is_that_of_the_last_run(self, make_job):
        run_cell(make_job("sys.exit('error: before')"), Share())
        job = make_job("sys.exit('after')")
        assert run_cell(job, Share()) == "after"
        assert "before" in (job.folder / "output.txt").read_text()
        assert run_cell(make_job(), Share()) is None
        assert not (job.folder / FAILURE_NAME).exists()

    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_one_that_was_asked_to_end_is_not_broken(self, name, make_job):
        job = make_job(f"signal.signal(signal.{name}, signal.SIG_DFL); os.kill(os.getpid(), signal.{name})")
        assert run_cell(job, Share()) == f"it was ended by {name}; the same command goes on with it"
        assert state_of(job.folder) == "not run"

    def test_a_folder_that_is_none(self, make_job, tmp_path):
        (tmp_path / "file").touch()
        reason = run_cell(make_job()._replace(folder=tmp_path / "file" / "cell"), Share())
        assert reason.startswith(f"its folder {tmp_path}/file/cell cannot be used: ")

    def test_a_program_that_is_missing(self, make_job):
        assert "No such file" in run_cell(make_job()._replace(command=("/nowhere/python",)), Share())

    def test_two_that_want_it_run_it_once(self, make_job):
        job = make_job("open('runs', 'a').write('x'); time.sleep(0.5); " + FINISHES)
        threads = [threading.Thread(target=run_cell, args=(job, Share())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST)
        assert (job.folder / "runs").read_text() == "x"

    def test_it_waits_for_a_run_that_no_table_started(self, make_job):
        job = make_job("open('runs', 'a').write('x'); " + FINISHES)
        with hold_folder(job.folder):
            thread = threading.Thread(target=run_cell, args=(job, Share()))
            thread.start()
            until((job.folder / "cell.lock").exists)
            assert not (job.folder / CELL_NAME).exists()
        thread.join(LONGEST)
        assert state_of(job.folder) == "finished"

    def test_whoever_waits_for_another_can_stop(self, make_job):
        job, stop = make_job(HANGS), threading.Event()
        first = threading.Thread(target=run_cell, args=(job, Share(), stop.is_set))
        first.start()
        until((job.folder / "started").exists)
        assert run_cell(job, Share(), lambda: True) is None
        stop.set()
        first.join(LONGEST)
        assert state_of(job.folder) == "not run"

    def test_a_stop_ends_its_children_too(self, make_job):
        stop = threading.Event()
        job = make_job("os.fork(); open('pids', 'a').write(f'{os.getpid()}\\n'); " + HANGS)
        thread = threading.Thread(target=run_cell, args=(job, Share(), stop.is_set))
        thread.start()
        pids = job.folder / "pids"
        until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 2)
        stop.set()
        thread.join(LONGEST)
        until(lambda: not living(map(int, pids.read_text().split())))

    def test_one_that_ignores_to_be_ended_is_killed(self, make_job, monkeypatch):
        monkeypatch.setattr("brainplug.sweep.cell.PATIENCE", 0.2)
        job, stop = make_job("signal.signal(signal.SIGTERM, signal.SIG_IGN); " + HANGS), threading.Event()
        thread = threading.Thread(target=run_cell, args=(job, Share(), stop.is_set))
        thread.start()
        until((job.folder / "started").exists)
        stop.set()
        thread.join(LONGEST)
        assert not thread.is_alive()


class TestHere:
    def test_all_are_run_no_more_than_asked_at_once(self, make_job):
        jobs = [make_job("time.sleep(0.1); " + FINISHES, str(number)) for number in range(5)]
        running, most, ended = 0, 0, []
        for event in run_here(jobs, at_once=2):
            running += 1 if event.kind == "started" else -1
            most = max(most, running)
            ended += [event.job] if event.kind == "ended" else []
        assert sorted(ended) == [0, 1, 2, 3, 4]
        assert most == 2

    def test_a_broken_one_holds_up_none(self, make_job):
        jobs = [make_job("sys.exit('no')", "broken"), make_job(name="whole")]
        ended = [event for event in run_here(jobs, at_once=1) if event.kind == "ended"]
        assert ended == [Event("ended", 0, "no"), Event("ended", 1, None)]

    def test_nothing_to_do(self):
        assert list(run_here([], at_once=2)) == []

    def test_whoever_stops_listening_ends_them(self, make_job):
        jobs = [make_job(HANGS, str(number)) for number in range(3)]
        events = run_here(jobs, at_once=2)
        next(events)
        until(lambda: sum((job.folder / "started").exists() for job in jobs) == 2)
        events.close()
        assert [state_of(job.folder) for job in jobs] == ["not run"] * 3
        assert not (jobs[2].folder / "started").exists()

    def test_an_error_of_its_own_is_raised(self, make_job, monkeypatch):
        def broken(*_: object) -> None:
            raise RuntimeError("a mistake")

        monkeypatch.setattr("brainplug.sweep.executors.run_cell", broken)
        with pytest.raises(RuntimeError, match="a mistake"):
            list(run_here([make_job()], at_once=1))


def test_a_cell_is_run_by_the_command_wherever_its_recipe_is():
    words = command_of(["own.yaml", "--lr=1"])
    assert words == (sys.executable, "-m", "brainplug", "train", "own.yaml", "--lr=1", "--noprogressbar")


def test_a_cluster_needs_ray(make_job, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"Ray is not installed.*pip install 'brainplug\[ray\]'"):
        list(run_on_cluster([make_job()], "auto", 1, 0))
