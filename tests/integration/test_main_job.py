"""The main job, from a command line to a folder of results, with every method."""

import json
import math
import re
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file

import brainplug
from brainplug.adapters.file import read_adapter
from brainplug.backbones import load_backbone
from brainplug.data import pipeline
from brainplug.data.audio import read_audio
from brainplug.data.manifest import Clip, read_manifest
from brainplug.methods import choose_method
from brainplug.models.classifier import AudioClassifier
from brainplug.results.run_files import read_observations, read_predictions
from brainplug.training.classification import ClassificationBrain
from tests.integration.running import REPOSITORY, SETTINGS, Run, run_train
from tests.made_adapters import WEIGHTS, described_by

METHODS = load_hyperpyyaml((REPOSITORY / "hparams" / "methods.yaml").read_text())
RATE = 0.005  # of the conformer adapter in hparams/methods.yaml
ESC10 = REPOSITORY.parent / "shared" / "data" / "esc10"
FILES = {
    "adapter", "configuration.json", "env.log", "hyperparams.yaml", "log.txt",
    "manifest.csv", "manifest.json", "observations.safetensors", "predictions.csv", "results.json", "save", "base.py",
    "train_log.txt",
}  # fmt: skip
CHANGES_WITH_EACH_RUN = ("seconds", "seconds_per_epoch", "peak_memory_bytes")


def results(folder: Path) -> dict:
    """What a run says of itself."""
    return json.loads((folder / "results.json").read_text())


def numbers(folder: Path) -> dict:
    """What two runs of the same command must agree on."""
    return {name: value for name, value in results(folder).items() if name not in CHANGES_WITH_EACH_RUN}


def succeeded(run: Run) -> Run:
    assert run.code == 0, run.output
    return run


def record_logits(path: str) -> None:
    """Has the run that follows write the logits of its last test, ``[clips, classes]``."""
    original, logits = ClassificationBrain.compute_forward, []

    def compute_forward(brain: ClassificationBrain, batch: object, stage: object) -> torch.Tensor:
        logits.append(original(brain, batch, stage))
        torch.save(torch.cat(logits[-2:]), path)  # a test takes two batches
        return logits[-1]

    ClassificationBrain.compute_forward = compute_forward


