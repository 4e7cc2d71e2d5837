"""More epochs than a run had: what ``--extend`` allows, and what it leaves behind for the results."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from brainplug.files import read_json, write_json

logger = logging.getLogger(__name__)

EXTEND = "extend"  # the key, which is no recipe's: --extend
EXTENSION_NAME = "extension.json"
EPOCHS = re.compile(r"number_of_epochs: (\d+)$")
STEPS = 100  # of an epoch, on which schedules are compared


class Extension(TypedDict):
    """The numbers of epochs that a run had before, and what differs from a run of its length, if anything does."""

    extended_from: list[int]
    differs: str


def asks_to_extend(overrides: Mapping[str, object]) -> bool:
    """Whether a command line has ``--extend``."""
    return str(overrides.get(EXTEND, False)).lower() not in ("false", "no", "0")


def epochs_before(stored: Sequence[str], asked: Sequence[str]) -> int | None:
    """The epochs of a stored recipe, if another one differs in nothing but having more; both are lines of YAML.

    Example
    -------
    >>> epochs_before(["number_of_epochs: 2", "lr: 1"], ["number_of_epochs: 3", "lr: 1"])
    2
    """
    before, now = map(_epochs_of, (stored, asked))
    if not 0 < before < now or len(stored) != len(asked):
        return None
    pairs = zip(stored, asked, strict=True)  # the number is also in lines that refer to it
    return (
        before if all(line == other or line.replace(str(before), str(now)) == other for line, other in pairs) else None
    )


def _epochs_of(lines: Sequence[str]) -> int:
    return next((int(match[1]) for match in map(EPOCHS.match, lines) if match), 0)


def record_extension(folder: Path, before: int, now: int, schedule: Callable[[int, int], float]) -> None:
    """Writes that a run goes on beyond its number of epochs, and how its learning rates differ from a longer run's."""
    earlier, difference = read_extension(folder), what_the_schedule_changes(schedule, before, now)
    if difference:
        logger.warning("The run differs from one of %d epochs: %s.", now, difference)
    epochs = sorted({*earlier["extended_from"], before})  # several processes write the same
    write_json({"extended_from": epochs, "differs": difference or earlier["differs"]}, folder / EXTENSION_NAME)


def read_extension(folder: str | Path) -> Extension:
    """How a run was extended; it has no epochs before where it was not."""
    path = Path(folder, EXTENSION_NAME)
    none: Extension = {"extended_from": [], "differs": ""}
    return cast(Extension, read_json(path, list(none))) if path.exists() else none


def what_the_schedule_changes(schedule: Callable[[int, int], float], before: int, now: int) -> str:
    """How the rates of a run that is extended differ from those of a run of its length; empty where they do not.

    Example
    -------
    >>> from brainplug.optim.schedules import constant, linear
    >>> what_the_schedule_changes(constant, 2, 4)
    ''
    >>> what_the_schedule_changes(linear, 2, 4)
    'linear depends on the length of the run: its factor was 0.000 after 2 epochs, and goes on from 0.500'
    """
    totals = before * STEPS, now * STEPS
    if all(schedule(step, totals[0]) == schedule(step, totals[1]) for step in range(totals[0])):
        return ""
    name = getattr(getattr(schedule, "func", schedule), "__name__", "the schedule")
    ended, begins = (schedule(totals[0], total) for total in totals)
    length = f"{name} depends on the length of the run"
    return f"{length}: its factor was {ended:.3f} after {before} epochs, and goes on from {begins:.3f}"
