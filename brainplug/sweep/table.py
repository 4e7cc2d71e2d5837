"""A table of runs: reads its YAML."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import yaml

from brainplug.config.recipe import RecipeLoader, flags_without_value
from brainplug.errors import UsageError
from brainplug.sweep.faults import (
    block,
    faults_of_column,
    faults_of_overrides,
    faults_of_row,
    faults_of_table,
    keys_that_stand_twice,
    raise_faults,
)

DEFAULT_SEEDS = (1234,)


@dataclass(frozen=True)
class Cell:
    """One run.

    Arguments
    ---------
    row, column : str
        Its place in the table.
    recipe : str
        The YAML.
    settings : Mapping
        What it changes there: those of all cells, of the column and of the row.
    fold : int | None
        Test fold; None where the recipe has none.
    seed : int
        Of the run.
    data_folder : str | None
        Where its data lie; None leaves it to the recipe.
    folder : Path
        Of the run.
    """

    row: str
    column: str
    recipe: str
    settings: Mapping = field(hash=False)
    fold: int | None
    seed: int
    data_folder: str | None
    folder: Path

    @property
    def name(self) -> str:
        """As it is called in messages."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.row} / {self.column}{fold}, seed {self.seed}"

    def arguments(self) -> list[str]:
        """The command line of train.py.

        Returns
        -------
        list[str]
            The recipe and what changes in it.
        """
        changes = {**self.settings, "seed": self.seed, "output_folder": str(self.folder)}
        changes |= {} if self.fold is None else {"fold": self.fold}
        changes |= {} if self.data_folder is None else {"data_folder": self.data_folder}
        return [self.recipe, *(as_flag(key, value) for key, value in changes.items())]


def as_flag(key: str, value: object) -> str:
    """Writes a setting as an option of the command line.

    Arguments
    ---------
    key : str
        Its name.
    value : object
        What YAML can hold.

    Returns
    -------
    str
        The option; a switch of SpeechBrain's stands alone.

    Example
    -------
    >>> as_flag("method_settings", {"lora": {"alpha": 4}}), as_flag("noprogressbar", True)
    ('--method_settings={"lora": {"alpha": 4}}', '--noprogressbar')
    """
    if value is True and key in flags_without_value():
        return f"--{key}"
    return f"--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"  # a date, for one


@dataclass(frozen=True)
class Table:
    """What a table's YAML says.

    Arguments
    ---------
    name : str
        That of the file.
    rows : Mapping[str, Mapping]
        Settings of each row.
    columns : Mapping[str, Mapping]
        Recipe, data folder, folds, seeds, rows and settings of each column.
    shared : Mapping
        Settings of all cells.
    seeds : tuple[int, ...]
        Every cell is run with each, but in columns with seeds of their own.
    published : Mapping[str, Mapping[str, float]]
        Numbers to compare with, by row and column, in per cent.
    compare_with : str | None
        The row from which the others' difference is taken.
    note : str
        Stands below the table.
    faults : tuple[str, ...]
        Why it may not be run.
    """

    name: str
    rows: Mapping[str, Mapping]
    columns: Mapping[str, Mapping]
    shared: Mapping
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    compare_with: str | None = None
    note: str = ""
    faults: tuple[str, ...] = ()

    def places(self) -> Iterator[tuple[str, str]]:
        """The places that are filled: row and column.

        Yields
        ------
        tuple[str, str]
            Column by column.
        """
        for column, described in self.columns.items():
            yield from ((row, column) for row in described.get("rows", self.rows) if row in self.rows)

    def settings(self, row: str, column: str) -> dict:
        """What a place changes in its recipe: the row's settings go before the column's, and these before the shared.

        Arguments
        ---------
        row, column : str
            The place.

        Returns
        -------
        dict
            Setting -> value.
        """
        return reduce(merged, (self.shared, self.columns[column].get("settings") or {}, self.rows[row]))


def merged(settings: Mapping, changes: Mapping) -> dict:
    """Changes settings, block by block.

    Arguments
    ---------
    settings, changes : Mapping
        Setting -> value; a value may be a block itself.

    Returns
    -------
    dict
        All settings.

    Example
    -------
    >>> merged({"lora": {"alpha": 4, "lr": 1}}, {"lora": {"alpha": 8}})
    {'lora': {'alpha': 8, 'lr': 1}}
    """
    blocks = {key: value for key, value in changes.items() if isinstance(value, Mapping)}
    inner = {key: merged(settings.get(key) or {}, value) for key, value in blocks.items()}
    return {**settings, **changes, **inner}


class TableLoader(yaml.SafeLoader):
    """Reads numbers as recipes do, and runs nothing."""


TableLoader.yaml_implicit_resolvers = RecipeLoader.yaml_implicit_resolvers


def read_table(path: str, overrides: Mapping) -> Table:
    """Reads a table.

    Arguments
    ---------
    path : str
        Its YAML; recipes that it names are looked for from its folder.
    overrides : Mapping
        Settings of all cells that the command line changes.

    Returns
    -------
    Table
        With its faults; the rows and columns that have some are left out.

    Raises
    ------
    UsageError
        It cannot be read at all.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        twice = keys_that_stand_twice(yaml.compose(text, Loader=TableLoader))
        content = yaml.load(text, TableLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(
            f"The table {path!r} was asked for.",
            f"It cannot be read: {' '.join(str(error).split())}.",
            "Write it as recipes/paper_tables/esc10.yaml is written",
        ) from error
    if not isinstance(content, dict):
        raise_faults(path, ["it is no block of keys and values"])
    folder, rows, columns = Path(path).parent, block(content, "rows"), block(content, "columns")
    of_rows = {row: faults_of_row(row, settings) for row, settings in rows.items()}
    of_columns = {column: faults_of_column(column, described, rows, folder) for column, described in columns.items()}
    of_table = [*twice, *faults_of_table(content), *faults_of_overrides(overrides)]
    faults = sum((*of_rows.values(), *of_columns.values()), start=of_table)
    return Table(
        name=Path(path).stem,
        rows={row: settings or {} for row, settings in rows.items() if not of_rows[row]},
        columns={
            column: {**described, "recipe": str((folder / described["recipe"]).resolve())}
            for column, described in columns.items()
            if not of_columns[column]
        },
        shared=merged(block(content, "shared"), overrides),
        seeds=DEFAULT_SEEDS if of_table else tuple(content.get("seeds", DEFAULT_SEEDS)),
        published=block(content, "published"),
        compare_with=content.get("compare_with"),
        note=content.get("note") or "",
        faults=tuple(faults),
    )