def logits_of_adapter(folder: Path, clips: list[Clip]) -> torch.Tensor:
    """Classifies clips with what its adapter says, and nothing else, ``[clips, classes]``."""
    description = described_by(folder)
    named = description["backbone"], description["backbone_revision"]
    backbone = load_backbone(*named, frames=description["signal"]["frames"])
    assert (backbone.name, backbone.revision) == named
    changed = SETTINGS.get(description["method"], {})
    settings = {name: value for name, value in description["method_settings"].items() if name in changed}
    method, _ = choose_method(description["method"], METHODS, {description["method"]: settings})
    model = AudioClassifier(backbone, method, len(description["labels"]), description["pooling"])
    model.load_delta(read_adapter(folder).weights)
    signals = torch.stack([backbone.extract(read_audio(clip)) for clip in clips])
    with torch.no_grad():
        return model.eval()(signals, torch.ones(len(clips)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method, train_esc50, tmp_path):
    logits_path, folder = tmp_path / "logits.pt", tmp_path / "results"
    options = [f"--method={method}", "--output_folder=results"]
    run = succeeded(train_esc50(*options, sabotage=partial(record_logits, str(logits_path))))
    assert {path.name for path in folder.iterdir()} == FILES

    actual = results(folder)
    assert actual["method"] == method
    assert 0 < actual["trainable_without_head"] < actual["trainable"] <= actual["total"]
    assert actual["trainable"] - actual["trainable_without_head"] == (16 + 1) * 2
    assert f"{actual['trainable']:,} parameters" in run.output

    description = described_by(folder)
    clips = [clip for clip in read_manifest(str(folder / "manifest.csv")) if clip.split == "test"]
    logits = logits_of_adapter(folder, clips)
    assert torch.allclose(logits, torch.load(logits_path), atol=1e-5)
    wanted = torch.tensor([description["labels"].index(clip.label) for clip in clips])
    assert actual["test_accuracy"] == (logits.argmax(1) == wanted).float().mean().item()
    indices = [description["labels"].index(row["predicted"]) for row in read_predictions(str(folder))]
    assert indices == logits.argmax(1).tolist()
    seen, labels = read_observations(str(folder))
    assert seen["targets"].tolist() == wanted.tolist()
    assert labels == description["labels"]


def folder_name(backbone: str) -> str:
    """What a run's folder is called after a backbone that is a folder."""
    return backbone.lstrip("/").replace("/", "-")


def test_results_say_what_was_run(train_esc50, tiny_backbones, tmp_path):
    run = succeeded(train_esc50())
    [path] = tmp_path.rglob("results.json")
    assert path.parent == tmp_path / f"results/ESC50/{folder_name(tiny_backbones['ast'])}-conformer-fold1/1234"
    actual = json.loads(path.read_text())
    wanted = {
        "dataset": "esc50",
        "fold": 1,
        "backbone": tiny_backbones["ast"],
        "method": "conformer",
        "method_settings": {
            "class": "ConformerAdapter",
            **SETTINGS["conformer"],
            "location": "ffn",
            "placement": "parallel",
            "reads": None,
            "residual": False,
        },
        "optimizer": "adamw",
        "lr": RATE,
        "seed": 1234,
        "few_shot": None,
        "n_train": 24,
        "n_valid": 8,
        "n_test": 8,
        "n_classes": 2,
        "epochs": 2,
        "device": "cpu",
        "precision": "fp32",
        "paper_code": False,
    }
    assert {name: actual[name] for name in wanted} == wanted
    assert actual["backbone_revision"].startswith("sha256-")
    assert actual["best_epoch"] in (1, 2)
    for name in ("valid_accuracy", "test_accuracy", "test_accuracy_last_epoch"):
        assert actual[name] * 8 == int(actual[name] * 8)
        assert 0 <= actual[name] <= 1
    assert 0 < actual["seconds"] < 120
    assert actual["seconds_per_epoch"] * 2 == pytest.approx(actual["seconds"], rel=0.1)
    assert 10**8 < actual["peak_memory_bytes"] < 10**11
    assert actual["packages"]["torch"] == torch.__version__.split("+")[0]
    assert actual["packages"].keys() >= {
        "brainplug",
        "speechbrain",
        "transformers",
        "peft",
        "torchaudio",
        "hyperpyyaml",
    }
    for words in (
        "8 test clips, 2 classes",
        f"test accuracy   {100 * actual['test_accuracy']:.2f} %",
        str(path.parent.name),
    ):
        assert words in run.output


def test_log_has_a_line_for_each_epoch(train_esc50, tmp_path):
    succeeded(train_esc50("--output_folder=results"))
    lines = (tmp_path / "results" / "train_log.txt").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["epoch: 1", "epoch: 2"]
    # The rate of the last of 6 steps, before the cosine ends: cosine(5, 12) and cosine(11, 12).
    rates = [RATE * (1 + math.cos(math.pi * step / 12)) / 2 for step in (5, 11)]
    assert [f"lr: {rate:.2e}" in line for rate, line in zip(rates, lines, strict=True)] == [True, True]


def test_best_epoch_is_tested_with_the_last_beside_it(train_esc50, tmp_path):
    options = ["--number_of_epochs=6", "--method=linear", "--lr=0.5", "--seed=5", "--augment=[]", "--frames=48"]
    succeeded(train_esc50(*options, "--output_folder=results"))
    actual = results(tmp_path / "results")
    lines = (tmp_path / "results" / "train_log.txt").read_text().splitlines()
    accuracies = [float(line.rpartition("valid accuracy: ")[2]) / 100 for line in lines]
    assert actual["epochs"] == len(lines) == 6
    assert len(set(accuracies)) > 1  # so that the choice matters
    assert actual["valid_accuracy"] == max(accuracies) == accuracies[actual["best_epoch"] - 1]


def test_published_code_tests_the_last_epoch(train_esc50, tmp_path):
    options = ["--number_of_epochs=6", "--method=linear", "--lr=0.5", "--seed=2", "--augment=[]", "--frames=48"]
    run = succeeded(train_esc50(*options, "--paper_code=True", "--output_folder=results"))
    assert "code            as published" in run.output
    assert "(epoch 6, the last)" in run.output
    actual, folder = results(tmp_path / "results"), tmp_path / "results"
    lines = (folder / "train_log.txt").read_text().splitlines()
    accuracies = [float(line.rpartition("valid accuracy: ")[2]) / 100 for line in lines]
    assert max(accuracies) != accuracies[-1]  # so that the choice matters
    assert actual["tested_epoch"] == 6
    assert accuracies[actual["best_epoch"] - 1] == max(accuracies)
    assert actual["valid_accuracy"] == accuracies[-1]
    assert actual["test_accuracy"] == actual["test_accuracy_last_epoch"]
    assert (actual["paper_code"], actual["method_settings"]["class"]) == (True, "PublishedLinearProbe")
    last = max(folder.glob("save/CKPT*"), key=lambda path: path.stat().st_mtime_ns)
    torch.testing.assert_close(read_adapter(folder).weights, load_file(last / "model.ckpt"), atol=0, rtol=0)
    assert described_by(folder)["positions"] == "published"
    assert json.loads((folder / "configuration.json").read_text())["options"]["max_grad_norm"] == 0


@pytest.mark.parametrize("paper_code", [False, True])
def test_few_training_clips(paper_code, train_esc50, tmp_path):
    for folder, few_shot in (("all", "null"), ("few", "2"), ("again", "2")):
        options = [f"--few_shot={few_shot}", f"--paper_code={paper_code}", f"--output_folder={folder}"]
        succeeded(train_esc50(*options))
    actual = results(tmp_path / "few")
    assert (actual["few_shot"], actual["n_train"], actual["n_valid"], actual["n_test"]) == (2, 4, 8, 8)
    adapters = [(tmp_path / folder / WEIGHTS).read_bytes() for folder in ("all", "few", "again")]
    assert adapters[0] != adapters[1] == adapters[2]


def test_all_folds_and_draws_are_runs_of_their_own(train_esc50, tmp_path):
    options = ["--fold=all", "--folds=3", "--few_shot=2", "--few_shot_draws=2", "--seed=5", "--number_of_epochs=1"]
    output = succeeded(train_esc50(*options)).output
    actual = [json.loads(path.read_text()) for path in tmp_path.rglob("results.json")]
    assert sorted((run["fold"], run["seed"]) for run in actual) == [
        (fold, seed) for fold in (1, 2, 3) for seed in (5, 6)
    ]
    assert "over 6 runs" in output and "(2 draws)" in output.splitlines()[-1]
    written = {seed: list(tmp_path.rglob(f"few_shot_2_{seed}.csv")) for seed in (5, 6)}
    assert [len(read_manifest(str(path))) for paths in written.values() for path in paths] == [4] * 6


def test_runs_of_another_kind_do_not_meet_in_a_folder(train_esc50, tmp_path):
    for options in ([], ["--few_shot=2"], ["--paper_code=True"], ["--few_shot=2", "--paper_code=True"]):
        succeeded(train_esc50(*options))
    names = sorted(path.parents[1].name.rpartition("fold1")[2] for path in tmp_path.rglob("results.json"))
    assert names == ["", "-2shot", "-2shot-published", "-published"]


def test_flags_override_the_recipe(train_esc50, tmp_path):
    flags = {"seed": 7, "fold": 3, "lr": 0.01, "batch_size": 6, "number_of_epochs": 1}
    options = [f"--{name}={value}" for name, value in flags.items()]
    succeeded(train_esc50(*options, "--optimizer=adamw", "--output_folder=mine"))
    actual = results(tmp_path / "mine")
    assert [actual[name] for name in ("seed", "fold", "lr", "epochs", "optimizer")] == [7, 3, 0.01, 1, "adamw"]
    assert {clip.fold for clip in read_manifest(str(tmp_path / "mine/manifest.csv")) if clip.split == "test"} == {3}
    lines = (tmp_path / "mine/hyperparams.yaml").read_text().splitlines()
    remaining = yaml.safe_load("\n".join(line for line in lines if line.partition(":")[0] in flags))
    assert remaining == flags


@pytest.mark.parametrize(("options", "lr"), [([], 40 * RATE), (["--lr=0.3"], 0.3)])
def test_an_optimiser_scales_the_rates_of_the_methods(options, lr, train_esc50, tmp_path):
    succeeded(train_esc50("--optimizer=fam", "--number_of_epochs=1", "--output_folder=results", *options))
    actual = results(tmp_path / "results")
    assert (actual["optimizer"], actual["lr"]) == ("fam", lr)
    last = next((tmp_path / "results").glob("save/CKPT*/optimizer.ckpt"))
    groups = torch.load(last)["param_groups"]
    assert [group["name"] for group in groups] == ["conv", "norm", "other"]
    assert {group["handler"] for group in groups} == {"conv", "default"}


def test_same_command_gives_the_same_numbers(train_esc50, tmp_path):
    for folder in ("first", "second", "other"):
        seed = 2 if folder == "other" else 1
        succeeded(train_esc50(f"--output_folder={folder}", f"--seed={seed}"))
    first, second, other = ((tmp_path / folder / WEIGHTS).read_bytes() for folder in ("first", "second", "other"))
    assert first == second
    assert first != other
    assert numbers(tmp_path / "first") == numbers(tmp_path / "second")


def test_same_command_in_the_same_folder_trains_no_further(train_esc50, tmp_path):
    succeeded(train_esc50("--output_folder=results"))
    adapter, before = (tmp_path / "results" / WEIGHTS).read_bytes(), numbers(tmp_path / "results")
    run = succeeded(train_esc50("--output_folder=results"))
    assert "Going into epoch" not in run.output
    assert numbers(tmp_path / "results") == before
    assert (tmp_path / "results" / WEIGHTS).read_bytes() == adapter
    assert len((tmp_path / "results/train_log.txt").read_text().splitlines()) == 2


def test_the_name_of_a_folder_is_no_arithmetic(train_esc50, tmp_path):
    run = succeeded(train_esc50("--output_folder=results/2in1"))
    assert "SyntaxWarning" not in run.output
    assert (tmp_path / "results/2in1/results.json").exists()


def test_debug_leaves_nothing_behind(train_esc50, tmp_path):
    run = succeeded(train_esc50("--debug", "--number_of_epochs=10", "--output_folder=results"))
    assert "test accuracy" in run.output
    assert "Going into epoch 3" not in run.output
    assert list(tmp_path.iterdir()) == []


def test_test_only_repeats_the_test(train_esc50, tmp_path):
    succeeded(train_esc50("--output_folder=results", "--number_of_epochs=3"))
    before = numbers(tmp_path / "results")
    (tmp_path / "results" / "results.json").unlink()
    run = succeeded(train_esc50("--output_folder=results", "--number_of_epochs=3", "--test_only"))
    assert "Going into epoch" not in run.output
    assert numbers(tmp_path / "results") == before


@pytest.mark.parametrize(
    "options",
    [
        ["--precision=bf16"],
        ["--precision=bf16", "--eval_precision=bf16", "--method=full"],
        ["--grad_accumulation_factor=2"],
        ["--grad_accumulation_factor=6"],
        ["--remove_vector_weight_decay"],
        ["--max_grad_norm=0.001"],
        ["--optimizer=fam"],
        ["--num_workers=2"],
        ["--pooling=CLS"],
        ["--positions=interpolate", "--frames=100"],
        ["--cache_features=False"],
        ["--augment=[noise, spec_augment]", "--features_on_device=True", "--precision=bf16"],
        ["--augment=gain"],
        ["--sorting=descending"],
        ["--batch_seconds=1.6"],
        ["--batch_seconds=1.6", "--grad_accumulation_factor=3", "--num_workers=2"],
        ["--gradient_checkpointing=True"],
    ],
    ids=" ".join,
)
def test_options_of_a_run(options, train_esc50, tmp_path):
    succeeded(train_esc50("--output_folder=plain", "--seed=1"))
    succeeded(train_esc50("--output_folder=results", "--seed=1", *options))
    assert 0 <= results(tmp_path / "results")["test_accuracy"] <= 1
    same = [(tmp_path / folder / WEIGHTS).read_bytes() for folder in ("plain", "results")]
    changes_no_number = options[0].startswith(("--num_workers", "--cache_features", "--gradient_checkpointing"))
    assert (same[0] == same[1]) == changes_no_number


def note_calls(path: str) -> None:
    """Arranges that this process writes a line for each clip that it decodes."""
    original = pipeline.read_audio

    def noted(clip: Clip, *options: Any) -> torch.Tensor:
        with open(path, "a") as file:
            file.write(f"{clip.id}\n")
        return original(clip, *options)

    pipeline.read_audio = noted


@pytest.mark.parametrize("options", [[], ["--features_on_device=True"], ["--num_workers=2"]], ids=str)
def test_with_the_cache_a_clip_is_decoded_once(options, train_esc50, esc50, tmp_path):
    decoded = tmp_path / "decoded.txt"

    def run(number: int, *more: str) -> list[str]:
        decoded.write_text("")
        folders = [
            f"--data_folder={esc50}",
            f"--cache_folder={tmp_path / 'remaining'}",
            f"--output_folder=results-{number}",
        ]
        succeeded(train_esc50(*folders, *options, *more, sabotage=partial(note_calls, str(decoded))))
        return decoded.read_text().split()

    first = run(1)
    assert len(first) == len(set(first)) == 40  # of 24 + 8 + 8 clips, in two epochs and two tests
    assert run(2) == []
    changed = sorted((esc50 / "audio").iterdir())[3]
    soundfile.write(changed, 0.5 * soundfile.read(changed)[0], 16000)
    assert run(3) == [changed.stem]
    # Without it, in two epochs, two tests, and twice to see pooled vectors.
    assert len(run(4, "--cache_features=False")) == 2 * (24 + 8 + 8) + 2 * 8


def test_the_schedule_ends_with_the_last_batch_by_seconds(train_esc50, tmp_path):
    succeeded(train_esc50("--output_folder=results", "--batch_seconds=1.6"))  # 3 clips of half a second: 8 batches
    rate = RATE * (1 + math.cos(math.pi * 15 / 16)) / 2
    assert f"lr: {rate:.2e}" in (tmp_path / "results/train_log.txt").read_text().splitlines()[1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--augment=[time_shfit]", "augment is 'time_shfit'.*time_shift"),
        ("--augment_settings={spec_augment: {loud: 1}}", "'spec_augment' was asked for, with {'loud': 1}"),
        ("--augment_settings={spec_augment: {time_width: all}}", "'spec_augment' was asked for, with"),
        ("--sorting=length", "sorting is 'length'. It should be 'random', 'ascending' or 'descending'"),
        ("--batch_seconds=0", "batch_seconds is 0. It should be greater than 0"),
        ("--cache_features=0", "cache_features is 0. It should be a valid boolean"),
        ("--features_on_device=yes please", "features_on_device is 'yes please'. It should be a valid boolean"),
    ],
)
def test_what_cannot_be_of_the_reading(option, message, train_esc50, tmp_path):
    run = train_esc50("--output_folder=results", "--number_of_epochs=1", option)
    assert run.code == 2, run.output
    assert re.search(message, run.output)
    assert not (tmp_path / "results" / "manifest.csv").exists()


