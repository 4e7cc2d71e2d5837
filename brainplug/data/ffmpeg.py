"""Decoding by FFmpeg, through the optional package PyAV, of what libsndfile does not read or not to its end."""

import contextlib
import io
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from brainplug.data.manifest import Clip

if TYPE_CHECKING:
    import av

FFMPEG_SUFFIXES = frozenset((".aac", ".amr", ".m4a", ".mp4", ".webm", ".wma"))
HOW_TO_INSTALL = "the extra audio reads it: pip install 'brainplug[audio]'"
# FFmpeg's names of formats that hold audio themselves. Others, such as playlists, name further files and addresses.
FORMATS = "aac,amr,asf,flac,matroska,mov,mp3,mp4,m4a,ogg,wav,w64,webm"
DURATION_IS_STORED = ("asf", "matroska", "mov")  # others' is an estimate
COMPLETE = 0.98  # of the stored duration, which counts an encoder's padding too
Blocks = Iterator[np.ndarray[Any, np.dtype[np.float32]]]


class _File(io.FileIO):
    """A file that answers a damaged file's call for a position before its beginning with FFmpeg's own error value.

    PyAV would print the exception, and go on.
    """

    def seek(self, position: int, whence: int = 0) -> int:
        try:
            return super().seek(position, whence)
        except OSError:
            return -1


@contextlib.contextmanager
def decode_with_ffmpeg(clip: Clip, reason: str, seconds: float | None = None) -> Iterator[tuple[int, Blocks]]:
    """Opens a clip's file; gives its sample rate, and its samples in blocks ``[time, channel]``.

    Arguments
    ---------
    reason : str
        Why libsndfile does not decode the file; empty where it reads no file of this kind.
    seconds : float, optional
        How long the file's audio is, where that is known.
    """
    try:
        import av
    except ImportError as fault:
        raise ValueError("; ".join(filter(None, (reason, HOW_TO_INSTALL)))) from fault
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_File(clip.path))  # not its name: FFmpeg opens nothing else
            container = stack.enter_context(av.open(file, "r", options={"format_whitelist": FORMATS}))
        except av.FFmpegError as fault:
            raise ValueError(reason or f"cut short, or no audio (FFmpeg: {fault.strerror})") from fault
        if not container.streams.audio:
            raise ValueError(reason or "the file holds no audio")
        if container.streams.audio[0].codec_context is None:
            raise ValueError(reason or "FFmpeg does not know how its audio is encoded")
        if seconds is None and container.format.name.partition(",")[0] in DURATION_IS_STORED and container.duration:
            seconds = container.duration / av.time_base
        yield container.streams.audio[0].rate, _blocks(clip, container, seconds)


def _blocks(clip: Clip, container: "av.container.InputContainer", seconds: float | None) -> Blocks:
    import av

    stream = container.streams.audio[0]
    rate = stream.rate
    first = round((clip.start or 0.0) * rate)
    last = None if clip.stop is None else round(clip.stop * rate)
    count = 0
    resampler = av.AudioResampler("fltp", stream.layout, rate)  # chained streams may change their rate
    try:
        for frame in chain(container.decode(stream), [None]):
            for piece in resampler.resample(frame):
                block = piece.to_ndarray().T.astype(np.float32, copy=False)  # [time, channel]
                wanted = block[max(0, first - count) : None if last is None else max(0, last - count)]
                count += len(block)
                if len(wanted):
                    yield wanted
            if last is not None and count >= last:
                return
    except av.FFmpegError as fault:
        raise ValueError(f"damaged or truncated after {count / rate:.2f} s: {fault.strerror}") from fault
    if count <= first:
        raise ValueError(f"no samples from {first} to {last or count}; the file has {count}")
    if seconds and count / rate < COMPLETE * seconds:
        raise ValueError(f"truncated: {count / rate:.2f} of the announced {seconds:.2f} s are there")
