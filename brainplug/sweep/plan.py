"""From a table to its cells: every location is checked before the first cell runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brainplug.config.output_folder import Configuration, configuration, what_differs
from brainplug.config.recipe import Recipe
from brainplug.errors import ConfigError, UsageError
from brainplug.files import folder_name, read_json
from brainplug.results.schema import code_name
from brainplug.sweep.cell import CELL_NAME, Job, command_of, state_of
from brainplug.sweep.schema import raise_faults
from brainplug.sweep.table import Cell, Table
from brainplug.tasks import load_recipe, read_arguments, task_of
from brainplug.tasks.base import RunComponents
from brainplug.tasks.runs import all_folds, check_fold
from brainplug.tasks.settings import TaskSettings


@dataclass(frozen=True)
class Protocol:
    """How the runs of a location are made.

    Arguments
    ---------
    task, method, backbone, optimizer : str
        Names.
    lr : float
        The highest learning rate.
    epochs, batch_size, frames, augment, few_shot : object
        As in the recipe; a task without frames or few-shot training has None.
    trainable_without_head : int
        Parameters.
    code : str
        ``corrected`` or ``as published``.
    definition : Configuration
        All that decides the numbers of a run, except for its fold, its seed and its folders.
    """

    task: str
    method: str
    backbone: str
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    frames: int | None
    augment: tuple[str, ...]
    few_shot: int | None
    trainable_without_head: int
    code: str
    definition: Configuration

    def __str__(self) -> str:
        frames = "" if self.frames is None else f"{self.frames} frames, "
        shots = "" if self.few_shot is None else f", {self.few_shot} clips a class"
        return (
            f"{self.method} on {self.backbone}, {self.optimizer}, lr {self.lr:g}, {self.epochs} epochs, "
            f"batches of {self.batch_size}, {frames}augment {', '.join(self.augment) or 'none'}{shots}, "
            f"{self.trainable_without_head:,} trainable without head, {self.code}"
        )


@dataclass(frozen=True)
class Plan:
    """A table's cells, column by column and row by row, and the protocol of each row and column."""

    table: Table
    cells: tuple[Cell, ...]
    protocols: Mapping[tuple[str, str], Protocol]

    def protocol(self, cell: Cell) -> Protocol:
        """How a cell is made."""
        return self.protocols[cell.location]

    def job(self, cell: Cell) -> Job:
        """What runs a cell, in a process that starts in the current folder."""
        identity = {"row": cell.row, "column": cell.column, "fold": cell.fold, "seed": cell.seed}
        return Job(
            folder=cell.folder.absolute(),
            command=command_of(cell.arguments()),
            started_in=Path.cwd(),
            description={**identity, "definition": self.protocol(cell).definition},
        )


def make_plan(table: Table, path: str, data_folder: str | None, output_folder: str) -> Plan:
    """Lists a table's cells and checks each location; nothing is run or written.

    Columns' data folders are looked for in `data_folder`. Cells that could never run, or that have run with other
    settings, are all named in one `ConfigError`.
    """
    cells: list[Cell] = []
    protocols: dict[tuple[str, str], Protocol] = {}
    faults = list(table.faults)
    for row, column in table.locations():
        cell = _cell_without_fold(table, row, column, data_folder, Path(output_folder))
        try:
            recipe, components = _build(cell)
            folds = _folds(table.columns[column].folds, recipe.settings)
        except UsageError as error:
            faults.append(f"{row} / {column}: {error}")
            continue
        protocols[row, column] = protocol = _protocol(recipe, components)
        for fold in folds:
            for seed in table.columns[column].seeds or table.seeds:
                cells.append(replace(cell, fold=fold, seed=seed, folder=cell.folder / _run_name(fold, seed)))
                faults += _fault_of_finished(cells[-1], protocol)
    if faults:
        raise_faults(path, faults)
    return Plan(table, tuple(cells), protocols)


def _cell_without_fold(table: Table, row: str, column: str, data_folder: str | None, output_folder: Path) -> Cell:
    """What the cells of a location share. The seed 0 stands for all seeds, so that they have one definition."""
    described = table.columns[column]
    data = None if described.data_folder is None else str(Path(data_folder or ".", described.data_folder))
    folder = output_folder / folder_name(column) / folder_name(row)
    return Cell(row, column, described.recipe, table.settings(row, column), None, 0, data, folder)


def _run_name(fold: int | None, seed: int) -> str:
    return f"seed{seed}" if fold is None else f"fold{fold}-seed{seed}"


def _build(cell: Cell) -> tuple[Recipe[Any], RunComponents[Any]]:
    """Loads a cell's recipe and builds its components without weights."""
    # Folders may be moved, so the definitions that are compared have placeholders for them.
    arguments = (cell if cell.data_folder is None else replace(cell, data_folder="DATA")).arguments()
    file, run_opts, overrides = read_arguments(arguments)
    recipe = load_recipe(file, {**overrides, "output_folder": "FOLDER"}, run_opts, inspect=True)
    return recipe, task_of(recipe).build(recipe, weights="meta")


def _protocol(recipe: Recipe[Any], components: RunComponents[Any]) -> Protocol:
    settings = recipe.settings
    return Protocol(
        task=settings.task,
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


def _folds(folds: Sequence[int] | None, settings: TaskSettings) -> Sequence[int | None]:
    if folds is None:
        return [None] if settings.fold is None else all_folds(settings)
    check_fold(settings.model_copy(update={"fold": folds[0]}))
    existing = all_folds(settings)
    missing = [fold for fold in folds if fold not in existing]
    if missing:
        raise ConfigError(
            f"The folds {missing} were asked for.",
            "The data have no such folds.",
            f"Write folds: all, or some of {list(existing)}",
        )
    return folds


def _fault_of_finished(cell: Cell, protocol: Protocol) -> Iterator[str]:
    """Refuses a finished cell that ran with other settings, whose numbers would be in the wrong row or column."""
    path = cell.folder / CELL_NAME
    if state_of(cell.folder) != "finished" or not path.exists():
        return
    stored: Configuration = read_json(path, ["definition"])["definition"]
    if stored != protocol.definition:
        before, now = what_differs(stored, protocol.definition), what_differs(protocol.definition, stored)
        yield (
            f"{cell.name}: {cell.folder} was finished with {before}, and is asked for with {now} now; "
            "write another --output_folder, or remove this one"
        )
