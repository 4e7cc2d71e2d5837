"""Clips that are too long for a backbone whose memory grows with them: refused, cut or split."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from brainplug.data.manifest import Clip
from brainplug.errors import DataError

LongClips = Literal["refuse", "cut", "split"]


def limit_length(clips: Sequence[Clip], longest: float | None, long_clips: LongClips) -> list[Clip]:
    """Keeps clips to a length: refuses longer ones, cuts off what is over, or splits them into equal parts.

    Arguments
    ---------
    clips : Sequence[Clip]
        With their durations.
    longest : float, optional
        Seconds; None: any length.

    Example
    -------
    >>> parts = limit_length([Clip("a", "a.wav", "dog", start=1.0, duration=24.0)], 10, "split")
    >>> [(part.id, part.start, part.stop) for part in parts]
    [('a-1', 1.0, 9.0), ('a-2', 9.0, 17.0), ('a-3', 17.0, 25.0)]
    """
    if longest is None:
        return list(clips)
    too_long = [clip for clip in clips if (clip.duration or 0.0) > longest]
    if too_long and long_clips == "refuse":
        longest_one = max(too_long, key=lambda clip: clip.duration or 0.0)
        raise DataError(
            f"Clips of at most {longest:g} s were asked for (longest_clip).",
            f"{len(too_long)} of {len(clips)} are longer, at most {longest_one.duration:,.1f} s: {longest_one.path}. "
            "The memory that this backbone needs grows with the square of a clip's length.",
            f"Write --long_clips=cut or split, or --longest_clip={math.ceil(longest_one.duration or 0.0)}",
        )
    return [part for clip in clips for part in _parts(clip, longest, long_clips)]


def _parts(clip: Clip, longest: float, long_clips: LongClips) -> list[Clip]:
    duration, start = clip.duration or 0.0, clip.start or 0.0
    if duration <= longest:
        return [clip]
    if long_clips == "cut":
        return [replace(clip, stop=start + longest, duration=longest)]
    count = math.ceil(duration / longest)
    ends = [start + duration * number / count for number in range(count + 1)]
    return [
        replace(clip, id=f"{clip.id}-{number}", start=begin, stop=end, duration=end - begin)
        for number, (begin, end) in enumerate(zip(ends, ends[1:], strict=False), start=1)
    ]
