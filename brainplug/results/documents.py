"""Puts generated tables into documents, between two marks."""

from pathlib import Path

from brainplug.errors import UsageError
from brainplug.files import atomic_file

Marks = tuple[str, str]


def table_marks(name: str, command: str) -> Marks:
    """The lines before and after a table in a document.

    Example
    -------
    >>> table_marks("results", "python -m brainplug report")[1]
    '<!-- end of results -->'
    """
    return f"<!-- {name}: written by `{command}` -->", f"<!-- end of {name} -->"


RESULTS_MARKS = table_marks("results", "python -m brainplug report")
METHODS_MARKS = table_marks("methods", "python -m brainplug methods")


def write_between_marks(text: str, document: str, marks: Marks) -> None:
    """Replaces what is between the two marks of a document.

    Raises
    ------
    UsageError
        The document cannot be read, or lacks the marks.
    """
    asked = f"A table was to be written into {document}."
    try:
        content = Path(document).read_text()
    except OSError as error:
        raise UsageError(asked, f"It cannot be read: {error}.", "Name a document with marks") from error
    before, start, rest = content.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise UsageError(asked, "It lacks the marks around the table.", f"Add the lines {marks[0]} and {marks[1]}")
    with atomic_file(document) as file:
        file.write(f"{before}{start}\n{text}\n{end}{after}")
