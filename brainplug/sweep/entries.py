"""Sums up the finished cells of a table: means, standard deviations, cost, gaps and differences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean

from brainplug.files import RESULTS
from brainplug.results.schema import MODELS, Epoch, RunResults, read_results_file
from brainplug.results.statistics import mean_and_std, p_value
from brainplug.sweep.cell import state_of
from brainplug.sweep.plan import Plan
from brainplug.sweep.table import Cell

Key = tuple[int | None, int]  # fold and seed
UNKNOWN_METRIC = "score"


@dataclass(frozen=True)
class Entry:
    """A location of a table. Scores are in per cent; what could not be computed is None.

    Arguments
    ---------
    row, column : str
        The location.
    metric, code : str
        Such as ``accuracy`` or ``WER``; ``corrected`` or ``as published``.
    runs, planned, broken : int
        Finished cells, all cells, and broken ones.
    mean, std : float | None
        Over folds and seeds, of the epoch that the runs report.
    best_epoch, best_epoch_std, last_epoch, last_epoch_std : float | None
        The same of the best validation epoch and of the last one.
    published, gap : float | None
        The number in the paper, and the mean minus it.
    difference, p_value, pairs : float | None, float | None, int
        The mean difference from the row that all are compared with, over the folds and seeds that both have; the p
        value of a paired t-test; and the number of pairs.
    trainable_without_head : int
        Parameters.
    minutes, peak_memory_gb : float | None
        The mean of the runs, and the most of any run.
    """

    row: str
    column: str
    metric: str
    code: str
    runs: int
    planned: int
    broken: int
    mean: float | None
    std: float | None
    best_epoch: float | None
    best_epoch_std: float | None
    last_epoch: float | None
    last_epoch_std: float | None
    published: float | None
    gap: float | None
    difference: float | None
    p_value: float | None
    pairs: int
    trainable_without_head: int
    minutes: float | None
    peak_memory_gb: float | None


def finished_results(cells: Iterable[Cell]) -> dict[Cell, RunResults]:
    """The results of each finished cell.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    return {cell: read_results_file(cell.folder / RESULTS) for cell in cells if state_of(cell.folder) == "finished"}


def make_entries(plan: Plan) -> list[Entry]:
    """Sums up a table, as far as it was run; one entry for each location."""
    results: dict[tuple[str, str], dict[Key, RunResults]] = {location: {} for location in plan.protocols}
    for cell, run in finished_results(plan.cells).items():
        results[cell.location][cell.fold, cell.seed] = run
    return [_entry(plan, location, results) for location in plan.protocols]


def _entry(plan: Plan, location: tuple[str, str], results: Mapping[tuple[str, str], Mapping[Key, RunResults]]) -> Entry:
    (row, column), reference = location, plan.table.compare_with
    runs, protocol = results[location], plan.protocols[location]
    states = [state_of(cell.folder) for cell in plan.cells if cell.location == location]
    compared = results.get((reference, column), {}) if reference and reference != row else {}
    differences = [run.score() - compared[key].score() for key, run in runs.items() if key in compared]
    score, std = _scores(runs, "tested")
    best, best_std = _scores(runs, "best")
    last, last_std = _scores(runs, "last")
    published = plan.table.published.get(row, {}).get(column)
    return Entry(
        row=row,
        column=column,
        metric=_metric(runs, protocol.task),
        code=protocol.code,
        runs=len(runs),
        planned=len(states),
        broken=states.count("broken"),
        mean=score,
        std=std,
        best_epoch=best,
        best_epoch_std=best_std,
        last_epoch=last,
        last_epoch_std=last_std,
        published=published,
        gap=None if published is None or score is None else score - published,
        difference=mean(differences) if differences else None,
        p_value=p_value(differences),
        pairs=len(differences),
        trainable_without_head=protocol.trainable_without_head,
        minutes=mean(run.seconds for run in runs.values()) / 60 if runs else None,
        peak_memory_gb=max(run.peak_memory_bytes for run in runs.values()) / 1e9 if runs else None,
    )


def _scores(runs: Mapping[Key, RunResults], epoch: Epoch) -> tuple[float | None, float | None]:
    return mean_and_std(run.score(epoch=epoch) for run in runs.values())


def _metric(runs: Mapping[Key, RunResults], task: str) -> str:
    """The first metric of the runs; before the first run, of the task."""
    known = [run.metrics for run in runs.values()] or [MODELS.get(task, RunResults).known_metrics]
    return known[0][0].name if known[0] else UNKNOWN_METRIC
