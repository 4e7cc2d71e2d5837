"""Checks that every clip passes before it is used: its file is read once, from end to end."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool

import numpy as np
from tqdm import tqdm

from brainplug.data.audio import Channel
from brainplug.data.decoding import READ_ERRORS, open_clip, why_unreadable
from brainplug.data.levels import Levels
from brainplug.data.manifest import Clip, write_table
from brainplug.errors import DataError

LOUDEST = 2.0**32  # full scale is 1; float files may hold 32-bit numbers as they were
COLUMNS = ("id", "path", "label", "reason")
QUARANTINE, REMARKS = "quarantine.csv", "remarks.csv"


def _measure(clip: Clip, channel: Channel) -> tuple[float, str]:
    """Decodes a clip block by block; returns its seconds, and what is odd about it, if anything.

    A ValueError says why the clip cannot be used.
    """
    levels = Levels(channel)
    with open_clip(clip) as decoder:
        for block in decoder.blocks:
            if not np.isfinite(block).all():
                raise ValueError("NaN or infinite samples")
            levels.add(block)
        if levels.peak > LOUDEST:
            raise ValueError(f"samples up to {levels.peak:.0e}; full scale is 1")
        return levels.count / decoder.sample_rate, levels.remark()


def _check(clip: Clip, minimum_seconds: float, channel: Channel) -> tuple[Clip, str, str]:
    """Returns the clip with its duration, why it cannot be used, and what is odd: each empty where there is nothing."""
    try:
        seconds, remark = _measure(clip, channel)
    except READ_ERRORS as fault:
        return clip, why_unreadable(fault), ""
    if seconds < minimum_seconds:
        return clip, f"lasts {seconds:.3f} s, less than {minimum_seconds} s", ""
    if clip.stop is not None and clip.stop - (clip.start or 0.0) > seconds + minimum_seconds:
        return clip, f"stops at {clip.stop} s, after the end of the file", ""
    return replace(clip, duration=seconds), "", remark


def check_clips(
    clips: Sequence[Clip],
    folder: str,
    minimum_seconds: float = 0.1,
    max_fraction: float = 0.05,
    channel: Channel = "mix",
) -> list[Clip]:
    """Decodes every clip once, fills in its duration, and sets aside those that cannot be used.

    Those are files that are missing, unreadable, truncated, empty or too short, or that hold NaN, infinite or absurdly
    large samples, or a sample rate below 1 kHz or above 400 kHz. (A flipped bit inside uncompressed audio is audio, and
    passes.) Clips that are used though they are odd, such as silent ones, are listed too.

    Arguments
    ---------
    folder : str
        Where ``quarantine.csv`` lists the clips set aside, and ``remarks.csv`` the odd ones. A file is removed where
        there are none.
    minimum_seconds : float
        Shortest clip that is used.
    max_fraction : float
        Share of the clips that may be set aside, 0 to 1; more raise a `DataError`.
    channel : Channel
        The channel that is used, as in `read_audio`.
    """
    good, bad, odd = [], [], []
    check = partial(_check, minimum_seconds=minimum_seconds, channel=channel)
    with ThreadPool() as pool:  # libsndfile works outside the interpreter's lock
        checked = pool.imap(check, clips, chunksize=16)
        for clip, reason, remark in tqdm(checked, total=len(clips), desc="Checking audio", unit="clip"):
            if reason:
                bad.append((clip.id, clip.path, clip.label, reason))
            else:
                good.append(clip)
            if remark:
                odd.append((clip.id, clip.path, clip.label, remark))
    quarantine_path = os.path.join(folder, QUARANTINE)
    _write_list(quarantine_path, bad)
    _write_list(os.path.join(folder, REMARKS), odd)
    if len(bad) > max_fraction * len(clips):
        examples = "; ".join(f"{path}: {reason}" for _, path, _, reason in bad[:3])
        raise DataError(
            f"{len(clips)} clips were asked for.",
            f"{len(bad)} of them ({len(bad) / len(clips):.1%}, at most {max_fraction:.1%} may be) cannot be used, "
            f"first {examples}.",
            f"Mend or replace the files listed in {quarantine_path}.",
        )
    return good


def _write_list(path: str, rows: Sequence[tuple[str, str, str, str]]) -> None:
    if rows:
        write_table(path, COLUMNS, rows)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
