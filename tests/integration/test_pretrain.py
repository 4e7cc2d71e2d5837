"""The pre-training recipes make a backbone of a folder of audio, also after they were killed."""

import csv
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from brainplug.backbones import load_backbone
from brainplug.pretrain import health
from tests.integration.running import KILLED, REPOSITORY, Run, kill, run_in_two, run_recipe

SCRIPTS = {name: f"pretrain_{name}/train.py" for name in ("hubert", "data2vec")}
MODELS = {"hubert": "iteration2/nano-hubert", "data2vec": "nano-data2vec"}
# Two epochs of three steps, in each iteration.
SMALL = [
    "--data_folder=sound", "--results_folder=results", "--number_of_epochs=2", "--steps_per_epoch=3", "--batch_size=2",
    "--crop_seconds=0.5", "--valid_batches=1", "--valid_fraction=0.2", "--health_interval=1", "--noprogressbar",
    "--ckpt_interval_steps=1",
]  # fmt: skip
ARGUMENTS = {"hubert": [*SMALL, "--clusters=6", "--clustered_frames=400", "--projection=8"], "data2vec": SMALL}
BRAIN = "brainplug.pretrain.brain:PretrainBrain"
TIMES = ("updates_per_second", "data_wait_fraction", "minutes")


def make_sound(folder: Path, files: int = 10, level: float = 0.3, seconds: float = 1.0) -> None:
    """Writes tones in noise."""
    folder.mkdir()
    time = np.arange(round(16000 * seconds)) / 16000
    for number in range(files):
        draw = np.random.default_rng(number)
        samples = np.sin(2 * np.pi * draw.uniform(200, 3000) * time) + 0.3 * draw.standard_normal(len(time))
        soundfile.write(folder / f"{number}.wav", level * samples / 2, 16000)


def pretrain(recipe: str, folder: Path, sabotage: object = None, more: tuple[str, ...] = ()) -> Run:
    """Runs a recipe on the folder ``sound``."""
    recipe_file = REPOSITORY / "recipes" / f"pretrain_{recipe}" / "hparams" / "nano.yaml"
    return run_recipe(SCRIPTS[recipe], [str(recipe_file), *arguments_of(recipe, more)], folder, sabotage)


def arguments_of(recipe: str, more: tuple[str, ...]) -> list[str]:
    """The arguments of a small run; `more` replaces some of them."""
    return list({argument.partition("=")[0]: argument for argument in (*ARGUMENTS[recipe], *more)}.values())


def outcome(recipe: str, folder: Path) -> tuple[dict[str, torch.Tensor], list[list[dict]]]:
    """The weights, and the logs of health without times."""
    logs = []
    for path in sorted((folder / "results").rglob("health.csv")):
        with open(path, newline="") as file:
            logs.append([{name: row[name] for name in row if name not in TIMES} for row in csv.DictReader(file)])
    return load_file(folder / "results" / MODELS[recipe] / "model.safetensors"), logs


@pytest.fixture(scope="module", params=sorted(SCRIPTS))
def uninterrupted(request, tmp_path_factory) -> tuple[str, Path]:
    """A recipe and the folder in which it ran to its end."""
    folder = tmp_path_factory.mktemp(request.param)
    make_sound(folder / "sound")
    run = pretrain(request.param, folder)
    assert run.code == 0, run.output
    return request.param, folder


def test_the_result_is_a_backbone_and_transformers_own_model(uninterrupted):
    recipe, folder = uninterrupted
    model_folder = folder / "results" / MODELS[recipe]
    model = AutoModel.from_pretrained(model_folder).eval()
    assert model.dtype == torch.float32
    assert type(model).__name__ == {"hubert": "HubertModel", "data2vec": "Data2VecAudioModel"}[recipe]
    backbone = load_backbone(str(model_folder)).eval()
    assert backbone.signal_settings["normalize"] == (recipe == "data2vec")
    signal = backbone.extract(0.1 * torch.randn(16000))[None]
    tokens, _ = backbone(signal, torch.ones(1))
    assert torch.allclose(tokens, model(signal).last_hidden_state, atol=1e-5)
    assert (model_folder / "model.safetensors").stat().st_size < 8e6


def test_results_and_card_show_the_measurements(uninterrupted):
    recipe, folder = uninterrupted
    model_folder = folder / "results" / MODELS[recipe]
    results = json.loads((model_folder.parent / "pretraining.json").read_text())
    assert results["steps"] == 6
    assert results["corpus"]["files"] == 10
    assert results["agreement_with_phones"] is None  # tones have none
    assert 0 <= results["data_wait_fraction"] < 1
    card = (model_folder / "README.md").read_text()
    assert "| updates | 6 |" in card
    assert "10 files, which are not part of this project" in card
    assert (model_folder / "health.png").stat().st_size > 5000


def test_a_finished_run_is_not_repeated(uninterrupted):
    recipe, folder = uninterrupted
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.safetensors")}
    run = pretrain(recipe, folder)
    assert (run.code, "was finished before" in run.output) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in before}


