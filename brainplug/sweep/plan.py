"""From a table to its cells, each of which was looked at before the first one runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from brainplug.config.output_folder import configuration, what_differs
from brainplug.config.recipe import parse_arguments
from brainplug.errors import UsageError
from brainplug.results.schema import code_name
from brainplug.sweep.cell import CELL_NAME, Job, command_of, state_of
from brainplug.sweep.faults import folder_name, raise_faults
from brainplug.sweep.table import Cell, Table
from brainplug.tasks import load_recipe, task_of
from brainplug.tasks.runs import ALL, all_folds, check_fold
from brainplug.tasks.settings import TaskSettings


@dataclass(frozen=True)
class Protocol:
    """How the runs at one place of a table are made.

    Arguments
    ---------
    method, backbone, optimizer : str
        Names.
    lr : float
        Highest learning rate.
    epochs, batch_size, frames : int
        As the recipe has them.
    augment : tuple[str, ...]
        Names.
    few_shot : int | None
        Training clips a class.
    trainable_without_head : int
        Parameters.
    code : str
        ``published`` or ``repaired``.
    definition : dict
        All that decides the numbers of a run, but for its fold, its seed and its folders.
    """

    method: str
    backbone: str
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    frames: int
    augment: tuple[str, ...]
    few_shot: int | None
    trainable_without_head: int
    code: str
    definition: dict

    def __str__(self) -> str:
        shots = "" if self.few_shot is None else f", {self.few_shot} clips a class"
        return (
            f"{self.method} on {self.backbone}, {self.optimizer}, lr {self.lr:g}, {self.epochs} epochs, "
            f"batches of {self.batch_size}, {self.frames} frames, augment {', '.join(self.augment) or 'none'}{shots}, "
            f"{self.trainable_without_head:,} trainable without head, {self.code}"
        )


@dataclass(frozen=True)
class Plan:
    """A table's cells.

    Arguments
    ---------
    table : Table
        The table.
    cells : tuple[Cell, ...]
        Column by column, row by row.
    protocols : Mapping[tuple[str, str], Protocol]
        By row and column.
    """

    table: Table
    cells: tuple[Cell, ...]
    protocols: Mapping[tuple[str, str], Protocol]

    def protocol(self, cell: Cell) -> Protocol:
        """How a cell is made.

        Arguments
        ---------
        cell : Cell
            One of them.

        Returns
        -------
        Protocol
            That of its place.
        """
        return self.protocols[cell.row, cell.column]

    def job(self, cell: Cell) -> Job:
        """What runs a cell.

        Arguments
        ---------
        cell : Cell
            One of them.

        Returns
        -------
        Job
            Of a process that is started in the current folder.
        """
        place = {"row": cell.row, "column": cell.column, "fold": cell.fold, "seed": cell.seed}
        return Job(
            folder=cell.folder.absolute(),
            command=tuple(command_of(cell.recipe, cell.arguments())),
            started_in=Path.cwd(),
            description={**place, "definition": self.protocol(cell).definition},
        )


def make_plan(table: Table, path: str, data_folder: str | None, output_folder: str) -> Plan:
    """Lists a table's cells, and looks at each place.

    Arguments
    ---------
    table : Table
        As `read_table` returns it.
    path : str
        Its YAML, for messages.
    data_folder : str, optional
        From where the columns' data folders are looked for; None takes the current folder.
    output_folder : str
        Where the cells' folders go.

    Returns
    -------
    Plan
        The cells; nothing was run, and nothing written.

    Raises
    ------
    UsageError
        Some could never run, or were run with other settings; all of these are named.
    """
    cells, protocols, faults = [], {}, list(table.faults)
    for row, column in table.places():
        of_place = _cell_without_fold(table, row, column, data_folder, Path(output_folder))
        try:
            settings, protocols[row, column] = _look_at(of_place)
            folds = _folds(table.columns[column].get("folds", ALL), settings)
        except UsageError as error:
            faults.append(f"{row} / {column}: {error}")
            continue
        except SystemExit:  # of argparse, which has printed why
            faults.append(f"{row} / {column}: SpeechBrain does not take its options")
            continue
        for fold in folds:
            for seed in table.columns[column].get("seeds", table.seeds):
                cells.append(replace(of_place, fold=fold, seed=seed, folder=of_place.folder / _run_name(fold, seed)))
                faults += _fault_of_finished(cells[-1], protocols[row, column])
    if faults:
        raise_faults(path, faults)
    return Plan(table, tuple(cells), protocols)


def _cell_without_fold(table: Table, row: str, column: str, data_folder: str | None, output_folder: Path) -> Cell:
    """What the cells of a place have in common; its seed is none of theirs, so that their definition is one."""
    described = table.columns[column]
    there = described.get("data_folder")
    data = None if there is None else str(Path(data_folder or ".", there))
    folder = output_folder / folder_name(column) / folder_name(row)
    settings = table.settings(row, column)
    return Cell(row, column, described["recipe"], settings, None, 0, data, folder)


def _run_name(fold: int | None, seed: int) -> str:
    return f"seed{seed}" if fold is None else f"fold{fold}-seed{seed}"


def _look_at(cell: Cell) -> tuple[TaskSettings, Protocol]:
    """Loads a cell's recipe and puts its parts together, without weights."""
    # Folders may be moved: what is compared has other names in their places.
    arguments = (cell if cell.data_folder is None else replace(cell, data_folder="DATA")).arguments()
    file, run_opts, overrides = parse_arguments(arguments)
    recipe = load_recipe(file, {**overrides, "output_folder": "FOLDER"}, run_opts, inspect=True)
    settings, components = recipe.settings, task_of(recipe).build(recipe, weights="meta")
    return settings, Protocol(
        method=settings.method,
        backbone=settings.backbone,
        optimizer=settings.optimizer,
        lr=components.lr,
        epochs=settings.number_of_epochs,
        batch_size=settings.batch_size,
        frames=getattr(settings, "frames", None),
        augment=tuple(map(_augmentation_name, settings.augment or [])),
        few_shot=getattr(settings, "few_shot", None),
        trainable_without_head=components.trainable_without_head,
        code=code_name(getattr(settings, "paper_code", False)),
        definition=configuration(recipe),
    )


def _augmentation_name(augmentation: object) -> str:
    return augmentation if isinstance(augmentation, str) else type(augmentation).__name__


def _folds(folds: str | Sequence[int], settings: TaskSettings) -> Sequence[int | None]:
    if folds == ALL:
        return [None] if settings.fold is None else all_folds(settings)
    check_fold(settings.model_copy(update={"fold": folds[0]}))
    there = all_folds(settings)
    missing = [fold for fold in folds if fold not in there]
    if missing:
        raise UsageError(
            f"The folds {missing} were asked for.",
            "The data have no such folds.",
            f"Write folds: all, or some of {list(there)}",
        )
    return folds


def _fault_of_finished(cell: Cell, protocol: Protocol) -> Iterator[str]:
    """A finished cell whose settings are others now would stand in the table under a wrong name."""
    path = cell.folder / CELL_NAME
    if state_of(cell.folder) != "finished" or not path.exists():
        return
    there = json.loads(path.read_text())["definition"]
    if there != protocol.definition:
        had, wants = what_differs(there, protocol.definition), what_differs(protocol.definition, there)
        yield (
            f"{cell.name}: {cell.folder} was finished with {had}, and is asked for with {wants} now; "
            "write another --output_folder, or remove this one"
        )
