"""From a command line to a run: checks the recipe's keys, and makes sure that a results folder belongs to this run."""

import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import speechbrain as sb
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references

from brainplug.errors import UsageError, nearest
from brainplug.files import write_json

CONFIGURATION_NAME = "configuration.json"
# Run options that change the numbers of a run; the others (device, progress bars) do not make it another one.
NUMERIC_OPTIONS = ("precision", "grad_accumulation_factor", "max_grad_norm", "optimizer_step_limit")


@dataclass(frozen=True)
class Experiment:
    """A recipe with its overrides.

    Arguments
    ---------
    recipe_file : str
        The YAML.
    run_opts : object
        SpeechBrain's run options.
    overrides : str
        What the command line changes in the YAML, as YAML.
    hparams : dict
        The loaded recipe.
    """

    recipe_file: str
    run_opts: object
    overrides: str
    hparams: dict


def load_experiment(arguments: list[str]) -> Experiment:
    """Loads the recipe that a command line names.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.

    Returns
    -------
    Experiment
        The recipe; with ``--debug`` its output folder is a temporary one.

    Raises
    ------
    UsageError
        The file is missing, is no YAML, or has no such key.
    """
    recipe_file, run_opts, overrides = sb.parse_arguments(arguments)
    if not Path(recipe_file).is_file():
        raise UsageError(
            f"The recipe {recipe_file!r} was asked for.", "There is no such file.", "Write: train.py hparams/train.yaml"
        )
    try:
        changes = yaml.safe_load(overrides or "") or {}
        keys = [node.value for node, _ in yaml.compose(Path(recipe_file).read_text()).value]
    except (yaml.YAMLError, AttributeError, ValueError) as error:
        raise UsageError(
            f"The recipe {recipe_file!r} was asked for, with: {overrides!r}.",
            f"This is not the YAML of a recipe: {error}",
            "Write keys and values as hparams/train.yaml does",
        ) from error
    for key in changes:
        if key not in keys:
            raise UsageError(
                f"The key --{key} was asked for.",
                f"{recipe_file} has no such key, and SpeechBrain no such option.",
                f"Write one of: {nearest(key, keys)}",
            )
    if run_opts["debug"] and not run_opts["debug_persistently"]:
        overrides = f"{overrides}\noutput_folder: {tempfile.mkdtemp(prefix='brainplug-debug-')}"
    with open(recipe_file) as file:
        return Experiment(recipe_file, run_opts, overrides, load_hyperpyyaml(file, overrides))


def choose(kind: str, hparams: dict) -> Callable:
    """Picks the entry of a block that a key names: ``optimizer: adamw`` from ``optimizers``.

    Arguments
    ---------
    kind : str
        The key; its block's name is the plural.
    hparams : dict
        The loaded recipe.

    Returns
    -------
    Callable
        The entry.

    Raises
    ------
    UsageError
        The block has no such entry.

    Example
    -------
    >>> choose("optimizer", {"optimizer": "adamw", "optimizers": {"adamw": dict}}) is dict
    True
    """
    name, block = hparams[kind], hparams[f"{kind}s"]
    if name not in block:
        raise UsageError(
            f"The {kind} {name!r} was asked for.",
            f"The recipe's block {kind}s has no such entry.",
            f"Write --{kind}= one of: {nearest(name, block)}",
        )
    return block[name]


def configuration(experiment: Experiment) -> dict[str, list[str] | dict]:
    """All that decides the numbers of a run.

    Arguments
    ---------
    experiment : Experiment
        The recipe with its overrides.

    Returns
    -------
    dict[str, list[str] | dict]
        The recipe's lines with all references resolved, and SpeechBrain's options that matter.
    """
    with open(experiment.recipe_file) as file:
        resolved = resolve_references(file, experiment.overrides).getvalue()
    lines = [line.rstrip() for line in io.StringIO(resolved) if line.strip() and not line.lstrip().startswith("#")]
    options = {name: experiment.run_opts[name] for name in NUMERIC_OPTIONS}
    return {"recipe": lines, "options": options}


def claim_output_folder(experiment: Experiment) -> None:
    """Makes the output folder this run's own.

    Arguments
    ---------
    experiment : Experiment
        The recipe with its overrides.

    Raises
    ------
    UsageError
        The folder holds a run of another configuration, or cannot be written; what differs is named, and nothing in
        it is changed.
    """
    folder, wanted = Path(experiment.hparams["output_folder"]), configuration(experiment)
    path = folder / CONFIGURATION_NAME
    if path.exists():
        there = json.loads(path.read_text())
        if there != wanted:
            changed = [f"{old!r}" for old in _flat(there) if old not in _flat(wanted)]
            asked = [f"{new!r}" for new in _flat(wanted) if new not in _flat(there)]
            raise UsageError(
                f"The output folder {folder} was asked for with {'; '.join(asked[:4]) or 'fewer keys'}.",
                f"It holds a run with {'; '.join(changed[:4]) or 'fewer keys'}.",
                "Write another --output_folder, or remove this one",
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(wanted, path)
    except OSError as error:
        raise UsageError(
            f"The output folder {folder} was asked for.",
            f"It cannot be written: {error}.",
            "Write --output_folder=FOLDER, one that you may write to",
        ) from error


def _flat(configuration: dict) -> list[str]:
    return [*configuration["recipe"], *(f"--{name}={value}" for name, value in configuration["options"].items())]


def run_command(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> int:
    """Runs a command; an error that the user can mend is printed without a traceback.

    Arguments
    ---------
    main : Callable[[list[str]], None]
        The command.
    arguments : list[str], optional
        Its command line; that of the process by default.

    Returns
    -------
    int
        The exit code: 0, or 2 after a `UsageError`.

    Example
    -------
    >>> def main(arguments):
    ...     raise UsageError("This was asked.", "That was found.", "Write this")
    >>> run_command(main, [])
    2
    """
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
