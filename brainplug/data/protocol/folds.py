"""Splits and folds of data without any: stratified by class, whole groups, seeded."""

import itertools
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from brainplug.data.manifest import Clip
from brainplug.errors import DataError

TENTHS = ("test", "valid", *["train"] * 8)
NINTHS = ("valid", *["train"] * 8)  # of what trains, where validation is carved out of it
DRAWS = 10  # tried until one has every class in every part

Stretch = tuple[str, float | None, float | None]


def split_of(fold: int, test_fold: int, folds: Sequence[int]) -> str:
    """The split of a fold: one tests, the one before it validates (before the first is the last), the others train.

    Example
    -------
    >>> [split_of(fold, test_fold=2, folds=[1, 2, 3, 4]) for fold in (1, 2, 3, 4)]
    ['valid', 'test', 'train', 'train']
    """
    behind = (folds.index(test_fold) - folds.index(fold)) % len(folds)
    return {0: "test", 1: "valid"}.get(behind, "train")


def group_of(clip: Clip) -> str:
    """Names what is drawn together with a clip: its group or, without one, its file, whose parts are alike.

    Example
    -------
    >>> group_of(Clip("a", "a.wav", "dog", group="Rex")), group_of(Clip("a", "a.wav", "dog", start=1.5))
    ('group Rex', 'file a.wav')
    """
    return f"group {clip.group}" if clip.group else f"file {clip.path}"


def stretch_of(clip: Clip) -> Stretch:
    """The audio of a clip, whatever its id: file, start and stop."""
    return clip.path, clip.start, clip.stop


def draw(
    clips: Sequence[Clip],
    parts: Sequence[str | int],
    seed: int,
    earlier: Mapping[Stretch, str | int] | None = None,
) -> list[str | int]:
    """Draws the part of the data that each clip is in.

    The classes are shared out evenly, groups stay whole (`group_of`), and every class is in every part. The draw
    depends on the seed and on ids, labels and groups, not on the order of the clips.

    Arguments
    ---------
    parts : Sequence[str | int]
        Names of parts of equal size. Parts of one name are joined: `TENTHS` gives 80, 10 and 10 %.
    seed : int
        Of the draw.
    earlier : Mapping[Stretch, str | int], optional
        What was drawn before, by `stretch_of`. It stays, and what has joined its groups follows them.

    Example
    -------
    >>> clips = [Clip(f"{number}", f"{number}.wav", "dog") for number in range(40)]
    >>> Counter(draw(clips, TENTHS, seed=1))
    Counter({'train': 32, 'test': 4, 'valid': 4})
    """
    labels_of = defaultdict(set)
    for clip in clips:
        labels_of[group_of(clip)].add(clip.label)
    _check_sizes(clips, labels_of, parts)
    settled = _settled(clips, earlier or {})
    if settled.keys() == labels_of.keys():
        return [settled[group_of(clip)] for clip in clips]
    for attempt in range(DRAWS):
        part_of = {**_draw_once(clips, parts, (seed + attempt) % 2**32), **settled}
        if _spread(part_of, labels_of, set(settled), parts) or settled:
            return [part_of[group_of(clip)] for clip in clips]
    raise DataError(
        f"Every class in each of {_listed(parts)} was asked for.",
        f"{DRAWS} draws of whole groups found no way to it.",
        "Write a CSV with the column split, or smaller groups.",
    )


def _listed(parts: Sequence[str | int]) -> str:
    return ", ".join(map(str, dict.fromkeys(parts)))


def _check_sizes(clips: Sequence[Clip], labels_of: Mapping[str, set[str]], parts: Sequence[str | int]) -> None:
    groups = Counter(label for labels in labels_of.values() for label in labels)
    sizes = Counter(clip.label for clip in clips)
    needed = len(set(parts))
    small = [label for label in sorted(groups) if groups[label] < needed]
    if small:
        of_groups = f", in {groups[small[0]]} groups or files" if groups[small[0]] < sizes[small[0]] else ""
        others = f", and {len(small) - 1} more classes have too few" if small[1:] else ""
        raise DataError(
            f"Every class in each of {_listed(parts)} was asked for, in whole groups.",
            f"The class {small[0]!r} has {sizes[small[0]]} clips{of_groups}{others}.",
            f"Add clips until there are {needed} of different groups, leave the class out, or write a CSV with the "
            "column split.",
        )


def _settled(clips: Sequence[Clip], earlier: Mapping[Stretch, str | int]) -> dict[str, str | int]:
    """The groups that were drawn before, and their parts."""
    settled: dict[str, str | int] = {}
    for clip in clips:
        part = earlier.get(stretch_of(clip))
        if part is not None and settled.setdefault(group_of(clip), part) != part:
            raise DataError(
                "The splits that were drawn before were asked for.",
                f"The {group_of(clip)} was in {settled[group_of(clip)]} and {part} then.",
                "Write another --output_folder: the groups have changed since.",
            )
    return settled


def _draw_once(clips: Sequence[Clip], parts: Sequence[str | int], seed: int) -> dict[str, str | int]:
    """Cuts the groups into stratified parts of equal size."""
    clips = sorted(clips, key=lambda clip: (clip.id, *stretch_of(clip)[:1]))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(map(group_of, clips)))}
    labels = sorted({clip.label for clip in clips})
    targets = [labels.index(clip.label) for clip in clips]
    # scikit-learn wants a group for each part, and a class with a clip for each.
    parts = parts[: min(len(numbers), max(Counter(targets).values()))]
    cutter = StratifiedGroupKFold if len(numbers) < len(clips) else StratifiedKFold  # which takes far less time
    cutter = cutter(len(parts), shuffle=True, random_state=seed)
    part_of = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class|The groups parameter")  # _spread sees to it
        cuts = cutter.split(clips, targets, [numbers[group_of(clip)] for clip in clips])
        for part, (_, rows) in zip(parts, cuts, strict=True):
            part_of.update({group_of(clips[row]): part for row in rows})
    return part_of


def _spread(
    part_of: dict[str, str | int], labels_of: Mapping[str, set[str]], settled: set[str], parts: Sequence[str | int]
) -> bool:
    """Moves groups into parts that lack one of their classes; says whether every class came to be in every part."""
    holders, groups_of = defaultdict(set), defaultdict(list)
    for group, labels in sorted(labels_of.items()):
        for label in labels:
            holders[label, part_of[group]].add(group)
            groups_of[label].append(group)
    for label, part in itertools.product(sorted(groups_of), dict.fromkeys(parts)):
        if holders[label, part]:
            continue
        spare = [  # what no class would miss where it is now
            group
            for group in groups_of[label]
            if group not in settled and all(len(holders[other, part_of[group]]) > 1 for other in labels_of[group])
        ]
        if not spare:
            return False
        moved = max(spare, key=lambda group: len(holders[label, part_of[group]]))
        for other in labels_of[moved]:
            holders[other, part_of[moved]].remove(moved)
            holders[other, part].add(moved)
        part_of[moved] = part
    return True
