"""What a table's YAML may hold; all its faults are named at once."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from brainplug.errors import ConfigError, nearest
from brainplug.files import find_recipe, folder_name

OF_THE_TABLE = {  # settings that cells may not change -> what decides them
    "fold": "folds of a column, or --only",
    "seed": "seeds, or --only",
    "few_shot_draws": "seeds",
    "output_folder": "--output_folder of the table",
    "debug": "--dry_run",
}
DEFAULT_SEED = 1234


def _empty_if_null(block: object) -> object:
    return {} if block is None else block


def _names_a_folder(name: str) -> str:
    if not folder_name(name):
        raise ValueError("the name has no letter or digit, which its folder's name needs")
    return name


def _without_settings_of_the_table(settings: dict[str, Any]) -> dict[str, Any]:
    if faults := setting_faults(settings):
        raise ValueError("; ".join(faults))
    return settings


def setting_faults(settings: Iterable[str]) -> list[str]:
    """A sentence for each setting that cells may not change."""
    return [f"it sets {key}; write {OF_THE_TABLE[key]}" for key in settings if key in OF_THE_TABLE]


def _each_once(numbers: list[int]) -> list[int]:
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{numbers} has a number twice")
    return numbers


def _none_if_all(folds: object) -> object:
    if folds != "all" and not isinstance(folds, list):
        raise ValueError(f"{folds!r} is neither all nor a list of whole numbers")
    return None if folds == "all" else folds


def _existing_file(recipe: str, info: ValidationInfo) -> str:
    if not info.context:
        return recipe
    folder: Path = info.context["folder"]
    path = folder / recipe
    if not path.is_file():
        path = Path(find_recipe(recipe))  # as brainplug train takes it
    if not path.is_file():
        raise ValueError(f"there is no file {recipe!r} in {folder.resolve()}")
    return str(path.resolve())


def _known(kind: Literal["rows", "columns"]) -> AfterValidator:
    """Refuses a name that is not one of the table's rows or columns."""

    def check(name: str, info: ValidationInfo) -> str:
        if info.context and name not in info.context[kind]:
            raise ValueError(f"{name!r} is not one of the {kind}; the nearest are: {nearest(name, info.context[kind])}")
        return name

    return AfterValidator(check)


Name = Annotated[str, AfterValidator(_names_a_folder)]
Row = Annotated[str, _known("rows")]
Settings = Annotated[dict[str, Any], BeforeValidator(_empty_if_null), AfterValidator(_without_settings_of_the_table)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1), AfterValidator(_each_once)]
Folds = Annotated[
    Annotated[list[int], Field(min_length=1), AfterValidator(_each_once)] | None, BeforeValidator(_none_if_all)
]
Numbers = Annotated[dict[Annotated[str, _known("columns")], float | None], BeforeValidator(_empty_if_null)]


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Column(_Block):
    """A column: its recipe, its data, and what its cells change. Without folds, seeds or rows it has all of them."""

    recipe: Annotated[str, AfterValidator(_existing_file)]
    data_folder: str | None = None
    folds: Folds = None
    seeds: Seeds = Field(default_factory=list)
    rows: Annotated[list[Row], Field(min_length=1)] = Field(default_factory=list)
    settings: Settings = Field(default_factory=dict)


class TableContent(_Block):
    """A table's YAML.

    Arguments
    ---------
    rows, columns : dict
        Settings of each row; recipe, data and settings of each column.
    shared, seeds : dict, list
        Settings and seeds of all cells; columns may have seeds of their own.
    published : dict
        Numbers to compare with, by row and column, in per cent.
    compare_with, note : str, optional
        The row from which differences are taken, and a text below the table.
    """

    rows: Annotated[dict[Name, Settings], BeforeValidator(_empty_if_null)] = Field(default_factory=dict)
    columns: Annotated[dict[Name, Column], BeforeValidator(_empty_if_null)] = Field(default_factory=dict)
    shared: Settings = Field(default_factory=dict)
    seeds: Seeds = Field(default_factory=lambda: [DEFAULT_SEED])
    published: Annotated[dict[Row, Numbers], BeforeValidator(_empty_if_null)] = Field(default_factory=dict)
    compare_with: Row | None = None
    note: str | None = None


