"""Rows of results that are appended to a file as they come, and continued by a later call."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from brainplug.data.manifest import Clip
from brainplug.errors import DataError
from brainplug.inference.base import ClipResult

CLIP_COLUMNS = ("path", "start", "stop")  # the first ones of each row
Row = dict[str, object]


def clip_columns(clip: Clip | ClipResult) -> Row:
    """The values of `CLIP_COLUMNS`."""
    return {"path": clip.path, "start": clip.start, "stop": clip.stop}


def key_of(row: Row) -> tuple[str, ...]:
    """Which clip a row is about."""
    return tuple("" if row[name] is None else str(row[name]) for name in CLIP_COLUMNS)


def to_text(name: str, value: object) -> str:
    """A value as CSV and tables show it; probabilities have six decimals."""
    return "" if value is None else f"{value:.6f}" if name.startswith("probability") else str(value)


def csv_line(values: Sequence[str]) -> str:
    """A line of CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def format_row(row: Row, as_json: bool) -> str:
    """A row as a line: a JSON object, or CSV."""
    if as_json:
        return json.dumps(row, ensure_ascii=False) + "\n"
    return csv_line([to_text(name, value) for name, value in row.items()])


class RowFile:
    """A file of CSV, or of JSON lines, to which rows are added; a last line that was cut short is removed.

    A row has the values of `columns` (`CLIP_COLUMNS` and others) and a last one, ``adapter``: the model that made it. A
    file that holds something else, or results of another model, raises a `DataError` and stays as it is.
    """

    def __init__(self, path: Path, columns: Sequence[str], adapter: str, as_json: bool):
        self.path, self.columns, self.adapter, self.as_json = path, [*columns, "adapter"], adapter, as_json
        self.heading = "" if as_json else csv_line(self.columns)
        self.done: set[tuple[str, ...]] = set()
        self.rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            size = self._read(path.read_bytes()) if path.exists() else 0
            self._file = path.open("ab")
            self._file.truncate(size)
            self._append("" if size else self.heading)
        except OSError as error:
            raise DataError(
                f"The output {path} was asked for.", f"It cannot be written: {error}.", "Write another --output"
            ) from error

    def write(self, row: Row) -> None:
        """Appends a row."""
        self._append(format_row({**row, "adapter": self.adapter}, self.as_json))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "surrogateescape"))
        self._file.flush()

    def _read(self, content: bytes) -> int:
        """Collects the clips of all whole rows; returns the size of these rows."""
        size = content.rfind(b"\n") + 1
        try:
            self._check_beginning(content)
            for row in self._parse(content[:size].decode("utf-8", "surrogateescape")):
                if row["adapter"] != self.adapter:
                    raise ValueError(f"results of another model, {row['adapter']} (this one is {self.adapter})")
                self.done.add(key_of(row))
                self.rows += 1
        except (ValueError, TypeError, RecursionError, csv.Error) as error:
            raise DataError(
                f"The results in {self.path} were to be continued.",
                f"The file holds {error}.",
                f"Write another --output, or remove the file; the columns are {', '.join(self.columns)}",
            ) from error
        return size

    def _check_beginning(self, content: bytes) -> None:
        beginning = b'{"path": ' if self.as_json else self.heading.encode()
        if content[: len(beginning)] != beginning[: len(content)]:
            first = content.partition(b"\n")[0][:80].decode("utf-8", "replace")
            raise ValueError(f"something else; it begins with {first!r}")

    def _parse(self, text: str) -> list[Row]:
        lines = io.StringIO(text, newline="")
        rows: list[Row] = (
            [json.loads(line) for line in lines] if self.as_json else [*csv.DictReader(lines, strict=True)]
        )
        for number, row in enumerate(rows, start=1):
            if list(row) != self.columns or (None in row.values() and not self.as_json):
                raise ValueError(f"a row {number} with other columns")
        return rows
