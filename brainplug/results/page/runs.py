"""The runs that a page shows: their names, their groups, and the choices among them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from brainplug.files import OBSERVATIONS, PREDICTIONS, RESULTS, TRAIN_LOG, find_files, read_json
from brainplug.results.schema import ClassificationResults, RecognitionResults, RunResults, read_results_file


@dataclass(frozen=True)
class Run:
    """A finished run.

    Arguments
    ---------
    folder, results : Path, RunResults
        Its files, and its results.json.
    method : str
        The row of its table; outside of a table the method with its location.
    data : str
        The column of its table; outside of a table the benchmark, with the training clips a class.
    benchmark : str
        The data and backbone: what runs with more and with fewer training clips have in common.
    """

    folder: Path
    results: RunResults
    method: str
    data: str
    benchmark: str

    @property
    def name(self) -> str:
        """Distinguishes the runs of a method on the same data."""
        fold = "" if self.results.fold is None else f"fold {self.results.fold}, "
        return f"{fold}seed {self.results.seed}"

    @property
    def few_shot(self) -> float:
        """Training clips a class; infinite where all are used."""
        return float("inf") if self.results.few_shot is None else self.results.few_shot


def find_runs(folder: str) -> list[Run]:
    """The runs below a folder, in the order of the tables' cells, then of their folders."""
    cells = _cells(Path(folder))
    order = {cell: index for index, cell in enumerate(cells)}
    paths = find_files(folder, RESULTS)
    runs = [_run(path.parent, read_results_file(path), cells.get(path.parent)) for path in paths]
    return sorted(runs, key=lambda run: order.get(run.folder, len(order)))


def _cells(folder: Path) -> dict[Path, tuple[str, str, str]]:
    """Folder of each cell -> table, column and row. A table may have been moved as a whole."""
    cells = {}
    for path in find_files(folder, "table.json"):
        table = read_json(path, ["name", "cells"])
        for cell in table["cells"]:
            inner = Path(*Path(cell["folder"]).parts[-3:])  # column, row, fold and seed
            cells[path.parent / inner] = table["name"], cell["column"], cell["row"]
    return cells


def _run(folder: Path, results: RunResults, cell: tuple[str, str, str] | None) -> Run:
    benchmark = _benchmark(results)
    if cell:
        table, column, row = cell
        data = table if column == table else f"{table}: {column}"
        return Run(folder, results, row, data, f"table {table}: {benchmark.removeprefix(f'{table}, ')}")
    clips = "clip" if results.few_shot == 1 else "clips"
    shots = "" if results.few_shot is None else f", {results.few_shot} {clips} a class"
    return Run(folder, results, results.method_name, benchmark + shots, benchmark)


def _benchmark(results: RunResults) -> str:
    parts = [results.dataset]
    if isinstance(results, ClassificationResults):
        parts.append(f"{results.n_classes} classes")
    parts.append(results.backbone)
    if isinstance(results, RecognitionResults):
        parts.append(f"{results.decoding} decoding")
    return ", ".join([*parts, *(["code as published"] if results.paper_code else [])])


def classification_runs(runs: Iterable[Run]) -> list[Run]:
    """The runs that classify clips."""
    return [run for run in runs if isinstance(run.results, ClassificationResults)]


def grouped(runs: Iterable[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    """Sorts runs into groups by a key, in the order of the runs."""
    groups = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(groups)


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Sorts runs into groups of one method."""
    return grouped(runs, lambda run: run.method)


def with_most_clips(runs: Sequence[Run]) -> list[Run]:
    """Of each benchmark the runs with all training clips; where there are none, those with the most a class."""
    groups = grouped(runs, lambda run: run.benchmark)
    most = {benchmark: max(run.few_shot for run in group) for benchmark, group in groups.items()}
    return [run for run in runs if run.few_shot == most[run.benchmark]]


def best_method(runs: Sequence[Run]) -> list[Run]:
    """The runs of the method with the best mean in validation: test clips select nothing."""
    sign = 1 if runs[0].results.metrics[0].higher_is_better else -1
    return max(by_method(runs).values(), key=lambda group: sign * mean(run.results.validation_score for run in group))


def runs_with_file(runs: Iterable[Run], name: str) -> list[Run]:
    """The runs in whose folder a file lies."""
    return [run for run in runs if (run.folder / name).is_file()]


def missing_files(runs: Sequence[Run]) -> list[str]:
    """A sentence for each kind of file that some runs lack, so that pictures of them are left out."""
    classifying = classification_runs(runs)
    needed = [
        (TRAIN_LOG, runs, "learning curves"),
        (PREDICTIONS, classifying, "confusions"),
        (OBSERVATIONS, classifying, "vectors and use of experts"),
    ]
    sentences = []
    for name, candidates, pictures in needed:
        lacking = [run for run in candidates if not (run.folder / name).is_file()]
        if lacking:
            data = ", ".join(sorted({run.data for run in lacking}))
            sentences.append(
                f"{len(lacking)} of {len(candidates)} runs ({data}) have no {name}, as older ones do: "
                f"their {pictures} are left out."
            )
    return sentences
