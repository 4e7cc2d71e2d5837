"""What is wrong with a table, before anything is run: all of it, not the first alone."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import yaml

from brainplug.config.recipe import NOT_IN_A_NAME
from brainplug.errors import UsageError, nearest

KEYS = ("rows", "columns", "shared", "seeds", "published", "compare_with", "note")
COLUMN_KEYS = ("recipe", "data_folder", "folds", "seeds", "rows", "settings")
OF_THE_CELL = {  # what is said elsewhere
    "fold": "folds of a column, or --only",
    "seed": "seeds, or --only",
    "few_shot_draws": "seeds",
    "output_folder": "--output_folder of the table",
    "debug": "--dry_run",
}


def raise_faults(path: str, faults: Iterable[str]) -> NoReturn:
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
    faults = list(dict.fromkeys(faults))
    found = "".join(f"\n  - {fault}" for fault in faults)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    raise UsageError(f"The table {path!r} was asked for.", f"It has {count}:{found}\n", "Mend them; no cell was run")


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
    return re.sub(NOT_IN_A_NAME, "_", name).strip("_.")


def block(content: Mapping, key: str) -> dict:
    """A block of a table.

    Arguments
    ---------
    content : Mapping
        The table.
    key : str
        Of the block.

    Returns
    -------
    dict
        Empty where it is none.

    Example
    -------
    >>> block({"rows": [1, 2]}, "rows")
    {}
    """
    found = content.get(key)
    return found if isinstance(found, dict) else {}


def keys_that_stand_twice(node: yaml.Node | None) -> list[str]:
    """Keys that stand in one block twice; PyYAML would keep the last one in silence.

    Arguments
    ---------
    node : yaml.Node, optional
        What PyYAML composes of a text.

    Returns
    -------
    list[str]
        A fault for each.

    Example
    -------
    >>> keys_that_stand_twice(yaml.compose("rows: {lora: {}, lora: {}}"))
    ["'lora' stands there twice"]
    """
    faults = []
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        faults += [f"{name!r} stands there twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            faults += keys_that_stand_twice(child[1] if isinstance(child, tuple) else child)
    return faults


def faults_of_table(content: Mapping) -> list[str]:
    """What is wrong at the top of a table, and between its parts.

    Arguments
    ---------
    content : Mapping
        What its YAML holds.

    Returns
    -------
    list[str]
        The faults.

    Example
    -------
    >>> faults_of_table({"rows": {"lora": {}}, "columns": {"ESC-50": {}}, "columnz": {}})
    ["unknown key 'columnz'; known are: columns"]
    """
    rows, columns = block(content, "rows"), block(content, "columns")
    faults = [f"unknown key {key!r}; known are: {nearest(key, KEYS)}" for key in content if key not in KEYS]
    for key, names in (("rows", rows), ("columns", columns)):
        if not names:
            faults.append(f"{key} is empty; it has a name for each, and what stands behind it")
        faults += _faults_of_folders(key, names)
    faults += [*_faults_of_seeds("", content.get("seeds", [0])), *_faults_of_settings("shared", content.get("shared"))]
    faults += _faults_of_published(content.get("published"), rows, columns)
    reference = content.get("compare_with")
    if reference is not None and not (isinstance(reference, str) and reference in rows):
        faults.append(f"compare_with names no row; there are: {nearest(reference, rows)}")
    if not isinstance(content.get("note"), str | None):
        faults.append(f"note is {content['note']!r}, which is no text")
    return faults


def faults_of_overrides(overrides: Mapping) -> list[str]:
    """What the command line may not change in all cells.

    Arguments
    ---------
    overrides : Mapping
        Settings.

    Returns
    -------
    list[str]
        The faults.

    Example
    -------
    >>> faults_of_overrides({"seed": 1})
    ['the command line sets seed; that is said by seeds, or --only']
    """
    return list(_faults_of_settings("the command line", overrides))


def faults_of_row(row: object, settings: object) -> list[str]:
    """What is wrong with a row.

    Arguments
    ---------
    row : object
        Its name.
    settings : object
        What stands behind it.

    Returns
    -------
    list[str]
        The faults.

    Example
    -------
    >>> faults_of_row("lora", {"method": "lora"}), faults_of_row(8, None)
    ([], ["the name 8 is no text; write '8'"])
    """
    return [*_faults_of_name(row), *_faults_of_settings(f"the row {row!r}", settings)]


def faults_of_column(column: object, described: object, rows: Mapping, folder: Path) -> list[str]:
    """What is wrong with a column.

    Arguments
    ---------
    column : object
        Its name.
    described : object
        What stands behind it.
    rows : Mapping
        All rows.
    folder : Path
        From where its recipe is looked for.

    Returns
    -------
    list[str]
        The faults.

    Example
    -------
    >>> faults_of_column("ESC-50", {"folds": "all"}, {}, Path())
    ["the column 'ESC-50' has no recipe"]
    """
    of, faults = f"the column {column!r}", list(_faults_of_name(column))
    if not isinstance(described, dict) or not isinstance(described.get("recipe"), str):
        return [*faults, f"{of} has no recipe"]
    unknown = [key for key in described if key not in COLUMN_KEYS]
    faults += [f"{of} has the unknown key {key!r}; known are: {nearest(key, COLUMN_KEYS)}" for key in unknown]
    if not (folder / described["recipe"]).is_file():
        faults.append(f"{of} has the recipe {described['recipe']!r}; there is no such file in {folder.resolve()}")
    if not isinstance(described.get("data_folder"), str | None):
        faults.append(f"{of} has the data_folder {described['data_folder']!r}, which is no text")
    folds = described.get("folds", "all")
    if folds != "all" and not (_is_list_of(int, folds) and len(set(folds)) == len(folds)):
        faults.append(f"{of} has the folds {folds!r}: neither all nor a list of whole numbers, each once")
    faults += _faults_of_seeds(f"{of}: ", described.get("seeds", [0]))
    some = described.get("rows", list(rows) or ["any"])
    if not _is_list_of(str, some):
        faults.append(f"{of} has the rows {some!r}: no list of names")
    else:
        missing = [row for row in described.get("rows", []) if row not in rows]
        faults += [
            f"{of} names the row {row!r}, which is not there; there are: {nearest(row, rows)}" for row in missing
        ]
    return [*faults, *_faults_of_settings(of, described.get("settings"))]


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is kind for each in value)


def _faults_of_name(name: object) -> Iterator[str]:
    if not isinstance(name, str):
        yield f"the name {name!r} is no text; write '{name}'"
    elif not folder_name(name):
        yield f"the name {name!r} has no letter or figure, from which a folder could be named"


def _faults_of_folders(kind: str, names: Iterable) -> Iterator[str]:
    alike = {}
    for name in names:
        alike.setdefault(folder_name(str(name)), []).append(name)
    for folder, some in alike.items():
        if len(some) > 1:
            yield f"the {kind} {', '.join(map(repr, some))} would have the same folder, {folder}"


def _faults_of_settings(of: str, settings: object) -> Iterator[str]:
    if not isinstance(settings, dict | None):
        yield f"{of} has {settings!r}, which is no block of settings"
        return
    for key in settings or {}:
        if not isinstance(key, str):
            yield f"{of} sets {key!r}, which is no name"
        elif key in OF_THE_CELL:
            yield f"{of} sets {key}; that is said by {OF_THE_CELL[key]}"


def _faults_of_seeds(of: str, seeds: object) -> Iterator[str]:
    allowed = range(2**32)
    if not _is_list_of(int, seeds) or not all(seed in allowed for seed in seeds):
        yield f"{of}seeds is {seeds!r}, no list of whole numbers from {allowed[0]} to {allowed[-1]}"
    elif len(set(seeds)) < len(seeds):
        yield f"{of}seeds {seeds} has one twice"


def _faults_of_published(published: object, rows: Mapping, columns: Mapping) -> Iterator[str]:
    if not isinstance(published, dict | None):
        yield f"published is {published!r}, no block of rows"
        return
    for row, numbers in (published or {}).items():
        if row not in rows:
            yield f"published names {row!r}, which is not there; there are: {nearest(row, rows)}"
        if not isinstance(numbers, dict | None):
            yield f"published has {numbers!r} for {row!r}, no block of columns"
            continue
        for column, number in (numbers or {}).items():
            if column not in columns:
                yield f"published names {column!r}, which is not there; there are: {nearest(column, columns)}"
            if not isinstance(number, int | float | None) or isinstance(number, bool):
                yield f"published has {number!r} for {row!r}, {column!r}, which is no number"
