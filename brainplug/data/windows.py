"""Windows of long recordings, read one after the other: memory does not grow with the recording."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from brainplug.data.audio import Channel, to_waveform, unreadable
from brainplug.data.decoding import READ_ERRORS, Block, open_clip
from brainplug.data.manifest import Clip
from brainplug.errors import ConfigError, DataError

DECIMALS = 6  # of a window's times in seconds, which name its samples exactly


@dataclass(frozen=True)
class Windows:
    """How a recording is cut: windows of `length` that begin every `hop`, both in seconds.

    The last window ends where the recording ends, so that all of it is in some window.
    """

    length: float
    hop: float

    def __post_init__(self) -> None:
        if not 0 < self.hop <= self.length < float("inf"):
            raise ConfigError(
                f"Windows of {self.length:g} s every {self.hop:g} s were asked for.",
                "They would end nowhere, or leave sound between them.",
                "Write a --window above 0, and a --hop above 0 that is no longer",
            )


def read_windows(
    clip: Clip, windows: Windows, sample_rate: int = 16000, channel: Channel = "mix"
) -> Iterator[tuple[Clip, torch.Tensor]]:
    """Yields the windows of a clip, each with its mono samples ``[time]`` as `read_audio` would read it alone.

    A `DataError` is raised where the clip is shorter than a window, or where the file cannot be decoded further.
    """
    try:
        with open_clip(clip) as decoder:
            rate = decoder.sample_rate
            begin = round((clip.start or 0.0) * rate)  # as the decoder does
            for first, samples in _cut(decoder.blocks, round(windows.length * rate), windows.hop * rate):
                start, stop = (round((begin + sample) / rate, DECIMALS) for sample in (first, first + len(samples)))
                yield replace(clip, start=start, stop=stop), to_waveform(samples, rate, sample_rate, channel)
    except READ_ERRORS as fault:
        raise unreadable(clip, fault) from fault


def mean_spectra(clip: Clip, windows: Windows, sample_rate: int, channel: Channel, bands: int = 64) -> np.ndarray:
    """The mean power of each window of a clip, ``[bands, windows]``, in equal bands up to half the sample rate.

    Of a file that breaks off there are the windows before.
    """
    spectra, shape = [], torch.hann_window(2 * bands)
    with contextlib.suppress(DataError):
        for _, samples in read_windows(clip, windows, sample_rate, channel):
            padded = torch.nn.functional.pad(samples, (0, max(0, 2 * bands - len(samples))))
            power = torch.stft(padded, 2 * bands, window=shape, center=False, return_complex=True).abs().square()
            spectra.append(power[1:].mean(1))
    return torch.stack(spectra, 1).numpy()


def _cut(blocks: Iterator[Block], size: int, hop: float) -> Iterator[tuple[int, Block]]:
    """Yields each window's first sample and its samples ``[size, channel]``; `hop` is in samples."""
    held: list[Block] = []  # `count` samples from `offset` on, that a later window may need
    offset = count = number = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if round(number * hop) + size > offset + count:
            continue
        ahead = np.concatenate(held)
        while (first := round(number * hop)) + size <= offset + count:
            yield first, ahead[first - offset : first - offset + size]
            number += 1
        needed = min(first, offset + count - size)  # the last window may begin there
        held, count, offset = [ahead[needed - offset :]], offset + count - needed, needed
    total = offset + count
    if total < size:
        raise ValueError(f"it has {total} samples, and a window {size}")
    if round((number - 1) * hop) + size < total:
        yield total - size, np.concatenate(held)[-size:]
