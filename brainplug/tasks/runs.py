"""One command, several runs: all folds, several draws of few-shot examples, and a summary of them."""

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from brainplug.config.recipe import Recipe
from brainplug.data.corpora.own import given_folds
from brainplug.errors import ConfigError
from brainplug.results.statistics import interval_of_mean
from brainplug.results.tables import markdown_table
from brainplug.tasks.settings import TaskSettings

ALL = "all"


def separate_runs(recipe: Recipe[TaskSettings], overrides: Mapping[str, object]) -> list[dict[str, object]]:
    """The overrides of each run of a command: one for each fold and each draw.

    ``fold: all`` gives the folds 1 to ``folds``, or those in the user's list of clips; the seeds of ``few_shot_draws``
    follow ``seed``.
    """
    settings = recipe.settings
    check_fold(settings)
    draws = getattr(settings, "few_shot_draws", 1)
    if settings.fold != ALL and draws == 1:
        return [dict(overrides)]
    folds: Sequence[int | None] = all_folds(settings) if settings.fold == "all" else [settings.fold]
    if draws > 1 and not getattr(settings, "few_shot", None):
        raise ConfigError(
            f"{draws} draws were asked for.",
            "All training clips are used: there is nothing to draw.",
            "Write --few_shot=8, for one",
        )
    shared = [f"{key}: {value}" for key, value in overrides.items() if _is_shared(key, value, folds)]
    if shared and not recipe.run_opts.debug:
        raise ConfigError(
            f"{len(folds) * draws} runs were asked for, with {shared[0]}.",
            "Some would have one output folder.",
            "Leave it out, since each run has a folder of its own then; or write --experiment='!ref NAME-<fold>'",
        )
    shared_overrides = {key: value for key, value in overrides.items() if key not in ("fold", "seed", "few_shot_draws")}
    seeds = range(settings.seed, settings.seed + draws)
    return [{**shared_overrides, "fold": fold, "seed": seed} for seed in seeds for fold in folds]


def _is_shared(key: str, value: object, folds: Sequence[int | None]) -> bool:
    """Whether an override gives all runs one folder: a folder, or an experiment's name that does not say the fold."""
    return key == "output_folder" or (key == "experiment" and "<fold>" not in str(value) and len(folds) > 1)


def all_folds(settings: TaskSettings) -> Sequence[int]:
    """The folds that ``fold: all`` stands for: those of a list of one's own clips, else 1 to ``folds``."""
    return given_folds(settings.manifest) or range(1, (settings.folds or 0) + 1)


def check_fold(settings: TaskSettings) -> None:
    """Refuses a fold where the data have given splits."""
    list_clips = settings.datasets.get(settings.dataset)  # an unknown one is refused with the other faults of a recipe
    if list_clips and settings.fold is not None and "fold" not in inspect.signature(list_clips).parameters:
        raise ConfigError(
            f"The fold {settings.fold!r} was asked for.",
            f"{settings.dataset} has given splits, and no folds.",
            "Leave --fold out",
        )


def summary_of_runs(results: Sequence[Mapping[str, Any]]) -> str:
    """The table at the end of several runs, with mean and standard deviation, as Markdown.

    Several draws have a 95 % interval of the mean too (Student's t), over the draws' means over their folds: folds of
    one draw are not independent.

    Example
    -------
    >>> runs = [{"fold": None, "seed": seed, "best_epoch": 1, "test_accuracy": seed / 4} for seed in (1, 2)]
    >>> print(summary_of_runs(runs).splitlines()[-1])
    95 % interval of the mean: -121.3 to 196.3 % (2 draws)
    """
    metric = "test_accuracy" if "test_accuracy" in results[0] else "test_wer"
    name = metric.replace("_", " ").replace("wer", "WER")
    rows = [
        (
            "-" if run["fold"] is None else str(run["fold"]),
            str(run["seed"]),
            f"{run[metric]:.2%}",
            str(run["best_epoch"]),
        )
        for run in results
    ]
    values = [100 * run[metric] for run in results]
    lines = [
        markdown_table(("fold", "seed", name, "best epoch"), rows),
        "",
        f"{name}: {mean(values):.1f} ± {stdev(values):.1f} % (mean and standard deviation over {len(results)} runs)",
    ]
    draws = defaultdict(list)
    for run, value in zip(results, values, strict=True):
        draws[run["seed"]].append(value)
    if len(draws) > 1:
        low, high = interval_of_mean([mean(of_draw) for of_draw in draws.values()])
        lines.append(f"95 % interval of the mean: {low:.1f} to {high:.1f} % ({len(draws)} draws)")
    return "\n".join(lines)
