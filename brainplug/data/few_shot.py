"""Few-shot training: a few examples of each class, and all of validation and test."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from brainplug.data.manifest import Clip
from brainplug.errors import UsageError


def keep_examples(clips: Sequence[Clip], examples: int, seed: int, *, first: bool = False) -> list[Clip]:
    """Keeps a few training clips of each class; validation and test stay whole.

    The draw depends on the seed and on the training clips' ids and labels alone: not on the order of the clips, and on
    no random number that was drawn before.

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

    Returns
    -------
    list[Clip]
        What is kept, in the given order.

    Raises
    ------
    UsageError
        A class has fewer training clips.

    Example
    -------
    >>> clips = [Clip(f"{split}{number}", "", "dog", split) for split in ("train", "test") for number in range(9)]
    >>> kept = keep_examples(clips, 2, seed=1)
    >>> [sum(clip.split == split for clip in kept) for split in ("train", "test")]
    [2, 9]
    """
    ids_of_class = defaultdict(list)
    for clip in clips:
        if clip.split == "train":
            ids_of_class[clip.label].append(clip.id)
    generator = np.random.default_rng(seed)
    kept = set()
    for label, ids in sorted(ids_of_class.items()):
        if len(ids) < examples:
            raise UsageError(
                f"{examples} training clips of each class were asked for.",
                f"The class {label!r} has {len(ids)}.",
                f"Write --few_shot={min(map(len, ids_of_class.values()))} or less",
            )
        kept.update(ids[:examples] if first else generator.choice(sorted(ids), examples, replace=False).tolist())
    return [clip for clip in clips if clip.split != "train" or clip.id in kept]
