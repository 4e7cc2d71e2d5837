"""From a command line to a run: loads a recipe with what the command line changes, and checks its keys."""

import argparse
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import torch
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.error import YAMLError  # of resolve_references, which reads more strictly than PyYAML
from speechbrain.utils.distributed import ddp_broadcast, infer_device
from speechbrain.utils.run_opts import RunOptions

from brainplug.errors import UsageError, nearest
from brainplug.optim.entry import OptimizerEntry, as_entry

# HyperPyYAML tries whether a text with a reference is arithmetic, and Python warns of a folder named 2in1.
warnings.filterwarnings("ignore", r"invalid \w+ literal", SyntaxWarning, "<unknown>")
WHOLE_NUMBERS = {
    "seed": range(2**32),
    "number_of_epochs": range(1, 10**6),
    "batch_size": range(1, 10**6),
    "num_workers": range(10**3),
    "frames": range(1, 10**6),
    "few_shot": range(1, 10**6),
    "few_shot_draws": range(1, 10**4),
    "folds": range(3, 10**3),
    "frozen_updates": range(10**9),
    "beam_size": range(1, 10**4),
}
MAY_BE_NULL = ("lr", "few_shot", "folds")
SWITCHES = ("paper_code", "gradient_checkpointing", "include_excited", "cache_features", "features_on_device")
PATHS = ("data_folder", "manifest", "output_folder")
NO_NAME = r"[^\w.-]+"  # what is left out of a folder's name, and would mean something in YAML
LONGEST_NAME = 120  # characters of a backbone in a folder's name: file systems allow 255 bytes in all


class RecipeLoader(getattr(yaml, "CLoader", yaml.Loader)):
    """PyYAML's loader, in C where it has been built, which also reads 1e-3 as a number, as YAML 1.2 does."""


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d{1,3}$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Experiment:
    """A recipe with its overrides.

    Arguments
    ---------
    recipe_file : str
        The YAML.
    run_opts : RunOptions
        SpeechBrain's run options.
    overrides : str
        What the command line changes in the YAML, as YAML.
    resolved : str
        The YAML with the changes made and all references resolved.
    hparams : dict
        The loaded recipe.
    """

    recipe_file: str
    run_opts: RunOptions
    overrides: str
    resolved: str
    hparams: dict


class _Options(RunOptions):
    """SpeechBrain's run options under their whole names: --optimizer is not short for --optimizer_step_limit."""

    @staticmethod
    def _create_parser() -> argparse.ArgumentParser:
        parser = RunOptions._create_parser()
        parser.allow_abbrev = False
        return parser


def parse_arguments(arguments: list[str]) -> tuple[str, RunOptions, str]:
    r"""Parses a command line as `speechbrain.parse_arguments` does, but takes no abbreviations, and paths as they are.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.

    Returns
    -------
    tuple[str, RunOptions, str]
        The recipe's file, SpeechBrain's run options, and what changes in the recipe, as YAML.

    Example
    -------
    >>> parse_arguments(["train.yaml", "--optimizer=adamw", "--seed=2"])[2]
    'optimizer: adamw\nseed: 2'
    """
    recipe_file, run_opts, overrides = _Options.from_command_line_args(arguments)
    return recipe_file, run_opts, "\n".join(map(_with_quotes, overrides.splitlines()))


def _with_quotes(line: str) -> str:
    """Quotes a path: in YAML 2024 would be a number, and what follows a # a comment."""
    key, _, value = line.partition(": ")
    if key not in PATHS or value == "null" or value.startswith("!ref"):
        return line
    return f"{key}: {json.dumps(value, ensure_ascii=False)}"


def flags_without_value() -> set[str]:
    """SpeechBrain's run options that are switches.

    Returns
    -------
    set[str]
        Their names.

    Example
    -------
    >>> "debug" in flags_without_value(), "device" in flags_without_value()
    (True, False)
    """
    return {action.dest for action in _Options._create_parser()._actions if action.nargs == 0}


