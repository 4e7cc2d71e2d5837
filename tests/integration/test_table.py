"""python -m brainplug table, as a user calls it: killed, stopped, called twice, on a full disk."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.integration.running import (
    ESC50_RECIPE,
    KILLED,
    REPOSITORY,
    SETTINGS,
    Run,
    run_train,
    start_table,
)
from tests.made_adapters import WEIGHTS
from tests.processes import LONGEST, kill, kill_together, living, until

CHANGES_WITH_EACH_RUN = ("seconds", "seconds_per_epoch", "peak_memory_bytes")
ROWS = ("linear", "lora")
# Stands for brainplug train: three steps, all of them recorded. Files beside it tell it how to behave.
PROGRAM = """
import json, os, sys, time
from pathlib import Path

options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[3:])
here, folder = Path(__file__).parents[1], Path(options["output_folder"])
name = f"{folder.parent.name}/{folder.name}"
steps = folder / "steps.txt"
with open(here / "started.txt", "a") as file:
    file.write(f"{name} {os.getpid()}\\n")
if (here / "breaks" / folder.parent.name).exists():
    sys.exit("error: This cell was to break.")
if (here / "fills").exists():
    (folder / "checkpoint").write_bytes(bytes(2**20))
steps.touch()
for step in range(len(steps.read_text()), 3):
    while (here / "waits" / str(step)).exists():
        time.sleep(0.01)
    with open(steps, "a") as file:
        file.write("x")
