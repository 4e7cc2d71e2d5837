"""Adapter files: read as they were written, in older formats too; refused where they are damaged or unknown."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from brainplug.adapters.description import (
    ClassifierDescription,
    RecognizerDescription,
    current_name,
    parse_description,
)
from brainplug.adapters.file import read_adapter, read_description, save_adapter
from brainplug.adapters.layout import CARD_NAME, DESCRIPTION_NAME, PROBE_NAME, WEIGHTS_NAME
from brainplug.backbones import load_backbone
from brainplug.errors import CheckpointError
from brainplug.inference import Classifier
from brainplug.methods.bottleneck import BottleneckAdapter
from brainplug.models.classifier import AudioClassifier
from tests.made_adapters import describe_classifier

FORMAT_1 = Path(__file__).parents[1] / "data" / "adapters" / "format_1"
LABELS = ["cat", "dog"]


@pytest.fixture(scope="module")
def model(tiny_backbones) -> AudioClassifier:
    torch.manual_seed(0)
    backbone = load_backbone(tiny_backbones["ast"], frames=48)
    model = AudioClassifier(backbone, BottleneckAdapter(reduction_rate=4), len(LABELS))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    save_adapter(model, tmp_path / "run", describe_classifier(model, LABELS, "bottleneck"))
    return tmp_path / "run"


def change_json(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / DESCRIPTION_NAME
    values = json.loads(path.read_text())
    change(values["brainplug"])
    path.write_text(json.dumps(values))


def test_what_is_written_is_read_again(folder, model):
    adapter = read_adapter(folder)
    written = describe_classifier(model, LABELS, "bottleneck")
    sums = {"probe_sha256": None, "weights_sha256": None}
    assert adapter.description.model_copy(update=sums) == written
    assert isinstance(adapter.description, ClassifierDescription)
    assert adapter.description.labels == ["cat", "dog"]
    assert adapter.weights.keys() == model.delta().keys()
    assert all(torch.equal(tensor, model.delta()[name]) for name, tensor in adapter.weights.items())
    values = json.loads((folder / DESCRIPTION_NAME).read_text())["brainplug"]
    assert (values["format"], values["task"], values["signal"]["frames"]) == (3, "classification", 48)
    assert values["method_settings"]["reads"] is None  # an absent setting would become the default
    assert set(values["versions"]) == {"brainplug", "torch", "transformers", "peft"}


def test_the_same_adapter_is_the_same_file(folder, model, tmp_path):
    save_adapter(model, tmp_path / "again", describe_classifier(model, LABELS, "bottleneck"))
    for name in (WEIGHTS_NAME, DESCRIPTION_NAME, PROBE_NAME, CARD_NAME):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


# Files of format 1


def test_an_adapter_of_format_1_computes_what_it_did():
    time = torch.arange(6000) / 16000
    sweep = 0.3 * torch.sin(2 * torch.pi * (200 + 3000 * time) * time)
    classifier = Classifier.from_run(FORMAT_1)
    probabilities, score, index, labels = classifier.classify_batch(sweep)
    expected = json.loads((FORMAT_1 / "expected.json").read_text())["probabilities"]
    assert probabilities[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert classifier.labels == ["dog", "fox", "cat"]
    assert (labels, index.tolist(), score.tolist()) == (["dog"], [0], [probabilities[0, 0].item()])


@pytest.mark.parametrize(
    ("more", "task"), [({}, "ctc"), ({"recogniser": "ctc"}, "ctc"), ({"recogniser": "echo"}, "seq2seq")]
)
def test_a_recogniser_of_format_1_has_its_task(more, task):
    values = json.loads((FORMAT_1 / "adapter.json").read_text())
    del values["labels"], values["pooling"], values["positions"]
    values |= {"characters": " ab", "decoding": "beam", "beam_size": 4, **more}
    description = parse_description(values, "adapter.json")
    assert isinstance(description, RecognizerDescription)
    assert (description.task, description.characters, description.versions) == (task, " ab", {})


@pytest.mark.parametrize("indices", [{"a": 0, "b": 2}, {"a": 0, "b": 0}, {"a": 0, "b": "1"}, ["a", 1]])
def test_labels_of_format_1_that_number_no_outputs_are_refused(indices):
    values = {**json.loads((FORMAT_1 / "adapter.json").read_text()), "labels": indices}
    with pytest.raises(CheckpointError, match="labels"):
        parse_description(values, "adapter.json")


@pytest.mark.parametrize(
    ("of_older_files", "today"),
    [
        ("layers.0.attention.experts.up_bias", "layers.0.attention.experts.expert_bias"),
        ("layers.0.fc1.linear_in.weight", "layers.0.fc1.weight"),
        ("layers.10.fc1.linear_out.ia3_l.default", "layers.10.fc2.ia3_l.default"),
        ("layers.1.fc1.adapter.up_bias", "layers.1.feed_forward.adapter.expert_bias"),
        ("layers.1.mlp.fc1.weight", "layers.1.mlp.fc1.weight"),
    ],
)
def test_tensors_of_older_files_have_the_names_of_today(of_older_files, today):
    prefix = "backbone.model."
    assert current_name(prefix + of_older_files) == prefix + today
    assert current_name(prefix + today) == prefix + today


# What is refused


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in the weights
    path.write_bytes(bytes(content))


def change_header(path: Path) -> None:
    """Renames a class in the header alone, and makes the checksum that of the changed file."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()["brainplug"].replace('"dog"', '"fox"')
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata={"brainplug": header})
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    change_json(path.parent, lambda values: values.update(weights_sha256=checksum))


