"""Your own data: a folder with one sub-folder a class, or a list of clips in a CSV file."""

import dataclasses
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import soundfile

from brainplug.data.manifest import COLUMNS, Clip, clip_from, read_list, read_table, write_table
from brainplug.data.protocol.folds import NINTHS, TENTHS, Stretch, draw, split_of, stretch_of
from brainplug.data.spelling import why_not_here
from brainplug.errors import DataError

logger = logging.getLogger(__name__)

# What soundfile reads, under other names too, and audio that it does not read: check_clips says so of each file.
AUDIO_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | set(
    ".aac .aif .aifc .amr .m4a .mp4 .oga .opus .pcm .snd .sph .wave .webm .wma".split()
)
SPLIT_NAMES = set("train training valid validation val dev test testing eval".split())
TABLE_COLUMNS = ("path", "label", "text", "split", "fold", "group", "start", "stop", "id")
NO_LABEL = "speech"  # of clips that are transcribed, not classified


def list_clips(
    data_folder: str | None = None,
    manifest: str | None = None,
    fold: int | None = None,
    folds: int = 5,
    seed: int = 0,
    splits_file: str | None = None,
    transcribed: bool = False,
    **_: object,
) -> list[Clip]:
    """Lists the clips of a folder or of a CSV file, with their splits.

    Splits that the CSV gives are used as they are; where none validates, a ninth of what trains is drawn for it.
    Without splits 80 % train, 10 % validate and 10 % test. With `fold` one fold tests and the one before it validates;
    they are those of the CSV's column ``fold``, or else drawn. What is drawn is stratified, keeps groups whole (files
    too, where there are no groups), and is written down: clips that are listed again stay where they were.

    Arguments
    ---------
    data_folder : str, optional
        Holds one sub-folder a class, whose name is the label; audio may lie at any depth in it. With a manifest: where
        its relative paths begin, by default its own folder.
    manifest : str, optional
        CSV file with the columns ``path`` and ``label`` and, where they apply, ``split``, ``fold``, ``group``,
        ``start``, ``stop`` (seconds) and ``id``, by default the path without its extension, or the whole path where two
        would be equal. Relative paths may not hold ``..``: such a list was written for another folder. Absolute paths
        and links are followed.
    fold : int, optional
        The test fold.
    folds : int
        How many folds are drawn, at least 3.
    seed : int
        Of what is drawn.
    splits_file : str, optional
        Where it is written down, as a CSV that is itself a manifest.
    transcribed : bool
        Whether the CSV has transcripts in a column ``text`` instead of labels.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for number in range(20):
    ...     (folder / f"{number % 2}").mkdir(exist_ok=True)
    ...     (folder / f"{number % 2}" / f"{number}.wav").touch()
    >>> [sum(clip.split == split for clip in list_clips(folder)) for split in ("train", "valid", "test")]
    [16, 2, 2]
    """
    if transcribed and not manifest:
        problem = "A folder says nothing of what is said."
        raise DataError("Transcribed clips of your own were asked for.", problem, "Write --manifest=clips.csv")
    clips = _from_table(manifest, data_folder, transcribed) if manifest else _from_folders(data_folder)
    source = manifest or data_folder or ""
    if not transcribed:
        _check_labels(clips, source)
    _check_listed(clips, source)
    if fold is not None:
        if not _is_given("fold", clips):
            clips = _drawn("fold", clips, range(1, folds + 1), seed, splits_file)
        return _rotated(clips, fold)
    if not _is_given("split", clips):
        if _is_given("fold", clips):
            problem = f"{manifest} has a column fold and no column split."
            raise DataError("Splits were asked for.", problem, f"Write --fold={clips[0].fold}, the one to test on.")
        return _drawn("split", clips, TENTHS, seed, splits_file)
    if any(clip.split == "valid" for clip in clips):
        return clips
    logger.warning("%s has no split valid: a ninth of train is drawn for it.", manifest)
    train = [clip for clip in clips if clip.split == "train"]
    others = [clip for clip in clips if clip.split != "train"]
    return _drawn("split", train, NINTHS, seed, splits_file, others)


def given_folds(manifest: str | None) -> list[int]:
    r"""The folds in the column ``fold`` of a CSV file, in order; none without a column that `list_clips` takes.

    Example
    -------
    >>> path = getfixture("tmp_path") / "clips.csv"
    >>> _ = path.write_text("path,label,fold\na.wav,dog,2\nb.wav,cat,0\n")
    >>> given_folds(path)
    [0, 2]
    """
    if not manifest:
        return []
    texts = {row.get("fold", "").strip() for row in read_table(_absolute(manifest), TABLE_COLUMNS[:1])}
    return sorted(map(int, texts)) if all(text.isdecimal() for text in texts) else []


