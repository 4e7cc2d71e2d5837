"""UrbanSound8K: 8,732 stretches of up to 4 s of city sounds, 10 classes, ten official folds.

Salamon, Jacoby and Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM Multimedia 2014. Neighbouring
stretches of one recording overlap, so that a split which divides recordings tests what was trained on.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sklearn.model_selection import StratifiedGroupKFold

from brainplug.data.corpora.layout import check_fold, check_layout, path_below, without_divided_groups
from brainplug.data.manifest import Clip, read_table
from brainplug.errors import DataError, nearest

FOLDS = range(1, 11)
CLASSES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling", "gun_shot",
    "jackhammer", "siren", "street_music",
)  # fmt: skip
TABLE = "metadata/UrbanSound8K.csv"
COLUMNS = ("slice_file_name", "fsID", "fold", "class")


def list_clips(data_folder: str, fold: int, seed: int = 0, paper_code: bool = False, **_: object) -> list[Clip]:
    """Lists the clips of one of the ten folds, in the order of the table.

    Their group is the source recording, unless the official folds themselves divide it.

    Arguments
    ---------
    data_folder : str
        Folder with ``audio/fold1`` to ``audio/fold10`` and ``metadata/UrbanSound8K.csv``.
    fold : int
        The test fold, 1 to 10. Of the recordings in the nine others, about one in nine validates, drawn so that the
        classes keep their shares.
    seed : int
        Of the draw.
    paper_code : bool
        The published protocol has no validation set: all but the smallest recording of each class train. Nothing may
        be selected by so few clips.
    """
    check_fold("UrbanSound8K", fold, FOLDS)
    folder = check_layout("UrbanSound8K", data_folder, ["audio/", TABLE])
    clips = [_clip_from(row, folder, fold) for row in read_table(str(folder / TABLE), COLUMNS)]
    training = [clip for clip in clips if clip.split == "train"]
    valid = _smallest_recordings(training) if paper_code else _drawn_recordings(training, seed)
    clips = [
        dataclasses.replace(clip, split="valid") if clip.split == "train" and clip.group in valid else clip
        for clip in clips
    ]
    return without_divided_groups("UrbanSound8K", clips)


def _clip_from(row: dict[str, str], folder: Path, test_fold: int) -> Clip:
    name, fold, label = row["slice_file_name"], row["fold"], row["class"]
    if fold not in map(str, FOLDS):
        raise DataError("The official folds 1 to 10 were asked for.", f"{name} is in fold {fold!r}.", f"Mend {TABLE}.")
    if label not in CLASSES:
        problem = f"{name} is of the class {label!r}."
        raise DataError("The ten official classes were asked for.", problem, f"Write {nearest(label, CLASSES)}")
    return Clip(
        id=name.removesuffix(".wav"),
        path=path_below(folder / "audio" / f"fold{fold}", name),
        label=label,
        split="test" if int(fold) == test_fold else "train",
        fold=int(fold),
        group=row["fsID"],
    )


def _drawn_recordings(clips: Sequence[Clip], seed: int) -> set[str]:
    """Draws as many recordings as a fold has clips, classes in their shares as far as recordings stay whole."""
    labels, groups = [clip.label for clip in clips], [clip.group for clip in clips]
    splitter = StratifiedGroupKFold(n_splits=len(FOLDS) - 1, shuffle=True, random_state=seed)
    _, drawn = next(splitter.split(clips, labels, groups))
    return {groups[i] for i in drawn}


def _smallest_recordings(clips: Sequence[Clip]) -> set[str]:
    """Names the recording of each class that has the fewest clips."""
    sizes = Counter(clip.group for clip in clips)
    largest_first = sorted(clips, key=lambda clip: (sizes[clip.group], clip.group), reverse=True)
    return set({clip.label: clip.group for clip in largest_first}.values())  # of one class the last one stays
