"""The recipe of Echo: killed and gone on with, read back, adapted, and refused."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from brainplug.backbones.echo import Echo
from brainplug.inference import SpeechRecognizer
from brainplug.results.schema import read_results
from brainplug.results.tables import results_table
from tests.integration.running import KILLED, REPOSITORY, SETTINGS, Run, kill, run_train
from tests.integration.test_bad_input import assert_refused
from tests.integration.test_recognition import TEXTS, rows_of, write_list
from tests.integration.test_resume import assert_same, outcome
from tests.made_corpora import write_noise

RECIPE = str(REPOSITORY / "recipes" / "spoken_echo" / "hparams" / "train.yaml")
BRAIN = "brainplug.training.recognition:RecognitionBrain"
SMALL = {
    "n_audio_state": 16,
    "n_audio_layer": 1,
    "n_text_state": 16,
    "n_text_layer": 1,
    "n_audio_ctx": 100,
    "base_interval": 2,  # so that the base moves, once an epoch
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A list of clips of noise with texts; one has none."""
    rows = [
        (f"{split}{number}.wav", TEXTS[number % len(TEXTS)], split)
        for split, count in (("train", 8), ("valid", 3), ("test", 3))
        for number in range(count)
    ]
    rows.append(("silent.wav", " ", "train"))
    for name, *_ in rows:
        write_noise(tmp_path / "clips" / name, seconds=0.4)
    return write_list(tmp_path / "clips" / "clips.csv", rows)


@pytest.fixture
def train(corpus: Path, tmp_path: Path) -> Callable[..., Run]:
    """Runs the recipe, small; what is given overrides."""

    def run(*options: str, **named: object) -> Run:
        small = [
            *(f"--manifest={corpus}", "--number_of_epochs=2", "--batch_size=4", f"--model={json.dumps(SMALL)}"),
            *(f"--method_settings={json.dumps(SETTINGS)}", "--lr=0.01", "--precision=fp32", "--eval_precision=fp32"),
            *("--output_folder=results", "--device=cpu", "--noprogressbar"),
        ]
        chosen = {option.partition("=")[0]: option for option in (*small, *options)}
        return run_train([RECIPE, *chosen.values()], tmp_path, **named)

    return run


def test_a_killed_run_ends_as_an_uninterrupted_one_and_transcribes(train, tmp_path):
    options = ["--ckpt_interval_steps=1", "--use_hybrid_attention=True", "--optimizer=fadam"]
    run = train(*options, "--output_folder=uninterrupted")
    assert run.code == 0, run.output
    run = train(*options, sabotage=partial(kill, f"{BRAIN}.fit_batch", 3, "after"))
    assert run.code == KILLED, run.output
    run = train(*options)
    assert run.code == 0, run.output
    results, whole = tmp_path / "results", tmp_path / "uninterrupted"
    assert_same(outcome(results), outcome(whole))
    actual = json.loads((results / "results.json").read_text())
    assert [actual[f"n_{name}"] for name in ("train", "valid", "test", "skipped")] == [8, 3, 3, 1]
    rows = rows_of(results / "transcripts.csv")
    assert [row["reference"] for row in rows] == [text.lower() for text in TEXTS[:3]]
    recognizer = SpeechRecognizer.from_run(str(results))
    assert [recognizer.transcribe_file(row["path"]) for row in rows] == [row["hypothesis"] for row in rows]
    together = recognizer.transcribe_files([row["path"] for row in rows])
    assert [transcript.text for transcript in together] == [row["hypothesis"] for row in rows]
    echo = Echo.from_pretrained(results / "echo")
    assert echo.config.use_hybrid_attention
    assert echo.adaptive_base.base == echo.encoder.rotary.positions.base != echo.config.base
    assert "| own clips |" in results_table(read_results(str(results)))

    alone = SpeechRecognizer.from_run(shutil.copytree(results / "adapter", tmp_path / "alone"))
    assert [alone.transcribe_file(row["path"]) for row in rows] == [row["hypothesis"] for row in rows]

    adapted = ["--output_folder=adapted", f"--backbone={results / 'echo'}", "--method=bottleneck", "--decoding=beam"]
    run = train(*adapted)
    assert run.code == 0, run.output
    recognizer = SpeechRecognizer.from_run(str(tmp_path / "adapted"))
    rows = rows_of(tmp_path / "adapted" / "transcripts.csv")
    assert [recognizer.transcribe_file(row["path"]) for row in rows] == [row["hypothesis"] for row in rows]
    together = recognizer.transcribe_files([row["path"] for row in rows])
    assert [transcript.text for transcript in together] == [row["hypothesis"] for row in rows]
    assert not (tmp_path / "adapted" / "echo").exists()


def test_the_training_transcripts_give_the_characters(train, tmp_path):
    run = train("--characters=null")
    assert run.code == 0, run.output
    occur = "".join(sorted(set("".join(TEXTS[:8]).lower())))
    assert Echo.from_pretrained(tmp_path / "results" / "echo").config.characters == occur
    recognizer = SpeechRecognizer.from_run(str(tmp_path / "results"))
    rows = rows_of(tmp_path / "results" / "transcripts.csv")
    assert [recognizer.transcribe_file(row["path"]) for row in rows] == [row["hypothesis"] for row in rows]
    together = recognizer.transcribe_files([row["path"] for row in rows])
    assert [transcript.text for transcript in together] == [row["hypothesis"] for row in rows]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backbone=nano-ast"], ["'nano-ast'", "no Echo", "--backbone=new"]),
        (["--characters=abc"], ["Transcripts in the characters 'abc'", "--characters="]),
        (['--model={"n_audio_head": 5}'], ["n_audio_state: 192 with n_audio_head: 5", "n_audio_head: 4"]),
        (['--model={"n_text_ctx": 5}'], ["up to 13 characters", "generates at most 4"]),
        (["--rotation=plane"], ["'plane'", "plain"]),
    ],
)
def test_refusals(options, words, train, tmp_path):
    assert_refused(train(*options), *words)
