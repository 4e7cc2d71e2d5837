"""Figures of a soak: a JSON file that grows with each trial, and a table of it in docs/reliability.md."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from brainplug.results.documents import table_marks, write_between_marks
from brainplug.results.tables import markdown_table
from tests.integration.running import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "reliability.md"
PLACES = {"kills": "soak.json", "bad_inputs": "bad_inputs.json", "adapters": "hostile_adapters.json"}  # in docs/


def read_figures(script: str) -> dict[str, Any]:
    """What earlier calls of a script measured; empty where there was none."""
    path = DOCUMENT.with_name(PLACES[script])
    return json.loads(path.read_text()) if path.exists() else {}


def write_figures(script: str, figures: Mapping[str, Any]) -> None:
    DOCUMENT.with_name(PLACES[script]).write_text(json.dumps(figures, indent=2) + "\n")


def counted(counts: Mapping[str, int], more: Iterable[str]) -> dict[str, int]:
    """Counts with some more, in the order of their names."""
    return dict(sorted((Counter(counts) + Counter(more)).items()))


def document(script: str, figures: Mapping[str, Any]) -> None:
    """Writes the table of a script's figures into the document."""
    marks = table_marks(script.replace("_", " "), f"python -m tests.soak.{script}")
    write_between_marks(table(figures), str(DOCUMENT), marks)


def table(figures: Mapping[str, Any]) -> str:
    """A row for each figure; counts of several kinds stand in one row."""
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{kind} {count:,}" for kind, count in value.items())
        elif isinstance(value, list):
            value = len(value)
        rows.append([name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)])
    return markdown_table(["figure", ""], rows)
