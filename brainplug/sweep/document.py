"""Writes what a table's finished cells say: as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brainplug.files import atomic_file, write_json
from brainplug.results.tables import NOT_RUN, markdown_table, number, p_text, spread
from brainplug.sweep.cell import failure_of, state_of
from brainplug.sweep.entries import UNKNOWN_METRIC, Entry, make_entries
from brainplug.sweep.plan import Plan


def overview(plan: Plan, entries: Sequence[Entry]) -> str:
    """Rows, columns and scores, as Markdown. Published numbers are in brackets."""
    by_location = {(entry.row, entry.column): entry for entry in entries}
    columns = list(plan.table.columns)
    rows = [[row, *(entry_text(by_location.get((row, column))) for column in columns)] for row in plan.table.rows]
    return markdown_table(["method", *columns], rows)


def entry_text(entry: Entry | None) -> str:
    """An entry of the overview; fewer runs than planned are counted. Empty where the table has no cells."""
    if entry is None:
        return ""
    counts = "" if entry.runs in (0, entry.planned) else f" ({entry.runs} of {entry.planned})"
    broken = "" if not entry.broken else f" ({entry.broken} broken)"
    published = "" if entry.published is None else f" [{entry.published:g}]"
    return spread(entry.mean, entry.std) + counts + broken + published


def details(plan: Plan, entries: Sequence[Entry]) -> str:
    """Everything about each entry, as Markdown."""
    metrics = list(dict.fromkeys(entry.metric for entry in entries))
    is_one_metric = len(metrics) == 1
    score = f"{metrics[0] if is_one_metric else UNKNOWN_METRIC} (%)"
    hidden = {"metric"} if is_one_metric else set()
    if all(entry.published is None for entry in entries):
        hidden |= {"published", "gap"}
    if plan.table.compare_with is None:
        hidden |= {"difference", "p"}
    rows = [_detail(plan, entry, score) for entry in entries]
    columns = [column for column in rows[0] if column not in hidden]
    return markdown_table(columns, [[row[column] for column in columns] for row in rows])


def _detail(plan: Plan, entry: Entry, score: str) -> dict[str, str]:
    reference = plan.table.compare_with
    is_compared = entry.row != reference and (reference, entry.column) in plan.protocols
    is_published = entry.published is not None
    return {
        "data": entry.column,
        "method": entry.row,
        "code": entry.code,
        "trainable without head": f"{entry.trainable_without_head:,}",
        "runs": f"{entry.runs} of {entry.planned}",
        "metric": entry.metric,
        score: spread(entry.mean, entry.std),
        "best epoch": spread(entry.best_epoch, entry.best_epoch_std),
        "last epoch": spread(entry.last_epoch, entry.last_epoch_std),
        "published": f"{entry.published:g}" if is_published else "",
        "gap": number(entry.gap, 1, "+") if is_published else "",
        "difference": number(entry.difference, 1, "+") if is_compared else "",
        "p": p_text(entry.p_value) if is_compared and entry.pairs != 1 else "",
        "minutes a run": number(entry.minutes),
        "peak memory (GB)": number(entry.peak_memory_gb),
    }


def broken_cells(plan: Plan) -> list[str]:
    """A line for each broken cell, with the reason."""
    return [f"{cell.name}: {failure_of(cell.folder)}" for cell in plan.cells if state_of(cell.folder) == "broken"]


def as_markdown(plan: Plan, entries: Sequence[Entry]) -> str:
    """A table's document: the overview, everything about each entry, and what the columns mean."""
    metrics = " or ".join(dict.fromkeys(entry.metric for entry in entries))
    lines = [f"Test {metrics} in per cent, mean and standard deviation over folds and seeds."]
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
    if broken := broken_cells(plan):
        lines += ["", "Broken:", "", *(f"- {line}" for line in broken)]
    if plan.table.note:
        lines += ["", plan.table.note.strip()]
    return "\n".join(lines)


def write_documents(plan: Plan, folder: Path) -> None:
    """Writes ``table.md``, ``table.csv`` and ``table.json`` into a folder."""
    entries = make_entries(plan)
    with atomic_file(str(folder / "table.md"), encoding="utf-8") as file:
        file.write(as_markdown(plan, entries) + "\n")
    with atomic_file(str(folder / "table.csv"), newline="", encoding="utf-8") as file:
        file.write(_as_csv(list(map(asdict, entries))))
    cells = [
        {"row": cell.row, "column": cell.column, "fold": cell.fold, "seed": cell.seed, "folder": str(cell.folder),
         "state": state_of(cell.folder), "reason": failure_of(cell.folder)}
        for cell in plan.cells
    ]  # fmt: skip
    described = {"name": plan.table.name, "compare_with": plan.table.compare_with}
    write_json({**described, "entries": list(map(asdict, entries)), "cells": cells}, folder / "table.json")


def _as_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(entries[0]))
    writer.writeheader()
    writer.writerows({key: _csv_value(entry, key) for key in entry} for entry in entries)
    return text.getvalue()


def _csv_value(entry: Mapping[str, Any], key: str) -> object:
    """``not run`` for a number that is still to come; empty for one that cannot be, such as one run's deviation."""
    if entry[key] is not None:
        return entry[key]
    is_to_come = not entry["runs"] and key != "published" and (key != "gap" or entry["published"] is not None)
    return NOT_RUN if is_to_come else ""
