"""What the official corpora share: a layout to check, folds, and groups that their own splits may divide."""

import contextlib
import dataclasses
import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from brainplug.data.manifest import Clip
from brainplug.errors import UsageError

logger = logging.getLogger(__name__)


def check_layout(corpus: str, data_folder: str, parts: Sequence[str]) -> Path:
    """Finds a corpus, and names the part of it that is missing.

    Arguments
    ---------
    corpus : str
        Its name.
    data_folder : str
        Where it should be.
    parts : Sequence[str]
        What the folder holds; the names of folders end with a slash.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    UsageError
        The folder or a part of it does not exist, or may not be read.

    Example
    -------
    >>> check_layout("ESC-50", getfixture("tmp_path"), ["audio/"])
    Traceback (most recent call last):
    brainplug.errors.UsageError: ...audio does not exist. Write --data_folder=DIR, a folder that holds audio/
    """
    folder = Path(os.path.abspath(os.path.expanduser(data_folder)))
    for part in ("/", *parts):
        path = folder / part.lstrip("/")
        with readable(path):
            there = path.is_dir() if part.endswith("/") else path.is_file()
        if not there:
            raise UsageError(
                f"{corpus} was asked for in {data_folder}.",
                f"{path} does not exist.",
                f"Write --data_folder=DIR, a folder that holds {', '.join(parts)}",
            )
    return folder


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Says what may not be read, where ``Path.glob`` would pass over it.

    Arguments
    ---------
    path : Path
        The file or folder that is read meanwhile.

    Raises
    ------
    UsageError
        It cannot be read.

    Example
    -------
    >>> with readable(Path("nowhere")):
    ...     os.listdir("nowhere")
    Traceback (most recent call last):
    brainplug.errors.UsageError: nowhere was asked for. It cannot be read: No such file or directory. ...
    """
    try:
        yield
    except OSError as fault:
        found = f"It cannot be read: {fault.strerror}."
        raise UsageError(f"{path} was asked for.", found, "Check its permissions.") from fault


def path_below(folder: Path, name: str) -> str:
    """Joins a corpus's folder and what its table names in it.

    Arguments
    ---------
    folder : Path
        The folder.
    name : str
        The table's path of a file.

    Returns
    -------
    str
        The file's path.

    Raises
    ------
    UsageError
        The name holds ``..`` and climbs out of the folder.

    Example
    -------
    >>> path_below(Path("audio"), "1.wav")
    'audio/1.wav'
    """
    if ".." in re.split(r"[/\\]", name):
        asked, found = f"The files in {folder} were asked for.", f"Their table names {name!r}, which climbs out of it."
        raise UsageError(asked, found, "Write paths without '..', or take the official table.")
    return str(folder / name)


def check_fold(corpus: str, fold: int, folds: Collection[int]) -> None:
    """Refuses a fold that a corpus does not have.

    Arguments
    ---------
    corpus : str
        Its name.
    fold : int
        What was asked for.
    folds : Collection[int]
        What it has, in order.

    Raises
    ------
    UsageError
        There is no such fold.

    Example
    -------
    >>> check_fold("ESC-50", 6, range(1, 6))
    Traceback (most recent call last):
    brainplug.errors.UsageError: The fold 6 was asked for. ESC-50 has folds 1 to 5. Write --fold=1, or up to 5
    """
    if fold not in folds:
        found = f"{corpus} has folds {min(folds)} to {max(folds)}."
        raise UsageError(
            f"The fold {fold!r} was asked for.", found, f"Write --fold={min(folds)}, or up to {max(folds)}"
        )


def without_divided_groups(corpus: str, clips: Sequence[Clip]) -> list[Clip]:
    """Forgets the groups that a corpus's official splits divide, and says so: the official splits stay as they are.

    Arguments
    ---------
    corpus : str
        Its name.
    clips : Sequence[Clip]
        Its clips, in their official splits.

    Returns
    -------
    list[Clip]
        The same; clips of a group that stands in several splits have none.

    Example
    -------
    >>> clips = [Clip("a", "a.wav", "dog", "train", group="Rex"), Clip("b", "b.wav", "dog", "test", group="Rex")]
    >>> [clip.group for clip in without_divided_groups("Dogs", clips)]
    ['', '']
    """
    splits_of = defaultdict(set)
    for clip in clips:
        splits_of[clip.group].add(clip.split)
    divided = {group for group, splits in splits_of.items() if group and len(splits) > 1}
    if divided:
        logger.warning(
            "The official splits of %s divide %d of %d speakers or recordings, first %r. They are kept as they are.",
            corpus, len(divided), len(splits_of), min(divided),
        )  # fmt: skip
    return [dataclasses.replace(clip, group="") if clip.group in divided else clip for clip in clips]
