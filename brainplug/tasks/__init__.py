"""Kinds of work, one file each: what a recipe's key ``task`` names."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import yaml
from speechbrain.utils.run_opts import RunOptions

from brainplug.config.arguments import parse_arguments
from brainplug.config.recipe import LOADING_ERRORS, Recipe, recipe_nodes
from brainplug.errors import ConfigError, nearest
from brainplug.tasks.base import Task
from brainplug.tasks.settings import TaskSettings

# Name -> the task's class, imported when it is asked for. A new task adds a row.
TASKS = {
    "classification": "brainplug.tasks.classification.Classification",
    "ctc": "brainplug.tasks.ctc.CTC",
    "seq2seq": "brainplug.tasks.seq2seq.Seq2Seq",
}


@cache
def find_task(name: str) -> Task[Any, Any]:
    """The task of a name."""
    if name not in TASKS:
        raise ConfigError(
            f"The task {name!r} was asked for.", "It does not exist.", f"Write task: one of {nearest(name, TASKS)}"
        )
    module, _, kind = TASKS[name].rpartition(".")
    task: Task[Any, Any] = getattr(import_module(module), kind)()
    return task


def load_recipe(
    file: str,
    overrides: Mapping[str, object] | None = None,
    run_opts: RunOptions | None = None,
    inspect: bool = False,
) -> Recipe[Any]:
    """Loads a recipe, checked against the schema of the task that it names; see `Recipe.load`.

    Example
    -------
    >>> recipe = load_recipe("hparams/train.yaml", {"method": "lora", "seed": 3}, inspect=True)
    >>> recipe.settings.output_folder
    'results/spoken/nano-ast-lora/3'
    """
    return Recipe.load(file, overrides, run_opts, schema_of(file), inspect)


def schema_of(file: str) -> type[TaskSettings]:
    """The schema of a recipe: that of the task which its file names."""
    return find_task(_task_name(file)).schema


def read_arguments(arguments: Sequence[str]) -> tuple[str, RunOptions, dict[str, object]]:
    """The recipe's file, SpeechBrain's run options and the overrides of a command line; see `parse_arguments`."""
    return parse_arguments(arguments, lambda file: [schema_of(file)])


def all_schemas(file: str) -> list[type[TaskSettings]]:
    """The schemas of all tasks, for options of several recipes."""
    return [find_task(name).schema for name in TASKS]


def task_of(recipe: Recipe[Any]) -> Task[Any, Any]:
    """The task that a recipe names."""
    return find_task(recipe.settings.task)


def _task_name(file: str) -> str:
    """What a recipe's key ``task`` says; a file that cannot be read is refused when it is loaded."""
    try:
        node = recipe_nodes(file).get("task") if Path(file).is_file() else None
    except LOADING_ERRORS:
        return "classification"
    return node.value if isinstance(node, yaml.ScalarNode) else "classification"
