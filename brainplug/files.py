"""Files that are either whole or not there."""

import json
import os
from pathlib import Path


def write_json(value: object, path: Path) -> None:
    """Writes JSON to a temporary name and renames it.

    Arguments
    ---------
    value : object
        What JSON can hold.
    path : Path
        The file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "one.json"
    >>> write_json({"one": 1}, path)
    >>> path.read_text()
    '{\\n  "one": 1\\n}\\n'
    """
    unfinished = Path(f"{path}.unfinished-{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    os.replace(unfinished, path)
