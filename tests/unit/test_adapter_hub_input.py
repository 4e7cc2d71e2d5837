"""What a hub refuses, and what it says."""

import copy

import pytest
import torch

from brainplug.adapters.description import ClassifierDescription
from brainplug.adapters.file import save_adapter
from brainplug.errors import CheckpointError, ConfigError, UsageError
from brainplug.inference import AdapterHub
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA
from brainplug.models.classifier import AudioClassifier
from brainplug.models.ctc import CTCModel
from tests.contract.test_methods import chosen
from tests.made_adapters import describe_classifier, describe_recognizer
from tests.made_hubs import LENGTHS, WAVS, Made, loaded


@pytest.fixture
def made(tmp_path) -> Made:
    return Made(tmp_path, loaded("nano-ast"))


@pytest.mark.parametrize("known", [False, True])
def test_an_adapter_of_another_backbone_is_refused(known, made, tmp_path):
    (tmp_path / "other").mkdir()
    path = Made(tmp_path / "other", loaded("nano-hubert")).add("speech", chosen("lora"), 3)
    hub = AdapterHub(made.backbone if known else "nano-ast")
    with pytest.raises(
        CheckpointError, match=r"adapts nano-hubert.*backbone of the hub is nano-ast.*AdapterHub\('nano-hubert'\)"
    ):
        hub.load("speech", path)
    assert hub.names == []
    hub.load("fits", made.add("fits", chosen("lora"), 3))
    with pytest.raises(CheckpointError, match="It adapts nano-hubert"):
        hub.load("speech", path)


def test_a_hub_takes_frames_and_positions_of_its_first_adapter(made):
    hub = AdapterHub("nano-ast")
    hub.load("a", made.add("a", chosen("lora"), 3))
    assert hub.backbone.frames == 48
    with torch.no_grad():
        made.check(hub, ["a", "a"])


def test_an_adapter_that_reads_clips_otherwise_is_refused(made, tmp_path):
    hub = AdapterHub("nano-ast")
    hub.load("a", made.add("a", chosen("lora"), 3))
    (tmp_path / "other").mkdir()
    other = Made(tmp_path / "other", loaded("nano-ast", 64)).add("b", chosen("lora"), 3)
    with pytest.raises(CheckpointError, match="'frames': 64.*'frames': 48"):
        hub.load("b", other)
    for changes in ({"channel": "first"}, {"positions": "zero"}):
        name = next(iter(changes))
        with pytest.raises(CheckpointError, match=f"reads clips with .*{changes[name]}.* others in the hub"):
            hub.load(name, made.add(name, chosen("lora"), 3, **changes))
    assert hub.names == ["a"]


def test_an_adapter_of_another_task_is_refused(made, tmp_path):
    model = CTCModel(copy.deepcopy(loaded("nano-hubert")), LinearProbe(), 4)
    (tmp_path / "ctc").mkdir()
    save_adapter(model, tmp_path / "ctc", describe_recognizer(model, " abc"))
    with pytest.raises(CheckpointError, match=r"of the task ctc. Name a run of the task classification"):
        AdapterHub("nano-hubert").load("ctc", tmp_path / "ctc")


def test_weights_that_do_not_fit_their_description_are_refused(made):
    model = AudioClassifier(copy.deepcopy(made.backbone), LoRA(rank=2), 3)
    four = describe_classifier(model, ["a", "b", "c", "d"])
    (made.folder / "bad").mkdir()
    save_adapter(model, made.folder / "bad", ClassifierDescription.model_validate(four.model_dump()))
    with pytest.raises(CheckpointError, match=r"of another shape or type: \['head.bias', 'head.weight'\]"):
        AdapterHub(made.backbone).load("bad", made.folder / "bad")


@pytest.fixture
def two(made: Made) -> AdapterHub:
    """A hub with the adapters `birds` and `rooms`."""
    for name in ("birds", "rooms"):
        made.add(name, chosen("lora"), 3)
    return made.hub()


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


def test_an_empty_hub_says_what_to_do(tmp_path):
    hub = AdapterHub("nano-ast")
    with pytest.raises(ConfigError, match=r"no adapters\. Call load\(NAME, FOLDER\) first"):
        hub.classify_batch(WAVS, None, ["a"] * 5)
    with pytest.raises(CheckpointError, match="no such folder"):
        hub.load("a", tmp_path / "gone")
    with pytest.raises(ConfigError, match="torch cannot use it"):
        AdapterHub("nano-ast", device="gpu")
