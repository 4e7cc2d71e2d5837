"""Checks splits: their names, ids, classes, and that groups and stretches of audio are in one split each."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence

from brainplug.data.manifest import Clip
from brainplug.errors import DataError, nearest

SPLITS = ("train", "valid", "test")


def check_splits(clips: Sequence[Clip]) -> None:
    """Refuses splits that cannot be trained on, or that leak from one into another.

    Those are empty or unknown splits, a class in one split only or not in train, an id that occurs twice, a group or a
    stretch of audio in two splits.

    Example
    -------
    >>> check_splits([Clip(split, f"{split}.wav", "dog", split, group="Rex") for split in SPLITS])
    Traceback (most recent call last):
    brainplug.errors.DataError: ... The group 'Rex' is in train and valid. ...
    """
    _check_split_names(clips)
    _check_ids(clips)
    _check_classes(clips)
    _check_groups(clips)
    _check_overlaps(clips)


def _check_split_names(clips: Sequence[Clip]) -> None:
    asked = f"The splits {', '.join(SPLITS)} were asked for."
    counts = Counter(clip.split for clip in clips)
    for split, count in counts.items():
        if split not in SPLITS:
            raise DataError(asked, f"{count} clips are in {split!r}.", f"Write {nearest(split, SPLITS)}.")
    for split in SPLITS:
        if not counts[split]:
            raise DataError(asked, f"The split {split} is empty.", f"Put clips into {split}.")


def _check_ids(clips: Sequence[Clip]) -> None:
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        problem = f"{len(twice)} ids occur more than once, first {', '.join(map(repr, twice[:3]))}."
        raise DataError("Clips with one id each were asked for.", problem, "Give each clip its own id.")


def _check_classes(clips: Sequence[Clip]) -> None:
    splits_of = defaultdict(set)
    for clip in clips:
        splits_of[clip.label].add(clip.split)
    for label, splits in sorted(splits_of.items()):
        if len(splits) == 1 or "train" not in splits:
            raise DataError(
                "Classes that are trained and tested were asked for.",
                f"The class {label!r} occurs in {' and '.join(sorted(splits))} only.",
                "Put clips of it into train and another split, or leave the class out.",
            )


def _check_groups(clips: Sequence[Clip]) -> None:
    split_of: dict[str, str] = {}
    for clip in clips:
        if clip.group and split_of.setdefault(clip.group, clip.split) != clip.split:
            raise _leak(f"The group {clip.group!r} is in {split_of[clip.group]} and {clip.split}.")


def _check_overlaps(clips: Sequence[Clip]) -> None:
    """Sweeps over each file, whatever links lead to it, in the order of the clips' starts."""
    file_of = {clip.path: os.path.realpath(clip.path) for clip in clips}
    furthest: dict[str, float] = {}  # of one file: split -> last second that it reaches so far
    path = None
    for clip in sorted(clips, key=lambda clip: (file_of[clip.path], clip.start or 0.0)):
        if file_of[clip.path] != path:
            path, furthest = file_of[clip.path], {}
        for split, stop in furthest.items():
            if split != clip.split and (clip.start or 0.0) < stop:
                raise _leak(f"The same audio of {clip.path} is in {split} and {clip.split}.")
        stop = float("inf") if clip.stop is None else clip.stop
        furthest[clip.split] = max(stop, furthest.get(clip.split, 0.0))


def _leak(problem: str) -> DataError:
    return DataError("Splits that share nothing were asked for.", problem, "Put all of it into one split.")
