"""Fluent Speech Commands: spoken commands to a household, 31 intents, given lists whose speakers differ.

Lugosch et al., "Speech Model Pre-training for End-to-End Spoken Language Understanding", Interspeech 2019,
https://arxiv.org/abs/1904.03670
"""

from pathlib import Path

from brainplug.data.corpora.layout import check_layout, path_below
from brainplug.data.manifest import Clip, read_table
from brainplug.data.protocol.splits import SPLITS

LISTS = {split: f"data/{split}_data.csv" for split in SPLITS}
COLUMNS = ("path", "speakerId", "action", "object", "location")


def list_clips(data_folder: str, **_: object) -> list[Clip]:
    """Lists the clips of the three given lists.

    Arguments
    ---------
    data_folder : str
        Folder with ``wavs/`` and, in ``data/``, ``train_data.csv``, ``valid_data.csv`` and ``test_data.csv``.
    **_ : object
        Options of other corpora, such as a fold, of which this one has none.

    Returns
    -------
    list[Clip]
        Clips in the order of the lists. Their label is the intent (action, object and location), their group the
        speaker.

    Raises
    ------
    UsageError
        No such folder, list or column.

    Example
    -------
    >>> list_clips("nowhere")
    Traceback (most recent call last):
    brainplug.errors.UsageError: Fluent Speech Commands was asked for in nowhere. ...
    """
    folder = check_layout("Fluent Speech Commands", data_folder, ["wavs/", *LISTS.values()])
    return [
        _clip_from(row, folder, split)
        for split, table in LISTS.items()
        for row in read_table(str(folder / table), COLUMNS)
    ]


def _clip_from(row: dict[str, str], folder: Path, split: str) -> Clip:
    return Clip(
        id=row["path"].removesuffix(".wav"),
        path=path_below(folder, row["path"]),
        label=f"{row['action']} {row['object']} {row['location']}",
        split=split,
        group=row["speakerId"],
    )
