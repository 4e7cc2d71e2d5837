"""A small corpus laid out as ESC-50, and a way to run train.py on it."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.integration.running import ESC50_RECIPE, REPOSITORY, SETTINGS, Run, run_in_two, run_train, start_server

SAMPLE_RATE, SECONDS = 16000, 0.5
CLASSES = ("noise", "tone")
CLIPS = 4  # of each class in each fold
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables that runs see, away from the network and from the user's cache."""
    chosen = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "BRAINPLUG_CACHE": str(tmp_path_factory.mktemp("cache")),
        "TMPDIR": str(tmp_path_factory.mktemp("temporary")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.items():
            patch.setenv(name, value)
        start_server()  # which keeps them
    return {**os.environ, **chosen}


def make_esc50(folder: Path) -> Path:
    """Makes noise and tones, five folds of them."""
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    random = np.random.default_rng(0)
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    rows = []
    for number in range(5 * len(CLASSES) * CLIPS):
        fold, label = number // (len(CLASSES) * CLIPS) + 1, number % len(CLASSES)
        tone = np.sin(2 * np.pi * random.uniform(300, 3000) * time)
        samples = 0.1 * random.standard_normal(len(time)) + 0.3 * tone * label
        name = f"{fold}-{number}-A-{label}.wav"
        soundfile.write(folder / "audio" / name, samples, SAMPLE_RATE)
        rows.append((name, fold, label, CLASSES[label], "True", number, "A"))
    write_rows(folder, rows)
    return folder


def write_rows(folder: Path, rows: list[tuple]) -> None:
    """Writes the table of a corpus."""
    with open(folder / "meta" / "esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def read_rows(folder: Path) -> list[list[str]]:
    """Reads the table of a corpus, without its header."""
    with open(folder / "meta" / "esc50.csv", newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture(scope="session")
def shared_esc50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that tests only read."""
    return make_esc50(tmp_path_factory.mktemp("corpora") / "ESC-50-master")


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    """A corpus that a test may change."""
    return make_esc50(tmp_path / "ESC-50-master")


@pytest.fixture
def command_line(shared_esc50: Path, tiny_backbones: dict[str, str]) -> Callable[..., list[str]]:
    """Arguments of train.py for a small run of the ESC-50 recipe; what is given overrides."""

    def arguments(*options: str) -> list[str]:
        small = [
            f"--data_folder={shared_esc50}",
            f"--backbone={tiny_backbones['ast']}",
            "--frames=64",
            f"--method_settings={json.dumps(SETTINGS)}",
            "--batch_size=4",
            "--number_of_epochs=2",
            "--device=cpu",
            "--noprogressbar",
        ]
        chosen = {option.partition("=")[0]: option for option in (*small, *options)}
        return [ESC50_RECIPE, *chosen.values()]

    return arguments


@pytest.fixture
def train_esc50(command_line: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Run]:
    """Runs the ESC-50 recipe, small, in the test's own folder; what is given overrides."""
    return lambda *options, **named: run_train(command_line(*options), tmp_path, **named)


@pytest.fixture
def two_processes(command_line: Callable[..., list[str]], tmp_path: Path) -> Callable[..., str]:
    """As `launch`, without torchrun, whose imports take seconds."""

    def run(*options: str) -> str:
        done = run_in_two(command_line("--distributed_backend=gloo", *options), tmp_path)
        assert done.code == 0, done.output
        return done.output

    return run


@pytest.fixture
def launch(command_line: Callable[..., list[str]], environment: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Runs the ESC-50 recipe, small, in two processes; returns what they print."""

    def run(*options: str) -> str:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(REPOSITORY / "train.py")]
        command = [sys.executable, *launcher, *command_line("--distributed_backend=gloo", *options)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
