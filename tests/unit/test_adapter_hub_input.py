"""Where a hub loads adapters from, what it verifies, what it refuses, and what it says."""

import copy
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from brainplug.adapters.file import save_adapter
from brainplug.adapters.layout import DESCRIPTION_NAME, PROBE_NAME, WEIGHTS_NAME
from brainplug.backbones import Backbone
from brainplug.errors import CheckpointError, ConfigError, DataError, UsageError
from brainplug.inference import AdapterHub
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA
from brainplug.models.classifier import AudioClassifier
from brainplug.models.ctc import CTCModel
from brainplug.models.shared import UpperPart
from tests.contract.test_methods import chosen
from tests.made_adapters import describe_classifier, describe_recognizer
from tests.made_hubs import LENGTHS, WAVS, Made, loaded

FORMAT_1 = Path(__file__).parents[1] / "data" / "adapters" / "format_1"


@pytest.fixture
def made(tmp_path, tiny_backbones) -> Made:
    return Made(tmp_path, loaded(tiny_backbones["ast"]))


@pytest.fixture
def two(made: Made) -> AdapterHub:
    """A hub with the adapters `birds` and `rooms`."""
    for name in ("birds", "rooms"):
        made.add(name, chosen("lora"))
    return made.hub()


# Where adapters are


@torch.no_grad()
def test_an_adapter_is_loaded_from_its_folder_its_run_and_the_hub(made, tmp_path, monkeypatch):
    folder = made.add("a", chosen("lora"))
    shutil.copytree(folder, tmp_path / "run" / "adapter")
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, revision, **_: asked.append((repo, revision)) or str(folder)
    )
    sources = {"folder": folder, "run": str(tmp_path / "run"), "hub": "owner/birds"}
    hub = AdapterHub(made.backbone)
    for name, source in sources.items():
        made.labels[name], made.expected[name] = made.labels["a"], made.expected["a"]
        hub.load(name, source, revision="v1" if name == "hub" else None)
    assert asked == [("owner/birds", "v1")]
    made.check(hub, list(sources))


@torch.no_grad()
def test_an_adapter_of_format_1_is_loaded():
    hub = AdapterHub("nano-ast")
    hub.load("old", FORMAT_1)
    time = torch.arange(6000) / 16000
    [result] = hub.classify_batch(0.3 * torch.sin(2 * torch.pi * (200 + 3000 * time) * time), None, ["old"])
    expected = json.loads((FORMAT_1 / "expected.json").read_text())["probabilities"]
    assert list(result["old"].probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_the_first_adapter_says_how_the_named_backbone_reads_clips(made, tiny_backbones, tmp_path):
    hub = AdapterHub(tiny_backbones["ast"])
    (made.add("torn", chosen("lora")) / WEIGHTS_NAME).write_bytes(b"")
    with pytest.raises(CheckpointError):
        hub.load("torn", tmp_path / "torn")
    other = Made(tmp_path / "other", loaded(tiny_backbones["ast"], 64))
    other.add("a", chosen("lora"))
    hub.load("a", tmp_path / "other" / "a")  # the one that was refused has left nothing
    assert hub.backbone.frames == 64
    with torch.no_grad():
        other.check(hub, ["a", "a"])


# What is verified


def test_the_backbone_is_hashed_once(made, monkeypatch):
    for number in range(4):
        made.add(f"{number}", chosen("lora"))
    hashed, uppers = [], []
    fingerprint, attach = Backbone.fingerprint, UpperPart.__init__
    monkeypatch.setattr(Backbone, "fingerprint", lambda backbone: hashed.append(1) or fingerprint(backbone))
    monkeypatch.setattr(UpperPart, "__init__", lambda part, *settings: uppers.append(1) or attach(part, *settings))
    assert len(made.hub().names) == 4
    assert (len(hashed), len(uppers)) == (1, 1)


def test_other_weights_of_the_same_name_are_refused(made):
    path = made.add("a", chosen("lora"))
    backbone = copy.deepcopy(made.backbone)
    next(backbone.parameters()).data.mul_(1.01)
    with pytest.raises(
        CheckpointError, match="not those that the adapter was trained on, though they have the same name"
    ):
        AdapterHub(backbone).load("a", path)


@pytest.mark.parametrize("is_first", [True, False])  # the first of its method, and one that shares the part of others
def test_the_probe_is_verified_on_the_hub_s_own_path(is_first, made, monkeypatch):
    hub, path = AdapterHub(made.backbone), made.add("a", chosen("lora"))
    if not is_first:
        hub.load("a", path)
    vectors = UpperPart.vectors
    monkeypatch.setattr(UpperPart, "vectors", lambda part, *inputs: 1.01 * vectors(part, *inputs))
    with pytest.raises(CheckpointError, match="'bad' from .* answers its probe with an output that is off by"):
        hub.load("bad", path)
    assert "bad" not in hub.names
    hub.load("bad", path, verify=False)
    assert "bad" in hub.names


def tear_weights(folder: Path) -> None:
    path = folder / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-10])


