"""One model trained by two processes: every method, and the run as a whole."""

import csv
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import safetensors.torch
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml

from brainplug.backbones import load_backbone
from brainplug.backbones.echo import EchoConfig
from brainplug.compat.petl_ast.methods import PUBLISHED, PublishedMethod
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip
from brainplug.data.pipeline import make_datasets
from brainplug.data.transcripts import make_transcribed_datasets
from brainplug.methods import Method, choose_method
from brainplug.methods.full import FullFineTuning
from brainplug.models.classifier import AudioClassifier
from brainplug.models.echo_recognizer import EchoRecognizer, load_echo
from brainplug.optim.schedules import cosine
from brainplug.training.classification import ClassificationBrain
from brainplug.training.seq2seq import EchoBrain
from tests.integration.running import REPOSITORY, SETTINGS, run_in_two, run_train
from tests.made_adapters import WEIGHTS
from tests.made_corpora import write_noise
from tests.processes import LONGEST

METHODS = load_hyperpyyaml((REPOSITORY / "hparams" / "methods.yaml").read_text())
LABELS = {"cat": 0, "dog": 1}
SIGNALS = {"ast": (64, 32), "wav2vec2": (4000,)}
CASES = {
    **{method: (method, "ast", False) for method in METHODS},
    "full, layers dropped": ("full", "wav2vec2", False),
    "bitfit, layers dropped": ("bitfit", "wav2vec2", False),
    "conformer, published code": ("conformer", "ast", True),
    "convpass, published code": ("convpass", "ast", True),
}
ECHO = "an Echo with its adaptive base"
UNTOLD = "convpass, published code, untold"  # as a method would fare that does not say what it leaves unused


def train(method_name: str, backbone: str, paper_code: bool, folders: dict[str, str]) -> dict[str, torch.Tensor]:
    """Trains four steps; returns what was trained."""
    torch.manual_seed(0)
    method, _ = choose_method(method_name, METHODS, SETTINGS, variants=PUBLISHED if paper_code else None)
    loaded = load_backbone(folders[backbone], **({"frames": 64} if backbone == "ast" else {}))
    model = AudioClassifier(loaded, method, len(LABELS))
    if backbone == "wav2vec2":
        loaded.model.config.layerdrop = 0.5
    hparams = {
        "seed": 1,
        "epoch_counter": sb.utils.epoch_loop.EpochCounter(2),
        "train_loggers": [],
        "lr_schedule": cosine,
        "augment": [],
        "features_on_device": False,
    }
    options = {"device": "cpu", "noprogressbar": True, "distributed_backend": "gloo"}
    before = {name: tensor.clone() for name, tensor in model.delta().items()}
    brain = ClassificationBrain(model, torch.optim.SGD, 0.05, hparams, options)
    clips = [
        Clip(f"{split}{number}", "", ["cat", "dog"][number % 2], split)
        for split, count in (("train", 8), ("valid", 2))
        for number in range(count)
    ]
    sets = make_datasets(clips, LABELS, lambda clip: torch.full(SIGNALS[backbone], float(hash_of(clip.id))))
    brain.fit(hparams["epoch_counter"], sets["train"], sets["valid"], {"batch_size": 2}, {"batch_size": 2})
    assert brain.optimizer_step == 4
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    after = {name: tensor for name, tensor in model.delta().items() if name in trained}
    assert any(not torch.equal(after[name], before[name]) for name in after)
    return after


def train_echo() -> dict[str, torch.Tensor]:
    """Trains a recogniser four steps of two batches; its base follows losses that differ between processes."""
    torch.manual_seed(0)
    sizes = {"n_audio_state": 8, "n_audio_head": 2, "n_text_state": 8, "n_text_head": 2}
    layers = {"n_audio_layer": 1, "n_text_layer": 1, "n_audio_ctx": 20, "n_text_ctx": 20, "checkpointing": False}
    characters = Characters(" adehinopst")
    config = EchoConfig(**sizes, **layers, adaptive_base=True, base_interval=1)
    echo, backbone = load_echo("new", None, config, characters)
    model = EchoRecognizer(backbone, FullFineTuning(), echo, characters)
    hparams = {
        "seed": 1,
        "epoch_counter": sb.utils.epoch_loop.EpochCounter(2),
        "train_loggers": [],
        "lr_schedule": cosine,
        "augment": [],
        "label_smoothing": 0.0,
    }
    options = {"device": "cpu", "noprogressbar": True, "distributed_backend": "gloo", "grad_accumulation_factor": 2}
    brain = EchoBrain(characters, model, torch.optim.SGD, 0.05, hparams, options)
    clips = [
        Clip(f"{split}{number}", "", "", split, text=["no", "do it", "stop", "open that"][number % 4])
        for split, count in (("train", 16), ("valid", 2))
        for number in range(count)
    ]
    sets = make_transcribed_datasets(
        clips, characters, lambda clip: torch.full((20 + hash_of(clip.id), 80), 0.1 * hash_of(clip.id))
    )
    brain.fit(hparams["epoch_counter"], sets["train"], sets["valid"], {"batch_size": 2}, {"batch_size": 2})
    assert echo.adaptive_base.updates == 4
    return model.delta()


