"""A folder of results belongs to one configuration; a run with another one is refused there."""

import json
import os
from pathlib import Path

import yaml
from speechbrain.utils.checkpoints import CKPT_PREFIX

from brainplug.config.recipe import Experiment, RecipeLoader
from brainplug.errors import UsageError
from brainplug.files import write_json

CONFIGURATION_NAME = "configuration.json"
# Run options that change the numbers of a run; the others (device, progress bars) do not make it another one.
NUMERIC_OPTIONS = (
    "precision", "eval_precision", "grad_accumulation_factor", "max_grad_norm", "optimizer_step_limit",
    "remove_vector_weight_decay", "skip_nonfinite_grads", "debug",
)  # fmt: skip


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
    without_comments = yaml.serialize(yaml.compose(experiment.resolved, Loader=RecipeLoader), width=1000)
    options = {name: experiment.run_opts[name] for name in NUMERIC_OPTIONS}
    return {
        "recipe": without_comments.splitlines(),
        "options": {**options, "processes": os.environ.get("WORLD_SIZE", "1")},
    }


def check_output_folder(experiment: Experiment) -> None:
    """Makes the output folder this run's own.

    Arguments
    ---------
    experiment : Experiment
        The recipe with its overrides.

    Raises
    ------
    UsageError
        The folder holds checkpoints or results of another configuration, or cannot be written; what differs is named,
        and nothing in it is changed.
    """
    folder, wanted = Path(experiment.hparams["output_folder"]), configuration(experiment)
    path = folder / CONFIGURATION_NAME
    there = json.loads(path.read_text()) if path.exists() else {"recipe": [], "options": {}}
    if there == wanted:
        return
    # A run that failed before its first checkpoint (a mistyped data folder, say) left nothing worth keeping.
    if (folder / "results.json").exists() or any(Path(experiment.hparams["save_folder"]).glob(f"{CKPT_PREFIX}*")):
        raise UsageError(
            f"The output folder {folder} was asked for with {what_differs(wanted, there)}.",
            f"It holds a run with {what_differs(there, wanted)}.",
            "Write another --output_folder, or remove this one",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(wanted, path)
    except OSError as error:
        raise UsageError(
            f"The output folder {folder} was asked for.",
            f"It cannot be written: {error}.",
            "Write --output_folder=FOLDER, one that you may write to",
        ) from error


def what_differs(configuration: dict, other: dict) -> str:
    """The first lines that another configuration does not have.

    Arguments
    ---------
    configuration, other : dict
        As `configuration` returns them.

    Returns
    -------
    str
        Four lines at most.

    Example
    -------
    >>> what_differs({"recipe": ["lr: 1", "seed: 1"], "options": {}}, {"recipe": ["lr: 2", "seed: 1"], "options": {}})
    "'lr: 1'"
    """
    lines, others = (
        [*map(str.strip, some["recipe"]), *(f"--{name}={value}" for name, value in some["options"].items())]
        for some in (configuration, other)
    )
    return "; ".join([repr(line) for line in lines if line not in others][:4]) or "nothing of this"
