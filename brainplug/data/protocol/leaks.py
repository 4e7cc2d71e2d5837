"""Finds what is in two splits: files, contents, groups. And draws a sample with something of each class and split."""

import hashlib
import logging
import math
import os
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from multiprocessing.pool import ThreadPool

import numpy as np
from tqdm import tqdm

from brainplug.data.audio import read_audio
from brainplug.data.manifest import Clip
from brainplug.errors import DataError, UsageError

logger = logging.getLogger(__name__)

BEGINNING = 2**16  # bytes: few files that differ have these in common, so few are read to their end


def in_two_splits(clips: Sequence[Clip], shared: Callable[[Clip], Hashable]) -> dict[Hashable, list[Clip]]:
    """The clips of each value, such as a group, that is in more than one split; empty values do not count.

    Example
    -------
    >>> clips = [Clip(split, "", "dog", split, group="Rex") for split in ("train", "test")]
    >>> list(in_two_splits(clips, lambda clip: clip.group))
    ['Rex']
    """
    sharing = defaultdict(list)
    for clip in clips:
        sharing[shared(clip)].append(clip)
    return {value: alike for value, alike in sharing.items() if value and len({clip.split for clip in alike}) > 1}


def overlapping(clips: Sequence[Clip]) -> list[Clip]:
    """Those of the clips of one file, or of copies of it, that share audio with one in another split.

    Example
    -------
    >>> first, second = Clip("a", "", "dog", "train", stop=2.0), Clip("b", "", "dog", "test", start=2.0)
    >>> overlapping([first, second]), len(overlapping([first, Clip("c", "", "dog", "valid")]))
    ([], 2)
    """
    sharing = set()
    for split in {clip.split for clip in clips}:
        others = sorted((_start(clip), _stop(clip)) for clip in clips if clip.split != split)
        starts = [start for start, _ in others]
        furthest = list(accumulate((stop for _, stop in others), max))  # that those up to here reach
        for clip in clips:
            before = bisect_left(starts, _stop(clip))  # how many begin before the clip ends
            if clip.split == split and before and furthest[before - 1] > _start(clip):
                sharing.add(clip)
    return [clip for clip in clips if clip in sharing]


def _start(clip: Clip) -> float:
    return clip.start or 0.0


def _stop(clip: Clip) -> float:
    return float("inf") if clip.stop is None else clip.stop


def same_content(clips: Sequence[Clip], decode: bool = False) -> list[list[Clip]]:
    """Finds clips of several splits whose files differ in name alone; files that cannot be read are left out.

    With `decode` it compares the decoded samples of clips whose durations are known and equal, instead of the bytes of
    files: it finds the same audio in another format too, and takes longer.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a", "b"):
    ...     _ = (folder / name).write_bytes(b"the same")
    >>> [same] = same_content([Clip(name, str(folder / name), "dog", split=name) for name in ("a", "b")])
    >>> [clip.id for clip in same]
    ['a', 'b']
    """
    # Each function takes longer than the one before it and compares what that one could not tell apart.
    functions = (_duration, _hash_of_samples) if decode else (_size, _hash_of_beginning, _hash_of_bytes)
    suspects = clips if decode else list({(clip.path, clip.split): clip for clip in clips}.values())
    alike = {}
    with ThreadPool() as pool:
        for function in functions:
            values = pool.imap(function, suspects, chunksize=16)
            shown = tqdm(values, total=len(suspects), desc="Comparing files", unit="clip", disable=not suspects)
            alike = in_two_splits(suspects, dict(zip(suspects, shown, strict=True)).get)
            suspects = [clip for same in alike.values() for clip in same]
    return [same for same in alike.values() if len({clip.path for clip in same}) > 1]


def shared_audio(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Clips of several splits that hold the same audio of files with other names and the same bytes."""
    content_of = {clip.path: number for number, same in enumerate(same_content(clips)) for clip in same}
    copies = defaultdict(list)
    for clip in clips:
        if clip.path in content_of:
            copies[content_of[clip.path]].append(clip)
    return [sharing for same in copies.values() if (sharing := overlapping(same))]


def check_shared(clips: Sequence[Clip], max_shared: float) -> None:
    """Warns of clips of valid and test whose audio is in another split too, and refuses more than a share of them."""
    alike = shared_audio(clips)
    if not alike:
        return
    count = sum(clip.split != "train" for same in alike for clip in same)
    share = count / sum(clip.split != "train" for clip in clips)
    pairs = [next(pair for clip in same[1:] if (pair := overlapping([same[0], clip]))) for same in alike[:3]]
    examples = "; ".join(" and ".join(f"{clip.path!r} ({clip.split})" for clip in pair) for pair in pairs)
    problem = f"{count} clips of valid and test ({share:.1%}) are in another split too, in copies of files: {examples}."
    if share > max_shared:
        raise DataError(
            f"Splits that share at most {max_shared:.1%} of their audio were asked for.",
            problem,
            "Keep one copy of each, put all copies into one group, or allow them: "
            f"--prepare='{{max_shared: {math.ceil(100 * share) / 100}}}'",
        )
    logger.warning("%s Results on them are too good; `brainplug doctor` names more.", problem)


def _duration(clip: Clip) -> float | None:
    return clip.duration


def _size(clip: Clip) -> int | None:
    try:
        return os.path.getsize(clip.path)
    except (OSError, ValueError):
        return None


def _hash_of_beginning(clip: Clip) -> str | None:
    try:
        with open(clip.path, "rb") as file:
            return hashlib.sha256(file.read(BEGINNING)).hexdigest()
    except OSError:
        return None


def _hash_of_bytes(clip: Clip) -> str | None:
    try:
        with open(clip.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _hash_of_samples(clip: Clip) -> str | None:
    try:
        return hashlib.sha256(read_audio(clip).numpy().tobytes()).hexdigest()
    except UsageError:
        return None


def draw_sample(clips: Sequence[Clip], count: int, seed: int) -> list[Clip]:
    """Draws `count` clips from all classes and splits in turn, so that a small sample has something of each.

    Example
    -------
    >>> clips = [Clip(str(n), "", "rare" if n == 500 else "common", "train") for n in range(1000)]
    >>> sorted(clip.label for clip in draw_sample(clips, 2, seed=1))
    ['common', 'rare']
    """
    shuffled = [clips[index] for index in np.random.default_rng(seed).permutation(len(clips))]
    taken: Counter[tuple[str, str]] = Counter()
    turns = []
    for clip in shuffled:
        turns.append(taken[clip.label, clip.split])
        taken[clip.label, clip.split] += 1
    return [shuffled[index] for index in np.argsort(turns, kind="stable")[:count]]
