"""python -m brainplug doctor, as a user calls it: its lines and its exit code."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import read_rows, write_rows
from tests.integration.running import ESC50_RECIPE, Run, run_train


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[..., Run]:
    """Runs the command in the test's own folder."""
    return lambda *arguments: run_train(["doctor", *arguments], tmp_path, main="brainplug.cli:main")


SMALL = ["--frames=64", "--method=linear", "--batch_size=4", "--device=cpu"]


def lines(done: Run, level: str) -> list[str]:
    return [line for line in done.output.splitlines() if line.startswith(f"{level:<8} ")]


def test_a_clean_corpus_has_no_error(doctor, tiny_backbones, shared_esc50, tmp_path):
    backbone = f"--backbone={tiny_backbones['ast']}"
    done = doctor(ESC50_RECIPE, f"--data_folder={shared_esc50}", backbone, *SMALL, "--full")
    assert done.code == 0, done.output
    assert lines(done, "error") == []
    assert "First epoch, 6 steps of training and 2 of validation: about " in done.output  # measured in a new process
    assert "0 of 40 decoded clips unusable" in done.output
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_corpus_and_of_the_options_are_told_together(doctor, esc50):
    rows = read_rows(esc50)
    rows[0][5] = rows[-9][5]  # the recording of a clip in another fold
    write_rows(esc50, rows)
    shutil.copy(esc50 / "audio" / rows[1][0], esc50 / "audio" / rows[-10][0])
    done = doctor(ESC50_RECIPE, f"--data_folder={esc50}", *SMALL, "--backbone=nano-ats")
    assert done.code == 1, done.output
    for said in ("nano-ats", "Groups in two splits", "The same content"):
        assert any(said in line for line in lines(done, "error")), done.output
    assert done.output.splitlines()[-1].startswith("3 errors, ")
    assert "Traceback" not in done.output
