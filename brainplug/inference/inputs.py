"""The clips that a command line names: files, folders and lists."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from brainplug.data.corpora.own import is_audio
from brainplug.data.manifest import Clip, clip_from, read_list
from brainplug.errors import DataError, UsageError


def list_inputs(inputs: Sequence[str]) -> list[Clip]:
    """Lists the clips of audio files, of folders (all audio in them, at any depth) and of lists, each clip once.

    A list is a CSV file with the column ``path`` and, for parts of files, ``start`` and ``stop`` in seconds; relative
    paths begin in the list's folder. All inputs that do not exist or name no clip are named in one error.
    """
    clips: dict[Clip, None] = {}
    faults = []
    for name in inputs:
        if not os.path.exists(name):
            faults.append(f"{name} does not exist.")
            continue
        try:
            listed = list(_list_input(name))
        except UsageError as error:
            faults.append(str(error))
            continue
        clips |= dict.fromkeys(listed)
        if not listed:
            faults.append(f"{name} names no audio.")
    if faults or not clips:
        problem = " ".join(faults) or "No input was given."
        write = "Name audio files, folders with audio, or a CSV file with the column path"
        raise DataError(f"The clips of {', '.join(inputs) or 'nothing'} were asked for.", problem, write)
    return list(clips)


def _list_input(name: str) -> Iterator[Clip]:
    path = Path(name)
    if path.is_dir():
        return (_clip({"path": file}, name) for file in _audio_below(path))
    if path.suffix.lower() == ".csv":
        rows = read_list(name, ["path"], str(path.parent))
        return (_clip({**row, "path": str(path.parent / row["path"])}, name) for _, row in rows)
    return iter([_clip({"path": name}, name)])


def _audio_below(folder: Path) -> list[str]:
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(folder, onerror=_refuse) for name in names]
    return sorted(path for path in paths if is_audio(os.path.relpath(path, folder)))


def _refuse(fault: OSError) -> None:
    """os.walk would pass over a folder that cannot be read."""
    problem = f"It cannot be read: {fault.strerror}."
    raise DataError(f"The folder {fault.filename} was asked for.", problem, "Check its permissions.")


def _clip(row: dict[str, str], source: str) -> Clip:
    times = {name: row.get(name, "").strip() for name in ("start", "stop")}
    return clip_from({"id": row["path"], "path": row["path"], "label": "", **times}, source)
