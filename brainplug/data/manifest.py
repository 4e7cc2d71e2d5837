"""Manifests: the CSV lists of clips that every corpus is turned into."""

import csv
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from brainplug.errors import UsageError, nearest
from brainplug.files import atomic_file


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled stretch of audio: a file, or a part of it.

    Arguments
    ---------
    id : str
        Name of the clip, unique in its manifest.
    path : str
        Audio file.
    label : str
        Its class.
    split : str
        ``train``, ``valid`` or ``test``.
    fold : int, optional
        The corpus's own fold.
    group : str
        What must not stand in two splits: a speaker or a source recording. Empty where there is none.
    start : float, optional
        Where the clip begins in the file, seconds.
    stop : float, optional
        Where it ends, seconds.
    duration : float, optional
        Its length in seconds, known once it was decoded.
    text : str
        What is said. Empty where that is not known.

    Example
    -------
    >>> Clip("a", "a.wav", "dog").start is None
    True
    """

    id: str
    path: str
    label: str
    split: str = ""
    fold: int | None = None
    group: str = ""
    start: float | None = None
    stop: float | None = None
    duration: float | None = None
    text: str = ""


COLUMNS = [field.name for field in dataclasses.fields(Clip)]
REQUIRED_COLUMNS = [field.name for field in dataclasses.fields(Clip) if field.default is dataclasses.MISSING]
NUMBERS = {"fold": int, "start": float, "stop": float, "duration": float}  # empty where not given
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # instead of commas


def read_table(path: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Reads a CSV file with a header, row by row.

    Arguments
    ---------
    path : str
        A CSV file in UTF-8, with or without a byte-order mark.
    columns : Sequence[str]
        Columns that it must have. Others may stand beside them.

    Yields
    ------
    dict[str, str]
        The text of each column.

    Raises
    ------
    UsageError
        No such file, one that may not be read, a missing column or one that occurs twice, a row with too few or too
        many fields, or broken quotes.
    """
    asked = f"The table {path} was asked for."
    if not os.path.isfile(path):
        raise UsageError(asked, "There is no such file.", "Check the folder's name.")
    try:
        # Bytes that are not UTF-8 occur in file names; they are carried through, as Python does for paths.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, columns, reader.fieldnames or [])
            for row in reader:
                if None in row or None in row.values():
                    raise csv.Error("it has not as many fields as the header; quote fields with commas")
                yield row
    except csv.Error as fault:
        raise UsageError(asked, f"Line {reader.line_num}: {fault}.", "Mend that line.") from fault
    except OSError as fault:
        raise UsageError(asked, f"It cannot be read: {fault.strerror}.", "Check the file's permissions.") from fault


def _check_columns(path: str, columns: Sequence[str], found: Sequence[str]) -> None:
    asked = f"The columns {', '.join(columns)} were asked for in {path}."
    twice = [column for column in dict.fromkeys(found) if column and found.count(column) > 1]
    if twice:
        raise UsageError(asked, f"It has {', '.join(twice)} more than once.", "Name each column differently.")
    missing = [column for column in columns if column not in found]
    if missing and len(found) == 1 and len(columns) > 1 and (separator := re.search(r"[;\t|]", found[0])):
        found_instead = f"Its columns are separated by {SEPARATORS[separator[0]]}."
        raise UsageError(asked, found_instead, "Separate them by commas; quote fields that hold one.")
    if missing:
        proposals = [f"{column} (perhaps now: {nearest(column, found) or 'none'})" for column in missing]
        raise UsageError(
            asked,
            f"It lacks {', '.join(missing)}; it has {', '.join(found) or 'no columns'}.",
            f"Name the columns {', '.join(proposals)}.",
        )


def write_table(path: str, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Writes a CSV file with a heading; it appears when it is whole.

    Arguments
    ---------
    path : str
        The file.
    columns : Sequence[str]
        Its heading.
    rows : Iterable[Sequence]
        One sequence a line.
    """
    with atomic_file(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_manifest(clips: Iterable[Clip], path: str) -> None:
    """Writes clips to a CSV file, one a row.

    Arguments
    ---------
    clips : Iterable[Clip]
        The clips.
    path : str
        The CSV file. An older one is replaced in one step.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> clip = Clip("a", "a.wav", 'größer, "lauter"', start=0.1)
    >>> write_manifest([clip], f"{folder.name}/manifest.csv")
    >>> read_manifest(f"{folder.name}/manifest.csv") == [clip]
    True
    """
    write_table(path, COLUMNS, map(dataclasses.astuple, clips))


def read_manifest(path: str) -> list[Clip]:
    """Reads clips from a CSV file.

    Arguments
    ---------
    path : str
        A CSV file with the columns id, path and label, and any other field of `Clip`.

    Returns
    -------
    list[Clip]
        The clips in the file's order.

    Raises
    ------
    UsageError
        A column is missing, or a field cannot be understood.
    """
    return [clip_from(row, path) for row in read_table(path, REQUIRED_COLUMNS)]


def clip_from(row: dict[str, str], path: str) -> Clip:
    """Makes a clip of a row of a manifest.

    Arguments
    ---------
    row : dict[str, str]
        The text of each column; those that a clip has no field for are left out.
    path : str
        The manifest, for the error.

    Returns
    -------
    Clip
        The clip.

    Raises
    ------
    UsageError
        A field cannot be understood.

    Example
    -------
    >>> clip_from({"id": "a", "path": "a.wav", "label": "dog", "start": "0.5", "stop": ""}, "clips.csv").start
    0.5
    """
    given = {name: row[name] for name in COLUMNS if name in row and (row[name] or name not in NUMBERS)}
    try:
        given["label"].encode()  # labels are printed and stored: they must be real text
        return Clip(**{name: NUMBERS.get(name, str)(text) for name, text in given.items()})
    except ValueError as fault:
        raise UsageError(
            f"The clip {row['id']!r} of {path} was asked for.",
            f"A field cannot be understood: {fault}.",
            "Write folds as whole numbers, times in seconds, text in UTF-8.",
        ) from fault


def label_map(clips: Iterable[Clip]) -> dict[str, int]:
    """Numbers the classes of the train split in alphabetical order.

    Arguments
    ---------
    clips : Iterable[Clip]
        Clips of all splits.

    Returns
    -------
    dict[str, int]
        Label to index.

    Example
    -------
    >>> label_map([Clip("a", "a.wav", "dog", "train"), Clip("b", "b.wav", "cat", "train")])
    {'cat': 0, 'dog': 1}
    """
    return {label: index for index, label in enumerate(sorted({clip.label for clip in clips if clip.split == "train"}))}
