"""Speech Commands v2: one-second recordings of 35 words by many speakers, with given lists.

Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018, https://arxiv.org/abs/1804.03209
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from brainplug.data.corpora.layout import check_layout, path_below, readable, without_divided_groups
from brainplug.data.decoding import READ_ERRORS, why_unreadable
from brainplug.data.manifest import Clip
from brainplug.data.protocol.splits import SPLITS
from brainplug.errors import DataError, nearest

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER_WORDS = (
    "backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four", "happy", "house", "learn",
    "marvin", "nine", "one", "seven", "sheila", "six", "three", "tree", "two", "visual", "wow", "zero",
)  # fmt: skip
TASKS = (35, 12)
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
NOISE_FOLDER = "_background_noise_"
# Of the 12 classes, unknown and silence have this share of the commands' number each, in every split, as in the data
# set's own TensorFlow tutorial; the hash rule takes the same share of the speakers for validation, and for test.
PERCENT = 10
HASHES = 2**27
# Part of every noise file for each split, in percent of its length: splits share no noise.
NOISE_OF = {"train": (0, 80), "valid": (80, 90), "test": (90, 100)}
STEPS = 100  # a second: silence clips start at multiples of 10 ms


def list_clips(data_folder: str, classes: int = 35, seed: int = 0, **_: object) -> list[Clip]:
    """Lists the clips of the 35 words, or of the task with 12 classes, in alphabetical order.

    Their group is the speaker, unless the given lists themselves divide the speaker's recordings.

    Arguments
    ---------
    data_folder : str
        Folder with one sub-folder a word, and ``validation_list.txt`` and ``testing_list.txt``; without both lists
        the official hash rule splits. The 12 classes need ``_background_noise_/``.
    classes : int
        35, every word a class, or 12: ten commands, ``unknown`` (draws from the other words) and ``silence``
        (one-second draws from the background noise).
    seed : int
        Of the draws.
    """
    if classes not in TASKS:
        problem = "Speech Commands has a task of 35 classes and one of 12."
        raise DataError(f"{classes!r} classes were asked for.", problem, "Write --classes=35, or --classes=12")
    parts = [NOISE_FOLDER + "/"] if classes == 12 else []
    folder = check_layout("Speech Commands", data_folder, parts)
    given = _given_splits(folder)
    names = sorted({*_recordings(folder), *given})
    clips = [_clip_from(folder, name, given.get(name, "train") if given else split_by_hash(name)) for name in names]
    if classes == 12:
        clips = _twelve_classes(clips, folder / NOISE_FOLDER, np.random.default_rng(seed))
    return without_divided_groups("Speech Commands", clips)


def _recordings(folder: Path) -> Iterator[str]:
    """Names of all recordings, as the lists write them: ``bed/dce5041a_nohash_1.wav``."""
    with readable(folder):
        words = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))]
    if not words:
        raise DataError(
            f"Speech Commands was asked for in {folder}.",
            "It holds no folder of a word.",
            "Write --data_folder=DIR, a folder that holds yes/, no/ and the others",
        )
    for word in sorted(words):
        if word not in COMMANDS + OTHER_WORDS:
            raise DataError(
                f"Speech Commands was asked for in {folder}.",
                f"It holds a folder {word!r}, which is none of its words.",
                f"Move it elsewhere, or name it {nearest(word, COMMANDS + OTHER_WORDS)}",
            )
    for word in words:
        with readable(folder / word):
            names = os.listdir(folder / word)
        yield from (f"{word}/{name}" for name in names if name.endswith(".wav"))


def _given_splits(folder: Path) -> dict[str, str]:
    """Recording -> split, from the two lists; empty where both are missing."""
    with readable(folder):
        listed = any((folder / name).is_file() for name in LISTS.values())
    if not listed:
        return {}
    check_layout("Speech Commands", str(folder), list(LISTS.values()))
    given = {}
    for split, table in LISTS.items():
        with readable(folder / table):
            names = (folder / table).read_text(encoding="utf-8-sig", errors="surrogateescape").split()
        given.update(dict.fromkeys(names, split))
    return given


def split_by_hash(name: str) -> str:
    """The split of a recording by the official rule: the hash of its speaker decides.

    Example
    -------
    >>> split_by_hash("bed/dce5041a_nohash_1.wav"), split_by_hash("two/7ca023e2_nohash_0.wav")
    ('train', 'valid')
    """
    number = int(hashlib.sha1(_speaker(name).encode()).hexdigest(), 16) % HASHES
    percent = number * 100 / (HASHES - 1)
    if percent < PERCENT:
        return "valid"
    return "test" if percent < 2 * PERCENT else "train"


def _speaker(name: str) -> str:
    return os.path.basename(name).partition("_nohash_")[0]


def _clip_from(folder: Path, name: str, split: str) -> Clip:
    return Clip(
        id=name.removesuffix(".wav"),
        path=path_below(folder, name),
        label=name.partition("/")[0],
        split=split,
        group=_speaker(name),
    )


def _twelve_classes(clips: list[Clip], noise_folder: Path, generator: np.random.Generator) -> list[Clip]:
    """Keeps the commands, and draws unknown words and silence for each split."""
    chosen = []
    for split in SPLITS:
        commands = [clip for clip in clips if clip.split == split and clip.label in COMMANDS]
        others = [clip for clip in clips if clip.split == split and clip.label not in COMMANDS]
        count = math.ceil(len(commands) * PERCENT / 100)
        unknown = [dataclasses.replace(others[i], label="unknown") for i in _draw(len(others), count, generator)]
        pieces = [Clip(label="silence", split=split, **piece) for piece in _noise_pieces(noise_folder, split)]
        chosen += commands + unknown + [pieces[i] for i in _draw(len(pieces), count, generator)]
    return chosen


def _draw(available: int, count: int, generator: np.random.Generator) -> list[int]:
    """Draws different numbers below `available`, all where there are not enough, in order."""
    return sorted(generator.choice(available, min(count, available), replace=False).tolist())


def _noise_pieces(folder: Path, split: str) -> list[dict[str, Any]]:
    """Every second of a split's part of the noise. Pieces of one split overlap: there are minutes of noise only."""
    first, last = NOISE_OF[split]
    pieces = []
    for path in sorted(folder.glob("*.wav")):
        steps = _seconds(path) * STEPS / 100
        for start in range(math.ceil(first * steps), math.floor(last * steps) - STEPS + 1):
            name = f"{folder.name}/{path.stem}-{start / STEPS:.2f}"
            pieces.append({"id": name, "path": str(path), "start": start / STEPS, "stop": (start + STEPS) / STEPS})
    if not pieces:
        raise DataError(
            "The task of 12 classes was asked for.",
            f"{folder} holds no noise of 10 s or more; a tenth of it is for the split {split}.",
            "Take the official folder, or write --classes=35",
        )
    return pieces


def _seconds(path: Path) -> float:
    try:
        return soundfile.info(path).duration
    except READ_ERRORS as fault:
        raise DataError(
            "The task of 12 classes was asked for.",
            f"The background noise {path} cannot be read: {why_unreadable(fault)}.",
            "Take the official file, or write --classes=35",
        ) from fault
