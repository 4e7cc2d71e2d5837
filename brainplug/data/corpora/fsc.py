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
    """Lists the clips of the three given lists, labelled by intent (action, object, location), grouped by speaker.

    `data_folder` holds ``wavs/`` and, in ``data/``, ``train_data.csv``, ``valid_data.csv`` and ``test_data.csv``.
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
