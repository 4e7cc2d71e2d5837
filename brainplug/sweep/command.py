"""python -m brainplug table: runs a table's cells, and shows it while it fills."""

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from statistics import mean

import rich.live
import rich.table
from rich.markup import escape

from brainplug.config.recipe import parse_arguments
from brainplug.errors import UsageError, nearest
from brainplug.results.documents import table_marks, write_between_marks
from brainplug.sweep.cell import state_of
from brainplug.sweep.entries import as_markdown, finished_results, make_entries, place_text, write_entries
from brainplug.sweep.executors import Event, run_here, run_on_cluster, visible_gpus
from brainplug.sweep.plan import Plan, make_plan
from brainplug.sweep.table import Cell, read_table

TABLE_MARKS = table_marks("table", "python -m brainplug table")
KEYS_OF_CELLS = ("row", "column", "fold", "seed")
KEYS_OF_PROTOCOLS = ("method", "backbone")
LEAST = {"jobs": 1, "limit": 1, "cell_cpus": 0, "cell_gpus": 0}
STOPPED = 128 + signal.SIGINT  # exit code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the command. What it does not know changes the settings of all cells: ``--number_of_epochs=1``.
    """
    parser.add_argument("table", help="a YAML, such as recipes/paper_tables/esc10.yaml")
    parser.add_argument("--data_folder", help="from where the columns' data folders are looked for; default: here")
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
    """Runs a table, or goes on with it.

    Arguments
    ---------
    chosen : argparse.Namespace
        The options of `add_arguments`.
    others : Sequence[str]
        Settings of all cells.

    Returns
    -------
    int
        The exit code: 1 where a cell is broken, 130 where the command was stopped.

    Raises
    ------
    UsageError
        The table, an option or the data folder cannot be used.
    """
    _check_numbers(chosen)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)  # it tells of each recipe that is looked at
    table = read_table(chosen.table, _settings(chosen.table, others))
    kind = "-published" if table.shared.get("paper_code") else ""
    folder = Path(chosen.output_folder or f"results/tables/{table.name}{kind}")
    plan = make_plan(table, chosen.table, chosen.data_folder, str(folder))
    asked = select(plan, chosen.only)
    if chosen.dry_run:
        print("\n".join(describe(plan, asked, _at_once(chosen))))
        return 0
    wanted = ("not run", "broken") if chosen.retry_failed else ("not run",)
    cells = [cell for cell in asked if state_of(cell.folder) in wanted][: chosen.limit]
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
    return int(any(reasons) or any(state_of(cell.folder) == "broken" for cell in asked))


def _check_numbers(chosen: argparse.Namespace) -> None:
    for name, least in LEAST.items():
        value = getattr(chosen, name)
        if value is not None and value < least:
            raise UsageError(
                f"--{name}={value} was asked for.", f"It is less than {least}.", f"Write --{name}={max(1, least)}"
            )


def _settings(path: str, others: Sequence[str]) -> dict:
    """What the command line changes in all cells, as train.py would read it."""
    strange = [word for word in others if not word.startswith("--")]
    if strange:
        raise UsageError(
            f"{' '.join(strange)} was asked for.",
            "A table takes options alone.",
            "Write --key=value, for one --lr=0.001",
        )
    _, run_opts, overrides = parse_arguments([path, *others])
    return {**overrides, **{key: run_opts[key] for key in run_opts.overridden_args}}


def select(plan: Plan, only: str) -> list[Cell]:
    """Picks cells.

    Arguments
    ---------
    plan : Plan
        All of them.
    only : str
        ``key=value,value`` for each condition, with blanks between them; all must hold. Keys are row, column, fold,
        seed, or any setting of the cells, such as method. Values with blanks stand in quotation marks.

    Returns
    -------
    list[Cell]
        Those that were asked for, in order.

    Raises
    ------
    UsageError
        It cannot be read, or no cell is left.
    """
    conditions = list(_conditions(plan, only))
    cells = [cell for cell in plan.cells if all(_value(plan, cell, key) in choices for key, choices in conditions)]
    if not cells:
        seen = {key: sorted({_value(plan, cell, key) for cell in plan.cells}) for key, _ in conditions}
        found = "; ".join(f"{key} is one of: {', '.join(values)}" for key, values in seen.items())
        raise UsageError(f"--only={only!r} was asked for.", f"No cell is like this: {found}.", "Write other values")
    return cells


def _conditions(plan: Plan, only: str) -> Iterator[tuple[str, list[str]]]:
    """Keys, and the values that they may have."""
    known = {*KEYS_OF_CELLS, *KEYS_OF_PROTOCOLS, *(key for cell in plan.cells for key in cell.settings)}
    asked = f"--only={only!r} was asked for."
    try:
        words = shlex.split(only)
    except ValueError as error:
        raise UsageError(asked, f"It cannot be read: {error}.", "Write --only 'method=lora fold=1'") from error
    for word in words:
        key, equals, values = word.partition("=")
        if not equals:
            raise UsageError(asked, f"{word!r} is no condition.", "Write --only 'method=lora fold=1'")
        if key not in known:
            raise UsageError(asked, f"Cells have no {key!r}.", f"Write one of: {nearest(key, known)}")
        yield key, [*values.split(","), values]  # the whole may be a name with a comma in it


def _value(plan: Plan, cell: Cell, key: str) -> str:
    if key in KEYS_OF_CELLS:
        return str(getattr(cell, key))
    if key in KEYS_OF_PROTOCOLS:
        return getattr(plan.protocol(cell), key)
    return str(cell.settings.get(key))


def describe(plan: Plan, cells: Sequence[Cell], at_once: int) -> list[str]:
    """Lists cells, what they will take, and how many they are.

    Arguments
    ---------
    plan : Plan
        The table.
    cells : Sequence[Cell]
        Some of its cells.
    at_once : int
        How many would run at the same time.

    Returns
    -------
    list[str]
        Lines; the last one counts the cells.
    """
    lines = [f"{cell.name}: {plan.protocol(cell)}; {state_of(cell.folder)}" for cell in cells]
    left = [cell for cell in cells if state_of(cell.folder) != "finished"]
    return [*lines, f"{len(left)} to run: {estimate(plan, left, at_once)}", f"{len(cells)} cells"]


def estimate(plan: Plan, cells: Sequence[Cell], at_once: int) -> str:
    """What cells will take, judged by those that are finished: of the same place, the same column, or any.

    Arguments
    ---------
    plan : Plan
        The table.
    cells : Sequence[Cell]
        Those to run.
    at_once : int
        How many run at the same time.

    Returns
    -------
    str
        Text.
    """
    measured = {cell: found["seconds"] for cell, found in finished_results(plan.cells).items()}
    if not cells:
        return "nothing is left to do"
    if not measured:
        return "no cell was measured yet, so the time is unknown"
    total = sum(_seconds(cell, measured) for cell in cells) / min(at_once, len(cells))
    return f"about {total / 60:.0f} minutes" if total < 7200 else f"about {total / 3600:.1f} hours"


def _seconds(cell: Cell, measured: Mapping[Cell, float]) -> float:
    likenesses: list[Callable[[Cell], bool]] = [
        lambda other: (other.row, other.column) == (cell.row, cell.column),
        lambda other: other.column == cell.column,
        lambda other: True,
    ]
    alike = ([seconds for other, seconds in measured.items() if like(other)] for like in likenesses)
    return mean(next(seconds for seconds in alike if seconds))


def _check_data(cells: Sequence[Cell]) -> None:
    folders = sorted({cell.data_folder for cell in cells if cell.data_folder and not Path(cell.data_folder).is_dir()})
    if folders:
        raise UsageError(
            "The table's data were asked for.",
            f"There is no folder {', '.join(folders)}.",
            "Write --data_folder=FOLDER, from which the columns' data_folder is found; or --only 'column=...'",
        )


def _at_once(chosen: argparse.Namespace) -> int:
    return chosen.jobs or max(1, len(visible_gpus()))


def _run(plan: Plan, cells: Sequence[Cell], folder: Path, chosen: argparse.Namespace) -> list[str | None]:
    """Runs cells; returns of each that ended why it is not finished, if it is not."""
    jobs, reasons = [plan.job(cell) for cell in cells], []
    _write(plan, folder)
    events = (
        run_on_cluster(jobs, chosen.address, chosen.cell_cpus, chosen.cell_gpus)
        if chosen.executor == "ray"
        else run_here(jobs, _at_once(chosen))
    )
    with _ending_as_interrupted(), closing(events), _view(plan) as show:
        for event in events:
            show(cells[event.place], event)
            if event.kind == "ended":
                reasons.append(event.reason)
                _write(plan, folder)
    return reasons


def _write(plan: Plan, folder: Path) -> None:
    try:
        write_entries(plan, folder)
    except OSError as error:
        raise UsageError(
            f"The table's folder {folder} was asked for.",
            f"It cannot be written: {error}.",
            "Make room or write --output_folder=FOLDER; no finished cell is lost",
        ) from error


@contextmanager
def _ending_as_interrupted() -> Iterator[None]:
    """A kill, or a terminal that is closed, ends the cells that run, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # One that is ignored, as under nohup, stays so.
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    changed = {each: handler for each, handler in before.items() if handler != signal.SIG_IGN}
    for each in changed:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, handler in changed.items():
            signal.signal(each, handler)


