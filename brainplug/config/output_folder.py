"""A folder of results belongs to one configuration; a run with another one is refused there."""

import os
from pathlib import Path
from typing import Any, TypedDict, cast

import yaml
from speechbrain.utils.checkpoints import CKPT_PREFIX

from brainplug.config.extension import epochs_before, record_extension
from brainplug.config.recipe import Recipe, RecipeLoader
from brainplug.errors import CheckpointError
from brainplug.files import read_json, write_json

CONFIGURATION_NAME = "configuration.json"
# Run options that change the numbers of a run; the others (device, progress bars) do not make it another one.
NUMERIC_OPTIONS = (
    "precision", "eval_precision", "grad_accumulation_factor", "max_grad_norm", "optimizer_step_limit",
    "remove_vector_weight_decay", "skip_nonfinite_grads", "debug",
)  # fmt: skip


class Configuration(TypedDict):
    """All that decides the numbers of a run: the recipe's resolved lines, and SpeechBrain's options that matter."""

    recipe: list[str]
    options: dict[str, object]


def configuration(recipe: Recipe[Any]) -> Configuration:
    """The configuration of a recipe with its overrides."""
    without_comments = yaml.serialize(yaml.compose(recipe.resolved, Loader=RecipeLoader), width=1000)
    options = {name: recipe.run_opts[name] for name in NUMERIC_OPTIONS}
    return {
        "recipe": without_comments.splitlines(),
        "options": {**options, "processes": os.environ.get("WORLD_SIZE", "1")},
    }


def check_output_folder(recipe: Recipe[Any], output_folder: str, save_folder: str, can_extend: bool = False) -> None:
    """Makes the output folder this run's own.

    Checkpoints or results of another configuration, and a folder that cannot be written, raise a `CheckpointError`,
    which names the differences; nothing in the folder is changed. With `can_extend` a recipe that was loaded with
    ``--extend`` may have more epochs.
    """
    folder, asked = Path(output_folder), configuration(recipe)
    path = folder / CONFIGURATION_NAME
    none: Configuration = {"recipe": [], "options": {}}
    stored = cast(Configuration, read_json(path, list(none))) if path.exists() else none
    if stored == asked:
        return
    # A run that failed before its first checkpoint (a mistyped data folder, say) left nothing worth keeping.
    is_trained = (folder / "results.json").exists() or any(Path(save_folder).glob(f"{CKPT_PREFIX}*"))
    same_options = stored["options"] == asked["options"]
    before = epochs_before(stored["recipe"], asked["recipe"]) if can_extend and same_options else None
    if is_trained and not (before and recipe.extend):
        raise CheckpointError(
            f"The output folder {folder} was asked for with {what_differs(asked, stored)}.",
            f"It holds a run with {what_differs(stored, asked)}.",
            f"Write {'--extend to go on with it, ' if before else ''}another --output_folder, or remove this one",
        )
    try:
        if is_trained and before:
            record_extension(folder, before, recipe.settings.number_of_epochs, recipe.settings.lr_schedule)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(asked, path)
    except OSError as error:
        raise CheckpointError(
            f"The output folder {folder} was asked for.",
            f"It cannot be written: {error}.",
            "Write --output_folder=FOLDER, one that you may write to",
        ) from error


def what_differs(configuration: Configuration, other: Configuration) -> str:
    """The first four lines, at most, that another configuration does not have.

    Example
    -------
    >>> what_differs({"recipe": ["lr: 1", "seed: 1"], "options": {}}, {"recipe": ["lr: 2", "seed: 1"], "options": {}})
    "'lr: 1'"
    """
    lines, others = _lines(configuration), _lines(other)
    return "; ".join([repr(line) for line in lines if line not in others][:4]) or "nothing of this"


def _lines(configuration: Configuration) -> list[str]:
    options = [f"--{name}={value}" for name, value in configuration["options"].items()]
    return [*map(str.strip, configuration["recipe"]), *options]
