"""The recipes have the published protocol; what a run chooses of its data is seen in its folder's name."""

from pathlib import Path

import pytest
import torch
import yaml

from brainplug.compat.petl_ast.command_line import PROTOCOLS
from brainplug.config.arguments import parse_arguments
from brainplug.config.recipe import Recipe, RecipeLoader, recipe_nodes
from brainplug.data.augment import choose_augmentations
from brainplug.errors import UsageError
from brainplug.tasks import load_recipe, task_of
from brainplug.tasks.base import choose_optimizer

REPOSITORY = Path(__file__).parents[2]
# Frames, batch, epochs with AST, kernel of the conformer adapter, masks of SpecAugment (frequency, time).
PAPER = {
    "ESC50": (500, 32, 50, 8, [(24, 80)]),
    "FSC": (400, 32, 75, 31, []),
    "GSC": (100, 128, 75, 31, []),
    "US8K": (400, 32, 30, 8, [(24, 80)]),
    "IEMOCAP": (800, 32, 20, 31, []),
}


@pytest.fixture(autouse=True)
def in_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRAINPLUG_CACHE", str(tmp_path))


def load(recipe: str, *options: str) -> Recipe:
    """Loads a recipe, for data that nobody reads."""
    file = str(REPOSITORY / "recipes" / recipe / "hparams" / "train.yaml")
    file, run_opts, overrides = parse_arguments([file, "--data_folder=x", "--device=cpu", *options])
    return load_recipe(file, overrides, run_opts, inspect=True)


@pytest.mark.parametrize("recipe", PAPER)
def test_recipes_have_the_papers_values(recipe):
    settings = load(recipe).settings
    chosen = choose_augmentations(settings.augment, settings.augmentations, settings.augment_settings)
    masks = [(mask.frequency_width, mask.time_width) for mask in chosen]
    actual = [getattr(settings, name) for name in ("frames", "batch_size", "number_of_epochs")]
    kernel = settings.method_settings["conformer"]["kernel_size"]
    assert (*actual, kernel, masks) == PAPER[recipe]
    assert settings.method_settings.keys() == {"conformer"}
    assert settings.lr is None  # the method's own


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_translated_commands_find_their_recipe(protocol):
    settings = load(protocol.folder).settings
    assert settings.frames == protocol.frames
    assert (settings.fold is not None) == (protocol.folds > 1)


@pytest.mark.parametrize("recipe", PAPER)
def test_recipes_have_the_keys_of_the_template(recipe):
    template, actual = (
        yaml.compose((REPOSITORY / path).read_text(), Loader=RecipeLoader)
        for path in ("hparams/train.yaml", f"recipes/{recipe}/hparams/train.yaml")
    )
    keys = [key.value for key, _ in actual.value]
    own, of_the_template = ["subset", "classes", "excited"], ["manifest"]
    shared = [key.value for key, _ in template.value if key.value not in of_the_template]
    assert [key for key in keys if key not in own] == shared


@pytest.mark.parametrize(
    ("recipe", "option", "name"),
    [
        ("ESC50", "--fold=1", "ESC50/nano-ast-conformer-fold1"),
        ("ESC50", "--subset=null", "ESC50/nano-ast-conformer-fold1"),
        ("ESC50", "--subset=esc10", "ESC50/nano-ast-conformer-fold1-esc10"),
        ("GSC", "--classes=35", "GSC/nano-ast-conformer-35classes"),
        ("GSC", "--classes=12", "GSC/nano-ast-conformer-12classes"),
        ("IEMOCAP", "--fold=2", "IEMOCAP/nano-ast-conformer-fold2"),
        ("IEMOCAP", "--excited=True", "IEMOCAP/nano-ast-conformer-fold1-excited"),
        ("IEMOCAP", "--paper_code=True", "IEMOCAP/nano-ast-conformer-fold1-excited-published"),
        ("US8K", "--paper_code=True", "US8K/nano-ast-conformer-fold1-published"),
    ],
)
def test_other_data_goes_into_another_folder(recipe, option, name):
    assert load(recipe, option).settings.output_folder == f"results/{name}/1234"


def test_what_prepare_takes_follows_the_flags():
    assert load("ESC50", "--subset=esc10").settings.prepare["subset"] == "esc10"
    assert load("GSC", "--classes=12", "--seed=3").settings.prepare.items() >= {"classes": 12, "seed": 3}.items()
    assert load("US8K", "--paper_code=True").settings.prepare["paper_code"] is True
    assert load("IEMOCAP", "--paper_code=True").settings.prepare["excited"] is True
    assert load("IEMOCAP").settings.prepare["excited"] is False


def test_a_switch_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(UsageError, match="excited is 'maybe'. It should be a valid boolean"):
        load("IEMOCAP", "--excited=maybe")


def test_librispeech_has_the_published_values_of_100_hours():
    settings = load("LibriSpeech_ctc").settings
    masks = settings.masks
    assert (masks.time, masks.time_length, masks.channels, masks.channel_length) == (0.65, 10, 0.5, 64)
    assert (settings.frozen_updates, settings.layerdrop) == (0, 0.1)
    assert settings.method_settings["full"]["lr"] == 3e-5
    assert settings.lr_schedule.keywords == {"warm_up": 0.1, "hold": 0.4, "decay": 0.5}
    optimizer = choose_optimizer(settings).build(torch.nn.Linear(1, 1), lr=1.0).defaults
    assert (list(optimizer["betas"]), optimizer["eps"], optimizer["weight_decay"]) == ([0.9, 0.98], 1e-8, 0.0)


def test_recipes_of_recognition_have_the_same_keys():
    files = [REPOSITORY / "recipes" / recipe / "hparams" / "train.yaml" for recipe in ("spoken_ctc", "LibriSpeech_ctc")]
    keys = [list(recipe_nodes(str(file))) for file in files]
    assert [key for key in keys[0] if key not in ("manifest", "folds")] == keys[1]


@pytest.mark.parametrize(
    ("option", "backbone", "is_told"),
    [("--frames=64", "nano-hubert", True), ("--frames=64", "nano-ast", False), ("--seed=1", "nano-hubert", False)],
)
def test_frames_that_have_no_effect_are_told(option, backbone, is_told, caplog):
    recipe = load("ESC50", f"--backbone={backbone}", option)
    task_of(recipe).build(recipe, "random")
    assert ("--frames=64 has no effect: the backbone nano-hubert" in caplog.text) == is_told
