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
from brainplug.errors import DataError

logger = logging.getLogger(__name__)


def check_layout(corpus: str, data_folder: str, parts: Sequence[str]) -> Path:
    """The absolute path of a corpus's folder, once all of its `parts` are there; names of folders end with a slash.

    Example
    -------
    >>> check_layout("ESC-50", getfixture("tmp_path"), ["audio/"])
    Traceback (most recent call last):
    brainplug.errors.DataError: ...audio does not exist. Write --data_folder=DIR, a folder that holds audio/
    """
    folder = Path(os.path.abspath(os.path.expanduser(data_folder)))
    for part in ("/", *parts):
        path = folder / part.lstrip("/")
        with readable(path):
            exists = path.is_dir() if part.endswith("/") else path.is_file()
        if not exists:
            raise DataError(
                f"{corpus} was asked for in {data_folder}.",
                f"{path} does not exist.",
                f"Write --data_folder=DIR, a folder that holds {', '.join(parts)}",
            )
    return folder


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Names a file or folder that cannot be read in a `DataError`, where ``Path.glob`` would pass over it."""
    try:
        yield
    except OSError as fault:
        problem = f"It cannot be read: {fault.strerror}."
        raise DataError(f"{path} was asked for.", problem, "Check its permissions.") from fault


def path_below(folder: Path, name: str) -> str:
    """Joins a corpus's folder and a file's name in its table; a name with ``..`` raises a `DataError`."""
    if ".." in re.split(r"[/\\]", name):
        problem = f"Their table names {name!r}, which climbs out of it."
        write = "Write paths without '..', or take the official table."
        raise DataError(f"The files in {folder} were asked for.", problem, write)
    return str(folder / name)


def check_fold(corpus: str, fold: int, folds: Collection[int]) -> None:
    """Refuses a fold that a corpus does not have."""
    if fold not in folds:
        problem = f"{corpus} has folds {min(folds)} to {max(folds)}."
        raise DataError(
            f"The fold {fold!r} was asked for.", problem, f"Write --fold={min(folds)}, or up to {max(folds)}"
        )


def without_divided_groups(corpus: str, clips: Sequence[Clip]) -> list[Clip]:
    """Clears the groups that a corpus's official splits divide, with a warning; the official splits stay as they are.

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
