"""ESC-50: 2,000 environmental sounds of five seconds, 50 classes, five official folds.

Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015. The folds keep all clips that were
cut from one recording together.
"""

import os
from pathlib import Path

from brainplug.data.corpora.layout import check_fold, check_layout, path_below
from brainplug.data.manifest import Clip, read_table
from brainplug.data.protocol.folds import split_of
from brainplug.errors import DataError, nearest

FOLDS = range(1, 6)
SUBSETS = ("esc10",)
TABLE = "meta/esc50.csv"
COLUMNS = ("filename", "fold", "category", "esc10", "src_file")


def list_clips(data_folder: str, fold: int, subset: str | None = None, **_: object) -> list[Clip]:
    """Lists the clips of one of the five rotations, in the order of the table; their group is the source recording.

    Arguments
    ---------
    data_folder : str
        Folder with ``audio/`` and ``meta/esc50.csv``.
    fold : int
        The test fold, 1 to 5. The fold before it validates and the other three train: fold 5 trains on 1 to 3 and
        validates on 4; fold 1 trains on 2 to 4 and validates on 5.
    subset : str, optional
        ``esc10`` for the ten classes of ESC-10; all 50 without it.
    """
    check_fold("ESC-50", fold, FOLDS)
    if subset not in (None, *SUBSETS):
        problem = "ESC-50 has no such part."
        raise DataError(f"The subset {subset!r} was asked for.", problem, f"Write --subset={nearest(subset, SUBSETS)}")
    folder = check_layout("ESC-50", data_folder, ["audio/", TABLE])
    rows = read_table(str(folder / TABLE), COLUMNS)
    return [_clip_from(row, folder, fold) for row in rows if subset is None or row["esc10"].lower() == "true"]


def _clip_from(row: dict[str, str], folder: Path, test_fold: int) -> Clip:
    if row["fold"] not in map(str, FOLDS):
        problem = f"{row['filename']} is in fold {row['fold']!r}."
        raise DataError("The official folds 1 to 5 were asked for.", problem, "Take the official meta/esc50.csv.")
    fold = int(row["fold"])
    return Clip(
        id=os.path.splitext(row["filename"])[0],
        path=path_below(folder / "audio", row["filename"]),
        label=row["category"],
        split=split_of(fold, test_fold, FOLDS),
        fold=fold,
        group=row["src_file"],
    )
