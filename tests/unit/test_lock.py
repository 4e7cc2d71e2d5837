"""One process works in a folder at a time, and whoever died there is no obstacle."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from brainplug.cli.predict import hold_output
from brainplug.config import lock
from brainplug.config.lock import HEARTBEAT, LOCK_NAME, STALE, hold_folder, is_held
from brainplug.errors import CheckpointError
from tests.processes import until

HERE = lock._this_process()
ELSEWHERE = replace(HERE, host="node7", machine="another boot", pid=4242)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "results" / "run"


def hold_until_killed(folder: Path) -> None:
    with hold_folder(folder):
        (folder / "holds").touch()
        signal.pause()


@contextlib.contextmanager
def another_process(folder: Path) -> Iterator[multiprocessing.Process]:
    """A process that holds a folder."""
    process = multiprocessing.get_context("fork").Process(target=hold_until_killed, args=(folder,))
    process.start()
    until((folder / "holds").exists)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def refused(holding: contextlib.AbstractContextManager[None], message: str) -> None:
    with pytest.raises(CheckpointError, match=message), holding:
        pass


def leave(folder: Path, holder: lock.Holder | str, age: float = 0.0) -> Path:
    """Leaves a lock whose last heartbeat was `age` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    path.write_text(holder if isinstance(holder, str) else json.dumps(asdict(holder)))
    os.utime(path, times=(time.time() - age,) * 2)
    return path


def test_the_second_is_refused_and_told_who_works_there(folder):
    with another_process(folder) as process:
        before = (folder / LOCK_NAME).read_bytes()
        who = rf"Process {process.pid} on {HERE.host} has worked there since \d{{4}}-"
        refused(hold_folder(folder), f"folder {folder} was asked for.*{who}.*another --output_folder")
        assert is_held(folder)
        assert (folder / LOCK_NAME).read_bytes() == before


def test_nothing_is_left_at_the_end(folder):
    with hold_folder(folder):
        assert is_held(folder)
    assert list(folder.iterdir()) == []
    assert not is_held(folder)


def test_nothing_is_left_after_an_error(folder):
    with pytest.raises(ZeroDivisionError), hold_folder(folder):
        1 / 0  # noqa: B018
    assert list(folder.iterdir()) == []


def test_a_killed_process_gives_way_at_once_even_before_it_was_waited_for(folder, caplog):
    with another_process(folder) as process:
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not is_held(folder))
        with hold_folder(folder):
            assert json.loads((folder / LOCK_NAME).read_text())["pid"] == os.getpid()
        assert f"left by process {process.pid} on {HERE.host}, which has ended; it is taken over" in caplog.text


def test_a_process_that_is_stopped_keeps_its_folder_however_long(folder):
    with another_process(folder) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.utime(folder / LOCK_NAME, times=(0, 0))
        assert is_held(folder)


def test_a_later_process_of_the_same_number_is_another_one(folder):
    leave(folder, replace(HERE, started="1"))
    with hold_folder(folder):
        assert is_held(folder)


@pytest.mark.parametrize("age", [0.0, STALE - HEARTBEAT])
def test_another_machine_keeps_its_folder_while_its_heart_beats(folder, age):
    path = leave(folder, ELSEWHERE, age)
    refused(hold_folder(folder), f"Process 4242 on node7.*sign of life {age:.0f} s ago")
    assert json.loads(path.read_text()) == asdict(ELSEWHERE)


def test_another_machine_that_went_silent_gives_way(folder):
    leave(folder, ELSEWHERE, STALE + 1)
    with hold_folder(folder):
        assert json.loads((folder / LOCK_NAME).read_text())["host"] == HERE.host


@pytest.mark.parametrize("text", ["", '{"host": "node', "[]", '{"host": 1}'])
def test_a_lock_that_was_never_written_gives_way(folder, text):
    leave(folder, text, age=lock.UNWRITTEN + 1)
    with hold_folder(folder):
        assert is_held(folder)


def test_a_lock_that_is_being_written_is_waited_for(folder, monkeypatch):
    path = leave(folder, "")
    assert is_held(folder)
    monkeypatch.setattr(lock.time, "sleep", lambda _: path.write_text(json.dumps(asdict(ELSEWHERE))))
    refused(hold_folder(folder), "node7")


def test_without_the_kernel_s_clock_a_process_is_asked_for_by_its_number(folder, monkeypatch):
    with another_process(folder) as process:
        alone = replace(HERE, pid=process.pid, started=None)
        assert alone.lives(0.0)
        process.kill()
        process.join()
        assert not alone.lives(0.0)
    assert replace(alone, pid=1).lives(0.0)  # of another user, maybe


def test_the_heart_beats_while_it_is_held(folder, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    before = set(threading.enumerate())
    with hold_folder(folder):
        os.utime(folder / LOCK_NAME, times=(0, 0))
        until(lambda: lock.read_lock(folder / LOCK_NAME).silence < STALE)
    assert set(threading.enumerate()) <= before


def test_a_folder_that_another_machine_took_over_stays_its_own(folder):
    with hold_folder(folder):
        (folder / LOCK_NAME).unlink()
        path = leave(folder, ELSEWHERE)
    assert json.loads(path.read_text()) == asdict(ELSEWHERE)


def test_a_lock_that_was_replaced_meanwhile_is_put_back(folder):
    path = leave(folder, ELSEWHERE, STALE + 1)
    stale = lock.read_lock(path)
    leave(folder, HERE)
    lock._remove(path, stale)
    assert json.loads(path.read_text()) == asdict(HERE)
    assert list(folder.iterdir()) == [path]


def test_whoever_holds_a_folder_may_hold_it_again(folder):
    with hold_folder(folder):
        with hold_folder(folder):
            pass
        assert is_held(folder)


def take_in_turn(folder: Path, start: threading.Barrier) -> None:
    start.wait()
    with contextlib.suppress(CheckpointError), hold_folder(folder):
        (folder / "alone").touch(exist_ok=False)  # raises where two are at work
        time.sleep(0.01)
        (folder / "alone").unlink()


def test_of_many_that_take_over_at_once_one_works_at_a_time(folder):
    leave(folder, ELSEWHERE, STALE + 1)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(8)
    processes = [context.Process(target=take_in_turn, args=(folder, start)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}
    assert list(folder.iterdir()) == []


def test_only_the_first_process_of_a_run_takes_it(folder, monkeypatch):
    monkeypatch.setattr(lock, "if_main_process", lambda: False)
    with hold_folder(folder):
        assert not is_held(folder)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    refused(hold_folder(tmp_path / "file" / "below"), r"It cannot be written: .*another --output_folder")


def test_results_of_predict_are_held_beside_their_file(tmp_path):
    output = tmp_path / "rows.csv"
    with hold_output(str(output)):
        assert [path.name for path in tmp_path.iterdir()] == ["rows.csv.lock"]
    leave(tmp_path, ELSEWHERE).rename(tmp_path / "rows.csv.lock")
    refused(hold_output(str(output)), f"output {output} was asked for.*another --output")
    with hold_output(None):
        pass