def load_experiment(recipe_file: str, run_opts: RunOptions, overrides: str) -> Experiment:
    """Loads a recipe.

    Arguments
    ---------
    recipe_file, run_opts, overrides : str, RunOptions, str
        What `parse_arguments` makes of a command line.

    Returns
    -------
    Experiment
        The recipe; with ``--debug`` its output folder is a temporary one. With ``paper_code`` the positions are those
        of the published code and no gradient is clipped, whatever was asked for.

    Raises
    ------
    UsageError
        The file is missing or cannot be loaded, has no such key, lacks a value, or has one that cannot be.
    """
    if not Path(recipe_file).is_file():
        raise UsageError(
            f"The recipe {recipe_file!r} was asked for.", "There is no such file.", "Write: train.py hparams/train.yaml"
        )
    _check_device(run_opts)
    if run_opts.debug and not run_opts.debug_persistently:
        overrides = _in_temporary_folder(overrides)
    try:
        text = Path(recipe_file).read_text()
        recipe, changes = _nodes(text), _nodes(overrides)
        _check_keys(recipe_file, recipe, changes)
        overrides = _of_own_data(overrides, changes)
        nodes = _nodes(_resolve(recipe_file, overrides + _without_blocks(text + overrides, recipe, changes)))
        values = _checked_values(nodes)
        kind = _own_data(nodes) + _other_optimizer(recipe, changes) + _kind_of_run(values)
        if "experiment" in recipe and "experiment" not in changes:
            # No colon, which not every file system and tool takes in a path.
            name = nodes["experiment"].value
            whole_name = _with_folder_as_name(name, nodes).replace(":", "-") + kind
            overrides += "" if whole_name == name else f"\nexperiment: {whole_name}"
        hparams, resolved = _load(recipe_file, overrides)
    except UsageError:
        raise
    except (OSError, ImportError, AttributeError, TypeError, ValueError, yaml.YAMLError, YAMLError) as error:
        raise UsageError(
            f"The recipe {recipe_file!r} was asked for, with: {overrides!r}.",
            f"It cannot be loaded: {' '.join(str(error).split())}.",
            "Write keys and values as hparams/train.yaml does",
        ) from error
    if run_opts.ckpt_interval_steps > 0:  # SpeechBrain takes steps or minutes, not both
        hparams["ckpt_interval_minutes"] = 0
    if values.get("paper_code"):
        hparams["positions"] = "published"
        # SpeechBrain looks at the options that were given, and would clip otherwise.
        given = {*run_opts.overridden_args, "max_grad_norm"}
        run_opts = replace(run_opts, max_grad_norm=0.0, overridden_args=given)
    return Experiment(recipe_file, run_opts, overrides, resolved, hparams)


def load_aside(recipe_file: str, run_opts: RunOptions, overrides: str, folder: str) -> Experiment:
    """Loads a recipe to look at it. Recipes make their output folder when they are loaded: this one has another.

    Arguments
    ---------
    recipe_file, run_opts, overrides : str, RunOptions, str
        As in `load_experiment`.
    folder : str
        The folder that takes its place.

    Returns
    -------
    Experiment
        The recipe.

    Raises
    ------
    UsageError
        As `load_experiment`.
    """
    if not _has_output_folder(recipe_file):
        return load_experiment(recipe_file, run_opts, overrides)
    others = [line for line in overrides.splitlines() if not line.startswith("output_folder:")]
    return load_experiment(recipe_file, run_opts, "\n".join([*others, f"output_folder: {folder}"]))


def _has_output_folder(recipe_file: str) -> bool:
    """False for a file that is no recipe: loading says why."""
    try:
        return "output_folder" in _nodes(Path(recipe_file).read_text())
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError):
        return False


def _check_device(run_opts: RunOptions) -> None:
    device = run_opts.device or infer_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"The device {device!r} was asked for.", f"torch cannot use it: {error}.", "Write --device=cpu"
        ) from error
    if device == "cpu" and "fp16" in (run_opts.precision, run_opts.eval_precision):
        raise UsageError(
            "The precision fp16 was asked for, on the CPU.", "It needs a GPU.", "Write --precision=bf16, or fp32"
        )


