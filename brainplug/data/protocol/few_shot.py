"""Few-shot training: a few examples of each class, and all of validation and test."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from brainplug.data.manifest import Clip, write_manifest
from brainplug.errors import ConfigError

SHORT = ("error", "keep")


def keep_examples(
    clips: Sequence[Clip], examples: int, seed: int, *, first: bool = False, short: str = "error"
) -> list[Clip]:
    """Keeps a few training clips of each class; validation and test stay whole.

    The draw depends on the seed and on the training clips' ids, labels and groups alone: not on the order of the clips,
    and on no random number that was drawn before. A smaller draw of a seed is part of a larger one. Groups, such as
    speakers or source recordings, take turns: a second clip of one comes only after one clip of each other.

    Arguments
    ---------
    clips : Sequence[Clip]
        Clips of all splits, with unique ids.
    examples : int
        How many training clips of a class are kept.
    seed : int
        Of the draw.
    first : bool
        Keeps the first ones in the order of the clips instead, as the published code of Cappellazzo et al. does.
    short : str
        What happens to a class with fewer clips: ``error``, or ``keep``, which keeps all that it has.

    Example
    -------
    >>> clips = [Clip(f"{split}{number}", "", "dog", split) for split in ("train", "test") for number in range(9)]
    >>> kept = keep_examples(clips, 2, seed=1)
    >>> [sum(clip.split == split for clip in kept) for split in ("train", "test")]
    [2, 9]
    """
    of_class = defaultdict(list)
    for clip in clips:
        if clip.split == "train":
            of_class[clip.label].append(clip)
    _check(of_class, examples, short)
    generator = np.random.default_rng(seed)
    chosen: set[str] = set()
    for _, available in sorted(of_class.items()):
        chosen.update(clip.id for clip in (available if first else _drawn(available, generator))[:examples])
    return [clip for clip in clips if clip.split != "train" or clip.id in chosen]


def write_examples(clips: Sequence[Clip], folder: str, examples: int, seed: int) -> None:
    """Writes the training clips that `keep_examples` returned to ``few_shot_<examples>_<seed>.csv``, a manifest."""
    train = [clip for clip in clips if clip.split == "train"]
    write_manifest(train, os.path.join(folder, f"few_shot_{examples}_{seed}.csv"))


def _drawn(clips: list[Clip], generator: np.random.Generator) -> list[Clip]:
    """Clips of one class in random order, in which groups take turns. A clip without a group is one of its own."""
    clips = sorted(clips, key=lambda clip: clip.id)
    shuffled = [clips[index] for index in generator.permutation(len(clips))]
    seen: Counter[str] = Counter()
    turns = {}
    for clip in shuffled:
        group = clip.group or clip.id
        turns[clip.id] = seen[group]
        seen[group] += 1
    return sorted(shuffled, key=lambda clip: turns[clip.id])


def _check(of_class: dict[str, list[Clip]], examples: int, short: str) -> None:
    if short not in SHORT:
        raise ConfigError(
            f"few_shot_short {short!r} was asked for.", "There is no such way.", "Write --few_shot_short=error or keep"
        )
    lacking = {label: len(available) for label, available in sorted(of_class.items()) if len(available) < examples}
    if lacking and short == "error":
        label, count = next(iter(lacking.items()))
        raise ConfigError(
            f"{examples} training clips of each class were asked for.",
            f"The class {label!r} has {count}; classes with too few: {len(lacking)}.",
            f"Write --few_shot={min(lacking.values())} or less, or --few_shot_short=keep to keep all that there are",
        )
