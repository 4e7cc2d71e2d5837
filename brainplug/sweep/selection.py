"""Selects cells of a table, lists them, and estimates the time that they take."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from brainplug.errors import ConfigError, nearest
from brainplug.sweep.cell import state_of
from brainplug.sweep.entries import finished_results
from brainplug.sweep.plan import Plan
from brainplug.sweep.table import Cell

CELL_KEYS = ("row", "column", "fold", "seed")
PROTOCOL_KEYS = ("method", "backbone")


def select(plan: Plan, only: str) -> list[Cell]:
    """Selects cells, in order; a condition that cannot be read or leaves no cell raises a `ConfigError`.

    `only` holds conditions ``key=value,value`` with blanks between them, which must all hold. Keys are row, column,
    fold, seed, or any setting of the cells, such as method. Values with blanks are in quotation marks.
    """
    conditions = list(_conditions(plan, only))
    cells = [cell for cell in plan.cells if all(_value(plan, cell, key) in choices for key, choices in conditions)]
    if not cells:
        values = {key: sorted({_value(plan, cell, key) for cell in plan.cells}) for key, _ in conditions}
        listed = "; ".join(f"{key} is one of: {', '.join(choices)}" for key, choices in values.items())
        raise ConfigError(f"--only={only!r} was asked for.", f"No cell is like this: {listed}.", "Write other values")
    return cells


def _conditions(plan: Plan, only: str) -> Iterator[tuple[str, list[str]]]:
    """Keys, and the values that they may have."""
    keys = {*CELL_KEYS, *PROTOCOL_KEYS, *(key for cell in plan.cells for key in cell.settings)}
    asked, example = f"--only={only!r} was asked for.", "Write --only 'method=lora fold=1'"
    try:
        words = shlex.split(only)
    except ValueError as error:
        raise ConfigError(asked, f"It cannot be read: {error}.", example) from error
    for word in words:
        key, equals, values = word.partition("=")
        if not equals:
            raise ConfigError(asked, f"{word!r} is no condition.", example)
        if key not in keys:
            raise ConfigError(asked, f"Cells have no {key!r}.", f"Write one of: {nearest(key, keys)}")
        yield key, [*values.split(","), values]  # the whole may be a name with a comma in it


def _value(plan: Plan, cell: Cell, key: str) -> str:
    if key in CELL_KEYS:
        return str(getattr(cell, key))
    if key in PROTOCOL_KEYS:
        return str(getattr(plan.protocol(cell), key))
    return str(cell.settings.get(key))


def describe(plan: Plan, cells: Sequence[Cell], at_once: int) -> list[str]:
    """Lines that list cells, the time that they take with ``at_once`` in parallel, and their number."""
    lines = [f"{cell.name}: {plan.protocol(cell)}; {state_of(cell.folder)}" for cell in cells]
    left = [cell for cell in cells if state_of(cell.folder) != "finished"]
    return [*lines, f"{len(left)} to run: {estimate(plan, left, at_once)}", f"{len(cells)} cells"]


def estimate(plan: Plan, cells: Sequence[Cell], at_once: int) -> str:
    """The time that cells take, judged by finished ones: of the same row and column, of the same column, or any."""
    measured = {cell: run.seconds for cell, run in finished_results(plan.cells).items()}
    if not cells:
        return "nothing is left to do"
    if not measured:
        return "no cell was measured yet, so the time is unknown"
    total = sum(_seconds(cell, measured) for cell in cells) / min(at_once, len(cells))
    return f"about {total / 60:.0f} minutes" if total < 7200 else f"about {total / 3600:.1f} hours"


def _seconds(cell: Cell, measured: Mapping[Cell, float]) -> float:
    same_location = [seconds for other, seconds in measured.items() if other.location == cell.location]
    same_column = [seconds for other, seconds in measured.items() if other.column == cell.column]
    return mean(same_location or same_column or list(measured.values()))