def _in_temporary_folder(overrides: str) -> str:
    """Changes the output folder to a temporary one, which is the same for all processes of a run."""
    kept = [line for line in overrides.splitlines() if not line.startswith("output_folder:")]
    return "\n".join([*kept, f"output_folder: {ddp_broadcast(tempfile.mkdtemp(prefix='brainplug-debug-'))}"])


def _resolve(recipe_file: str, overrides: str) -> str:
    with open(recipe_file) as file:
        return resolve_references(file, overrides).getvalue()


def _load(recipe_file: str, overrides: str) -> tuple[dict, str]:
    """The loaded recipe, and what HyperPyYAML makes of its text before: resolving references twice takes as long."""
    resolved = ""

    class Loader(RecipeLoader):
        def __init__(self, stream: StringIO) -> None:
            nonlocal resolved
            resolved = stream.getvalue()
            super().__init__(stream)

    with open(recipe_file) as file:
        hparams = load_hyperpyyaml(file, overrides, overrides_must_match=False, loader=Loader)
    return hparams, resolved


def _without_blocks(text: str, recipe: dict[str, yaml.Node], changes: Iterable[str]) -> str:
    """Leaves out what a recipe includes and its text does not refer to: reading that takes most of the time."""
    included = [key for key, node in recipe.items() if node.tag.startswith("!include:") and key not in changes]
    return "".join(f"\n{key}: null" for key in included if f"<{key}" not in text)


def _of_own_data(overrides: str, changes: dict[str, yaml.Node]) -> str:
    """A list of clips is data of one's own, without saying so."""
    if not _is_given("manifest", changes):
        return overrides
    dataset = changes["dataset"].value if "dataset" in changes else None
    if dataset not in (None, "own"):
        found = f"It lists clips of your own; --dataset={dataset} was given too."
        raise UsageError(f"The manifest {changes['manifest'].value!r} was asked for.", found, "Leave one of them out")
    return overrides if dataset else f"{overrides}\ndataset: own"


def _is_given(key: str, nodes: dict[str, yaml.Node]) -> bool:
    return key in nodes and not nodes[key].tag.endswith(":null")


def _with_folder_as_name(experiment: str, nodes: dict[str, yaml.Node]) -> str:
    """The experiment's name where the backbone is a folder, whose path would lead somewhere else."""
    # The prefix is backbones.loading.RANDOM, which is not imported: with it comes all of transformers.
    backbone = nodes["backbone"].value.removeprefix("random:") if "backbone" in nodes else ""
    if not backbone or not Path(backbone).is_dir():
        return experiment
    parts = [part for part in Path(backbone).parts if part not in (Path(backbone).anchor, "..")]
    name = re.sub(NO_NAME, "_", "-".join(parts or [Path(backbone).resolve().name]))
    return experiment.replace(backbone, name[-LONGEST_NAME:].lstrip("-"))


def _own_data(nodes: dict[str, yaml.Node]) -> str:
    """What keeps the runs on one's own data apart: the name of the list or folder, and the fold."""
    if "dataset" not in nodes or nodes["dataset"].value != "own":
        return ""
    name = next((nodes[key].value for key in ("manifest", "data_folder") if _is_given(key, nodes)), "")
    fold = f"-fold{nodes['fold'].value}" if _is_given("fold", nodes) else ""
    data = Path(name).absolute().name.removesuffix(".csv")
    return f"-{re.sub(NO_NAME, '_', data)}{fold}"


def _kind_of_run(values: dict[str, object]) -> str:
    """What keeps a run's folder apart from that of the run on all examples and classes, with the repaired code."""
    subset = f"-{values['subset']}" if values.get("subset") else ""
    excited = "-excited" if values.get("include_excited") else ""
    shots = f"-{values['few_shot']}shot" if values.get("few_shot") else ""
    return subset + excited + shots + ("-published" if values.get("paper_code") else "")


