"""Recognition, from a command line to a folder of results: killed and gone on with, read back, and refused."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch

from brainplug.errors import CheckpointError
from brainplug.inference import SpeechRecognizer
from brainplug.results.schema import read_results
from brainplug.results.tables import results_table
from tests.integration.running import KILLED, REPOSITORY, SETTINGS, Run, kill, run_train
from tests.integration.test_bad_input import assert_refused
from tests.integration.test_resume import assert_same, outcome
from tests.made_adapters import WEIGHTS, described_by
from tests.made_corpora import make_librispeech, write_noise

RECIPES = {
    name: str(REPOSITORY / "recipes" / name / "hparams" / "train.yaml") for name in ("spoken_ctc", "LibriSpeech_ctc")
}
BRAIN = "brainplug.training.ctc:CTCBrain"
TEXTS = ("Lights on", "lights off", "no more heat", "it's too dark", "stop")
TOO_LONG = "too much is said here"  # of 0.15 s


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A list of clips of noise with texts; a training clip is shorter than its text, another one has none."""
    rows = [
        (f"{split}{number}.wav", TEXTS[number % len(TEXTS)], split)
        for split, count in (("train", 8), ("valid", 3), ("test", 3))
        for number in range(count)
    ]
    rows += [("short.wav", TOO_LONG, "train"), ("silent.wav", " ", "train")]
    for name, *_ in rows:
        write_noise(tmp_path / "clips" / name, seconds=0.15 if name == "short.wav" else 0.6)
    return write_list(tmp_path / "clips" / "clips.csv", rows)


def write_list(path: Path, rows: list[tuple], columns: tuple = ("path", "text", "split")) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def train(corpus: Path, tiny_backbones: dict[str, str], tmp_path: Path) -> Callable[..., Run]:
    """Runs the recipe, small; what is given overrides."""

    def run(*options: str, recipe: str = "spoken_ctc", **named: object) -> Run:
        small = [
            *([f"--manifest={corpus}"] if recipe == "spoken_ctc" else []),
            *("--number_of_epochs=2", "--batch_size=4", "--mask_time_length=3", "--mask_channel_length=2"),
            *(f"--backbone={tiny_backbones['hubert']}", f"--method_settings={json.dumps(SETTINGS)}", "--lr=0.01"),
            *("--output_folder=results", "--device=cpu", "--noprogressbar", "--num_workers=0"),
        ]
        chosen = {option.partition("=")[0]: option for option in (*small, *options)}
        arguments = [RECIPES[recipe], *chosen.values()]
        return run_train(arguments, tmp_path, **named)

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_killed_run_ends_as_an_uninterrupted_one_and_transcribes(train, tmp_path):
    options = ["--method=full", "--frozen_updates=1", "--layerdrop=0.3", "--ckpt_interval_steps=1"]
    run = train(*options, "--output_folder=uninterrupted")
    assert run.code == 0, run.output
    for death in (partial(kill, f"{BRAIN}.fit_batch", 3, "after"), partial(kill, f"{BRAIN}.evaluate_batch", 2)):
        run = train(*options, sabotage=death)
        assert run.code == KILLED, run.output
    run = train(*options)
    assert run.code == 0, run.output
    results, whole = tmp_path / "results", tmp_path / "uninterrupted"
    assert_same(outcome(results), outcome(whole))
    assert (results / "transcripts.csv").read_text() == (whole / "transcripts.csv").read_text()

    actual = json.loads((results / "results.json").read_text())
    assert [actual[f"n_{name}"] for name in ("train", "valid", "test", "skipped")] == [8, 3, 3, 2]
    assert (actual["updates"], actual["frozen_updates"], actual["n_characters"]) == (4, 1, 28)
    assert [(row["id"], row["reason"]) for row in rows_of(results / "skipped.csv")] == [
        ("short", "needs 22 tokens, has 7"),
        ("silent", "has an empty transcript"),
    ]
    rows = rows_of(results / "transcripts.csv")
    assert [row["reference"] for row in rows] == [text.lower() for text in TEXTS[:3]]
    assert any(row["hypothesis"] for row in rows)
    words = [len(row["reference"].split()) for row in rows]
    rates = [float(row["wer"]) for row in rows]
    total = sum(rate * count for rate, count in zip(rates, words, strict=True)) / sum(words)
    assert actual["test_wer"] == pytest.approx(total, abs=1e-4)
    assert f"WER {100 * actual['test_wer']:.2f} %" in run.output

    recognizer = SpeechRecognizer.from_run(str(results))
    assert [recognizer.transcribe_file(row["path"]) for row in rows] == [row["hypothesis"] for row in rows]
    together = recognizer.transcribe_files([row["path"] for row in rows])
    assert [transcript.text for transcript in together] == [row["hypothesis"] for row in rows]
    remaining = safetensors.torch.load_file(results / WEIGHTS)
    assert remaining
    assert not any("feature_extractor" in name for name in remaining)
    assert "| own clips |" in results_table(read_results(str(results)))