DAMAGES = {
    "no folder": (lambda folder: shutil.rmtree(folder), ["There is no such folder"]),
    "no description": (
        lambda folder: (folder / DESCRIPTION_NAME).unlink(),
        ["It lacks adapter_config.json and adapter_model.safetensors.", "finished run"],
    ),
    "no weights": (lambda folder: (folder / WEIGHTS_NAME).unlink(), ["It lacks adapter_model.safetensors."]),
    "cut description": (lambda folder: truncate(folder / DESCRIPTION_NAME), ["cut short or is no JSON"]),
    "empty description": (lambda folder: (folder / DESCRIPTION_NAME).write_text(""), ["cut short or is no JSON"]),
    "description in bytes": (lambda folder: (folder / DESCRIPTION_NAME).write_bytes(b"\xff\xfe"), ["cannot be read"]),
    "a list": (lambda folder: (folder / DESCRIPTION_NAME).write_text("[1]"), ["holds a list"]),
    "cut weights": (lambda folder: truncate(folder / WEIGHTS_NAME), ["cut short or was altered"]),
    "altered weights": (lambda folder: alter(folder / WEIGHTS_NAME), ["cut short or was altered"]),
    "other header": (lambda folder: change_header(folder / WEIGHTS_NAME), ["header describes another"]),
    "other labels": (
        lambda folder: change_json(folder, lambda values: values.update(labels=["cat", "fox"])),
        ["header describes another"],
    ),
    "newer format": (
        lambda folder: change_json(folder, lambda values: values.update(format=7, novelty=True)),
        ["format 7", "formats up to 3", "Update brainplug"],
    ),
    "other task": (
        lambda folder: change_json(folder, lambda values: values.update(task="counting")),
        ["task is 'counting'", "classification, ctc, seq2seq"],
    ),
    "two faults": (
        lambda folder: change_json(folder, lambda values: values.update(pooling=3, lables=["cat"])),
        ["pooling: ", "lables: unknown key, the nearest is labels"],
    ),
    "a missing key and a repeated label": (
        lambda folder: change_json(folder, lambda values: (values.pop("method"), values.update(labels=["a", "a"]))),
        ["method: Field required", "'a' occurs more than once"],
    ),
    "a format that is no number": (
        lambda folder: change_json(folder, lambda values: values.update(format="2")),
        ["format: "],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damage, folder):
    change, words = DAMAGES[damage]
    change(folder)
    with pytest.raises(CheckpointError) as caught:
        read_adapter(folder)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_cut_weights_of_format_1_are_refused(tmp_path):
    shutil.copytree(FORMAT_1, tmp_path / "run")
    truncate(tmp_path / "run" / "adapter.safetensors")
    with pytest.raises(CheckpointError, match="cut short or is no safetensors"):
        read_adapter(tmp_path / "run")


@pytest.mark.parametrize("made", ["hyperparams.yaml", "save"])
def test_a_run_that_has_not_finished_is_named_so(made, tmp_path):
    (tmp_path / made).touch()
    with pytest.raises(CheckpointError, match="has not finished.*command again"):
        read_description(tmp_path)


def test_no_code_is_run(folder, tmp_path):
    class Touch:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    (folder / WEIGHTS_NAME).write_bytes(pickle.dumps(Touch()))
    change_json(folder, lambda values: values.pop("weights_sha256"))
    with pytest.raises(CheckpointError, match="no safetensors"):
        read_adapter(folder)
    assert not (tmp_path / "ran").exists()


# The card


def test_the_card_says_what_the_adapter_is(model, tmp_path):
    description = describe_classifier(model, LABELS, "bottleneck").model_copy(
        update={"dataset": "own <b>clips</b>", "licence": "cc-by-4.0", "backbone": "ast"}
    )
    save_adapter(model, tmp_path, description, {"test_accuracy": 0.875, "trainable": 1234, "seed": 7, "seconds": 3.0})
    text = (tmp_path / CARD_NAME).read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert (head["license"], head["base_model"]) == ("cc-by-4.0", "MIT/ast-finetuned-audioset-10-10-0.4593")
    assert head["tags"] == ["audio", "adapter", "bottleneck"]
    for words in (
        "| test accuracy | 87.50% |",
        "| trained parameters | 1,234 |",
        "| seed | 7 |",
        "2 classes: `cat`, `dog`",
    ):
        assert words in text
    assert "seconds" not in text
    assert "<b>" not in text
