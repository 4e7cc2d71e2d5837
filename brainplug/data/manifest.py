"""Manifests: the CSV lists of clips that every corpus is turned into, and the checks that a clip passes first."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import logging
import os
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import IO

import numpy as np
import soundfile
from tqdm import tqdm

from brainplug.errors import UsageError, nearest

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
BLOCK_FRAMES = 2**18  # decoded at a time: hours of audio are checked in a few megabytes
READ_ERRORS = (soundfile.SoundFileError, OSError, TypeError, ValueError)  # TypeError: soundfile's for *.raw
STREAM_BYTES = 0x7FFFF000  # a header that announces this much was written to a pipe, before the length was known

# libsndfile decodes what is left of a damaged file and tells of the damage in its log only.
DAMAGE = re.compile(r"File ended unexpectedly|Corrupted bitstream")
ANNOUNCED_BYTES = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
TRUNCATED_BELOW = 0.99  # share of the announced audio; sloppy writers miscount by a header or a frame


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled stretch of audio: a file, or a part of it.

    Arguments
    ---------
    id : str
        Name of the clip, unique in its manifest.
    path : str
        Audio file.
    label : str
        Its class.
    split : str
        ``train``, ``valid`` or ``test``.
    fold : int, optional
        The corpus's own fold.
    group : str
        What must not stand in two splits: a speaker or a source recording. Empty where there is none.
    start : float, optional
        Where the clip begins in the file, seconds.
    stop : float, optional
        Where it ends, seconds.
    duration : float, optional
        Its length in seconds, known once it was decoded.

    Example
    -------
    >>> Clip("a", "a.wav", "dog").start is None
    True
    """

    id: str
    path: str
    label: str
    split: str = ""
    fold: int | None = None
    group: str = ""
    start: float | None = None
    stop: float | None = None
    duration: float | None = None


COLUMNS = [field.name for field in dataclasses.fields(Clip)]
REQUIRED_COLUMNS = [field.name for field in dataclasses.fields(Clip) if field.default is dataclasses.MISSING]
NUMBERS = {"fold": int, "start": float, "stop": float, "duration": float}  # empty where not given


@contextlib.contextmanager
def atomic_file(path: str, mode: str = "w", **options: object) -> Iterator[IO]:
    """Opens a file under a temporary name and renames it to its own when all is written.

    Readers see the old file or the new one, never a part, whenever the process dies.

    Arguments
    ---------
    path : str
        The file's own name. Its folder is made where it is missing.
    mode : str
        As for ``open``.
    **options : object
        As for ``open``.

    Yields
    ------
    IO
        The open file.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with atomic_file(f"{folder.name}/a.txt") as file:
    ...     _ = file.write("all of it")
    ...     before = os.path.exists(f"{folder.name}/a.txt")
    >>> before, os.listdir(folder.name)
    (False, ['a.txt'])
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, mode, **options) as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_table(path: str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Reads a CSV file with a header, row by row.

    Arguments
    ---------
    path : str
        A CSV file in UTF-8, with or without a byte-order mark.
    columns : Sequence[str]
        Columns that it must have. Others may stand beside them.

    Yields
    ------
    dict[str, str]
        The text of each column.

    Raises
    ------
    UsageError
        No such file, a missing column, a row with too few or too many fields, or broken quotes.
    """
    if not os.path.isfile(path):
        raise UsageError(f"The table {path} was asked for.", "There is no such file.", "Check the folder's name.")
    # Bytes that are not UTF-8 occur in file names; they are carried through, as Python does for paths.
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_columns(path, columns, reader.fieldnames or [])
            for row in reader:
                if None in row or None in row.values():
                    raise csv.Error("it has not as many fields as the header; quote fields with commas")
                yield row
        except csv.Error as fault:
            found = f"Line {reader.line_num}: {fault}."
            raise UsageError(f"The table {path} was asked for.", found, "Mend that line.") from fault


def _check_columns(path: str, columns: Sequence[str], found: Sequence[str]) -> None:
    missing = [column for column in columns if column not in found]
    if missing:
        proposals = [f"{column} (perhaps now: {nearest(column, found) or 'none'})" for column in missing]
        raise UsageError(
            f"The columns {', '.join(columns)} were asked for in {path}.",
            f"It lacks {', '.join(missing)}; it has {', '.join(found) or 'no columns'}.",
            f"Name the columns {', '.join(proposals)}.",
        )