def tear_description(folder: Path) -> None:
    path = folder / DESCRIPTION_NAME
    path.write_text(path.read_text()[:-10])


def alter_probe(folder: Path) -> None:
    path = folder / PROBE_NAME
    probe = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**probe, "output": probe["output"] + 1}, path)


DAMAGES = {
    tear_weights: "cut short or was altered",
    tear_description: "cut short or is no JSON",
    alter_probe: "cut short or was altered",
    shutil.rmtree: "no such folder",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_file_is_refused_and_leaves_the_hub_as_it_is(damage, two, made):
    path = made.add("torn", chosen("conformer"))
    damage(path)
    with pytest.raises(CheckpointError, match=DAMAGES[damage]):
        two.load("torn", path)
    with torch.no_grad():
        made.check(two, ["birds", ["rooms", "birds"]])
    assert two.names == ["birds", "rooms"]


@pytest.mark.parametrize("is_first", [True, False])
def test_weights_that_do_not_fit_their_description_are_refused(is_first, made):
    model = AudioClassifier(copy.deepcopy(made.backbone), LoRA(rank=2), 3)
    hub = AdapterHub(made.backbone)
    if not is_first:
        hub.load("good", made.add("good", LoRA(rank=2)))
    save_adapter(model, made.folder / "bad", describe_classifier(model, ["a", "b", "c", "d"]))
    with pytest.raises(CheckpointError, match=r"of another shape or type: \['head.bias', 'head.weight'\]"):
        hub.load("bad", made.folder / "bad")


# What does not fit


@pytest.mark.parametrize("named", [False, True])
def test_an_adapter_of_another_backbone_is_refused(named, made, tiny_backbones, tmp_path):
    path = Made(tmp_path / "other", loaded(tiny_backbones["hubert"])).add("speech", chosen("lora"))
    hub = AdapterHub(tiny_backbones["ast"] if named else made.backbone)
    words = r"'speech' from .* adapts .*hubert.*backbone of the hub is .*ast.*AdapterHub\('.*hubert.*'\)"
    with pytest.raises(CheckpointError, match=words):
        hub.load("speech", path)
    assert hub.names == []
    hub.load("fits", made.add("fits", chosen("lora")))
    with pytest.raises(CheckpointError, match=words):
        hub.load("speech", path)


def test_an_adapter_that_reads_clips_otherwise_is_refused(made, tiny_backbones, tmp_path):
    made.add("a", chosen("lora"))
    hub = made.hub()
    other = Made(tmp_path / "other", loaded(tiny_backbones["ast"], 64)).add("b", chosen("lora"))
    with pytest.raises(CheckpointError, match="'frames': 64.*'frames': 48"):
        hub.load("b", other)
    for changes in ({"channel": "first"}, {"positions": "zero"}):
        name = next(iter(changes))
        with pytest.raises(CheckpointError, match=f"reads clips with .*{changes[name]}.* others in the hub"):
            hub.load(name, made.add(name, chosen("lora"), **changes))
    assert hub.names == ["a"]


def test_an_adapter_of_another_task_is_refused(tiny_backbones, tmp_path):
    backbone = loaded(tiny_backbones["hubert"])
    model = CTCModel(copy.deepcopy(backbone), LinearProbe(), 4)
    save_adapter(model, tmp_path / "ctc", describe_recognizer(model, " abc"))
    with pytest.raises(CheckpointError, match=r"of the task ctc. Name a run of the task classification"):
        AdapterHub(backbone).load("ctc", tmp_path / "ctc")


# Names


def test_a_name_is_given_once(two, made):
    with pytest.raises(ConfigError, match=r"'birds' from .* The hub has another .* call unload\('birds'\)"):
        two.load("birds", made.folder / "rooms")
    two.unload("birds")
    two.load("birds", made.folder / "rooms")
    assert two.names == ["rooms", "birds"]


@pytest.mark.parametrize("use", ["labels", "unload", "nbytes", "active"])
def test_unknown_names_are_refused_with_the_nearest(use, two):
    with pytest.raises(ConfigError, match=r"'bird' was asked for\. .*no adapter of this name\. Write one of: birds$"):
        getattr(two, use)("bird")


REFUSED = {
    "unknown": (["birds", "hall"], "'hall' was asked for.*birds, rooms"),
    "too few": (["birds"], "There are 2 clips. Give a list with one for each"),
    "one name": ("birds", "There are 2 clips. Give a list"),
    "none": (["birds", []], "A clip without adapters.*The hub has birds, rooms"),
    "twice": (["birds", ["rooms", "rooms"]], "rooms is named twice"),
    "no active": (None, r"without adapters.*call active\(NAMES\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_names_that_cannot_be_are_refused(case, two):
    names, words = REFUSED[case]
    with pytest.raises(UsageError, match=words):
        two.classify_batch(WAVS[:2], LENGTHS[:2], names)


def test_an_empty_hub_says_what_to_do():
    hub = AdapterHub("nano-ast")
    with pytest.raises(ConfigError, match=r"no adapters\. Call load\(NAME, FOLDER\) first"):
        hub.classify_batch(WAVS, None, ["a"] * 3)
    with pytest.raises(ConfigError, match=r"no adapters.*Call load\(NAME, FOLDER\) first"):
        _ = hub.backbone
    with pytest.raises(ConfigError, match="torch cannot use it"):
        AdapterHub("nano-ast", device="gpu")


# Clips


BATCHES = {
    "no samples": (torch.zeros(2, 0), None, "There are no samples"),
    "no clips": (torch.zeros(0, 800), None, "There are no samples"),
    "a length of no sample": (WAVS[:2], torch.tensor([1.0, 0.0]), "A length is more than 0"),
    "NaN": (torch.full((2, 800), float("nan")), None, "NaN or infinite"),
    "integers": (torch.ones(2, 800, dtype=torch.int16), None, "The samples are torch.int16"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_that_cannot_be_is_refused(case, two):
    wavs, lengths, words = BATCHES[case]
    with pytest.raises(DataError, match=words):
        two.classify_batch(wavs, lengths, ["birds"] * len(wavs))


@torch.no_grad()
def test_bad_files_are_left_out_or_refused(two, tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "good.wav", WAVS[0].numpy(), 16000)
    files = [(tmp_path / f"{name}.wav", "birds") for name in ("empty", "good", "nan")]
    bad = {}
    results = list(two.classify_files(files, on_error=lambda clip, error: bad.update({clip.id: str(error)})))
    assert [result["birds"].path for result in results] == [str(tmp_path / "good.wav")]
    assert bad.keys() == {"empty", "nan"} and "NaN or infinite" in bad["nan"]
    for file in (files[0], files[2]):
        with pytest.raises(DataError, match=str(file[0])):
            list(two.classify_files([file]))
    with pytest.raises(DataError, match="That is one file"):
        list(two.classify_files(str(tmp_path / "good.wav")))
