"""Reads what Markdown the tables need: tables, lists and lines of text."""

import re
from dataclasses import dataclass, field

CELLS = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Block:
    """A table, or a line of text.

    Arguments
    ---------
    text : str
        A line; empty of a table.
    columns : list[str]
        Of a table, their names.
    rows : list[list[str]]
        Of a table, its cells.
    """

    text: str = ""
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def read_markdown(text: str) -> list[Block]:
    r"""Reads Markdown as `brainplug.results.report.markdown_table` and the tables of runs write it.

    Arguments
    ---------
    text : str
        Markdown.

    Returns
    -------
    list[Block]
        In order.

    Example
    -------
    >>> [table, note] = read_markdown("| method | % |\n| --- | --- |\n| lora | 90 |\n\nA note.")
    >>> table.columns, table.rows, note.text
    (['method', '%'], [['lora', '90']], 'A note.')
    """
    blocks, table = [], []
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