accuracy = 0.5 + int(options["fold"]) / 100 + int(options["seed"]) / 1e5
names = ("test_accuracy", "test_accuracy_best_epoch", "test_accuracy_last_epoch", "valid_accuracy")
counts = ("seed", "epochs", "best_epoch", "n_train", "n_classes", "trainable", "trainable_without_head")
texts = dict.fromkeys(("dataset", "backbone", "method"), "small")
results = {**dict.fromkeys(names, accuracy), **dict.fromkeys(counts, 1), **texts}
results |= {"seconds": 60.0, "peak_memory_bytes": 10**9}
(folder / "results.tmp").write_text(json.dumps(results))
os.replace(folder / "results.tmp", folder / "results.json")
"""


@dataclass
class Project:
    """A table whose cells are run by a small program."""

    folder: Path
    started_commands: list

    def start(self, *options: str) -> tuple:
        """Starts the command; returns its process and what it prints."""
        output = self.folder / f"command{len(self.started_commands)}.txt"
        process = start_table([str(self.folder / "small.yaml"), *options], self.folder, output)
        self.started_commands.append(process)
        return process, output

    def run(self, *options: str) -> Run:
        """Runs the command to its end."""
        return ended(*self.start(*options))

    def waits(self, step: int, wait: bool = True) -> None:
        """Has all cells wait before a step, or go on."""
        path = self.folder / "waits" / str(step)
        path.parent.mkdir(exist_ok=True)
        path.touch() if wait else path.unlink()

    @property
    def started(self) -> list[str]:
        """The cells that were started, in order."""
        path = self.folder / "started.txt"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def processes(self) -> list[int]:
        """Cells that run."""
        path = self.folder / "started.txt"
        pids = [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []
        return living(pids)

    @property
    def finished(self) -> dict[str, tuple[int, int]]:
        """Cells with results, and what changes where these are written again."""
        paths = sorted((self.folder / "results").rglob("results.json"))
        return {f"{path.parts[-3]}/{path.parts[-2]}": (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    @property
    def table(self) -> dict:
        """table.json."""
        return json.loads((self.folder / "results/tables/small/table.json").read_text())


CELLS = [f"{row}/fold{fold}-seed1234" for row in ROWS for fold in (1, 2)]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Two rows and two folds."""
    (tmp_path / "brainplug").mkdir()  # found before the package by a process that starts in this folder
    (tmp_path / "brainplug" / "__init__.py").touch()
    (tmp_path / "brainplug" / "__main__.py").write_text(PROGRAM)
    recipe = Path(ESC50_RECIPE).read_text().replace("!include:../../..", f"!include:{REPOSITORY}")
    (tmp_path / "train.yaml").write_text(recipe)
    table = {
        "rows": {row: {"method": row} for row in ROWS},
        "columns": {"ESC-50": {"recipe": "train.yaml", "data_folder": ".", "folds": [1, 2]}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    made = Project(tmp_path, [])
    yield made
    for process in made.started_commands:
        process.kill()
    for number in made.processes():
        kill(number)


def ended(process: object, output: Path) -> Run:
    process.join(LONGEST)
    assert process.exitcode is not None, output.read_text()
    return Run(process.exitcode, output.read_text())


def test_all_cells_are_run_once(project):
    run = project.run("--jobs=2")
    assert run.code == 0, run.output
    assert sorted(project.started) == CELLS
    assert "linear / ESC-50, fold 2, seed 1234: 53.2% after 1.0 minutes" in run.output
    before = project.finished
    again = project.run("--jobs=2")
    assert again.code == 0
    assert (len(project.started), project.finished) == (4, before)
    [linear, _] = project.table["entries"]
    assert (linear["runs"], linear["mean"]) == (2, pytest.approx((52.234 + 53.234) / 2))
    with open(project.folder / "results/tables/small/table.csv", newline="") as file:
        assert [row["runs"] for row in csv.DictReader(file)] == ["2", "2"]
    more = project.run("--dry_run")
    assert "0 to run: nothing is left to do\n4 cells\n" in more.output


def test_a_look_writes_nothing(project):
    before = sorted(path.name for path in project.folder.iterdir())
    run = project.run("--dry_run")
    assert run.code == 0
    assert run.output.endswith("4 to run: no cell was measured yet, so the time is unknown\n4 cells\n")
    assert sorted(path.name for path in project.folder.iterdir() if not path.name.startswith("command")) == before


def test_some_cells_alone(project):
    assert project.run("--limit=1").code == 0
    assert project.started == CELLS[:1]
    assert project.run("--only=method=lora fold=2").code == 0
    assert project.started == [CELLS[0], CELLS[3]]
    refused = project.run("--only=method=loar")
    assert refused.code == 2
    assert "method is one of: linear, lora" in refused.output
    assert project.run("--limit=1").code == 0
    assert project.started[2:] == CELLS[1:2]


def test_a_table_with_faults_is_refused(project):
    table = yaml.safe_load((project.folder / "small.yaml").read_text())
    table["rows"]["mistyped"] = {"method": "loar"}
    (project.folder / "small.yaml").write_text(yaml.safe_dump({**table, "columnz": {}}))
    run = project.run()
    assert run.code == 2
    assert "It has 2 faults" in run.output
    assert not (project.folder / "results").exists()


def test_killed_commands_lose_no_finished_cell(project):
    """Killed while two cells run, which outlive it; and between cells."""
    project.waits(1)
    process, output = project.start("--jobs=2")
    until(lambda: len(project.started) == 2, output.read_text)
    process.kill()
    assert ended(process, output).code == KILLED
    assert len(project.processes()) == 2

    summary = project.folder / "results/tables/small/table.json"
    before = summary.stat().st_mtime_ns
    process, output = project.start("--jobs=2")
    until(lambda: summary.stat().st_mtime_ns != before, output.read_text)
    time.sleep(1)  # in which it could wrongly start what still runs
    assert len(project.started) == 2
    project.waits(1, wait=False)
    until(lambda: len(project.finished) >= 2, output.read_text)
    process.kill()
    assert ended(process, output).code == KILLED
    before = project.finished

    run = project.run("--jobs=2")
    assert run.code == 0, run.output
    assert {name: project.finished[name] for name in before} == before
    assert sorted(project.finished) == CELLS
    assert sorted(project.started) == CELLS  # what ran on when the command was killed was waited for


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stop_ends_the_cells_which_go_on_later(name, project):
    project.waits(1)
    process, output = project.start("--jobs=2")
    until(lambda: len(project.started) == 2, output.read_text)
    os.kill(process.pid, getattr(signal, name))
    run = ended(process, output)
    assert run.code == 130
    assert "Stopped. The same command goes on." in run.output
    assert "Traceback" not in run.output
    assert project.processes() == []
    assert {cell["state"] for cell in project.table["cells"]} == {"not run"}

    project.waits(1, wait=False)
    assert project.run("--jobs=2").code == 0
    assert len(project.started) == 6
    steps = [path.read_text() for path in project.folder.rglob("steps.txt")]
    assert steps == ["xxx"] * 4  # those that were stopped went on from their first step


def test_two_commands_at_once_share_the_cells(project):
    project.waits(2)
    commands = [project.start("--jobs=2") for _ in range(2)]
    until(lambda: len(project.started) >= 2)
    project.waits(2, wait=False)
    runs = [ended(*command) for command in commands]
    assert [run.code for run in runs] == [0, 0], runs[0].output + runs[1].output
    assert sorted(project.started) == CELLS
    assert {cell["state"] for cell in project.table["cells"]} == {"finished"}


def test_a_broken_cell_says_why_and_the_others_go_on(project):
    (project.folder / "breaks").mkdir()
    (project.folder / "breaks" / "linear").touch()
    run = project.run()
    assert run.code == 1
    reason = "linear / ESC-50, fold 1, seed 1234: broken: This cell was to break."
    assert reason in run.output
    assert list(project.finished) == CELLS[2:]
    assert "not run (2 broken)" in (project.folder / "results/tables/small/table.md").read_text()

    assert project.run().code == 1
    assert len(project.started) == 4  # broken ones wait to be asked for

    (project.folder / "breaks" / "linear").unlink()
    before = project.finished
    assert project.run("--retry_failed").code == 0
    assert list(project.finished) == CELLS
    assert {name: project.finished[name] for name in before} == before


def test_a_folder_that_cannot_be_written(project):
    (project.folder / "file").touch()
    run = project.run("--output_folder=file")
    assert run.code == 2
    assert "error: The table's folder file was asked for. It cannot be written: " in run.output
    assert project.started == []


def test_a_summary_that_cannot_be_written_ends_the_cells(project):
    project.waits(1)
    process, output = project.start("--jobs=2")
    until(lambda: len(project.started) == 2, output.read_text)
    summary = project.folder / "results/tables/small/table.md"
    summary.unlink()
    summary.mkdir()
    kill(project.processes()[0])
    run = ended(process, output)
    assert run.code == 2
    assert "It cannot be written: " in run.output
    assert "Traceback" not in run.output
    assert project.processes() == []


def test_a_cell_s_folder_that_cannot_be_written(project):
    position = project.folder / "results/tables/small/ESC-50/linear"
    position.mkdir(parents=True)
    (position / "fold1-seed1234").touch()
    run = project.run()
    assert run.code == 1
    assert "linear / ESC-50, fold 1, seed 1234: not finished: its folder" in run.output
    assert "Traceback" not in run.output
    assert list(project.finished) == CELLS[1:]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone, on Linux")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_loses_no_finished_cell(project, small_disk):
    position = f"--output_folder={small_disk / 'table'}"
    assert project.run(position, "--only=method=linear").code == 0
    finished = {path: path.stat().st_mtime_ns for path in small_disk.rglob("results.json")}
    assert len(finished) == 2
    (project.folder / "fills").touch()
    run = project.run(position)
    assert run.code in (1, 2)
    assert "No space left on device" in run.output
    assert "Traceback" not in run.output

    (project.folder / "fills").unlink()
    for checkpoint in small_disk.rglob("checkpoint"):
        checkpoint.unlink()
    again = project.run(position, "--retry_failed")
    assert again.code == 0, again.output
    assert len(list(small_disk.rglob("results.json"))) == 4
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_real_cells_killed_twice_end_as_those_that_never_were(shared_esc50, tiny_backbones, command_line, tmp_path):
    shared = {
        "backbone": tiny_backbones["ast"],
        "frames": 64,
        "method_settings": SETTINGS,
        "batch_size": 4,
        "number_of_epochs": 10,  # long enough to be killed within
        "ckpt_interval_steps": 2,
        "device": "cpu",
    }
    columns = {"ESC-50": {"recipe": ESC50_RECIPE, "data_folder": ".", "folds": [1]}}
    rows = {row: {"method": row} for row in ROWS}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"rows": rows, "columns": columns, "shared": shared}))
    options = ["small.yaml", f"--data_folder={shared_esc50}", "--jobs=2"]
    folder = tmp_path / "results/tables/small/ESC-50"

    process, output = start_table(options, tmp_path, tmp_path / "1.txt"), tmp_path / "1.txt"
    until(lambda: any(folder.glob("*/*/save/CKPT*/checksums.json")), output.read_text)
    kill_together(process.pid)
    ended(process, output)
    [*interrupted] = {path.parents[2] for path in folder.glob("*/*/save/CKPT*/checksums.json")}

    process, output = start_table(options, tmp_path, tmp_path / "2.txt"), tmp_path / "2.txt"
    # Not deeper: a walk through checkpoints fails where one of them is removed meanwhile.
    until(lambda: any(folder.glob("*/*/results.json")), output.read_text)
    kill_together(process.pid)
    ended(process, output)
    finished = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*/*/results.json")}

    run = ended(start_table(options, tmp_path, tmp_path / "3.txt"), tmp_path / "3.txt")
    assert run.code == 0, run.output
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished} == finished
    assert interrupted
    assert any("Loading a checkpoint from" in (cell / "output.txt").read_text() for cell in interrupted)
    for row in ROWS:
        alone, cell = tmp_path / f"alone-{row}", folder / row / "fold1-seed1234"
        arguments = [f"--method={row}", "--fold=1", "--number_of_epochs=10", "--ckpt_interval_steps=2"]
        done = run_train(command_line(*arguments, f"--output_folder={alone}"), tmp_path)
        assert done.code == 0, done.output
        actual, wanted = (json.loads((item / "results.json").read_text()) for item in (cell, alone))
        for name in CHANGES_WITH_EACH_RUN:
            del actual[name], wanted[name]
        assert actual == wanted
        same = (cell / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
        assert same, "the weights differ"


def test_the_command_itself(environment, tmp_path):
    table = REPOSITORY / "recipes" / "paper_tables" / "spoken.yaml"
    command = [sys.executable, "-m", "brainplug", "table", str(table), "--dry_run", "--only=row=lora"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LONGEST)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "3 cells"
    assert list(tmp_path.iterdir()) == []