@pytest.mark.parametrize(
    ("weights", "backbone", "method"),
    [("", "wav2vec2", "lora"), ("random:", "data2vec", "prompt_deep"), ("", "wavlm", "adalora")],
)
def test_other_backbones_and_methods(weights, backbone, method, train, tiny_backbones, tmp_path):
    options = ["--decoding=beam", "--beam_size=4", "--batch_seconds=2", "--optimizer=fadam", "--characters=null"]
    run = train(f"--backbone={weights}{tiny_backbones[backbone]}", f"--method={method}", *options)
    assert run.code == 0, run.output
    recognizer = SpeechRecognizer.from_run(str(tmp_path / "results"))
    rows = rows_of(tmp_path / "results" / "transcripts.csv")
    assert [recognizer.transcribe_file(row["path"]) for row in rows] == [row["hypothesis"] for row in rows]
    together = recognizer.transcribe_files([row["path"] for row in rows])
    assert [transcript.text for transcript in together] == [row["hypothesis"] for row in rows]
    description = described_by(tmp_path / "results")
    assert set(description["characters"]) == set("".join([*TEXTS, TOO_LONG]).lower())


def test_librispeech(train, tmp_path):
    corpus = make_librispeech(tmp_path / "LibriSpeech")
    run = train(f"--data_folder={corpus}", "--number_of_epochs=1", recipe="LibriSpeech_ctc")
    assert run.code == 0, run.output
    actual = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [actual["dataset"], *(actual[f"n_{split}"] for split in ("train", "valid", "test"))] == [
        "librispeech",
        4,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--characters=abc"], ["Transcripts in the characters 'abc'", "'d' in", "first 'train3'", "--characters="]),
        (["--decoding=bean"], ["'bean'", "beam"]),
        (["--beam_size=0"], ["beam_size is 0", "greater than 0"]),
        (["--backbone=nano-ast"], ["'nano-ast'", "log_mel, not waveforms"]),
        (["--mask_channel_length=16"], ["16 channels", "16 wide"]),
        (["--mask_time=1.5"], ["mask_time is 1.5"]),
        (["--frozen_updates=-1"], ["frozen_updates is -1"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_is_refused_before_any_clip_is_read(options, words, train, tmp_path):
    run = train(*options)
    assert_refused(run, *words)
    assert "Checking audio" not in run.output


def test_a_list_without_texts_is_refused(train, corpus):
    write_list(corpus, [("train0.wav", "dog")], ("path", "label"))
    assert_refused(train(), "lacks text; it has path, label")


def test_transcripts_that_are_all_too_long_are_refused(train, corpus):
    rows = [(f"{split}0.wav", "many words " * 20, split) for split in ("train", "valid", "test")]
    write_list(corpus, rows)
    assert_refused(train(), "the split train", "'train0' needs 219 tokens, has 29")


def test_a_folder_that_holds_no_recogniser_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"It lacks adapter_config\.json and adapter_model\.safetensors"):
        SpeechRecognizer.from_run(str(tmp_path))
