"""Data of one's own through train.py: a folder, or a list; what is wrong with them is one clear message."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from brainplug.data.manifest import read_manifest
from tests.integration.running import REPOSITORY, Run, run_train
from tests.integration.test_bad_input import assert_refused, quarantined
from tests.made_corpora import write_noise

LABELS = ("noise", 'a "tone", high', "Größe")


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Twelve clips of each of three classes, with awkward names; beside the folder, a list of them with speakers."""
    folder, rows = tmp_path / "sounds", []
    random = np.random.default_rng(0)
    time = np.arange(8000) / 16000
    for number in range(36):
        label = LABELS[number % 3]
        path = folder / label / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = np.sin(2 * np.pi * random.uniform(300, 3000) * time)
        soundfile.write(path, 0.1 * random.standard_normal(8000) + 0.3 * tone * (number % 3), 16000)
        rows.append((path.relative_to(folder), label, f"speaker {number // 3 % 6}"))
    write_list(tmp_path, ("path", "label", "group"), rows)
    return folder


def write_list(folder: Path, columns: tuple, rows: list[tuple]) -> None:
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def train_own(tiny_backbones: dict[str, str], tmp_path: Path):
    """Runs hparams/train.yaml, small, in the test's own folder."""

    def run(*options: str) -> Run:
        small = [
            f"--backbone={tiny_backbones['ast']}",
            "--method=linear",
            "--frames=64",
            "--batch_size=4",
            "--number_of_epochs=1",
            "--device=cpu",
            "--noprogressbar",
        ]
        return run_train([str(REPOSITORY / "hparams" / "train.yaml"), *small, *options], tmp_path)

    return run


@pytest.mark.parametrize(
    ("options", "actual"),
    [
        (["--dataset=own", "--data_folder=sounds"], (28, 4, 4)),
        (["--dataset=own", "--data_folder=sounds", "--fold=2", "--folds=3"], (12, 12, 12)),
        (["--manifest=clips.csv", "--data_folder=sounds"], (24, 6, 6)),
    ],
)
def test_ones_own_clips_train(options, actual, sounds, train_own):
    run = train_own("--debug", *options)
    assert run.code == 0, run.output
    counts = [line.split()[1] for line in run.output.splitlines() if line.startswith(("train ", "valid ", "test  "))]
    assert counts[:3] == [str(count) for count in actual]
    assert "test accuracy" in run.output
    assert "own" in run.output


def test_a_rerun_keeps_the_splits_when_clips_are_added(sounds, train_own, tmp_path):
    options = ["--dataset=own", "--data_folder=sounds", "--output_folder=results"]
    run = train_own(*options)
    assert run.code == 0, run.output
    before = {clip.path: clip.split for clip in read_manifest(str(tmp_path / "results" / "manifest.csv"))}
    for label in LABELS:
        for number in range(8):
            write_noise(sounds / label / f"added{number}.wav", seconds=0.5)
    trained = (tmp_path / "results" / "results.json").read_text()
    assert_refused(train_own(*options), "changed after a model was trained on them", "24 are new", "save")
    assert (tmp_path / "results" / "results.json").read_text() == trained
    assert len(read_manifest(str(tmp_path / "results" / "manifest.csv"))) == 36
    shutil.rmtree(tmp_path / "results" / "save")
    run = train_own(*options)
    assert run.code == 0, run.output
    after = {clip.path: clip.split for clip in read_manifest(str(tmp_path / "results" / "manifest.csv"))}
    assert len(after) == 60
    assert {path: after[path] for path in before} == before
    # Another run takes the same splits from the file.
    run = train_own("--manifest=results/splits.csv", "--output_folder=other", "--seed=2")
    assert run.code == 0, run.output
    assert {clip.path: clip.split for clip in read_manifest(str(tmp_path / "other" / "manifest.csv"))} == after


def test_two_folders_have_results_of_their_own(sounds, train_own, tmp_path):
    for name in ("sounds", "others"):
        sounds = sounds.rename(tmp_path / name)
        run = train_own("--dataset=own", f"--data_folder={name}")
        assert run.code == 0, run.output
    names = sorted(path.parents[1].name.rpartition("-")[2] for path in tmp_path.rglob("results.json"))
    assert names == ["others", "sounds"]


def test_bad_clips_are_counted_and_listed(sounds, train_own, tmp_path):
    (sounds / "noise" / "0.wav").write_bytes(b"no audio")
    run = train_own("--dataset=own", "--data_folder=sounds", "--output_folder=results")
    assert run.code == 0, run.output
    assert "1 clip (noise 1) quarantined" in run.output
    assert quarantined(tmp_path / "results") == {"noise/0": "Format not recognised"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset=own"], ["--data_folder=DIR or --manifest=clips.csv"]),
        (["--dataset=own", "--data_folder=."], ["It has 'sounds'", "one sub-folder a class"]),
        (["--dataset=own", "--data_folder=nowhere"], ["nowhere", "No such file or directory"]),
        (["--manifest=nowhere.csv"], ["nowhere.csv", "no such file"]),
        (["--manifest=clips.csv"], ["None of its files exists", "--data_folder=DIR"]),
        (["--manifest=clips.csv", "--dataset=spoken"], ["'clips.csv'", "--dataset=spoken was given too"]),
        (["--dataset=own", "--data_folder=sounds", "--fold=6"], ["fold 6", "1, 2, 3, 4, 5"]),
        (["--dataset=own", "--data_folder=sounds", "--fold=1", "--folds=13"], ["has 12 clips", "13 of different"]),
        (["--dataset=own", "--data_folder=sounds", "--folds=2"], ["folds is 2", "greater than or equal to 3"]),
    ],
)
def test_what_cannot_be_is_refused(options, words, sounds, train_own):
    assert_refused(train_own("--debug", *options), *words)


def test_a_list_whose_splits_leak_is_refused(sounds, train_own, tmp_path):
    splits = ("train", "valid", "test")
    rows = [(path, path.parent.name, "Ann", splits[n % 3]) for n, path in enumerate(sounds.rglob("*.wav"))]
    write_list(tmp_path, ("path", "label", "group", "split"), rows)
    assert_refused(train_own("--manifest=clips.csv", "--debug"), "The group 'Ann' is in train and valid")
