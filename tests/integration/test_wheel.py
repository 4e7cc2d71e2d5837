"""The package as pip installs it, away from the repository: it has its recipes and backbones, and works."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from brainplug.cli.methods import list_methods
from tests.consistency.test_project import INCLUDE
from tests.integration.running import REPOSITORY

SOURCES = ("LICENSE", "README.md", "brainplug", "hparams", "pyproject.toml", "recipes", "setup.cfg", "setup.py")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel, which is built without the network from a copy of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "copy").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, folder / "copy" / name)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(folder / "copy")], check=True)
    shutil.rmtree(folder / "copy")
    [wheel] = folder.glob("brainplug-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def brainplug(installed: Path, tmp_path: Path):
    """Runs ``python -m brainplug`` of the wheel in an empty folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, "-m", "brainplug", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)

    return run


def files_of(folder: Path, *patterns: str) -> set[str]:
    return {str(path.relative_to(folder)) for pattern in patterns for path in folder.glob(pattern) if path.is_file()}


def test_the_wheel_has_every_file_of_the_package(installed):
    expected = {name for name in files_of(REPOSITORY, "brainplug/**/*") if "__pycache__" not in name}
    recipes = files_of(REPOSITORY, "hparams/*.yaml", "recipes/**/*.yaml", "recipes/**/*.md", "recipes/**/*.py")
    assert "hparams/train.yaml" in recipes
    assert files_of(installed, "brainplug/**/*") == expected | {f"brainplug/{name}" for name in recipes}


def test_the_wheel_has_nothing_but_the_package(installed):
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"brainplug"}
    [points] = installed.glob("*.dist-info/entry_points.txt")
    assert "brainplug = brainplug.cli:command" in points.read_text()


def test_what_its_recipes_include_is_there(installed):
    paths = [path for path in installed.rglob("*.yaml") if INCLUDE.search(path.read_text())]
    assert paths
    for path in paths:
        for name in INCLUDE.findall(path.read_text()):
            assert (path.parent / name).is_file(), f"{path} includes {name}"


def test_the_methods_are_listed(brainplug):
    done = brainplug("methods", "--n_classes=10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == list_methods(str(REPOSITORY / "hparams"), "nano-ast", 10)


def test_own_clips_train_and_are_predicted(brainplug, installed, tmp_path):
    random, time = np.random.default_rng(0), np.arange(8000) / 16000
    for number in range(24):
        path = tmp_path / "clips" / ("noise", "tone")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = np.sin(2 * np.pi * random.uniform(300, 3000) * time) * (number % 2)
        soundfile.write(path, 0.1 * random.standard_normal(8000) + 0.3 * tone, 16000)
    done = brainplug("train", "--method=lora", "--data_folder=clips", "--number_of_epochs=1", "--device=cpu")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "own" / "nano-ast-lora-clips" / "1234"
    assert str(installed / "brainplug" / "hparams" / "train.yaml") in (run / "hyperparams.yaml").read_text()
    done = brainplug("predict", str(run), "clips", "--format=csv")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 24


def test_a_recipe_of_the_package_is_found(brainplug, installed):
    done = brainplug("train", "recipes/ESC50/hparams/train.yaml")
    assert done.returncode == 2
    assert f"{installed / 'brainplug' / 'recipes' / 'ESC50' / 'hparams' / 'train.yaml'} is used" in done.stderr
    assert "Its key data_folder has no value" in done.stderr


def test_a_table_of_the_package_is_planned(brainplug):
    done = brainplug("table", "recipes/paper_tables/spoken.yaml", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "33 cells"