KILL_POINTS = {
    "hubert": {
        "while labels are written": [partial(kill, "brainplug.pretrain.labels:_write_labels", 1, "after")],
        "in the first iteration": [partial(kill, f"{BRAIN}.optimizers_step", 4)],
        "before the first iteration is finished": [partial(kill, "brainplug.pretrain.run:write_card")],
        "in the second iteration, twice": [
            partial(kill, f"{BRAIN}.optimizers_step", 9, "after"),
            partial(kill, f"{BRAIN}.on_stage_end", 1, "after", "VALID"),
        ],
    },
    "data2vec": {
        "before the teacher is updated": [partial(kill, "brainplug.pretrain.data2vec:Teacher.update", 3)],
        "before a checkpoint gets its name": [partial(kill, "brainplug.training.checkpoints:_finish", 4)],
        "in validation": [partial(kill, f"{BRAIN}.evaluate_batch", 2)],
    },
}


@pytest.mark.parametrize("point", sorted({point for points in KILL_POINTS.values() for point in points}))
def test_killed_run_ends_as_the_uninterrupted_one(uninterrupted, point, tmp_path):
    recipe, folder = uninterrupted
    if point not in KILL_POINTS[recipe]:
        pytest.skip("a point of the other recipe")
    shutil.copytree(folder / "sound", tmp_path / "sound", copy_function=shutil.copy2)
    for sabotage in KILL_POINTS[recipe][point]:
        assert pretrain(recipe, tmp_path, sabotage).code == KILLED
    run = pretrain(recipe, tmp_path)
    assert run.code == 0, run.output
    (weights, logs), (expected_weights, expected_logs) = outcome(recipe, tmp_path), outcome(recipe, folder)
    assert logs == expected_logs
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


def collapse() -> None:
    """Makes the standard deviation of all targets and predictions 0."""
    health.mean_std = lambda vectors: torch.zeros(())


def test_a_collapse_stops_the_run(tmp_path):
    make_sound(tmp_path / "sound")
    run = pretrain("data2vec", tmp_path, collapse, ("--alarms_after=2",))
    assert (run.code, "The model has collapsed: below 0.1 all targets are alike" in run.output) == (2, True), run.output
    assert len((tmp_path / "results" / "health.csv").read_text().splitlines()) == 1 + 2
    assert not (tmp_path / "results" / "nano-data2vec").exists()


@pytest.mark.parametrize("recipe", sorted(SCRIPTS))
def test_two_processes_share_the_work(recipe, tmp_path):
    make_sound(tmp_path / "sound")
    folder = REPOSITORY / "recipes" / f"pretrain_{recipe}"
    more = ("--device=cpu", "--distributed_backend=gloo", "--number_of_epochs=1")
    arguments = [str(folder / "hparams" / "nano.yaml"), *arguments_of(recipe, more)]
    run = run_in_two(arguments, tmp_path, str(folder / "train.py"))
    assert run.code == 0, run.output
    assert os.path.exists(tmp_path / "results" / MODELS[recipe] / "model.safetensors")


FAULTS = {  # arguments, a change of the folder, and parts of the message
    "no folder": (["--data_folder=nowhere"], None, "There is no such folder"),
    "no audio": ([], lambda folder: (folder / "notes.txt").write_text("none"), "There is no audio file"),
    "silence": ([], lambda folder: soundfile.write(folder / "0.wav", np.zeros(16000), 16000), "silent"),
    "shorter than a mask": (["--crop_seconds=0.1"], make_sound, "A clip has 4 frames"),
    "one utterance": ([], partial(make_sound, files=1), "one utterance"),
    "two wrong values": (
        ["--mask_probability=0", "--valid_batches=0"],
        make_sound,
        ("mask_probability", "valid_batches"),
    ),
    "no audio at all": (["--data_folder=null", "--sound=null"], make_sound, "sound_folder and sound must have values"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("recipe", sorted(SCRIPTS))
def test_unusable_audio_is_refused(recipe, fault, tmp_path):
    more, make, message = FAULTS[fault]
    if make is not None and isinstance(make, partial) or make is make_sound:
        make(tmp_path / "sound")
    else:
        (tmp_path / "sound").mkdir()
        if make:
            make(tmp_path / "sound")
    run = pretrain(recipe, tmp_path, more=tuple(more))
    assert run.code == 2, run.output
    assert all(part in run.output for part in ([message] if isinstance(message, str) else message)), run.output
    assert "Traceback" not in run.output


def test_more_clusters_than_frames_are_refused(tmp_path):
    make_sound(tmp_path / "sound")
    run = pretrain("hubert", tmp_path, more=("--clusters=600",))
    assert (run.code, "different frames" in run.output) == (2, True), run.output


@pytest.mark.parametrize("iterations", ["[]", "3", "null"])
def test_wrong_iterations_are_refused(iterations, tmp_path):
    make_sound(tmp_path / "sound")
    run = pretrain("hubert", tmp_path, more=(f"--iterations={iterations}",))
    assert (run.code, "iterations" in run.output, "Traceback" in run.output) == (2, True, False), run.output


def test_one_output_folder_for_two_iterations_is_refused_at_once(tmp_path):
    make_sound(tmp_path / "sound")
    run = pretrain("hubert", tmp_path, more=("--output_folder=elsewhere",))
    assert (run.code, "--results_folder=FOLDER" in run.output) == (2, True), run.output
    assert not (tmp_path / "elsewhere").exists()
