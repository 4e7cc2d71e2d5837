"""Decodes the stretch of a file that a clip names, block by block, and tells where a part of it would be lost."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile

from brainplug.data.ffmpeg import FFMPEG_SUFFIXES, decode_with_ffmpeg
from brainplug.data.manifest import Clip
from brainplug.data.stored_length import StoredLength, stored_length, wav_bytes_after_header

BLOCK_FRAMES = 2**18  # decoded at a time: hours of audio are checked in a few megabytes
# TypeError: soundfile's for *.raw. OverflowError: a clip that starts or stops at infinity.
READ_ERRORS = (soundfile.SoundFileError, OSError, TypeError, ValueError, OverflowError, MemoryError)
UNRECOGNISED, UNSUPPORTED = 1, 4  # libsndfile's codes of a format and of an encoding that it does not read
UNKNOWN_FRAMES = 2**62  # libsndfile's number for a FLAC stream, whose header does not say how long it is, is larger
STREAM_BYTES = 0x7FFFF000  # a header that announces this much was written to a pipe, before the length was known
# libsndfile decodes what is left of a damaged file and tells of the damage in its log only.
DAMAGE = re.compile(r"File ended unexpectedly|Corrupted bitstream|[Ss]eems to be (?:a )?truncated")
ANNOUNCED_BYTES = re.compile(r"(?:data|SSND|BODY|riff|Riff size|Data Size)\s*: (\d+) \(should be (\d+)\)")
HEADERS = (8, 24, 36, 40, 44)  # bytes of headers, which some writers count as audio
LEEWAY = 0.25  # seconds: MP3's encoder and decoder add and remove some frames at both ends
SAMPLE_RATES = range(1000, 400_001)  # Hz; others are damaged headers

Block = np.ndarray[Any, np.dtype[np.float32]]  # [time, channel]


@dataclass(frozen=True)
class Decoder:
    """The audio of a clip. Its blocks end with a ValueError where a part of what the file announces is missing."""

    sample_rate: int
    blocks: Iterator[Block]


@contextlib.contextmanager
def open_clip(clip: Clip) -> Iterator[Decoder]:
    """Opens the file of a clip at the clip's first sample.

    libsndfile decodes what it reads as a whole. FFmpeg decodes the others: m4a, webm, aac, amr and wma, and MP3 and
    Ogg files that libsndfile would read in part. What cannot be read raises one of `READ_ERRORS`.
    """
    if not os.path.isfile(clip.path):
        raise FileNotFoundError("the file does not exist")
    with open(clip.path, "rb"):  # it says what is wrong where soundfile says "System error"
        pass
    try:
        file = soundfile.SoundFile(clip.path)
    except soundfile.LibsndfileError as fault:
        is_ffmpegs = os.path.splitext(clip.path)[1].lower() in FFMPEG_SUFFIXES
        if fault.code not in (UNRECOGNISED, UNSUPPORTED) or not (is_ffmpegs or find_spec("av")):
            raise
        reason = "" if is_ffmpegs else why_unreadable(fault)
        with decode_with_ffmpeg(clip, reason) as (rate, blocks):
            yield _check_rate(Decoder(rate, blocks))
        return
    with file:
        stored = stored_length(clip.path, file.format)
        if stored and stored.cut:
            raise ValueError(f"truncated: {stored.cut}")
        reason = _why_in_part(file, stored)
        if reason:
            with decode_with_ffmpeg(clip, reason, stored.seconds if stored else None) as (rate, blocks):
                yield _check_rate(Decoder(rate, blocks))
        else:
            yield _check_rate(Decoder(file.samplerate, _blocks(file, clip)))


def _why_in_part(file: soundfile.SoundFile, stored: StoredLength | None) -> str:
    """Why libsndfile would read a part of a file only; empty where it reads all."""
    if file.frames > UNKNOWN_FRAMES:
        return "a stream whose header does not say how long it is"
    if stored and (stored.chained or file.frames / file.samplerate < stored.seconds - LEEWAY):
        return f"libsndfile would read {file.frames / file.samplerate:.2f} of {stored.seconds:.2f} s"
    return ""


def _check_rate(decoder: Decoder) -> Decoder:
    if decoder.sample_rate not in SAMPLE_RATES:
        raise ValueError(f"a sample rate of {decoder.sample_rate} Hz")
    return decoder


def _blocks(file: soundfile.SoundFile, clip: Clip) -> Iterator[Block]:
    first = round((clip.start or 0.0) * file.samplerate)
    last = file.frames if clip.stop is None else min(round(clip.stop * file.samplerate), file.frames)
    if not 0 <= first < last:
        raise ValueError(_why_empty(clip.path, first, last, file.frames))
    if first:
        file.seek(first)
    count = 0
    while first + count < last:
        block = file.read(min(BLOCK_FRAMES, last - first - count), dtype="float32", always_2d=True)
        if not len(block):
            break
        yield block
        count += len(block)
    # Of an MP3 file without a header libsndfile guesses the number of frames.
    _check_complete(file.extra_info, count, count if file.format == "MP3" else last - first)


def _why_empty(path: str, first: int, last: int, frames: int) -> str:
    follow = 0 if frames else wav_bytes_after_header(path)
    if follow:
        return (
            f"its header announces no audio, but {follow:,} bytes follow: the recording was not finished; "
            "mend it by ffmpeg -ignore_length 1 -i FILE MENDED.wav"
        )
    return f"no samples from {first} to {last}; the file has {frames}"


def _check_complete(decoder_log: str, count: int, announced: int) -> None:
    """Tells truncated and damaged files, as far as their format lets it be seen."""
    damage = DAMAGE.search(decoder_log)
    if damage:
        raise ValueError(f"damaged or truncated: {damage[0].lower()}")
    if count < announced:
        raise ValueError(f"truncated: {_percent(count, announced)} of the announced audio is there")
    for match in ANNOUNCED_BYTES.finditer(decoder_log):
        wanted, actual = map(int, match.groups())
        if wanted < STREAM_BYTES and wanted > actual and wanted - actual not in HEADERS:
            raise ValueError(f"truncated: {_percent(actual, wanted)} of the announced audio is there")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.4g} %"


def why_unreadable(fault: Exception) -> str:
    """Says in a few words why a clip could not be read, without the path, which soundfile puts before it.

    Example
    -------
    >>> why_unreadable(soundfile.LibsndfileError(1, "Error opening 'a.wav': "))
    'Format not recognised'
    """
    words = getattr(fault, "error_string", None) or getattr(fault, "strerror", None) or str(fault)
    return words.removeprefix("Error : ").rstrip(".")