@contextmanager
def _view(plan: Plan) -> Iterator[Callable[[Cell, Event], None]]:
    """A table that fills, in a terminal; else a line for each cell that ends. A broken cell is told in both."""
    running = set()
    live = rich.live.Live(refresh_per_second=1) if sys.stdout.isatty() else None

    def show(cell: Cell, event: Event) -> None:
        change = running.add if event.kind == "started" else running.discard
        change(cell)
        if live:
            live.update(_filled(plan, running))
        if event.reason or (event.kind == "ended" and not live):
            print(f"{cell.name}: {_outcome(cell, event)}", flush=True)

    with live or nullcontext():
        yield show


def _outcome(cell: Cell, event: Event) -> str:
    if event.reason:
        return f"{'broken' if state_of(cell.folder) == 'broken' else 'not finished'}: {event.reason}"
    result = finished_results([cell]).get(cell)
    return f"{result['test_accuracy']:.1%} after {result['seconds'] / 60:.1f} minutes" if result else "not finished"


def _filled(plan: Plan, running: Collection[Cell]) -> rich.table.Table:
    view = rich.table.Table(title=escape(plan.table.name))
    for name in ("", *plan.table.columns):
        view.add_column(escape(name))
    at = {(entry.row, entry.column): entry for entry in make_entries(plan)}
    for row in plan.table.rows:
        texts = []
        for column in plan.table.columns:
            runs = sum((cell.row, cell.column) == (row, column) for cell in running)
            texts.append(place_text(at.get((row, column))) + (f" … {runs} running" if runs else ""))
        view.add_row(*map(escape, (row, *texts)))
    return view
