"""The schemas of the pre-training recipes accept every YAML, and name all faults at once."""

from pathlib import Path

import pytest
import yaml

from brainplug.config.arguments import parse_arguments
from brainplug.config.recipe import Recipe
from brainplug.config.schema import faults_of
from brainplug.pretrain.schema import AstSettings, Data2VecSettings, HubertSettings, PretrainSettings

RECIPES = Path(__file__).parents[2] / "recipes"
SCHEMAS = {"pretrain_hubert": HubertSettings, "pretrain_data2vec": Data2VecSettings, "pretrain_ast": AstSettings}
FILES = [path for name in SCHEMAS for path in sorted((RECIPES / name / "hparams").glob("*.yaml"))]
ADDED = {"results_folder", "output_folder"}


def load(path: Path, folder: Path, *arguments: str) -> dict[str, object]:
    key = "results_folder" if "results_folder" in path.read_text() else "output_folder"
    file, run_opts, overrides = parse_arguments([str(path), f"--{key}={folder}", *arguments])
    return dict(Recipe.load(file, overrides, run_opts, SCHEMAS[path.parents[1].name]).settings)


def read_settings(schema: type[PretrainSettings], values: dict[str, object]) -> PretrainSettings:
    """Settings of values that a recipe has, as `Recipe.load` makes them."""
    if faults := faults_of(schema, values):
        raise ValueError(" ".join(faults))
    return schema.model_construct(**values)


@pytest.fixture(scope="module", params=sorted(SCHEMAS))
def nano(request, tmp_path_factory) -> tuple[type[PretrainSettings], dict[str, object]]:
    """A schema, and the values of its smallest recipe."""
    path = RECIPES / request.param / "hparams" / "nano.yaml"
    return SCHEMAS[request.param], load(path, tmp_path_factory.mktemp("nano"))


def test_every_recipe_has_a_file():
    assert {path.parents[1].name for path in FILES} == set(SCHEMAS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_a_recipe_has_exactly_the_keys_of_its_schema_and_valid_values(path, tmp_path):
    schema = SCHEMAS[path.parents[1].name]
    tree = yaml.compose(path.read_text(), Loader=yaml.Loader)
    assert {key.value for key, _ in tree.value if not key.value.startswith("__")} == set(schema.model_fields)
    values = load(path, tmp_path)
    settings = read_settings(schema, values)
    assert all(getattr(settings, key) == value for key, value in values.items())
    assert settings.checkpointer is values["checkpointer"]  # objects are the ones that were built


def test_all_faults_are_named_together(nano):
    schema, values = nano
    with pytest.raises(ValueError, match="no key colour") as caught:
        read_settings(schema, {**values, "colour": "red", "lr": "fast", "seed": -1, "epoch_counter": None})
    for part in (
        "no key colour",
        "lr is 'fast'. It should be a valid number",
        "seed is -1. It should be greater",
        "epoch_",
    ):
        assert part in str(caught.value)


def test_missing_keys_are_named(nano):
    schema, values = nano
    with pytest.raises(ValueError, match="lacks the keys of its task: batch_size"):
        read_settings(schema, {key: value for key, value in values.items() if key != "batch_size"})


ALL = {
    "seed": [-1, 2**32, 1.5, True, "1"],
    "number_of_epochs": [0, 1.0, None],
    "steps_per_epoch": [0],
    "batch_size": [0, "8"],
    "lr": [0, -0.1, float("nan"), float("inf"), "0.1", None, True],
    "precision": ["fp8", None],
    "optimizer": ["adamw"],
    "checkpointer": [None],
    "output_folder": [None, 1],
}
MASKED = {
    "crop_seconds": [0, -1],
    "valid_fraction": [-0.1, 1.0],
    "valid_batches": [0],
    "augment": [None, "noise"],
    "mask_probability": [0, float("nan")],
    "mask_length": [0, 2.5],
    "mask_minimum": [-1],
    "mask_same_count": [1, "yes"],
    "max_grad_norm": [-1, float("nan")],
    "health_interval": [0],
    "alarms_after": [-1],
    "compared_clusters": [1],
    "model": [None, "hubert"],
    "sound": [{"clips": 3}, {"spoken_clips": -1}, {"spoken_clips": 1.5}],
    "sound_folder": [None],  # without a data_folder
}
BAD = {
    HubertSettings: {
        **ALL, **MASKED, "clusters": [1, 2**15], "label_layer": [0], "iterations": [[], None, [3]],
        "alpha": [-0.1, 1.1], "feature_gradient": [2.0], "feature_penalty": [-1.0], "labels_from": [None],
    },
    Data2VecSettings: {**ALL, **MASKED, "top_layers": [0], "tau_start": [-0.1, 1.1], "tau_steps": [-1], "beta": [-1.0]},
    AstSettings: {
        **ALL, "frames": [15], "crop": [401, 15], "std": [0], "mix_probability": [1.5], "warm_up_steps": [0],
        "kind_fractions": [{"word": 2.0}, {"noise": 0.5}, None], "valid_clips": [0], "ast": [None],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "key", "value"),
    [(schema, key, value) for schema, keys in BAD.items() for key, values in keys.items() for value in values],
)
def test_a_wrong_value_is_refused_and_named(schema, key, value, good):
    with pytest.raises(ValueError, match=key):
        read_settings(schema, {**good[schema], key: value})


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[type[PretrainSettings], dict[str, object]]:
    folder = tmp_path_factory.mktemp("good")
    return {schema: load(RECIPES / name / "hparams" / "nano.yaml", folder / name) for name, schema in SCHEMAS.items()}


@pytest.mark.parametrize(("key", "value"), [("seed", 0), ("lr", 1), ("precision", "fp32"), ("output_folder", "2024")])
def test_values_at_the_edge_are_accepted(key, value, good):
    for schema, values in good.items():
        assert getattr(read_settings(schema, {**values, key: value}), key) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_grad_norm", float("inf")), ("valid_fraction", 0.0), ("sound", None), ("mask_probability", 2)],
)
def test_values_of_masked_prediction_at_the_edge_are_accepted(key, value, good):
    for schema in (HubertSettings, Data2VecSettings):
        values = {**good[schema], "data_folder": "audio", key: value}
        assert getattr(read_settings(schema, values), key) == value


def test_settings_cannot_be_changed(good):
    settings = read_settings(HubertSettings, good[HubertSettings])
    with pytest.raises(ValueError, match="frozen"):
        settings.lr = 1.0
