"""What a user can mend gets one clear message and exit code 2, without a traceback; nothing is overwritten."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.integration.conftest import read_rows, write_rows
from tests.integration.running import ESC50_RECIPE, REPOSITORY, Run, run_train

NOTHING_LISTENS = "http://127.0.0.1:9"


def assert_refused(run: Run, *words: str) -> None:
    """Wants exit code 2 and, at the end, one message that has these words."""
    assert run.code == 2, run.output
    assert "Traceback" not in run.output
    _, error, message = f"\n{run.output}".rpartition("\nerror: ")  # several faults are one a line
    assert error
    assert [word for word in words if word not in message] == [], message


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Times and contents of all files in a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def finished() -> dict[str, Path]:
    """A finished run, once it was made."""
    return {}


@pytest.fixture
def results(finished: dict[str, Path], train_esc50: Callable[..., Run], tmp_path: Path) -> Path:
    """A copy of a finished run, in the folder ``results``."""
    if not finished:
        run = train_esc50("--output_folder=results")
        assert run.code == 0, run.output
        finished["folder"] = tmp_path / "results"
    else:
        shutil.copytree(finished["folder"], tmp_path / "results")
    return tmp_path / "results"


BAD_OPTIONS = {
    "--method=conformr": ["'conformr'", "the nearest are: conformer"],
    "--method=": ["method is ''", "its block methods does not have"],
    "--backbone=nano-ats": ["'nano-ats'", "nano-ast, ", "FOLDER, or a hub id"],
    "--backbone=.": ["'.'", "config.json"],
    "--backbone=someone/something": ["'someone/something'", "is not in the cache", "--backbone=nano-ast"],
    "--dataset=esc5": ["'esc5'", "the nearest are: esc50"],
    "--optimizer=adamm": ["'adamm'", "the nearest are: fadam, adamw"],
    "--bach_size=4": ["--bach_size", "no key bach_size", "batch_size"],
    "--fold=9": ["fold 9", "1 to 5", "--fold=1"],
    "--fold=one": ["fold is 'one'"],
    "--seed=-1": ["seed is -1", "greater than or equal to 0"],
    "--batch_size=0": ["batch_size is 0", "greater than 0"],
    "--batch_size=2.5": ["batch_size is 2.5", "valid integer"],
    "--number_of_epochs=abc": ["number_of_epochs is 'abc'", "valid integer"],
    "--num_workers=-1": ["num_workers is -1"],
    "--lr=-1": ["lr is -1", "greater than 0"],
    "--lr=0": ["lr is 0"],
    "--lr=high": ["lr is 'high'", "valid number"],
    "--frames=5": ["5 frames", "16 frames long", "--frames=16"],
    "--frames=long": ["frames is 'long'"],
    "--positions=stretch": ["positions is 'stretch'", "'crop', 'interpolate', 'zero' or 'published'"],
    "--pooling=XYZ": ["pooling is 'XYZ'", "'ALL', 'CLS'"],
    "--few_shot=0": ["few_shot is 0", "greater than 0"],
    "--few_shot=13": ["13 training clips of each class", "'noise' has 12", "--few_shot=12 or less"],
    "--paper_code=please": ["paper_code is 'please'", "valid boolean"],
    "--gradient_checkpointing=1": ["gradient_checkpointing is 1", "valid boolean"],
    "--method_settings={conformer: {reduction_rat: 4}}": ["'conformer'", "'reduction_rat'", "hparams/methods.yaml"],
    "--method_settings={conformer: {reduction_rate: 17}}": ["reduction rate 17", "16 wide", "from 1 to 16"],
    "--method_settings={conformer: {placement: above}}": ["'above'", "parallel, sequential"],
    "--method_settings={conformer: {kernel_size: 0}}": ["kernel of 0 tokens"],
    "--method_settings={conformer: {residual: True}}": ["with residual", "not start as the backbone"],
    "--pooling=PROMPTS": ["'PROMPTS'", "no prompts", "ALL, CLS, SPECIAL, SPEECH"],
    "--method_settings={": ["cannot be loaded"],
    "--method_settings={conformer:{kernel_size: 3}}": ["cannot be loaded"],
    "--data_folder=nowhere": ["nowhere", "does not exist", "--data_folder=DIR"],
    "--device=gpu": ["'gpu'", "--device=cpu"],
    "--device=cuda:77": ["'cuda:77'", "--device=cpu"],
    "--precision=fp16": ["fp16", "CPU", "--precision=bf16"],
    "--grad_accumulation_factor=0": ["Steps of 0 batches"],
    "--grad_accumulation_factor=7": ["Steps of 7 batches", "An epoch has 6"],
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_bad_option(option, results, train_esc50, tmp_path):
    before = state(results)
    assert_refused(train_esc50(option, "--output_folder=results"))
    assert state(results) == before
    assert_refused(train_esc50(option, "--output_folder=fresh"), *BAD_OPTIONS[option])
    assert list((tmp_path / "fresh").glob("save/*")) == []
    assert not (tmp_path / "fresh" / "results.json").exists()


def test_all_wrong_values_are_in_one_message(train_esc50):
    words = ["pooling is 'XYZ'", "positions is 'stretch'", "lr is -1", "no key bach_size"]
    assert_refused(train_esc50("--pooling=XYZ", "--positions=stretch", "--lr=-1", "--bach_size=4"), *words)


@pytest.mark.parametrize("option", [name for name in BAD_OPTIONS if name.startswith(("--method", "--pooling"))])
def test_methods_are_refused_before_any_clip_is_read(option, train_esc50):
    run = train_esc50(option)
    assert_refused(run, *BAD_OPTIONS[option])
    assert "Checking audio" not in run.output


def test_precision_that_does_not_exist(train_esc50):
    run = train_esc50("--precision=fp99")
    assert run.code == 2
    assert "invalid choice: 'fp99' (choose from" in run.output
    assert "Traceback" not in run.output


def test_test_without_training(train_esc50):
    assert_refused(train_esc50("--test_only"), "A test was asked for", "no checkpoint in", "without --test_only")


def test_folder_that_cannot_be_made(train_esc50, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert_refused(train_esc50("--output_folder=file/results"), "file/results")
    assert (tmp_path / "file").read_text() == "kept"


def test_failed_attempt_does_not_occupy_the_folder(train_esc50):
    assert_refused(train_esc50("--data_folder=nowhere", "--output_folder=results"))
    run = train_esc50("--output_folder=results")
    assert run.code == 0, run.output


# Recipes


def test_data_folder_that_is_not_given(command_line, tmp_path):
    arguments = [option for option in command_line() if not option.startswith("--data_folder")]
    assert_refused(run_train(arguments, tmp_path), ESC50_RECIPE, "data_folder has no value", "write --data_folder=")


def test_missing_recipe(tmp_path):
    assert_refused(run_train(["nowhere.yaml"], tmp_path), "'nowhere.yaml'", "no such file", "hparams/train.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2",
        "only words",
        "- a\n- list",
        "",
        "seed: 1\nseed: 2",
        "methods: !include:nowhere.yaml",
        "a: !new:torch.Nothing",
        "a: !ref <b>",
        "a: \x00",
    ],
)
def test_file_that_is_no_recipe(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    assert_refused(run_train(["recipe.yaml"], tmp_path), "'recipe.yaml'", "hparams/train.yaml")


def test_key_that_is_given_twice(command_line, tmp_path):
    assert_refused(run_train([*command_line(), "--lr=1", "--lr=2"], tmp_path), 'duplicate key "lr"')


# Backbones that are out of reach; in processes of their own, since the hub's library reads its environment once.


def test_backbone_out_of_reach_without_network(command_line, environment, tmp_path):
    cache = tmp_path / "hub"
    command = [sys.executable, str(REPOSITORY / "train.py"), *command_line("--backbone=someone/something")]
    online = {**environment, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": NOTHING_LISTENS, "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(command, cwd=tmp_path, env=online, capture_output=True, text=True, timeout=60)
    words = ["'someone/something', revision main", str(cache), "cannot be reached", "--backbone=nano-ast"]
    assert_refused(Run(done.returncode, done.stderr), *words)


# Clips


def sound(samples: np.ndarray, rate: int = 16000, subtype: str = "FLOAT") -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, samples, rate, subtype=subtype)


BAD_CLIPS = {
    "1-0-A-0": (lambda path: path.write_text("no audio"), "Format not recognised"),
    "2-8-A-0": (lambda path: path.write_bytes(b""), "Format not recognised"),
    "3-16-A-0": (sound(np.zeros(0)), "no samples"),
    "4-24-A-0": (sound(np.full(8000, np.nan)), "NaN or infinite samples"),
    "4-25-A-1": (sound(np.full(8000, np.inf)), "NaN or infinite samples"),
    "5-32-A-0": (sound(np.full(800, 0.1)), "lasts 0.050 s, less than 0.1 s"),
    "5-33-A-1": (lambda path: path.unlink(), "does not exist"),
    "5-34-A-0": (lambda path: os.truncate(path, 4000), "truncated"),
}


@pytest.fixture
def damaged_esc50(esc50: Path) -> Path:
    """A corpus with eight bad clips of forty."""
    for name, (damage, _) in BAD_CLIPS.items():
        damage(esc50 / "audio" / f"{name}.wav")
    return esc50


def quarantined(folder: Path) -> dict[str, str]:
    """Why clips were set aside, by id."""
    with open(folder / "quarantine.csv", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_bad_clips_are_listed_and_skipped(damaged_esc50, train_esc50, tmp_path):
    run = train_esc50(f"--data_folder={damaged_esc50}", "--prepare={max_fraction: 0.2}", "--output_folder=results")
    assert run.code == 0, run.output
    reasons = quarantined(tmp_path / "results")
    assert reasons.keys() == BAD_CLIPS.keys()
    assert [name for name, (_, reason) in BAD_CLIPS.items() if reason not in reasons[name]] == [], reasons
    numbers = json.loads((tmp_path / "results" / "results.json").read_text())
    # Fold 1 tests, fold 5 validates, the others train.
    assert (numbers["n_train"], numbers["n_valid"], numbers["n_test"]) == (24 - 4, 8 - 3, 8 - 1)


def test_too_many_bad_clips(damaged_esc50, train_esc50, tmp_path):
    run = train_esc50(f"--data_folder={damaged_esc50}", "--output_folder=results")
    assert_refused(run, "8 of them (20.0%, at most 5.0% may be)", "1-0-A-0.wav", "quarantine.csv")
    assert quarantined(tmp_path / "results").keys() == BAD_CLIPS.keys()


def test_stereo_and_other_rates_are_converted(esc50, train_esc50, tmp_path):
    paths = sorted((esc50 / "audio").iterdir())
    for number, (path, rate) in enumerate(zip(paths, (8000, 22050, 44100, 48000) * 10, strict=True)):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, (rate // 2, 2))
        soundfile.write(path, samples, rate)
    run = train_esc50(f"--data_folder={esc50}", "--output_folder=results")
    assert run.code == 0, run.output
    assert not (tmp_path / "results" / "quarantine.csv").exists()


def change_table(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    write_rows(folder, [change(row) for row in read_rows(folder)])


def test_class_in_one_split_only(esc50, train_esc50):
    change_table(esc50, lambda row: [*row[:3], "siren" if row[1] == "1" else row[3], *row[4:]])
    run = train_esc50(f"--data_folder={esc50}")
    assert_refused(run, "The class 'siren' occurs in test only", "Put clips of it into train")


def test_fold_that_does_not_exist_in_the_table(esc50, train_esc50):
    change_table(esc50, lambda row: [row[0], "7", *row[2:]])
    assert_refused(train_esc50(f"--data_folder={esc50}"), "is in fold '7'", "official")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "audio"), ["audio does not exist"]),
        (lambda folder: (folder / "meta" / "esc50.csv").unlink(), ["esc50.csv does not exist"]),
        (lambda folder: (folder / "meta" / "esc50.csv").write_text(""), ["lacks filename, fold"]),
        (
            lambda folder: (folder / "meta" / "esc50.csv").write_text("filename,fold,label,esc10,src_file\n"),
            ["lacks category", "it has filename, fold, label"],
        ),
        (lambda folder: write_rows(folder, []), ["The split train is empty"]),
        (lambda folder: (folder / "meta" / "esc50.csv").open("a").write("too,few\n"), ["Line 42"]),
    ],
    ids=["audio folder", "table", "empty table", "column", "no rows", "broken row"],
)
def test_missing_part_of_the_data(damage, words, esc50, train_esc50):
    damage(esc50)
    assert_refused(train_esc50(f"--data_folder={esc50}"), *words)


# Results


@pytest.mark.parametrize(
    ("option", "asked", "actual"),
    [
        ("--lr=0.25", "'lr: 0.25'", "'lr:'"),
        ("--precision=bf16", "'--precision=bf16'", "'--precision=fp32'"),
        ("--eval_precision=bf16", "'--eval_precision=bf16'", "'--eval_precision=fp32'"),
        ("--remove_vector_weight_decay", "'--remove_vector_weight_decay=True'", "'--remove_vector_weight_decay=False'"),
    ],
)
def test_results_of_another_configuration(option, asked, actual, results, train_esc50):
    before = state(results)
    run = train_esc50(option, "--output_folder=results")
    assert_refused(run, asked, actual, "Write another --output_folder")
    assert state(results) == before


def test_checkpoints_of_another_program(train_esc50, tmp_path):
    checkpoint = tmp_path / "results" / "save" / "CKPT+theirs"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.ckpt").write_text("theirs")
    before = state(tmp_path / "results")
    assert_refused(train_esc50("--output_folder=results"), "It holds a run with nothing of this")
    assert state(tmp_path / "results") == before


@pytest.mark.parametrize(
    ("options", "split"),
    [
        ([], "train"),
        (["--grad_accumulation_factor=6"], "valid"),
    ],  # six batches a step: validation is the next to see it
)
def test_infinite_loss_names_the_clips(options, split, train_esc50, tmp_path):
    run = train_esc50("--lr=1e30", "--method=full", "--output_folder=results", *options)
    assert_refused(run, "in epoch 1, step", "Its loss is", "write a lower --lr")
    with open(tmp_path / "results" / "manifest.csv", newline="") as file:
        ids = {row["id"] for row in csv.DictReader(file) if row["split"] == split}
    named = run.output.splitlines()[-1].partition("for the clips: ")[2].partition(".")[0].split(", ")
    assert len(named) == 4
    assert set(named) <= ids
    assert not (tmp_path / "results" / "results.json").exists()


# The same, as a shell sees it.


@pytest.mark.parametrize("option", ["--method=conformr", "--lr=0"])
def test_true_command(option, command_line, environment, tmp_path):
    command = [sys.executable, str(REPOSITORY / "train.py"), *command_line(option)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert_refused(Run(done.returncode, done.stderr), *BAD_OPTIONS[option])
