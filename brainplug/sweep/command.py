"""The command ``table``: runs a table's cells, and shows it while it fills."""

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from brainplug.config.arguments import parse_arguments
from brainplug.errors import ConfigError, DataError, UsageError
from brainplug.results.documents import table_marks, write_between_marks
from brainplug.sweep.cell import state_of
from brainplug.sweep.document import as_markdown, write_documents
from brainplug.sweep.entries import make_entries
from brainplug.sweep.executors import run_here, run_on_cluster, visible_gpus
from brainplug.sweep.plan import Plan, make_plan
from brainplug.sweep.selection import describe, select
from brainplug.sweep.table import Cell, read_table
from brainplug.sweep.view import progress
from brainplug.tasks import all_schemas

TABLE_MARKS = table_marks("table", "python -m brainplug table")
SMALLEST = {"jobs": 1, "limit": 1, "cell_cpus": 0, "cell_gpus": 0}
STOPPED = 128 + signal.SIGINT  # exit code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options. Unknown ones change the settings of all cells, as ``--number_of_epochs=1``."""
    parser.add_argument("table", help="a YAML, such as recipes/paper_tables/esc10.yaml")
    parser.add_argument("--data_folder", help="where the columns' data folders are looked for; default: here")
    parser.add_argument("--output_folder", help="default: results/tables/ and the table's name")
    parser.add_argument("--executor", choices=["processes", "ray"], default="processes", help="where cells run")
    parser.add_argument("--jobs", type=int, help="processes at once; default: one for each GPU, without any one")
    parser.add_argument("--address", default="auto", help="of the Ray cluster")
    parser.add_argument("--cell_cpus", type=float, default=1, help="cores that a cell asks Ray for")
    parser.add_argument("--cell_gpus", type=float, default=0, help="GPUs that a cell asks Ray for")
    parser.add_argument("--only", default="", help="some cells: 'method=lora,conformer fold=1'")
    parser.add_argument("--limit", type=int, help="start no more cells than these")
    parser.add_argument("--retry_failed", action="store_true", help="run broken cells again")
    parser.add_argument("--dry_run", action="store_true", help="list the cells, and run none")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between marks")


def run_table(chosen: argparse.Namespace, others: Sequence[str]) -> int:
    """Runs a table, or continues it; the exit code is 1 if a cell is broken, 130 if the command was stopped.

    `chosen` are the options of `add_arguments`, `others` settings of all cells.
    """
    _check_numbers(chosen)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)  # it logs each recipe that is loaded
    table = read_table(chosen.table, _settings(chosen.table, others))
    suffix = "-published" if table.shared.get("paper_code") else ""
    folder = Path(chosen.output_folder or f"results/tables/{table.name}{suffix}")
    plan = make_plan(table, chosen.table, chosen.data_folder, str(folder))
    selected = select(plan, chosen.only)
    if chosen.dry_run:
        print("\n".join(describe(plan, selected, _at_once(chosen))))
        return 0
    states = ("not run", "broken") if chosen.retry_failed else ("not run",)
    cells = [cell for cell in selected if state_of(cell.folder) in states][: chosen.limit]
    _check_data(cells)
    try:
        reasons = _run(plan, cells, folder, chosen)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on.", file=sys.stderr)
        return STOPPED
    document = as_markdown(plan, make_entries(plan))
    print(document)
    if chosen.write:
        write_between_marks(document, chosen.write, TABLE_MARKS)
    return int(any(reasons) or any(state_of(cell.folder) == "broken" for cell in selected))


def _check_numbers(chosen: argparse.Namespace) -> None:
    for name, smallest in SMALLEST.items():
        value = getattr(chosen, name)
        if value is not None and value < smallest:
            raise ConfigError(
                f"--{name}={value} was asked for.", f"It is less than {smallest}.", f"Write --{name}={max(1, smallest)}"
            )


def _settings(path: str, others: Sequence[str]) -> dict[str, Any]:
    """What the command line changes in all cells, read as train.py reads it."""
    unexpected = [word for word in others if not word.startswith("--")]
    if unexpected:
        raise ConfigError(
            f"{' '.join(unexpected)} was asked for.", "A table takes only options.", "Write --key=value, as --lr=0.001"
        )
    _, run_opts, overrides = parse_arguments([path, *others], all_schemas)
    return {**overrides, **{key: run_opts[key] for key in run_opts.overridden_args}}


def _check_data(cells: Sequence[Cell]) -> None:
    folders = sorted({cell.data_folder for cell in cells if cell.data_folder and not Path(cell.data_folder).is_dir()})
    if folders:
        raise DataError(
            "The table's data were asked for.",
            f"There is no folder {', '.join(folders)}.",
            "Write --data_folder=FOLDER, where the columns' data_folder is looked for; or --only 'column=...'",
        )


def _at_once(chosen: argparse.Namespace) -> int:
    return chosen.jobs or max(1, len(visible_gpus()))


def _run(plan: Plan, cells: Sequence[Cell], folder: Path, chosen: argparse.Namespace) -> list[str | None]:
    """Runs cells; returns, for each that ended, why it is not finished, or None."""
    jobs = [plan.job(cell) for cell in cells]
    reasons: list[str | None] = []
    _write(plan, folder)
    events = (
        run_on_cluster(jobs, chosen.address, chosen.cell_cpus, chosen.cell_gpus)
        if chosen.executor == "ray"
        else run_here(jobs, _at_once(chosen))
    )
    with _signals_interrupt(), closing(events), progress(plan) as show:
        for event in events:
            show(cells[event.job], event)
            if event.kind == "ended":
                reasons.append(event.reason)
                _write(plan, folder)
    return reasons


def _write(plan: Plan, folder: Path) -> None:
    try:
        write_documents(plan, folder)
    except OSError as error:
        raise UsageError(
            f"The table's folder {folder} was asked for.",
            f"It cannot be written: {error}.",
            "Make room or write --output_folder=FOLDER; no finished cell is lost",
        ) from error


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A kill, or a closed terminal, ends the running cells as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    changed = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}  # as under nohup
    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)
