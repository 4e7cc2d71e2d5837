"""Checks that every clip passes before it is used: its file is read once, from end to end."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool

import numpy as np
import soundfile
from tqdm import tqdm

from brainplug.data.manifest import Clip, write_table
from brainplug.errors import DataError

BLOCK_FRAMES = 2**18  # decoded at a time: hours of audio are checked in a few megabytes
# TypeError: soundfile's for *.raw. OverflowError: a clip that starts or stops at infinity.
READ_ERRORS = (soundfile.SoundFileError, OSError, TypeError, ValueError, OverflowError)
STREAM_BYTES = 0x7FFFF000  # a header that announces this much was written to a pipe, before the length was known
# libsndfile decodes what is left of a damaged file and tells of the damage in its log only.
DAMAGE = re.compile(r"File ended unexpectedly|Corrupted bitstream")
ANNOUNCED_BYTES = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
TRUNCATED_BELOW = 0.99  # share of the announced audio; sloppy writers miscount by a header or a frame
SAMPLE_RATES = range(1000, 400_001)  # Hz; others are damaged headers
LOUDEST = 2.0**32  # full scale is 1; float files may hold 32-bit numbers as they were


@contextlib.contextmanager
def open_clip(clip: Clip) -> Iterator[tuple[soundfile.SoundFile, int]]:
    """Opens the file of a clip at the clip's first sample, and yields it with the number of frames to read.

    A missing or forbidden file, a clip without samples and an impossible sample rate raise one of `READ_ERRORS`.
    """
    if not os.path.isfile(clip.path):
        raise FileNotFoundError("the file does not exist")
    with open(clip.path, "rb"):  # it says what is wrong where soundfile says "System error"
        pass
    with soundfile.SoundFile(clip.path) as file:
        if file.samplerate not in SAMPLE_RATES:
            raise ValueError(f"a sample rate of {file.samplerate} Hz")
        first = round((clip.start or 0.0) * file.samplerate)
        last = file.frames if clip.stop is None else min(round(clip.stop * file.samplerate), file.frames)
        if not 0 <= first < last:
            raise ValueError(f"no samples from {first} to {last}; the file has {file.frames}")
        if first:
            file.seek(first)
        yield file, last - first


def why_unreadable(fault: Exception) -> str:
    """Says in a few words why a clip could not be read, without the path, which soundfile puts before it.

    Example
    -------
    >>> why_unreadable(soundfile.LibsndfileError(1, "Error opening 'a.wav': "))
    'Format not recognised'
    """
    words = getattr(fault, "error_string", None) or getattr(fault, "strerror", None) or str(fault)
    return words.removeprefix("Error : ").rstrip(".")


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
            if np.abs(block).max() > LOUDEST:
                raise ValueError(f"samples up to {np.abs(block).max():.0e}; full scale is 1")
            count += len(block)
        _check_complete(file.extra_info, count, frames)
        return count / file.samplerate


def _check_complete(decoder_log: str, count: int, frames: int) -> None:
    """Tells truncated and damaged files, as far as their format lets it be seen."""
    damage = DAMAGE.search(decoder_log)
    if damage:
        raise ValueError(f"damaged or truncated: {damage[0].lower()}")
    sizes = [tuple(map(int, match.groups())) for match in ANNOUNCED_BYTES.finditer(decoder_log)]
    sizes = [(announced, actual) for announced, actual in sizes if announced < STREAM_BYTES]
    for announced, actual in [(frames, count), *sizes]:
        if actual < TRUNCATED_BELOW * announced:
            raise ValueError(f"truncated: {actual / announced:.0%} of the announced audio is there")


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
    clips: Sequence[Clip], quarantine_path: str, minimum_seconds: float = 0.1, max_fraction: float = 0.05
) -> list[Clip]:
    """Decodes every clip once, fills in its duration, and sets aside those that cannot be used.

    Those are files that are missing, unreadable, truncated, empty or too short, or that hold NaN, infinite or absurdly
    large samples, or a sample rate below 1 kHz or above 400 kHz. (A flipped bit inside uncompressed audio is audio, and
    passes.)

    Arguments
    ---------
    quarantine_path : str
        CSV file (id, path, reason) of the clips set aside. It is removed where there are none.
    minimum_seconds : float
        Shortest clip that is used.
    max_fraction : float
        Share of the clips that may be set aside, 0 to 1; more raise a `DataError`.
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
        write_table(quarantine_path, ["id", "path", "reason"], bad)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(quarantine_path)
    if len(bad) > max_fraction * len(clips):
        examples = "; ".join(f"{path}: {reason}" for _, path, reason in bad[:3])
        raise DataError(
            f"{len(clips)} clips were asked for.",
            f"{len(bad)} of them ({len(bad) / len(clips):.1%}, at most {max_fraction:.1%} may be) cannot be used, "
            f"first {examples}.",
            f"Mend or replace the files listed in {quarantine_path}.",
        )
    return good