def _write_table(path: str, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    with atomic_file(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_manifest(clips: Iterable[Clip], path: str) -> None:
    """Writes clips to a CSV file, one a row.

    Arguments
    ---------
    clips : Iterable[Clip]
        The clips.
    path : str
        The CSV file. An older one is replaced in one step.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> clip = Clip("a", "a.wav", 'größer, "lauter"', start=0.1)
    >>> write_manifest([clip], f"{folder.name}/manifest.csv")
    >>> read_manifest(f"{folder.name}/manifest.csv") == [clip]
    True
    """
    _write_table(path, COLUMNS, map(dataclasses.astuple, clips))


def read_manifest(path: str) -> list[Clip]:
    """Reads clips from a CSV file.

    Arguments
    ---------
    path : str
        A CSV file with the columns id, path and label, and any other field of `Clip`.

    Returns
    -------
    list[Clip]
        The clips in the file's order.

    Raises
    ------
    UsageError
        A column is missing, or a field cannot be understood.
    """
    return [_clip_from(row, path) for row in read_table(path, REQUIRED_COLUMNS)]


def _clip_from(row: dict[str, str], path: str) -> Clip:
    given = {name: row[name] for name in COLUMNS if name in row and (row[name] or name not in NUMBERS)}
    try:
        given["label"].encode()  # labels are printed and stored: they must be real text
        return Clip(**{name: NUMBERS.get(name, str)(text) for name, text in given.items()})
    except ValueError as fault:
        raise UsageError(
            f"The clip {row['id']!r} of {path} was asked for.",
            f"A field cannot be understood: {fault}.",
            "Write folds as whole numbers, times in seconds, text in UTF-8.",
        ) from fault


@contextlib.contextmanager
def open_clip(clip: Clip) -> Iterator[tuple[soundfile.SoundFile, int]]:
    """Opens the file of a clip at the clip's first sample.

    Arguments
    ---------
    clip : Clip
        What to open.

    Yields
    ------
    tuple[soundfile.SoundFile, int]
        The file and the number of frames to read from it.

    Raises
    ------
    FileNotFoundError
        No such file; soundfile would call it a system error.
    ValueError
        The clip holds no samples.
    """
    if not os.path.isfile(clip.path):
        raise FileNotFoundError("the file does not exist")
    with soundfile.SoundFile(clip.path) as file:
        first = round((clip.start or 0.0) * file.samplerate)
        last = file.frames if clip.stop is None else min(round(clip.stop * file.samplerate), file.frames)
        if not 0 <= first < last:
            raise ValueError(f"no samples from {first} to {last}; the file has {file.frames}")
        if first:
            file.seek(first)
        yield file, last - first


def why_unreadable(fault: Exception) -> str:
    """Says in a few words why a clip could not be read.

    Arguments
    ---------
    fault : Exception
        One of `READ_ERRORS`.

    Returns
    -------
    str
        The reason, without the path, which soundfile puts before it.

    Example
    -------
    >>> why_unreadable(soundfile.LibsndfileError(1, "Error opening 'a.wav': "))
    'Format not recognised'
    """
    return getattr(fault, "error_string", str(fault)).removeprefix("Error : ").rstrip(".")


def _measure(clip: Clip) -> float:
    """Decodes a clip block by block and returns its seconds; a ValueError says why it cannot be used."""
    with open_clip(clip) as (file, frames):
        count = 0
        while count < frames:
            block = file.read(min(BLOCK_FRAMES, frames - count), dtype="float32", always_2d=True)
            if not len(block):
                break
            if not np.isfinite(block).all():
                raise ValueError("NaN or infinite samples")
            count += len(block)
        _check_complete(file.extra_info, count, frames)
        return count / file.samplerate


def _check_complete(decoder_log: str, count: int, frames: int) -> None:
    """Tells truncated and damaged files, as far as their format lets it be seen."""
    damage = DAMAGE.search(decoder_log)
    if damage:
        raise ValueError(f"damaged or truncated: {damage[0].lower()}")
    sizes = [tuple(map(int, match.groups())) for match in ANNOUNCED_BYTES.finditer(decoder_log)]
    sizes = [(announced, found) for announced, found in sizes if announced < STREAM_BYTES]
    for announced, found in [(frames, count), *sizes]:
        if found < TRUNCATED_BELOW * announced:
            raise ValueError(f"truncated: {found / announced:.0%} of the announced audio is there")


def _fault(clip: Clip, minimum_seconds: float) -> tuple[Clip, str]:
    """Returns the clip with its duration, and why it cannot be used: empty where it can."""
    try:
        seconds = _measure(clip)
    except READ_ERRORS as fault:
        return clip, why_unreadable(fault)
    if seconds < minimum_seconds:
        return clip, f"lasts {seconds:.3f} s, less than {minimum_seconds} s"
    if clip.stop is not None and clip.stop - (clip.start or 0.0) > seconds + minimum_seconds:
        return clip, f"stops at {clip.stop} s, after the end of the file"
    return dataclasses.replace(clip, duration=seconds), ""


def check_clips(
    clips: Sequence[Clip], quarantine_path: str, minimum_seconds: float = 0.1, largest_share: float = 0.05
) -> list[Clip]:
    """Decodes every clip once, fills in its duration, and sets aside those that cannot be used.

    Those are files that are missing, unreadable, truncated, empty or too short, or that hold NaN or infinite samples.
    (A flipped bit inside uncompressed audio is audio, and passes.)

    Arguments
    ---------
    clips : Sequence[Clip]
        What to check.
    quarantine_path : str
        CSV file (id, path, reason) of the clips set aside. It is removed where there are none.
    minimum_seconds : float
        Shortest clip that is kept.
    largest_share : float
        Share of the clips that may be set aside, 0 to 1.

    Returns
    -------
    list[Clip]
        The clips to use, in order.

    Raises
    ------
    UsageError
        More than `largest_share` of the clips cannot be used.
    """
    good, bad = [], []
    with ThreadPool() as pool:  # libsndfile works outside the interpreter's lock
        checked = pool.imap(lambda clip: _fault(clip, minimum_seconds), clips, chunksize=16)
        for clip, reason in tqdm(checked, total=len(clips), desc="Checking audio", unit="clip"):
            if reason:
                bad.append((clip.id, clip.path, reason))
            else:
                good.append(clip)
    if bad:
        _write_table(quarantine_path, ["id", "path", "reason"], bad)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(quarantine_path)
    if len(bad) > largest_share * len(clips):
        examples = "; ".join(f"{path}: {reason}" for _, path, reason in bad[:3])
        raise UsageError(
            f"{len(clips)} clips were asked for.",
            f"{len(bad)} of them ({len(bad) / len(clips):.1%}, at most {largest_share:.1%} may be) cannot be used, "
            f"first {examples}.",
            f"Mend or replace the files listed in {quarantine_path}.",
        )
    return good


def check_splits(clips: Sequence[Clip]) -> None:
    """Refuses splits that cannot be trained on, or that leak from one into another.

    Arguments
    ---------
    clips : Sequence[Clip]
        All clips, with their splits.

    Raises
    ------
    UsageError
        An empty or unknown split, a class in one split only or not in train, an id that occurs twice, a group or a
        stretch of audio in two splits.

    Example
    -------
    >>> check_splits([Clip(split, f"{split}.wav", "dog", split, group="Rex") for split in SPLITS])
    Traceback (most recent call last):
    brainplug.errors.UsageError: ... The group 'Rex' is in train and valid. ...
    """
    counts = Counter(clip.split for clip in clips)
    for split in counts:
        if split not in SPLITS:
            found = f"{counts[split]} clips are in {split!r}."
            raise UsageError(
                f"The splits {', '.join(SPLITS)} were asked for.", found, f"Write {nearest(split, SPLITS)}."
            )
    for split in SPLITS:
        if not counts[split]:
            found = f"The split {split} is empty."
            raise UsageError(f"The splits {', '.join(SPLITS)} were asked for.", found, f"Put clips into {split}.")
    _check_ids(clips)
    _check_classes(clips)
    _check_groups(clips)
    _check_overlaps(clips)


def _check_split_names(clips: Sequence[Clip]) -> None:
    asked = f"The splits {', '.join(SPLITS)} were asked for."
    counts = Counter(clip.split for clip in clips)
    for split, count in counts.items():
        if split not in SPLITS:
            raise UsageError(asked, f"{count} clips are in {split!r}.", f"Write {nearest(split, SPLITS)}.")
    for split in SPLITS:
        if not counts[split]:
            raise UsageError(asked, f"The split {split} is empty.", f"Put clips into {split}.")


def _check_ids(clips: Sequence[Clip]) -> None:
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        found = f"{len(twice)} ids occur more than once, first {', '.join(map(repr, twice[:3]))}."
        raise UsageError("Clips with one id each were asked for.", found, "Give each clip its own id.")


def _check_classes(clips: Sequence[Clip]) -> None:
    splits_of = defaultdict(set)
    for clip in clips:
        splits_of[clip.label].add(clip.split)
    for label, splits in sorted(splits_of.items()):
        if len(splits) == 1 or "train" not in splits:
            raise UsageError(
                "Classes that are trained and tested were asked for.",
                f"The class {label!r} occurs in {' and '.join(sorted(splits))} only.",
                "Put clips of it into train and another split, or leave the class out.",
            )


def _check_groups(clips: Sequence[Clip]) -> None:
    split_of = {}
    for clip in clips:
        if clip.group and split_of.setdefault(clip.group, clip.split) != clip.split:
            raise _leak(f"The group {clip.group!r} is in {split_of[clip.group]} and {clip.split}.")


def _check_overlaps(clips: Sequence[Clip]) -> None:
    """Sweeps over each file in the order of the clips' starts."""
    furthest = {}  # of one file: split -> last second that it reaches so far
    path = None
    for clip in sorted(clips, key=lambda clip: (clip.path, clip.start or 0.0)):
        if clip.path != path:
            path, furthest = clip.path, {}
        for split, stop in furthest.items():
            if split != clip.split and (clip.start or 0.0) < stop:
                raise _leak(f"The same audio of {clip.path} is in {split} and {clip.split}.")
        stop = float("inf") if clip.stop is None else clip.stop
        furthest[clip.split] = max(stop, furthest.get(clip.split, 0.0))


def _leak(found: str) -> UsageError:
    return UsageError("Splits that share nothing were asked for.", found, "Put all of it into one split.")


def label_map(clips: Iterable[Clip]) -> dict[str, int]:
    """Numbers the classes of the train split in alphabetical order.

    Arguments
    ---------
    clips : Iterable[Clip]
        Clips of all splits.

    Returns
    -------
    dict[str, int]
        Label to index.

    Example
    -------
    >>> label_map([Clip("a", "a.wav", "dog", "train"), Clip("b", "b.wav", "cat", "train")])
    {'cat': 0, 'dog': 1}
    """
    return {label: index for index, label in enumerate(sorted({clip.label for clip in clips if clip.split == "train"}))}


def prepare_manifest(
    list_clips: Callable[..., list[Clip]],
    manifest_folder: str,
    *,
    minimum_seconds: float = 0.1,
    largest_share: float = 0.05,
    **arguments: object,
) -> list[Clip]:
    """Lists the clips of a corpus, checks them and writes ``manifest.csv``.

    Where the folder already holds the manifest of the same arguments and of files that have not changed since, nothing
    is decoded again.

    Arguments
    ---------
    list_clips : Callable[..., list[Clip]]
        A corpus: returns its clips with their splits.
    manifest_folder : str
        Where ``manifest.csv``, ``manifest.json`` (what it was made from) and ``quarantine.csv`` go.
    minimum_seconds : float
        Shortest clip that is kept.
    largest_share : float
        Share of the clips that may be set aside, 0 to 1.
    **arguments : object
        What `list_clips` takes.

    Returns
    -------
    list[Clip]
        The clips to use.

    Raises
    ------
    UsageError
        The corpus, its clips or its splits cannot be used.
    """
    listed = list_clips(**arguments)
    check_splits(listed)  # before the audio is decoded, which takes minutes
    manifest_path = os.path.join(manifest_folder, "manifest.csv")
    record_path = os.path.join(manifest_folder, "manifest.json")
    quarantine_path = os.path.join(manifest_folder, "quarantine.csv")
    limits = {"minimum_seconds": minimum_seconds, "largest_share": largest_share}
    source = {"arguments": arguments, "limits": limits, "listed": len(listed), "signature": _signature(listed)}
    source = json.loads(json.dumps(source, default=str))
    if _read_record(record_path) == {**source, "manifest": _file_hash(manifest_path)}:
        clips = read_manifest(manifest_path)
    else:
        clips = check_clips(listed, quarantine_path, **limits)
        check_splits(clips)
        write_manifest(clips, manifest_path)
        with atomic_file(record_path) as file:
            json.dump({**source, "manifest": _file_hash(manifest_path)}, file, indent=1)
    _log_summary(clips, len(listed) - len(clips), manifest_path)
    return clips


def _signature(clips: Sequence[Clip]) -> str:
    """Hashes all that is known of the clips without reading them: fields, file sizes and modification times."""
    digest = hashlib.sha256()
    for clip in clips:
        try:
            status = os.stat(clip.path)
            state = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            state = None  # check_clips says why
        digest.update(ascii((dataclasses.astuple(clip), state)).encode())
    return digest.hexdigest()


def _file_hash(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return None


def _read_record(path: str) -> dict | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None


def _log_summary(clips: Sequence[Clip], quarantined: int, path: str) -> None:
    counts = Counter(clip.split for clip in clips)
    hours = sum(clip.duration for clip in clips) / 3600
    sizes = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    classes = len(label_map(clips))
    logger.info("%s: %s clips, %d classes, %.2f hours, %d quarantined", path, sizes, classes, hours, quarantined)
