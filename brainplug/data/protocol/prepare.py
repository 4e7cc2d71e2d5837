"""From a corpus to its checked manifest on disk, made once."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from typing import Any, cast

from brainplug.data.audio import Channel
from brainplug.data.manifest import Clip, read_manifest, write_manifest
from brainplug.data.protocol.checks import check_clips
from brainplug.data.protocol.labels import doubtful_labels
from brainplug.data.protocol.leaks import check_shared
from brainplug.data.protocol.length import LongClips, limit_length
from brainplug.data.protocol.splits import check_splits
from brainplug.data.protocol.summary import (
    audible,
    quarantined,
    remarks,
    silent_classes,
    table_of_splits,
    warning_of_silence,
)
from brainplug.errors import DataError
from brainplug.files import atomic_file

logger = logging.getLogger(__name__)


def prepare_manifest(
    list_clips: Callable[..., list[Clip]],
    manifest_folder: str,
    *,
    minimum_seconds: float = 0.1,
    max_fraction: float = 0.05,
    channel: Channel = "mix",
    longest_clip: float | None = None,
    long_clips: LongClips = "refuse",
    max_shared: float = 0.01,
    trained: bool = False,
    **arguments: object,
) -> list[Clip]:
    """Lists the clips of a corpus, checks them and writes ``manifest.csv``.

    Where the folder already holds the manifest of the same arguments and of files that have not changed since, nothing
    is decoded again.

    Arguments
    ---------
    manifest_folder : str
        Where ``manifest.csv``, ``manifest.json`` (what it was made from) and the lists of `check_clips` are written.
    minimum_seconds, max_fraction, channel : float, float, Channel
        As in `check_clips`.
    longest_clip, long_clips : float, LongClips
        As in `limit_length`.
    max_shared : float
        Share of the clips of valid and test, 0 to 1, that may be in another split too, in copies of files.
    trained : bool
        Whether a model was trained on the manifest that is there; it is not replaced by another one then.
    **arguments : object
        Those of `list_clips`.
    """
    listed = _list(list_clips, arguments, trained)
    for line in doubtful_labels(clip.label for clip in listed):
        logger.warning(line)
    check_splits(listed)  # before the audio is decoded, which takes minutes
    manifest_path = os.path.join(manifest_folder, "manifest.csv")
    record_path = os.path.join(manifest_folder, "manifest.json")
    checks: dict[str, Any] = {"minimum_seconds": minimum_seconds, "max_fraction": max_fraction, "channel": channel}
    limits = {**checks, "longest_clip": longest_clip, "long_clips": long_clips, "max_shared": max_shared}
    source = {"arguments": arguments, "limits": limits, "listed": len(listed), "signature": _signature(listed)}
    source = json.loads(json.dumps(source, default=str))
    if _read_record(record_path) == {**source, "manifest": _file_hash(manifest_path)}:
        clips = read_manifest(manifest_path)
    else:
        checked = check_clips(listed, manifest_folder, **checks)
        clips = limit_length(checked, longest_clip, long_clips)
        check_splits(clips)
        check_shared(audible(clips, manifest_folder), max_shared)
        if trained and os.path.exists(manifest_path):
            _check_unchanged(clips, manifest_path)
        write_manifest(clips, manifest_path)
        with atomic_file(record_path) as file:
            json.dump({**source, "manifest": _file_hash(manifest_path)}, file, indent=1)
    _log_summary(clips, manifest_folder)
    return clips


def _list(list_clips: Callable[..., list[Clip]], arguments: dict[str, object], trained: bool) -> list[Clip]:
    """Lists the corpus. The splits that were drawn for a trained model stay as they are, whatever is listed now."""
    drawn = cast("str | None", arguments.get("splits_file"))
    if not (trained and drawn and os.path.exists(drawn)):
        return list_clips(**arguments)
    with tempfile.TemporaryDirectory(prefix="brainplug-splits-") as folder:
        return list_clips(**{**arguments, "splits_file": shutil.copy(drawn, folder)})


def _check_unchanged(clips: Sequence[Clip], manifest_path: str) -> None:
    """Refuses other clips: a model may have been trained on what tests now."""
    before, now = ({replace(clip, path="") for clip in listed} for listed in (read_manifest(manifest_path), clips))
    if before != now:
        raise DataError(
            f"The clips of {manifest_path} were asked for again.",
            f"They changed after a model was trained on them: {len(before - now)} are gone or otherwise, "
            f"{len(now - before)} are new.",
            "Write another --output_folder, or remove the folder of checkpoints, save, to train anew",
        )


def _signature(clips: Sequence[Clip]) -> str:
    """Hashes all that is known of the clips without reading them: fields, file sizes and modification times."""
    digest = hashlib.sha256()
    for clip in clips:
        try:
            status = os.stat(clip.path)
            state = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            state = None  # check_clips says why
        digest.update(ascii((astuple(clip), state)).encode())
    return digest.hexdigest()


def _file_hash(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return None


def _read_record(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def _log_summary(clips: Sequence[Clip], folder: str) -> None:
    logger.info("%s\n%s", os.path.join(folder, "manifest.csv"), table_of_splits(clips))
    for line in filter(None, (quarantined(folder), *remarks(folder))):
        logger.warning(line)
    if silent := silent_classes(clips, folder):
        logger.warning("\n%s", warning_of_silence(silent))