def test_features_on_the_device_of_a_waveform_backbone_are_refused(train_esc50, tiny_backbones):
    run = train_esc50(f"--backbone={tiny_backbones['wav2vec2']}", "--features_on_device=True")
    assert run.code == 2
    assert "--features_on_device=True was asked for" in run.output


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("wav2vec2", ["--method=soft_moa", "--augment=[noise, gain, mixup]", "--batch_seconds=2"]),
        ("wav2vec2", ["--method=conformer", "--augment=[]", "--paper_code=True"]),
        ("hubert", ["--method=prefix", "--augment=[]"]),
        ("data2vec", ["--method=full", "--augment=[]"]),
        ("wavlm", ["--method=prompt_deep", "--augment=[]", "--pooling=PROMPTS+SPEECH"]),
        ("whisper", ["--method=lora"]),
    ],
)
def test_other_backbones(backbone, options, train_esc50, tiny_backbones, tmp_path):
    succeeded(train_esc50(f"--backbone={tiny_backbones[backbone]}", "--output_folder=results", *options))
    signal = described_by(tmp_path / "results")["signal"]["signal"]
    assert signal == ("log_mel" if backbone == "whisper" else "waveform")


def test_a_run_on_random_weights_can_be_rebuilt_from_what_it_wrote(train_esc50, tiny_backbones, tmp_path):
    logits_path = tmp_path / "logits.pt"
    options = [f"--backbone=random:{tiny_backbones['ast']}", "--method=linear", "--seed=7"]
    succeeded(train_esc50(*options, sabotage=partial(record_logits, str(logits_path))))
    folder = tmp_path / f"results/ESC50/random-{folder_name(tiny_backbones['ast'])}-linear-fold1/7"
    assert (results(folder)["backbone"], results(folder)["backbone_revision"]) == (options[0].split("=")[1], "seed-7")
    torch.manual_seed(1)  # not the run's
    clips = [clip for clip in read_manifest(str(folder / "manifest.csv")) if clip.split == "test"]
    assert torch.allclose(logits_of_adapter(folder, clips), torch.load(logits_path), atol=1e-5)


