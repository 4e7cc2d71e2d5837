"""python -m brainplug doctor, as a user calls it: its lines and its exit code."""

import shutil
import subprocess
import sys

import pytest

from tests.integration.conftest import read_rows, write_rows
from tests.integration.running import ESC50_RECIPE


@pytest.fixture
def doctor(tmp_path, environment):
    """Runs the command in the test's own folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "brainplug", "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return run


@pytest.fixture
def small(tiny_backbones) -> list[str]:
    """Options of a small model."""
    return [f"--backbone={tiny_backbones['ast']}", "--frames=64", "--method=linear", "--batch_size=4", "--device=cpu"]


def lines(done: subprocess.CompletedProcess, level: str) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith(f"{level:<8} ")]


def test_the_machine_alone(doctor):
    done = doctor()
    assert done.returncode == 0, done.stderr
    assert "nano-ast" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 errors, ")


def test_a_clean_corpus_has_no_error(doctor, small, shared_esc50, tmp_path):
    done = doctor(ESC50_RECIPE, f"--data_folder={shared_esc50}", *small, "--full")
    assert done.returncode == 0, done.stderr
    assert lines(done, "error") == []
    assert "First epoch, 6 steps of training and 2 of validation: about " in done.stdout  # measured in a new process
    assert "0 of 40 decoded clips unusable" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_corpus_and_of_the_options_are_told_together(doctor, small, esc50, tmp_path):
    rows = read_rows(esc50)
    rows[0][5] = rows[-9][5]  # the recording of a clip in another fold
    write_rows(esc50, rows)
    shutil.copy(esc50 / "audio" / rows[1][0], esc50 / "audio" / rows[-10][0])
    done = doctor(ESC50_RECIPE, f"--data_folder={esc50}", *small, "--backbone=nano-ats")
    assert done.returncode == 1, done.stderr
    for said in ("nano-ats", "Groups in two splits", "The same content"):
        assert any(said in line for line in lines(done, "error")), done.stdout
    assert done.stdout.splitlines()[-1].startswith("3 errors, ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml"], "no such file"),
        ([ESC50_RECIPE, "--data_folder=x", "--bach_size=4"], "batch_size"),
        (["--full", "--fold=1"], "fold"),
    ],
)
def test_what_cannot_be_loaded_is_refused_as_elsewhere(arguments, said, doctor):
    done = doctor(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_other_commands_still_refuse_unknown_arguments(environment):
    command = [sys.executable, "-m", "brainplug", "backbones", "--full"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "unrecognized arguments: --full" in done.stderr
