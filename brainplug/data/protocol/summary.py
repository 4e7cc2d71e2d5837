"""What a checked corpus holds, in a few lines: clips of each split, what was set aside, what is odd."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from brainplug.data.levels import CANCELS, CONSTANT, SILENT
from brainplug.data.manifest import Clip, read_table
from brainplug.data.protocol.checks import COLUMNS, QUARANTINE, REMARKS
from brainplug.data.protocol.splits import SPLITS

Row = dict[str, str]  # of `COLUMNS`
SHOWN = 3  # examples
INAUDIBLE = (SILENT, CONSTANT, CANCELS)


def table_of_splits(clips: Sequence[Clip]) -> str:
    """What each split holds."""
    lines = [f"{'split':<6} {'clips':>7} {'classes':>8} {'hours':>7}  smallest and largest class"]
    for split in SPLITS:
        here = [clip for clip in clips if clip.split == split]
        sizes = Counter(clip.label for clip in here).most_common()
        (largest, most), (smallest, fewest) = sizes[0], sizes[-1]
        hours = sum(clip.duration or 0.0 for clip in here) / 3600
        extremes = f"{smallest} ({fewest}), {largest} ({most})"
        lines.append(f"{split:<6} {len(here):>7} {len(sizes):>8} {hours:>7.2f}  {extremes}")
    return "\n".join(lines)


def read_rows(folder: str, name: str) -> list[Row]:
    """The rows of ``quarantine.csv`` or ``remarks.csv``; none where there is no such file."""
    path = os.path.join(folder, name)
    return list(read_table(path, COLUMNS)) if os.path.exists(path) else []


def quarantined(folder: str) -> str:
    """One line on the clips that were set aside; empty where there are none."""
    rows = read_rows(folder, QUARANTINE)
    named = "; ".join(f"{row['path']}: {row['reason']}" for row in rows[:SHOWN])
    return f"{_counted(rows)} quarantined, first {named}; all in {QUARANTINE}" if rows else ""


def remarks(folder: str) -> Iterator[str]:
    """One line for each kind of odd clips: how many of each class, and examples."""
    of_kind = defaultdict(list)
    for row in read_rows(folder, REMARKS):
        of_kind[row["reason"]].append(row)
    for kind, rows in of_kind.items():
        named = ", ".join(row["path"] for row in rows[:SHOWN])
        yield f"{_counted(rows)} {kind}; first {named}; all in {REMARKS}"


def _counted(rows: Sequence[Row]) -> str:
    classes = ", ".join(f"{label} {count}" for label, count in Counter(row["label"] for row in rows).most_common())
    return f"{len(rows)} clip{'s' * (len(rows) > 1)} ({classes})"


def silent_classes(clips: Sequence[Clip], folder: str) -> list[str]:
    """The classes whose clips are all silent."""
    return sorted({clip.label for clip in clips} - {clip.label for clip in audible(clips, folder)})


def audible(clips: Sequence[Clip], folder: str) -> list[Clip]:
    """The clips that are not silent: silence is the same in all files."""
    silent = {row["id"] for row in read_rows(folder, REMARKS) if row["reason"] in INAUDIBLE}
    return [clip for clip in clips if clip.id not in silent]


def warning_of_silence(labels: Sequence[str]) -> str:
    """Says in a frame that classes are silent; empty where none is.

    Example
    -------
    >>> print(warning_of_silence(["dog"]))
    !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
    !! All clips of 1 class are silent: 'dog'.
    !! What is learned of them is silence. Look at remarks.csv.
    !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
    """
    if not labels:
        return ""
    frame = "!" * 67
    classes = f"{len(labels)} class{'es' * (len(labels) > 1)}"
    first = f"!! All clips of {classes} are silent: {', '.join(map(repr, labels))}."
    return f"{frame}\n{first}\n!! What is learned of them is silence. Look at {REMARKS}.\n{frame}"
