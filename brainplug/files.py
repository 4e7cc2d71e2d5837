"""Files that are either whole or not there, and the recipes that come with the package."""

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from brainplug.errors import DataError

# Files in a run's folder that one room writes and another one reads.
RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
OBSERVATIONS = "observations.safetensors"
TRAIN_LOG = "train_log.txt"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "w", sync: bool = True, **options: Any) -> Iterator[IO[Any]]:
    """Opens a file under a temporary name, and renames it to its own once all is written; arguments as for ``open``.

    Readers see the old file or the new one, never a part, whenever the process dies or the power fails. A missing
    folder is made. Without `sync` a power cut may tear the file: for what is checked when it is read.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, mode, **options) as file:
            yield file
        if sync:
            replace(temporary, path)
        else:
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def replace(finished: str | Path, path: str | Path) -> None:
    """Gives a finished file or folder its name, in place of what had it: after a power cut there is the old or the new.

    Its content is on the disk before the name is, and the name before this function returns.
    """
    for parent, folders, names in os.walk(finished):
        for name in (*names, *folders):
            _to_disk(os.path.join(parent, name))
    _to_disk(finished)
    os.replace(finished, path)
    _to_disk(os.path.dirname(os.path.abspath(path)))


def _to_disk(path: str | Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems know no folders here
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_files(folder: str | Path, name: str) -> list[Path]:
    """All files of a name below a folder, sorted, even while others write and remove folders there.

    Example
    -------
    >>> find_files("hparams", "train.yaml"), find_files("nowhere", "train.yaml")
    ([PosixPath('hparams/train.yaml')], [])
    """
    # Path.rglob fails where a folder vanishes between being listed and being read; os.walk passes over it.
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) if name in names)


def read_json(path: str | Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a JSON file that holds an object with some keys; a `DataError` says what is wrong with any other.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> _ = path.write_text("[1]")
    >>> read_json(path)
    Traceback (most recent call last):
    brainplug.errors.DataError: ... It holds no object. ...
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        problem = "" if isinstance(values, dict) else "It holds no object."
    except (OSError, ValueError, RecursionError) as error:
        problem = f"It cannot be read: {error}."
    if not problem and (missing := [key for key in keys if key not in values]):
        problem = f"It lacks {', '.join(missing)}."
    if problem:
        raise DataError(f"The file {path} was asked for.", problem, "Copy it again, or remove what it belongs to")
    return values


def write_json(value: object, path: Path) -> None:
    """Writes JSON as an `atomic_file`."""
    with atomic_file(path, encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def folder_name(text: str) -> str:
    """Turns any text into the name of a folder: only letters, digits, ``_``, ``-`` and ``.`` remain.

    Example
    -------
    >>> folder_name("conformer adapter, Houlsby")
    'conformer_adapter_Houlsby'
    """
    return re.sub(r"[^\w.-]+", "_", text).strip("_.")


def hparams_folder() -> Path:
    """The folder of ``train.yaml``, ``methods.yaml`` and the others: of the installed package, else of the clone."""
    return packaged_folder("hparams")


def packaged_folder(name: str) -> Path:
    """A folder of the installed package, else of the clone."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


def find_recipe(name: str) -> str:
    """Finds a file below ``hparams/`` or ``recipes/`` in the package where the current folder does not have it.

    A path that is neither here nor in the package is returned as it is.

    Example
    -------
    >>> find_recipe("nowhere.yaml")
    'nowhere.yaml'
    """
    path = Path(name)
    if path.exists() or path.parts[:1] not in (("hparams",), ("recipes",)):
        return name
    packaged = packaged_folder(path.parts[0]).joinpath(*path.parts[1:])
    if not packaged.is_file():
        return name
    logger.warning("There is no %s here; %s is used.", name, packaged)
    return str(packaged)
