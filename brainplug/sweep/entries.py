"""What the finished cells of a table say: means, deviations, cost, gaps and differences."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from brainplug.errors import UsageError
from brainplug.files import atomic_file, write_json
from brainplug.results.statistics import p_value
from brainplug.results.tables import markdown_table, number, p_text, spread
from brainplug.sweep.cell import failure_of, state_of
from brainplug.sweep.plan import Plan
from brainplug.sweep.table import Cell

NOT_RUN = "not run"


@dataclass(frozen=True)
class Entry:
    """A place of a table. Accuracies are test accuracies in per cent; what could not be computed is None.

    Arguments
    ---------
    row, column : str
        The place.
    code : str
        ``published`` or ``repaired``.
    runs, planned : int
        Finished cells, and all of them.
    broken : int
        Cells that broke.
    accuracy, deviation : float | None
        Mean and standard deviation over folds and seeds, of the epoch that the code tests.
    best_epoch, best_epoch_deviation : float | None
        Of the best validation epoch.
    last_epoch, last_epoch_deviation : float | None
        Of the last epoch.
    published : float | None
        The number in the paper.
    gap : float | None
        Accuracy less the published one.
    difference : float | None
        Accuracy less that of the row that all are compared with, in the mean over the folds and seeds that both have.
    p_value : float | None
        Of a paired t-test of that difference.
    pairs : int
        Folds and seeds that both have.
    trainable_without_head : int
        Parameters.
    minutes : float | None
        Of a run, in the mean.
    peak_memory_gb : float | None
        The most of any run.
    """

    row: str
    column: str
    code: str
    runs: int
    planned: int
    broken: int
    accuracy: float | None
    deviation: float | None
    best_epoch: float | None
    best_epoch_deviation: float | None
    last_epoch: float | None
    last_epoch_deviation: float | None
    published: float | None
    gap: float | None
    difference: float | None
    p_value: float | None
    pairs: int
    trainable_without_head: int
    minutes: float | None
    peak_memory_gb: float | None


def finished_results(cells: Iterable[Cell]) -> dict[Cell, dict]:
    """Reads the results that there are.

    Arguments
    ---------
    cells : Iterable[Cell]
        Of a table.

    Returns
    -------
    dict[Cell, dict]
        results.json of each finished cell.

    Raises
    ------
    UsageError
        A file is torn.
    """
    return {cell: _results(cell.folder) for cell in cells if state_of(cell.folder) == "finished"}


def _results(folder: Path) -> dict:
    try:
        return json.loads((folder / "results.json").read_text())
    except ValueError as error:
        raise UsageError(
            f"The results in {folder} were asked for.",
            f"results.json there is torn: {error}.",
            "Remove this file, and the cell is run again",
        ) from error


def make_entries(plan: Plan) -> list[Entry]:
    """Sums a table up, as far as it was run.

    Arguments
    ---------
    plan : Plan
        The table.

    Returns
    -------
    list[Entry]
        One a place.
    """
    results = finished_results(plan.cells)
    of_place = {
        place: {(cell.fold, cell.seed): found for cell, found in results.items() if (cell.row, cell.column) == place}
        for place in plan.protocols
    }
    return [_entry(plan, place, of_place) for place in plan.protocols]


def _entry(plan: Plan, place: tuple[str, str], of_place: dict[tuple[str, str], dict]) -> Entry:
    row, column = place
    runs, cells = of_place[place], [cell for cell in plan.cells if (cell.row, cell.column) == place]
    other = of_place.get((plan.table.compare_with, column), {}) if plan.table.compare_with != row else {}
    accuracy, deviation = _spread(runs.values(), "test_accuracy")
    best, best_deviation = _spread(runs.values(), "test_accuracy_best_epoch")
    last, last_deviation = _spread(runs.values(), "test_accuracy_last_epoch")
    published = (plan.table.published.get(row) or {}).get(column)
    pairs = [100 * (runs[key]["test_accuracy"] - other[key]["test_accuracy"]) for key in runs if key in other]
    return Entry(
        row=row,
        column=column,
        code=plan.protocols[place].code,
        runs=len(runs),
        planned=len(cells),
        broken=sum(state_of(cell.folder) == "broken" for cell in cells),
        accuracy=accuracy,
        deviation=deviation,
        best_epoch=best,
        best_epoch_deviation=best_deviation,
        last_epoch=last,
        last_epoch_deviation=last_deviation,
        published=published,
        gap=None if published is None or accuracy is None else accuracy - published,
        difference=mean(pairs) if pairs else None,
        p_value=p_value(pairs),
        pairs=len(pairs),
        trainable_without_head=plan.protocols[place].trainable_without_head,
        minutes=mean(run["seconds"] for run in runs.values()) / 60 if runs else None,
        peak_memory_gb=max(run["peak_memory_bytes"] for run in runs.values()) / 1e9 if runs else None,
    )


def _spread(runs: Iterable[dict], key: str) -> tuple[float | None, float | None]:
    values = [100 * run[key] for run in runs]
    return mean(values) if values else None, stdev(values) if len(values) > 1 else None


def overview(plan: Plan, entries: Sequence[Entry]) -> str:
    """The table itself: rows, columns, accuracies.

    Arguments
    ---------
    plan : Plan
        The table.
    entries : Sequence[Entry]
        As `make_entries` returns them.

    Returns
    -------
    str
        Markdown. A place with fewer runs than planned says how many there are; published numbers are in brackets.
    """
    at = {(entry.row, entry.column): entry for entry in entries}
    columns = list(plan.table.columns)
    rows = [[row, *(place_text(at.get((row, column))) for column in columns)] for row in plan.table.rows]
    return markdown_table(["method", *columns], rows)


def place_text(entry: Entry | None) -> str:
    """Writes what stands at a place of the overview.

    Arguments
    ---------
    entry : Entry | None
        None where the table has no cells.

    Returns
    -------
    str
        Text.

    Example
    -------
    >>> place_text(None)
    ''
    """
    if entry is None:
        return ""
    counts = "" if entry.runs in (0, entry.planned) else f" ({entry.runs} of {entry.planned})"
    broken = "" if not entry.broken else f" ({entry.broken} broken)"
    published = "" if entry.published is None else f" [{entry.published:g}]"
    return spread(entry.accuracy, entry.deviation) + counts + broken + published


def details(plan: Plan, entries: Sequence[Entry]) -> str:
    """All that is known of each place.

    Arguments
    ---------
    plan : Plan
        The table.
    entries : Sequence[Entry]
        As `make_entries` returns them.

    Returns
    -------
    str
        Markdown.
    """
    columns = ["data", "method", "code", "trainable without head", "runs", "accuracy (%)", "best epoch", "last epoch"]
    columns += ["published", "gap", "difference", "p", "minutes a run", "peak memory (GB)"]
    published = any(entry.published is not None for entry in entries)
    compared, there = plan.table.compare_with is not None, list(plan.table.places())
    hidden = {"published": not published, "gap": not published, "difference": not compared, "p": not compared}
    rows = []
    for entry in entries:
        compared_here = entry.row != plan.table.compare_with and (plan.table.compare_with, entry.column) in there
        cells = {
            "data": entry.column,
            "method": entry.row,
            "code": entry.code,
            "trainable without head": f"{entry.trainable_without_head:,}",
            "runs": f"{entry.runs} of {entry.planned}",
            "accuracy (%)": spread(entry.accuracy, entry.deviation),
            "best epoch": spread(entry.best_epoch, entry.best_epoch_deviation),
            "last epoch": spread(entry.last_epoch, entry.last_epoch_deviation),
            "published": "" if entry.published is None else f"{entry.published:g}",
            "gap": "" if entry.published is None else number(entry.gap, 1, "+"),
            "difference": number(entry.difference, 1, "+") if compared_here else "",
            "p": p_text(entry.p_value) if compared_here and entry.pairs != 1 else "",
            "minutes a run": number(entry.minutes),
            "peak memory (GB)": number(entry.peak_memory_gb),
        }
        rows.append([cells[column] for column in columns if not hidden.get(column)])
    return markdown_table([column for column in columns if not hidden.get(column)], rows)


def broken_cells(plan: Plan) -> list[str]:
    """Says of each broken cell why.

    Arguments
    ---------
    plan : Plan
        The table.

    Returns
    -------
    list[str]
        A line each.
    """
    reasons = {cell.name: failure_of(cell.folder) for cell in plan.cells if state_of(cell.folder) == "broken"}
    return [f"{name}: {reason}" for name, reason in reasons.items()]


def as_markdown(plan: Plan, entries: Sequence[Entry]) -> str:
    """A table's document.

    Arguments
    ---------
    plan : Plan
        The table.
    entries : Sequence[Entry]
        As `make_entries` returns them.

    Returns
    -------
    str
        The overview, all that is known of each place, and what the columns mean.
    """
    lines = ["Test accuracy in per cent, mean and standard deviation over folds and seeds."]
    if any(entry.published is not None for entry in entries):
        lines[0] += " In brackets what the paper has."
    lines += ["", overview(plan, entries), ""]
    if plan.table.compare_with:
        folds = " Folds share their training clips, so that p is too small rather than too large."
        lines.append(
            f"Difference: from {plan.table.compare_with}, over the folds and seeds that both have; p: of a paired "
            f"t-test, not corrected for the number of rows.{folds if any(cell.fold for cell in plan.cells) else ''}"
        )
        lines.append("")
    lines += [details(plan, entries)]
    broken = broken_cells(plan)
    if broken:
        lines += ["", "Broken:", "", *(f"- {line}" for line in broken)]
    if plan.table.note:
        lines += ["", plan.table.note.strip()]
    return "\n".join(lines)


def write_entries(plan: Plan, folder: Path) -> None:
    """Writes ``table.md``, ``table.csv`` and ``table.json``.

    Arguments
    ---------
    plan : Plan
        The table.
    folder : Path
        Where they go.
    """
    found = make_entries(plan)
    with atomic_file(str(folder / "table.md"), encoding="utf-8") as file:
        file.write(as_markdown(plan, found) + "\n")
    entries = [asdict(entry) for entry in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(entries[0]))
    writer.writeheader()
    writer.writerows({key: _csv_value(entry, key) for key in entry} for entry in entries)
    with atomic_file(str(folder / "table.csv"), newline="", encoding="utf-8") as file:
        file.write(text.getvalue())
    cells = [
        {"row": cell.row, "column": cell.column, "fold": cell.fold, "seed": cell.seed, "folder": str(cell.folder),
         "state": state_of(cell.folder), "reason": failure_of(cell.folder)}
        for cell in plan.cells
    ]  # fmt: skip
    described = {"name": plan.table.name, "compare_with": plan.table.compare_with, "entries": entries, "cells": cells}
    write_json(described, folder / "table.json")


def _csv_value(entry: dict, key: str) -> object:
    """What is still to come says so; what there cannot be, such as the deviation of a single run, is empty."""
    if entry[key] is not None:
        return entry[key]
    awaited = not entry["runs"] and key != "published" and (key != "gap" or entry["published"] is not None)
    return NOT_RUN if awaited else ""
