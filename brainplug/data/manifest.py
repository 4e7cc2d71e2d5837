"""Manifests: the CSV lists of clips that every corpus is turned into."""

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from brainplug.data.spelling import decimal, is_text, local_path, open_table, separator_of, why_no_text
from brainplug.errors import DataError, nearest
from brainplug.files import atomic_file


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled stretch of audio: a file, or a part of it.

    Arguments
    ---------
    id : str
        Name of the clip, unique in its manifest.
    split : str
        ``train``, ``valid`` or ``test``.
    fold : int, optional
        The corpus's own fold.
    group : str
        What must not be in two splits: a speaker or a source recording. Empty without one.
    start, stop : float, optional
        Where the clip begins and ends in the file, in seconds.
    duration : float, optional
        Its length in seconds, known once it has been decoded.
    text : str
        Its transcript. Empty without one.
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
# Those that are empty where they are not given.
NUMBERS: dict[str, Callable[[str], Any]] = {"fold": int, "start": decimal, "stop": decimal, "duration": decimal}


def read_table(path: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields the rows of a CSV file whose header has some columns, as spreadsheets write it too.

    It is in UTF-8 or UTF-16; a first line ``sep=;`` or else the header tells the separator. Empty fields beyond the
    header are left out. A `DataError` says what is wrong with the file, its header or one of its rows.
    """
    asked = f"The table {path} was asked for."
    if not os.path.isfile(path):
        raise DataError(asked, "There is no such file.", "Check its name and folder.")
    try:
        with open_table(path) as file:
            first = file.readline()
            above = int(first.startswith("sep="))  # lines above the header
            if not above:
                file.seek(0)
            reader = csv.DictReader(file, delimiter=separator_of(first, columns), strict=True)
            _check_columns(path, columns, reader.fieldnames or [])
            for row in reader:
                if any(row.pop(None, ())) or None in row.values():
                    raise csv.Error("it has not as many fields as the header; quote fields with commas")
                if any("\0" in text for text in row.values()):
                    raise csv.Error("it has a NUL byte")
                yield row
    except csv.Error as fault:
        raise DataError(asked, f"Line {above + reader.line_num}: {fault}.", "Mend that line.") from fault
    except UnicodeDecodeError as fault:
        raise DataError(asked, f"It is not {fault.encoding}: {fault.reason}.", "Save it in UTF-8.") from fault
    except OSError as fault:
        raise DataError(asked, f"It cannot be read: {fault.strerror}.", "Check the file's permissions.") from fault


def _check_columns(path: str, columns: Sequence[str], header: Sequence[str]) -> None:
    asked = f"The columns {', '.join(columns)} were asked for in {path}."
    twice = [column for column in dict.fromkeys(header) if column and header.count(column) > 1]
    if twice:
        raise DataError(asked, f"It has {', '.join(twice)} more than once.", "Name each column differently.")
    missing = [column for column in columns if column not in header]
    if missing:
        proposals = [f"{column} (perhaps now: {nearest(column, header) or 'none'})" for column in missing]
        raise DataError(
            asked,
            f"It lacks {', '.join(missing)}; it has {', '.join(header) or 'no columns'}.",
            f"Name the columns {', '.join(proposals)}.",
        )


def read_list(path: str, columns: Sequence[str], folder: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a list that a person wrote, with their numbers; paths become those of this machine.

    Relative paths begin in `folder`. Rows of a spreadsheet without any entry are left out.
    """
    for number, row in enumerate(read_table(path, columns), start=1):
        if any(row.values()):
            yield number, {**row, "path": local_path(row["path"], folder)}


def write_table(path: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file with a header; it appears when it is complete."""
    with atomic_file(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_manifest(clips: Iterable[Clip], path: str) -> None:
    """Writes clips to a CSV file, one a row. An older file is replaced in one step.

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
    """Reads the clips of a CSV file with the columns id, path and label, and any other field of `Clip`."""
    return [clip_from(row, path) for row in read_table(path, REQUIRED_COLUMNS)]


def clip_from(row: dict[str, str], path: str) -> Clip:
    """Makes a clip of a row of the manifest at `path`, which is named in errors; unknown columns are left out.

    Example
    -------
    >>> clip_from({"id": "a", "path": "a.wav", "label": "dog", "start": "0.5", "stop": ""}, "clips.csv").start
    0.5
    """
    given = {name: row[name] for name in COLUMNS if name in row and (row[name] or name not in NUMBERS)}
    try:
        for text in (given["label"], given.get("text", "")):  # they are printed and stored
            if not is_text(text):
                raise ValueError(why_no_text(text))
        return Clip(**{name: NUMBERS.get(name, str)(text) for name, text in given.items()})
    except ValueError as fault:
        raise DataError(
            f"The clip {row['id']!r} of {path} was asked for.",
            f"A field cannot be understood: {fault}.",
            "Write folds as whole numbers, times in seconds, text in UTF-8.",
        ) from fault


def label_map(clips: Iterable[Clip]) -> dict[str, int]:
    """Numbers the classes of the train split in alphabetical order.

    Example
    -------
    >>> label_map([Clip("a", "a.wav", "dog", "train"), Clip("b", "b.wav", "cat", "train")])
    {'cat': 0, 'dog': 1}
    """
    return {label: index for index, label in enumerate(sorted({clip.label for clip in clips if clip.split == "train"}))}
