"""Shows a table while it fills."""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext

import rich.live
import rich.table
from rich.markup import escape

from brainplug.sweep.cell import state_of
from brainplug.sweep.document import entry_text
from brainplug.sweep.entries import finished_results, make_entries
from brainplug.sweep.executors import Event
from brainplug.sweep.plan import Plan
from brainplug.sweep.table import Cell


@contextmanager
def progress(plan: Plan) -> Iterator[Callable[[Cell, Event], None]]:
    """Shows events of cells: in a terminal as a table that fills, else as a line for each cell that ends.

    Why a cell is not finished is printed in both.
    """
    running: set[Cell] = set()
    live = rich.live.Live(refresh_per_second=1) if sys.stdout.isatty() else None

    def show(cell: Cell, event: Event) -> None:
        change = running.add if event.kind == "started" else running.discard
        change(cell)
        if live:
            live.update(filled(plan, running))
        if event.reason or (event.kind == "ended" and not live):
            print(f"{cell.name}: {_outcome(cell, event)}", flush=True)

    with live or nullcontext():
        yield show


def _outcome(cell: Cell, event: Event) -> str:
    if event.reason:
        return f"{'broken' if state_of(cell.folder) == 'broken' else 'not finished'}: {event.reason}"
    run = finished_results([cell]).get(cell)
    return f"{run.score():.1f}% after {run.seconds / 60:.1f} minutes" if run else "not finished"


def filled(plan: Plan, running: Collection[Cell]) -> rich.table.Table:
    """The overview of a table, with the number of cells that run."""
    view = rich.table.Table(title=escape(plan.table.name))
    for name in ("", *plan.table.columns):
        view.add_column(escape(name))
    entries = {(entry.row, entry.column): entry for entry in make_entries(plan)}
    for row in plan.table.rows:
        texts = []
        for column in plan.table.columns:
            runs = sum(cell.location == (row, column) for cell in running)
            texts.append(entry_text(entries.get((row, column))) + (f" … {runs} running" if runs else ""))
        view.add_row(*map(escape, (row, *texts)))
    return view