def check_content(content: Mapping[str, Any], folder: Path) -> tuple[TableContent, list[str]]:
    """Checks a table's YAML; returns the table without its faulty parts, and a sentence for each fault.

    Recipes are looked for from `folder`.
    """
    names = {key: list(content[key]) if isinstance(content.get(key), dict) else [] for key in ("rows", "columns")}
    context = {"folder": folder, **names}
    faults = [f"{key} is empty; write a name and its settings for each" for key in names if not content.get(key)]
    faults += [fault for key in names for fault in _folder_faults(key, names[key])]
    try:
        return TableContent.model_validate(content, context=context), faults
    except ValidationError as error:
        details = error.errors()
    sound = _without_parts(content, [detail["loc"] for detail in details])
    return TableContent.model_validate(sound, context=context), [*faults, *map(_sentence, details)]


def _folder_faults(kind: str, names: Sequence[object]) -> list[str]:
    by_folder: dict[str, list[object]] = {}
    for name in names:
        by_folder.setdefault(folder_name(str(name)), []).append(name)
    return [
        f"the {kind} {', '.join(map(repr, alike))} would have the same folder, {folder}"
        for folder, alike in by_folder.items()
        if len(alike) > 1
    ]


def _without_parts(content: Mapping[str, Any], locations: Sequence[tuple[int | str, ...]]) -> dict[str, Any]:
    """Leaves out each row, each column and each other key at the top that has a fault."""
    sound = {
        key: {name: part for name, part in value.items() if isinstance(name, str)}
        if key in ("rows", "columns") and isinstance(value, dict)
        else value
        for key, value in content.items()
        if isinstance(key, str)
    }
    for key, *inner in locations:
        if key in ("rows", "columns") and inner:
            sound[key].pop(str(inner[0]), None)
        else:
            sound.pop(str(key), None)
    return sound


def _sentence(detail: Any) -> str:  # pydantic_core.ErrorDetails
    location, kind = detail["loc"], detail["type"]
    *parents, key = location
    if kind == "missing":
        return f"{_path(parents)} has no {key}"
    if kind == "extra_forbidden":
        known = (Column if parents else TableContent).model_fields
        return f"{_path(parents)} has the unknown key {key!r}; the nearest are: {nearest(key, known)}"
    if kind == "value_error":
        return f"{_path(location)}: {detail['ctx']['error']}"
    if kind == "invalid_key" or key == "[key]":
        return f"{_path(location)} is not a text; write it in quotes"
    return f"{_path(location)} is {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _path(location: Sequence[int | str]) -> str:
    """Where a fault is, such as ``columns['8 a class'].folds``."""
    parts = [f".{part}" if str(part).isidentifier() else f"[{part!r}]" for part in location if part != "[key]"]
    return "".join(parts).removeprefix(".") or "the table"


def repeated_keys(node: yaml.Node | None) -> list[str]:
    """A sentence for each key that occurs twice in one block; PyYAML would take the last one silently.

    Example
    -------
    >>> repeated_keys(yaml.compose("rows: {lora: {}, lora: {}}"))
    ["the key 'lora' occurs twice"]
    """
    faults = []
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        faults += [
            f"the key {name!r} occurs twice" for name in sorted({name for name in names if names.count(name) > 1})
        ]
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            faults += repeated_keys(child[1] if isinstance(child, tuple) else child)
    return faults


def raise_faults(path: str, faults: Iterable[str]) -> NoReturn:
    """Refuses a table, with all its faults."""
    faults = list(dict.fromkeys(faults))
    listed = "".join(f"\n  - {fault}" for fault in faults)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    raise ConfigError(
        f"The table {path!r} was asked for.", f"It has {count}:{listed}\n", "Correct them; no cell was run"
    )
