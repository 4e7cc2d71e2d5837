"""A table of runs: reads its YAML, and refuses at once all that could not be run."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import yaml

from brainplug.errors import UsageError, nearest
from brainplug.experiment import NO_NAME, RecipeLoader, flags_without_value

KEYS = ("rows", "columns", "shared", "seeds", "published", "compare_with", "note")
COLUMN_KEYS = ("recipe", "data_folder", "folds", "rows", "settings")
OF_THE_CELL = ("fold", "seed", "few_shot_draws", "output_folder")  # what the table says itself
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

    def arguments(self, output_folder: str | None = None) -> list[str]:
        """The command line of train.py.

        Arguments
        ---------
        output_folder : str, optional
            Another one than its own.

        Returns
        -------
        list[str]
            The recipe and what changes in it.
        """
        changes = {**self.settings, "seed": self.seed, "output_folder": str(output_folder or self.folder)}
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
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


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
        Recipe, data folder, folds, rows and settings of each column.
    shared : Mapping
        Settings of all cells.
    seeds : tuple[int, ...]
        Every cell is run with each.
    published : Mapping[str, Mapping[str, float]]
        Numbers to compare with, by row and column, in per cent.
    compare_with : str | None
        The row from which the others' difference is taken.
    note : str
        Stands below the table.
    """

    name: str
    rows: Mapping[str, Mapping]
    columns: Mapping[str, Mapping]
    shared: Mapping
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    published: Mapping[str, Mapping[str, float]] = None
    compare_with: str | None = None
    note: str = ""

    def places(self) -> Iterator[tuple[str, str]]:
        """The places that are filled: row and column.

        Yields
        ------
        tuple[str, str]
            Column by column.
        """
        for column, described in self.columns.items():
            yield from ((row, column) for row in described.get("rows", self.rows))

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
        return reduce(merged, (self.shared, self.columns[column].get("settings") or {}, self.rows[row] or {}))


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
        The table.

    Raises
    ------
    UsageError
        It cannot be read, or says what a table cannot be; all faults are named.
    """
    try:
        tree = yaml.compose(Path(path).read_text(), Loader=RecipeLoader)
        content = yaml.load(Path(path).read_text(), RecipeLoader) or {}
        faults = list(_faults(tree, content))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"The table {path!r} was asked for.",
            f"It cannot be read: {' '.join(str(error).split())}.",
            "Write it as recipes/paper_tables/esc10.yaml is written",
        ) from error
    if faults:
        raise_faults(path, faults)
    columns = {
        column: {**described, "recipe": str((Path(path).parent / described["recipe"]).resolve())}
        for column, described in content["columns"].items()
    }
    shared = merged(content.get("shared") or {}, overrides)
    others = {key: content[key] for key in ("compare_with", "note") if content.get(key)}
    seeds = tuple(content.get("seeds") or DEFAULT_SEEDS)
    published = content.get("published") or {}
    return Table(Path(path).stem, content["rows"], columns, shared, seeds, published, **others)


def raise_faults(path: str, faults: Iterable[str]) -> None:
    """Refuses a table.

    Arguments
    ---------
    path : str
        Its YAML.
    faults : Iterable[str]
        All that is wrong.

    Raises
    ------
    UsageError
        With all of them.
    """
    faults = list(faults)
    found = "".join(f"\n  - {fault}" for fault in faults)
    raise UsageError(
        f"The table {path!r} was asked for.", f"It has {len(faults)} faults:{found}\n", "Mend them; no cell was run"
    )


def _faults(tree: yaml.Node | None, content: object) -> Iterator[str]:
    if not isinstance(content, dict):
        yield "it is no block of keys and values"
        return
    yield from (f"{key!r} stands there twice" for key in _twice(tree))
    yield from (f"unknown key {key!r}; known are: {nearest(key, KEYS)}" for key in content if key not in KEYS)
    for key in ("rows", "columns"):
        if not isinstance(content.get(key), dict) or not content[key]:
            yield f"{key} is empty; it has a name for each, and what stands behind it"
    seeds = content.get("seeds", list(DEFAULT_SEEDS))
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        yield f"seeds is {seeds!r}, no list of whole numbers"
    elif len(set(seeds)) < len(seeds):
        yield f"seeds {seeds} has one twice"
    yield from _faults_of_settings("shared", content.get("shared") or {})
    rows = content.get("rows") if isinstance(content.get("rows"), dict) else {}
    for row, settings in rows.items():
        yield from _faults_of_settings(f"the row {row!r}", settings or {})
    columns = content.get("columns") if isinstance(content.get("columns"), dict) else {}
    for column, described in columns.items():
        yield from _faults_of_column(column, described, rows)
    for row, numbers in (content.get("published") or {}).items():
        there = rows if row not in rows else columns
        unknown = [row] if row not in rows else [column for column in numbers if column not in columns]
        yield from (
            f"published names {name!r}, which is not there; there are: {nearest(name, there)}" for name in unknown
        )
    if content.get("compare_with") and content["compare_with"] not in rows:
        yield f"compare_with names no row; there are: {nearest(content['compare_with'], rows)}"
    for kind, names in (("rows", rows), ("columns", columns)):
        if len({folder_name(str(name)) for name in names}) < len(names):
            yield f"two {kind} have the same folder: their names differ in signs alone"


def _faults_of_settings(of: str, settings: object) -> Iterator[str]:
    if not isinstance(settings, dict):
        yield f"{of} is no block of settings"
        return
    yield from (f"{of} sets {key}, which the table does itself" for key in OF_THE_CELL if key in settings)


def _faults_of_column(column: str, described: object, rows: Mapping) -> Iterator[str]:
    of = f"the column {column!r}"
    if not isinstance(described, dict) or "recipe" not in described:
        yield f"{of} has no recipe"
        return
    unknown = [key for key in described if key not in COLUMN_KEYS]
    yield from (f"{of} has the unknown key {key!r}; known are: {nearest(key, COLUMN_KEYS)}" for key in unknown)
    folds = described.get("folds", "all")
    if folds != "all" and not (isinstance(folds, list) and folds and all(type(fold) is int for fold in folds)):
        yield f"{of} has the folds {folds!r}: neither all nor a list of whole numbers"
    missing = [row for row in described.get("rows", []) if row not in rows]
    yield from (f"{of} names the row {row!r}, which is not there; there are: {nearest(row, rows)}" for row in missing)
    if described.get("rows", rows) == []:
        yield f"{of} has no rows"
    yield from _faults_of_settings(of, described.get("settings") or {})


def _twice(node: yaml.Node | None) -> Iterator[str]:
    """Keys that stand in one block twice; PyYAML would keep the last one in silence."""
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        yield from sorted({name for name in names if names.count(name) > 1})
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            yield from _twice(child[1] if isinstance(child, tuple) else child)


def folder_name(name: str) -> str:
    """A row's or column's name as one of a folder.

    Arguments
    ---------
    name : str
        Any text.

    Returns
    -------
    str
        Without what a shell or a file system would take for more than a letter.

    Example
    -------
    >>> folder_name("conformer adapter, Houlsby")
    'conformer_adapter_Houlsby'
    """
    return re.sub(NO_NAME, "_", name).strip("_.")
