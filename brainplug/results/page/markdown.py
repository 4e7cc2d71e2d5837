"""Reads the Markdown of tables of runs: tables, and lines of text."""

import re
from dataclasses import dataclass, field

CELLS = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Block:
    """A line of text, or a table of column names and rows of cells."""

    text: str = ""
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def read_markdown(text: str) -> list[Block]:
    r"""The blocks of a document as `brainplug.results.tables` writes it.

    Example
    -------
    >>> [table, note] = read_markdown("| method | % |\n| --- | --- |\n| lora | 90 |\n\nA note.")
    >>> table.columns, table.rows, note.text
    (['method', '%'], [['lora', '90']], 'A note.')
    """
    blocks: list[Block] = []
    table: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in CELLS.split(line)[1:-1]])
            continue
        if table:
            columns, _, *rows = table
            blocks.append(Block(columns=columns, rows=rows))
            table = []
        if line.strip():
            blocks.append(Block(text=line.strip()))
    return blocks
