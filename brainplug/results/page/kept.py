"""The runs below a folder, as a reader calls them, and what they keep."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from brainplug.files import find_files
from brainplug.results.plots.learning import Curve
from brainplug.results.report import classifies, code_name, method_name
from brainplug.training.diagnostics import OBSERVATIONS, PREDICTIONS

TRAIN_LOG = "train_log.txt"
EPOCH = re.compile(
    r"epoch: (\d+), lr: \S+ - train loss: (\S+) - valid loss: (\S+), valid accuracy: (\S+)$", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Arguments
    ---------
    folder : Path
        Where its files are.
    results : dict
        Its results.json.
    method : str
        In a table, the row; else the method with its place.
    data : str
        In a table, the column; else the data set, with the backbone and the clips a class.
    task : str
        What runs with more and with fewer clips a class have in common.
    """

    folder: Path
    results: dict
    method: str
    data: str
    task: str

    @property
    def name(self) -> str:
        """Which of the runs of its method and data."""
        fold = "" if self.results["fold"] is None else f"fold {self.results['fold']}, "
        return f"{fold}seed {self.results['seed']}"

    @property
    def few_shot(self) -> float:
        """Training clips a class; infinitely many where all are taken."""
        return float("inf") if self.results["few_shot"] is None else self.results["few_shot"]


def find_runs(folder: str) -> list[Run]:
    """Finds the runs of classification below a folder.

    Arguments
    ---------
    folder : str
        Any folder above runs.

    Returns
    -------
    list[Run]
        In the order of the tables' cells, then of their folders.

    Example
    -------
    >>> find_runs("nowhere")
    []
    """
    cells = _cells(Path(folder))
    order = {cell: place for place, cell in enumerate(cells)}
    found = [(path.parent, json.loads(path.read_text())) for path in find_files(folder, "results.json")]
    runs = [_run(folder, results, cells.get(folder)) for folder, results in found if classifies(results)]
    return sorted(runs, key=lambda run: order.get(run.folder, len(order)))


def _cells(folder: Path) -> dict[Path, tuple[str, str, str]]:
    """Folder of each cell -> table, column and row. A table may have been moved as a whole."""
    found = {}
    for path in find_files(folder, "table.json"):
        table = json.loads(path.read_text())
        for cell in table["cells"]:
            place = Path(*Path(cell["folder"]).parts[-3:])  # column, row, fold and seed
            found[path.parent / place] = table["name"], cell["column"], cell["row"]
    return found


def _run(folder: Path, results: dict, cell: tuple[str, str, str] | None) -> Run:
    code = "" if not results["paper_code"] else f", {code_name(True)} code"
    task = f"{results['dataset']}, {results['n_classes']} classes, {results['backbone']}{code}"
    if cell:
        table, column, row = cell
        data = table if column == table else f"{table}: {column}"
        return Run(folder, results, row, data, f"table {table}: {task.removeprefix(f'{table}, ')}")
    clips = "clip" if results["few_shot"] == 1 else "clips"
    shots = "" if results["few_shot"] is None else f", {results['few_shot']} {clips} a class"
    return Run(folder, results, method_name(results), task + shots, task)


def grouped(runs: Iterable[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    """Sorts runs into groups.

    Arguments
    ---------
    runs : Iterable[Run]
        Any.
    key : Callable[[Run], str]
        A run's group.

    Returns
    -------
    dict[str, list[Run]]
        In the order of the runs.

    Example
    -------
    >>> grouped([], lambda run: run.method)
    {}
    """
    groups = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return dict(groups)


def with_most_clips(runs: Sequence[Run]) -> list[Run]:
    """Of each task the runs with all training clips; where there are none, those with the most a class.

    Arguments
    ---------
    runs : Sequence[Run]
        Any.

    Returns
    -------
    list[Run]
        Some of them.

    Example
    -------
    >>> runs = [Run(Path(), {"few_shot": shots}, "lora", "", "esc50") for shots in (2, 8, 4)]
    >>> [run.few_shot for run in with_most_clips(runs)]
    [8]
    """
    most = {task: max(run.few_shot for run in group) for task, group in grouped(runs, lambda run: run.task).items()}
    return [run for run in runs if run.few_shot == most[run.task]]


def best_method(runs: Sequence[Run]) -> list[Run]:
    """The runs of the method with the best validation accuracy: test clips choose nothing.

    Arguments
    ---------
    runs : Sequence[Run]
        Of one data set.

    Returns
    -------
    list[Run]
        Some of them.

    Example
    -------
    >>> runs = [Run(Path(), {"valid_accuracy": at}, name, "", "") for name, at in (("a", 0.5), ("b", 0.7), ("a", 0.6))]
    >>> [run.method for run in best_method(runs)]
    ['b']
    """
    of_method = grouped(runs, lambda run: run.method)
    return max(of_method.values(), key=lambda group: mean(run.results["valid_accuracy"] for run in group))


def that_keep(runs: Iterable[Run], name: str) -> list[Run]:
    """Runs in whose folder a file lies.

    Arguments
    ---------
    runs : Iterable[Run]
        Any.
    name : str
        Of the file.

    Returns
    -------
    list[Run]
        Some of them.

    Example
    -------
    >>> that_keep([Run(Path("nowhere"), {}, "", "", "")], "results.json")
    []
    """
    return [run for run in runs if (run.folder / name).is_file()]


def missing_files(runs: Sequence[Run]) -> list[str]:
    """Says which runs cannot be drawn, since they keep no such file.

    Arguments
    ---------
    runs : Sequence[Run]
        All.

    Returns
    -------
    list[str]
        A sentence a file.

    Example
    -------
    >>> missing_files([])
    []
    """
    left_out = {
        TRAIN_LOG: "their learning curves are",
        PREDICTIONS: "their confusions are",
        OBSERVATIONS: "their vectors and the use of their experts are",
    }
    sentences = []
    for name, what in left_out.items():
        without = [run for run in runs if not (run.folder / name).is_file()]
        of = ", ".join(sorted({run.data for run in without}))
        if without:
            sentences.append(
                f"{len(without)} of {len(runs)} runs ({of}) keep no {name}, as older ones do not: {what} left out."
            )
    return sentences


def learning_curve(text: str) -> Curve:
    r"""Reads SpeechBrain's log of a training.

    Arguments
    ---------
    text : str
        ``train_log.txt``.

    Returns
    -------
    Curve
        What was logged of each epoch. After an epoch that was trained again, what was logged of it and of later ones
        counts no more.

    Example
    -------
    >>> line = "epoch: {}, lr: 1e-3 - train loss: {} - valid loss: 2.0, valid accuracy: 50.00"
    >>> learning_curve("\n".join(line.format(*seen) for seen in ((1, 3.0), (2, 9.0), (2, 1.0))))
    {1: (3.0, 2.0, 50.0), 2: (1.0, 2.0, 50.0)}
    """
    curve = {}
    for epoch, *values in EPOCH.findall(text):
        curve = {before: seen for before, seen in curve.items() if before < int(epoch)}
        curve[int(epoch)] = tuple(map(float, values))
    return curve