def hash_of(text: str) -> int:
    return sum(map(ord, text)) % 7 - 3


def one_of_two(rank: int, folder: str, folders: dict[str, str]) -> None:
    """Does all cases as one of two processes, and writes how each went."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    printed = {}
    for name, case in CASES.items():
        safetensors.torch.save_file(train(*case, folders), f"{folder}/{name}-{rank}.safetensors")
    safetensors.torch.save_file(train_echo(), f"{folder}/{ECHO}-{rank}.safetensors")
    PublishedMethod.may_leave_unused = Method.may_leave_unused
    try:
        train(*CASES["convpass, published code"], folders)
    except RuntimeError as error:
        printed[UNTOLD] = str(error)
    Path(folder, f"told-{rank}.json").write_text(json.dumps(printed))


@pytest.fixture(scope="module")
def trained(environment, tiny_backbones, tmp_path_factory) -> Path:
    """A folder with what two processes trained, method by method."""
    folder = tmp_path_factory.mktemp("two-processes")
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=one_of_two, args=(rank, str(folder), tiny_backbones)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONGEST)
        process.kill()
    return folder


@pytest.mark.parametrize("case", [*CASES, ECHO])
def test_both_processes_train_the_same_model(case, trained):
    first, second = (safetensors.torch.load_file(trained / f"{case}-{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_method_that_does_not_say_what_it_leaves_unused_is_refused_by_torch(trained):
    """So that the test above can fail."""
    for rank in (0, 1):
        printed = json.loads((trained / f"told-{rank}.json").read_text())
        assert "Expected to have finished reduction in the prior iteration" in printed[UNTOLD]


def test_two_processes_do_what_one_does(launch, command_line, tmp_path):
    """Two halves of a batch have the same gradient as the whole, but for the order in which floats are summed.

    Clips of one length stay in their order, so that both runs see the same batches; dropout and augmentation, which
    each process draws for itself, are left out.
    """
    same = ["--method=bottleneck", "--sorting=ascending", "--augment=[]", "--seed=3", "--number_of_epochs=4"]
    launch(*same, "--batch_size=2", "--output_folder=two")
    run = run_train(command_line(*same, "--batch_size=4", "--output_folder=one"), tmp_path)
    assert run.code == 0, run.output
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    noise = 1 / one["n_test"]  # an answer to one clip may tip over
    for name in ("test_accuracy_best_epoch", "test_accuracy_last_epoch"):
        assert two[name] == pytest.approx(one[name], abs=noise)
    manifests = [(tmp_path / name / "manifest.csv").read_bytes() for name in ("one", "two")]
    assert manifests[0] == manifests[1]
    weights = [safetensors.torch.load_file(tmp_path / name / WEIGHTS) for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("recipe", "options", "table"),
    [
        ("hparams/train.yaml", ["--method=bottleneck", "--dataset=own", "--frames=64"], "predictions.csv"),
        ("recipes/spoken_ctc/hparams/train.yaml", ["--backbone=nano-hubert"], "transcripts.csv"),
    ],
    ids=["classification", "ctc"],
)
def test_two_processes_test_each_clip_once(recipe, options, table, environment, tmp_path):
    """33 test clips are no whole number of batches of two processes: none is left out, and none counts twice.

    The learning rate is too small to change the weights, so that both runs test the same model.
    """
    counts = {"train": 8, "valid": 3, "test": 33}
    lines = ["path,label,text,split"]
    for split, count in counts.items():
        for number in range(count):
            write_noise(tmp_path / "clips" / f"{split}{number}.wav", seconds=0.3)
            lines.append(f"{split}{number}.wav,{number % 2},{('on', 'off')[number % 2]},{split}")
    (tmp_path / "clips" / "clips.csv").write_text("\n".join(lines))
    command = [
        str(REPOSITORY / recipe), "--manifest=clips/clips.csv", *options, "--number_of_epochs=1", "--batch_size=4",
        "--device=cpu", "--noprogressbar", "--distributed_backend=gloo", "--lr=1e-9",
        f"--method_settings={json.dumps(SETTINGS)}",
    ]  # fmt: skip
    for run_in_some, name in ((run_train, "one"), (run_in_two, "two")):
        run = run_in_some([*command, f"--output_folder={name}"], tmp_path)
        assert run.code == 0, run.output
    one, two = (measured(tmp_path / name, table) for name in ("one", "two"))
    assert len({tuple(row[:1]) for row in one[0]}) == len(one[0]) == 33
    assert one[1]
    assert two == one


def measured(folder: Path, table: str) -> tuple[list[list[str]], dict[str, float]]:
    """The rows of a run's table, but for its scores' last digits, and what its results.json says of the test."""
    with open(folder / table, newline="") as file:
        rows = [[cell[:6] for cell in row] for row in list(csv.reader(file))[1:]]
    results = json.loads((folder / "results.json").read_text())
    return rows, {name: value for name, value in results.items() if name.startswith(("test_", "n_test"))}