# Folders


def _from_folders(data_folder: str | None) -> list[Clip]:
    if not data_folder:
        problem = "Neither a folder nor a list was given."
        raise DataError("Data of your own were asked for.", problem, "Write --data_folder=DIR or --manifest=clips.csv")
    folder = _absolute(data_folder)
    entries = _entries(folder)
    classes = [name for name in entries if os.path.isdir(os.path.join(folder, name)) and not name.startswith(".")]
    _check_classes(folder, classes)
    files = {name: _files_below(folder, name) for name in classes}
    audio = {name: list(filter(is_audio, paths)) for name, paths in files.items()}
    _check_not_empty(folder, [name for name in classes if not audio[name]])
    loose = [name for name in entries if name not in classes]
    _log_left_out(folder, [*loose, *(path for paths in files.values() for path in paths if not is_audio(path))])
    return _clips_from([{"path": path, "label": name} for name in classes for path in audio[name]], folder, folder)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as fault:
        raise DataError(
            f"The clips in {folder} were asked for.",
            f"The folder cannot be read: {fault.strerror}.",
            "Write --data_folder=DIR, a folder that you may read",
        ) from fault


def _check_classes(folder: str, classes: Sequence[str]) -> None:
    asked = f"The sub-folders of {folder} were asked for, one a class."
    if len(classes) < 2:
        problem = f"It has {' '.join(map(repr, classes)) or 'none'}."
        raise DataError(asked, problem, "Write --data_folder=DIR, a folder with one sub-folder a class")
    if {name.lower() for name in classes} <= SPLIT_NAMES:
        problem = f"{', '.join(map(repr, classes))} are splits, not classes."
        raise DataError(asked, problem, "Write --manifest=clips.csv, with the columns path, label and split")


def _files_below(folder: str, name: str) -> list[str]:
    """All files of a sub-folder, at any depth, and the linked folders in it, which could lead in a circle."""
    files = []
    for parent, folders, names in os.walk(os.path.join(folder, name), onerror=_raise):
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        files += [os.path.relpath(os.path.join(parent, name), folder) for name in (*names, *linked)]
    return sorted(files)


def _raise(fault: OSError) -> None:
    """os.walk would pass over a folder that may not be read."""
    problem = f"The folder cannot be read: {fault.strerror}."
    raise DataError(f"The clips in {fault.filename} were asked for.", problem, "Check the folder's permissions.")


def is_audio(path: str) -> bool:
    """Whether a path below the data folder is named as audio that soundfile reads, and is not hidden.

    Example
    -------
    >>> is_audio("dog/bark.FLAC"), is_audio("dog/.bark.wav"), is_audio("notes.txt")
    (True, False, False)
    """
    hidden = any(part.startswith(".") for part in Path(path).parts)
    return not hidden and os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES


def _check_not_empty(folder: str, empty: Sequence[str]) -> None:
    if empty:
        raise DataError(
            f"The sub-folders of {folder} were asked for, one a class.",
            f"{len(empty)} hold no audio, first {', '.join(map(repr, empty[:3]))}.",
            "Put clips into them, or move them away.",
        )


def _log_left_out(folder: str, paths: Sequence[str]) -> None:
    if paths:
        names = ", ".join(map(ascii, paths[:3]))
        reasons = "hidden, in no sub-folder, linked folders, or no audio by their names"
        logger.warning("%s: %d entries are left out (%s), first %s", folder, len(paths), reasons, names)


# Lists


def _from_table(manifest: str, data_folder: str | None, transcribed: bool) -> list[Clip]:
    manifest = _absolute(manifest)
    folder = _absolute(data_folder) if data_folder else os.path.dirname(manifest)
    _entries(folder)
    rows = []
    for number, row in read_list(manifest, ("path", "text" if transcribed else "label"), folder):
        _check_path(number, row["path"], manifest)
        row |= {"label": NO_LABEL} if transcribed else {}
        rows.append(
            {name: text.strip() if name != "path" else text for name, text in row.items() if name in TABLE_COLUMNS}
        )
    clips = _clips_from(rows, folder, manifest)
    if clips and not any(os.path.exists(clip.path) for clip in clips):
        first = rows[0]["path"]
        reason = why_not_here(first) or f"relative paths begin in {folder}"
        raise DataError(
            f"The clips of {manifest} were asked for.",
            f"None of its files exists, first {first!r}: {reason}.",
            "Write paths of this machine in UTF-8 or, as --data_folder=DIR, the folder where relative ones begin",
        )
    return clips


