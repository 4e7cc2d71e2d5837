"""What a run trained is used elsewhere: in another process, after its folder was moved, file by file or in batches."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from brainplug.inference import Classifier
from brainplug.results.run_files import read_predictions
from tests.integration.running import REPOSITORY, SETTINGS, run_train
from tests.made_corpora import write_noise

METHODS = [key.value for key, _ in yaml.compose((REPOSITORY / "hparams/methods.yaml").read_text()).value]
BACKBONES = ("ast", "wav2vec2")
SECONDS = (0.4, 0.65, 0.11, 0.9, 0.5)  # of the test clips


def train_all(arguments: list[str]) -> None:
    """Trains once for each line of options, in one process."""
    import train

    for line in arguments:
        train.main(json.loads(line))


def predict_all(arguments: list[str]) -> None:
    """Writes, for each run folder and batch size, the predictions for the run's test clips."""
    report, *folders = arguments
    actual = {}
    for folder in folders:
        classifier = Classifier.from_run(folder)
        paths = [row["path"] for row in read_predictions(folder)]
        for batch_size in (1, 16):
            actual[f"{Path(folder).name} {batch_size}"] = [
                (prediction.path, prediction.label, prediction.probability)
                for prediction in classifier.classify_files(paths, batch_size)
            ]
    Path(report).write_text(json.dumps(actual))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of clips of several lengths."""
    folder = tmp_path_factory.mktemp("clips")
    seconds = {"train": (0.5, 0.7, 0.6, 0.4), "valid": (0.5, 0.6), "test": SECONDS}
    rows = [
        (f"{split}{number}.wav", ("cat", "dog")[number % 2], split, length)
        for split, lengths in seconds.items()
        for number, length in enumerate(lengths)
    ]
    for name, _, _, length in rows:
        write_noise(folder / name, seconds=length)
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *(row[:3] for row in rows)])
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def predictions(clips, tiny_backbones, tmp_path_factory) -> tuple[Path, dict]:
    """Folder of the moved runs, and what was predicted there in another process than the one that trained."""
    folder = tmp_path_factory.mktemp("runs")
    lines = [
        json.dumps(
            [
                str(REPOSITORY / "hparams" / "train.yaml"),
                *("--dataset=own", f"--manifest={clips}", f"--backbone={tiny_backbones[backbone]}", "--frames=64"),
                *(f"--method={method}", f"--method_settings={json.dumps(SETTINGS)}", "--batch_size=2", "--augment=[]"),
                *("--number_of_epochs=1", f"--output_folder={backbone}-{method}", "--device=cpu", "--noprogressbar"),
                *("--cache_features=False", "--lr=0.01"),
            ]
        )
        for backbone in BACKBONES
        for method in METHODS
    ]
    run = run_train(lines, folder, main="tests.integration.test_inference:train_all")
    assert run.code == 0, run.output
    moved = folder.with_name("moved")
    shutil.move(folder, moved)
    folders = [str(path) for path in sorted(moved.iterdir())]
    run = run_train([str(moved / "found.json"), *folders], moved, main="tests.integration.test_inference:predict_all")
    assert run.code == 0, run.output
    return moved, json.loads((moved / "found.json").read_text())


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_predictions_equal_those_of_the_run(backbone, method, batch_size, predictions):
    folder, actual = predictions
    rows = read_predictions(str(folder / f"{backbone}-{method}"))
    assert len(rows) == len(SECONDS)
    paths, labels, probabilities = zip(*actual[f"{backbone}-{method} {batch_size}"], strict=True)
    assert list(paths) == [row["path"] for row in rows]
    assert list(labels) == [row["predicted"] for row in rows]
    assert probabilities == pytest.approx([float(row["probability"]) for row in rows], abs=1e-5)


def test_the_command_goes_on_past_bad_files_and_says_what_cannot_be_done(predictions, tmp_path):
    moved, _ = predictions
    run, rows = str(moved / "ast-lora"), read_predictions(str(moved / "ast-lora"))
    (tmp_path / "bad.wav").write_text("no audio")
    main = "brainplug.cli:main"
    paths = [row["path"] for row in rows]
    finished = run_train(["predict", run, "bad.wav", *paths, "--format=csv", "--output=out.csv"], tmp_path, main=main)
    assert (finished.code, "1 of 6 clips cannot be used" in finished.output) == (1, True), finished.output
    with open(tmp_path / "out.csv", newline="") as file:
        assert [(row["path"], row["label"]) for row in csv.DictReader(file)] == [
            (row["path"], row["predicted"]) for row in rows
        ]
    for command, words in (
        (["predict", str(tmp_path / "nowhere"), *paths], "There is no such folder"),
        (["predict", run, str(tmp_path / "nowhere.wav")], "nowhere.wav does not exist"),
        (["embed", run, *paths, "--output=vectors.txt"], "saved as .npy"),
    ):
        refused = run_train(command, tmp_path, main=main)
        assert (refused.code, words in refused.output) == (2, True), refused.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.wav", "out.csv"]