@pytest.mark.parametrize(
    "options", [[], ["--paper_code=True"], ["--batch_seconds=2"], ["--sorting=ascending"]], ids=str
)
def test_two_processes(options, two_processes, tmp_path):
    two_processes("--output_folder=results", "--ckpt_interval_steps=1", *options)
    actual = results(tmp_path / "results")
    assert (actual["n_train"], actual["epochs"]) == (24, 2)
    # Each process takes half of the batches, so an epoch has 3 steps; the second one ends at cosine(5, 6).
    rate = RATE * (1 + math.cos(math.pi * 5 / 6)) / 2
    assert f"lr: {rate:.2e}" in (tmp_path / "results/train_log.txt").read_text().splitlines()[1]


def test_two_processes_in_debug_mode(two_processes, tmp_path):
    assert "test accuracy" in two_processes("--debug")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 lies in no folder shared/data/esc10 beside the repository")
def test_real_recordings(command_line, tmp_path):
    arguments = command_line(
        f"--data_folder={ESC10}", "--backbone=nano-ast", "--method_settings={}", "--frames=500", "--debug"
    )
    run = succeeded(run_train(arguments, tmp_path))
    for split, clips in {"train": 240, "valid": 80, "test": 80}.items():
        assert re.search(rf"{split} +{clips} +10 ", run.output)
    assert "80 test clips, 10 classes" in run.output


def hide_installation() -> None:
    """As in a checkout that pip has not installed: no metadata of brainplug."""
    original = metadata.version

    def version(name: str) -> str:
        if name == "brainplug":
            raise metadata.PackageNotFoundError(name)
        return original(name)

    metadata.version = version


def test_a_checkout_need_not_be_installed(train_esc50, tmp_path):
    """Versions are looked up when the test is over: a failure there would lose the work."""
    succeeded(train_esc50("--output_folder=out", "--number_of_epochs=1", sabotage=hide_installation))
    assert results(tmp_path / "out")["packages"]["brainplug"] == brainplug.__version__
    assert described_by(tmp_path / "out")["versions"]["brainplug"] == brainplug.__version__
