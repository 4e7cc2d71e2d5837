"""One command, several runs: all folds, several draws of few-shot examples, and what they say together."""

import inspect
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev

from scipy import stats

from brainplug.config.recipe import Experiment, choose
from brainplug.data.corpora.own import given_folds
from brainplug.errors import UsageError
from brainplug.results.report import markdown_table

ALL = "all"


def separate_runs(experiment: Experiment, overrides: str) -> list[str]:
    """Says which runs a command stands for: one for each fold and each draw.

    Arguments
    ---------
    experiment : Experiment
        The recipe. ``fold: all`` stands for the folds 1 to ``folds``, or those that a list
        of one's own clips names; ``few_shot_draws`` seeds follow ``seed``.
    overrides : str
        What the command line changes in it, as YAML.

    Returns
    -------
    list[str]
        What each run changes in the recipe, as YAML.

    Raises
    ------
    UsageError
        The data have no folds, there is nothing to draw, or all runs would have one folder.
    """
    hparams = experiment.hparams
    check_fold(hparams)
    draws = hparams["few_shot_draws"]
    if hparams["fold"] != ALL and draws == 1:
        return [overrides]
    folds = all_folds(hparams) if hparams["fold"] == ALL else [hparams["fold"]]
    if draws > 1 and not hparams["few_shot"]:
        raise UsageError(
            f"{draws} draws were asked for.", "All training clips are used: there is nothing to draw.",
            "Write --few_shot=8, for one",
        )  # fmt: skip
    replaced = ("fold:", "seed:", "few_shot_draws:")
    kept = [line for line in overrides.splitlines() if not line.startswith(replaced)]
    same = [line for line in kept if line.startswith("output_folder:") or _is_the_same_for_all(line, folds)]
    if same and not experiment.run_opts.debug:
        raise UsageError(
            f"{len(folds) * draws} runs were asked for, with {same[0]}.", "Some would have one output folder.",
            "Leave it out, since each run has a folder of its own then; or write --experiment='!ref NAME-<fold>'",
        )  # fmt: skip
    seeds = range(hparams["seed"], hparams["seed"] + draws)
    return [
        "\n".join([*kept, f"fold: {'null' if fold is None else fold}", f"seed: {seed}"])
        for seed in seeds
        for fold in folds
    ]


def _is_the_same_for_all(line: str, folds: Sequence[int]) -> bool:
    """Whether an experiment's name does not say the fold."""
    return line.startswith("experiment:") and "<fold>" not in line and len(folds) > 1


def all_folds(hparams: dict) -> Sequence[int]:
    """The folds that ``fold: all`` stands for.

    Arguments
    ---------
    hparams : dict
        The loaded recipe of data with folds.

    Returns
    -------
    Sequence[int]
        Those of a list of one's own clips, else 1 to ``folds``.

    Example
    -------
    >>> list(all_folds({"folds": 3}))
    [1, 2, 3]
    """
    return given_folds(hparams.get("manifest")) or range(1, hparams["folds"] + 1)


def check_fold(hparams: dict) -> None:
    """Makes sure that the data have folds, if one was asked for.

    Arguments
    ---------
    hparams : dict
        The loaded recipe.

    Raises
    ------
    UsageError
        They have none.

    Example
    -------
    >>> check_fold({"fold": None})
    """
    if hparams["fold"] is not None and "fold" not in inspect.signature(choose("dataset", hparams)).parameters:
        raise UsageError(
            f"The fold {hparams['fold']!r} was asked for.", f"{hparams['dataset']} has given splits, and no folds.",
            "Leave --fold out",
        )  # fmt: skip


def summary_of_runs(results: Sequence[dict]) -> str:
    """The table at the end of several runs.

    Arguments
    ---------
    results : Sequence[dict]
        As in results.json.

    Returns
    -------
    str
        Markdown, and a line with mean and deviation over all runs. Of several draws a second line has the mean's 95 %
        interval (Student's t), after the mean over the folds of each draw was taken: folds of one draw are not
        independent.

    Example
    -------
    >>> runs = [{"fold": None, "seed": seed, "best_epoch": 1, "test_accuracy": seed / 4} for seed in (1, 2)]
    >>> print(summary_of_runs(runs).splitlines()[-2])
    test accuracy: 37.5 ± 17.7 % (mean and standard deviation over 2 runs)
    """
    rows = [
        (
            "-" if run["fold"] is None else str(run["fold"]),
            str(run["seed"]),
            f"{run['test_accuracy']:.2%}",
            str(run["best_epoch"]),
        )
        for run in results
    ]
    accuracies = [100 * run["test_accuracy"] for run in results]
    lines = [
        markdown_table(("fold", "seed", "test accuracy", "best epoch"), rows),
        "",
        f"test accuracy: {mean(accuracies):.1f} ± {stdev(accuracies):.1f} % "
        f"(mean and standard deviation over {len(results)} runs)",
    ]
    draws = defaultdict(list)
    for run, accuracy in zip(results, accuracies, strict=True):
        draws[run["seed"]].append(accuracy)
    if len(draws) > 1:
        low, high = interval_of_mean([mean(values) for values in draws.values()])
        lines.append(f"95 % interval of the mean: {low:.1f} to {high:.1f} % ({len(draws)} draws)")
    return "\n".join(lines)


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean, after Student's t.

    Arguments
    ---------
    values : Sequence[float]
        Two or more.

    Returns
    -------
    tuple[float, float]
        Its ends.

    Example
    -------
    >>> low, high = interval_of_mean([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half
