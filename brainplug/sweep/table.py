"""A table of runs, and its cells."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from brainplug.config.arguments import flags_without_value
from brainplug.config.recipe import RecipeLoader
from brainplug.errors import ConfigError
from brainplug.sweep.schema import TableContent, check_content, raise_faults, repeated_keys, setting_faults


@dataclass(frozen=True)
class Cell:
    """One run.

    Arguments
    ---------
    row, column : str
        Its location in the table.
    recipe, settings : str, Mapping
        The YAML, and what the cell changes in it.
    fold, seed : int | None, int
        The test fold, None where the recipe has none; and the seed.
    data_folder : str | None
        The data; None leaves them to the recipe.
    folder : Path
        Of the run.
    """

    row: str
    column: str
    recipe: str
    settings: Mapping[str, Any] = field(hash=False)
    fold: int | None
    seed: int
    data_folder: str | None
    folder: Path

    @property
    def location(self) -> tuple[str, str]:
        """Row and column."""
        return self.row, self.column

    @property
    def name(self) -> str:
        """The cell's name in messages."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.row} / {self.column}{fold}, seed {self.seed}"

    def arguments(self) -> list[str]:
        """The command line of ``brainplug train``: the recipe and the changes in it."""
        changes = {**self.settings, "seed": self.seed, "output_folder": str(self.folder)}
        changes |= {} if self.fold is None else {"fold": self.fold}
        changes |= {} if self.data_folder is None else {"data_folder": self.data_folder}
        return [self.recipe, *(as_flag(key, value) for key, value in changes.items())]


def as_flag(key: str, value: object) -> str:
    """Formats a setting as an option of the command line; a switch of SpeechBrain's has no value there.

    Example
    -------
    >>> as_flag("method_settings", {"lora": {"alpha": 4}}), as_flag("noprogressbar", True)
    ('--method_settings={"lora": {"alpha": 4}}', '--noprogressbar')
    """
    if value is True and key in flags_without_value():
        return f"--{key}"
    return f"--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"  # a date, for one


class Table(TableContent):
    """A table's YAML, with the file's name, and the reasons why it may not be run."""

    name: str
    faults: tuple[str, ...] = ()

    def locations(self) -> Iterator[tuple[str, str]]:
        """Row and column of everything that is filled, column by column."""
        for name, column in self.columns.items():
            yield from ((row, name) for row in column.rows or self.rows if row in self.rows)

    def settings(self, row: str, column: str) -> dict[str, Any]:
        """What a location changes in its recipe: the row's settings replace the column's, and these the shared ones."""
        return reduce(merged, (self.shared, self.columns[column].settings, self.rows[row]))


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes settings, block by block.

    Example
    -------
    >>> merged({"lora": {"alpha": 4, "lr": 1}}, {"lora": {"alpha": 8}})
    {'lora': {'alpha': 8, 'lr': 1}}
    """
    blocks = {key: value for key, value in changes.items() if isinstance(value, Mapping)}
    inner = {key: merged(settings.get(key) or {}, value) for key, value in blocks.items()}
    return {**settings, **changes, **inner}


class TableLoader(yaml.SafeLoader):
    """Reads numbers as recipes do, and builds no objects."""


TableLoader.yaml_implicit_resolvers = RecipeLoader.yaml_implicit_resolvers


def read_table(path: str, overrides: Mapping[str, Any]) -> Table:
    """Reads a table, without its faulty rows and columns; `Table.faults` names what is wrong.

    The paths of recipes start from the table's folder; `overrides` are what the command line changes in all cells.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        repeated = repeated_keys(yaml.compose(text, Loader=TableLoader))
        content = yaml.load(text, TableLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"The table {path!r} was asked for.",
            f"It cannot be read: {' '.join(str(error).split())}.",
            "Write it as recipes/paper_tables/esc10.yaml is written",
        ) from error
    if not isinstance(content, dict):
        raise_faults(path, ["it is not a block of keys and values"])
    checked, faults = check_content(content, Path(path).parent)
    faults = [*repeated, *faults, *(f"the command line: {fault}" for fault in setting_faults(overrides))]
    fields = {**dict(checked), "shared": merged(checked.shared, overrides)}
    return Table.model_construct(name=Path(path).stem, faults=tuple(faults), **fields)