def _other_optimizer(recipe: dict[str, yaml.Node], changes: dict[str, yaml.Node]) -> str:
    """As `_kind_of_run`, of a run with another optimiser than the recipe's."""
    usual, asked = (nodes["optimizer"].value if "optimizer" in nodes else "" for nodes in (recipe, changes))
    return f"-{asked}" if asked not in ("", usual) else ""


def _nodes(text: str) -> dict[str, yaml.Node]:
    """The nodes at the top of a YAML text, by key."""
    tree = yaml.compose(text, Loader=RecipeLoader)
    nodes = {}
    for key, node in tree.value if tree else []:
        if key.value in nodes:
            raise ValueError(f"the key {key.value} occurs twice")
        nodes[key.value] = node
    return nodes


def _check_keys(recipe_file: str, recipe: dict[str, yaml.Node], changes: Iterable[str]) -> None:
    for key in changes:
        if key not in recipe:
            raise UsageError(
                f"The key --{key} was asked for.",
                f"{recipe_file} has no such key, and SpeechBrain no such option.",
                f"Write one of: {nearest(key, recipe)}",
            )
    for key, node in recipe.items():
        if node.tag == "!PLACEHOLDER" and key not in changes:
            raise UsageError(
                f"The recipe {recipe_file!r} was asked for.", f"Its key {key} has no value.", f"Write --{key}=..."
            )


def _checked_values(nodes: dict[str, yaml.Node]) -> dict[str, object]:
    checked = (*WHOLE_NUMBERS, "lr", "subset", *SWITCHES)
    values = {name: yaml.load(str(nodes[name].value), RecipeLoader) for name in checked if name in nodes}
    for name, value in values.items():
        allowed = WHOLE_NUMBERS.get(name)
        if value is None and name in MAY_BE_NULL:
            continue
        if allowed and (type(value) is not int or value not in allowed):
            raise UsageError(
                f"The {name} {value!r} was asked for.",
                f"It is no whole number from {allowed[0]} to {allowed[-1]}.",
                f"Write --{name}={allowed[1]}, for one",
            )
        if name == "lr" and not (isinstance(value, int | float) and value > 0):
            raise UsageError(
                f"The learning rate {value!r} was asked for.", "It is no number above 0.", "Write --lr=0.001, for one"
            )
        if name in SWITCHES and type(value) is not bool:
            raise UsageError(
                f"{name}: {value!r} was asked for.", "It is neither True nor False.", f"Write --{name}=True, or False"
            )
    return values


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


def choose_optimizer(hparams: dict) -> OptimizerEntry:
    """Picks the optimiser, with what ``optimizer_settings`` changes in its entry.

    Arguments
    ---------
    hparams : dict
        The loaded recipe.

    Returns
    -------
    OptimizerEntry
        The entry of the block ``optimizers``.

    Raises
    ------
    UsageError
        The block has no such entry, or the optimiser does not take its settings.

    Example
    -------
    >>> hparams = {"optimizer": "sgd", "optimizers": {"sgd": torch.optim.SGD}}
    >>> hparams["optimizer_settings"] = {"sgd": {"momentum": 0.5}}
    >>> choose_optimizer(hparams).create.keywords
    {'momentum': 0.5}
    """
    name = hparams["optimizer"]
    settings = hparams["optimizer_settings"].get(name) or {}
    entry = as_entry(choose("optimizer", hparams)).with_settings(settings)
    try:
        entry.build(torch.nn.Linear(1, 1), lr=1.0)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The optimizer {name!r} was asked for, with {settings} beside what its entry sets.",
            f"It does not take them: {error}.",
            "Write settings that hparams/optimizers.yaml shows for it",
        ) from error
    return entry


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
        text = str(error)
    except RuntimeError as error:  # a worker's UsageError comes as one, behind its traceback
        _, mark, text = str(error).strip().rpartition("brainplug.errors.UsageError: ")
        if not mark:
            raise
    else:
        return 0
    print(f"error: {text}", file=sys.stderr)
    return 2