def _check_path(number: int, path: str, manifest: str) -> None:
    asked = f"The audio of row {number} of {manifest} was asked for."
    if not path.strip():
        raise DataError(asked, "Its path is empty.", "Write the path of a file, or remove the row.")
    if not os.path.isabs(path) and ".." in re.split(r"[/\\]", path):
        raise DataError(
            asked,
            f"Its path {path!r} climbs out of a folder.",
            "Write paths without '..' and, as --data_folder=DIR, the folder where they begin; or absolute paths.",
        )


def _clips_from(rows: Sequence[dict[str, str]], folder: str, source: str) -> list[Clip]:
    """Makes clips of rows whose paths begin in a folder."""
    unnamed = iter(_ids([row for row in rows if not row.get("id")]))
    clips = []
    for row in rows:
        known = {"id": row.get("id") or next(unnamed), "path": str(Path(folder, row["path"]))}
        # One label for what looks alike: macOS decomposes letters with accents in the names of folders.
        clips.append(clip_from({**row, **known, "label": unicodedata.normalize("NFC", row["label"].strip())}, source))
    return clips


def _ids(rows: Sequence[dict[str, str]]) -> list[str]:
    """Paths without extensions; whole paths with the times, where two would be the same."""
    stems = [os.path.splitext(row["path"])[0] for row in rows]
    if len(set(stems)) == len(stems):
        return stems
    return ["-".join(filter(None, (row["path"], row.get("start"), row.get("stop")))) for row in rows]


# Both


def _check_labels(clips: Sequence[Clip], source: str) -> None:
    asked = f"The clips of {source} were asked for."
    for clip in clips:
        if not clip.label:
            raise DataError(asked, f"The clip {clip.id!r} has no label.", "Give each clip a label, or leave it out.")
    labels = sorted({clip.label for clip in clips})
    if len(labels) < 2:
        problem = f"There are {len(clips)} clips, with {' '.join(map(repr, labels)) or 'no label'}."
        raise DataError(asked, problem, "Give clips of two classes or more.")


def _check_listed(clips: Sequence[Clip], source: str) -> None:
    asked = f"The clips of {source} were asked for."
    stretches: dict[Stretch, Clip] = {}
    for clip in clips:
        other = stretches.setdefault(stretch_of(clip), clip)
        if other is not clip:
            problem = f"{clip.path} is listed as {other.id!r}, {other.label!r} and as {clip.id!r}, {clip.label!r}."
            raise DataError(asked, problem, "List each clip once, with one label.")


def _is_given(field: str, clips: Sequence[Clip]) -> bool:
    """Whether a column is filled: for all clips or for none."""
    empty = [clip for clip in clips if getattr(clip, field) in ("", None)]
    if empty and len(empty) < len(clips):
        raise DataError(
            f"The column {field} was asked for.",
            f"It is empty for {len(empty)} of {len(clips)} clips, first {empty[0].id!r}.",
            f"Write the {field} of every clip, or of none.",
        )
    return not empty


def _rotated(clips: Sequence[Clip], test_fold: int) -> list[Clip]:
    fold_of = {clip.id: clip.fold for clip in clips if clip.fold is not None}
    folds = sorted(set(fold_of.values()))
    if test_fold not in folds or len(folds) < 3:
        problem = f"There are the folds {', '.join(map(str, folds))}."
        write = f"Write --fold={folds[0]}, for one" if len(folds) >= 3 else "Give three folds or more."
        raise DataError(f"The fold {test_fold!r} was asked for.", problem, write)
    return [dataclasses.replace(clip, split=split_of(fold_of[clip.id], test_fold, folds)) for clip in clips]


def _drawn(
    field: str,
    clips: Sequence[Clip],
    parts: Sequence[str | int],
    seed: int,
    splits_file: str | None,
    others: Sequence[Clip] = (),
) -> list[Clip]:
    """Draws the splits or folds of clips, and writes them down with those of the others."""
    how = f"seed {seed}: {', '.join(map(str, dict.fromkeys(parts)))}"
    before = {stretch_of(clip): getattr(clip, field) for clip in _read_splits(splits_file, how)}
    earlier = {stretch: part for stretch, part in before.items() if part in parts}
    drawn = zip(clips, draw(clips, parts, seed, earlier), strict=True)
    values: Iterator[tuple[Clip, dict[str, Any]]] = ((clip, {field: part}) for clip, part in drawn)
    listed = [*(dataclasses.replace(clip, **value) for clip, value in values), *others]
    if splits_file:
        write_table(splits_file, [*COLUMNS, "drawn"], ((*dataclasses.astuple(clip), how) for clip in listed))
    return listed


def _read_splits(splits_file: str | None, how: str) -> list[Clip]:
    """What was drawn before in the same way."""
    if not splits_file or not os.path.exists(splits_file):
        return []
    rows = read_table(splits_file, ["id", "path", "label", "drawn"])
    return [clip_from(row, splits_file) for row in rows if row["drawn"] == how]
