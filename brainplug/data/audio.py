"""Reading a clip: decoded, made mono, resampled."""

import functools
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
import torchaudio
from pydantic import PositiveInt

from brainplug.data.decoding import READ_ERRORS, Block, open_clip, why_unreadable
from brainplug.data.manifest import Clip
from brainplug.errors import DataError

Channel = Literal["mix", "first", "loudest"] | PositiveInt
LARGEST_TERM = 1000  # 11025 to 16000 Hz is 441 to 640


@functools.lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int) -> torchaudio.transforms.Resample:
    """Keeps the kernel, which takes longer to make than to apply.

    It grows with the terms of the ratio: from 11127 to 16000 Hz it would take gigabytes. The nearest ratio with small
    terms is off by less than one part in a thousand, mostly by a millionth; the usual rates are met exactly.
    """
    ratio = Fraction(from_rate, to_rate).limit_denominator(LARGEST_TERM)
    return torchaudio.transforms.Resample(ratio.numerator, ratio.denominator)


def read_audio(clip: Clip, sample_rate: int = 16000, channel: Channel = "mix") -> torch.Tensor:
    """Reads a clip as mono audio at one sample rate: float32 samples ``[time]``.

    Of a long file only the clip is decoded. A file that cannot be read as a whole raises a `DataError`.

    Arguments
    ---------
    sample_rate : int
        Of the samples that are returned, in Hz.
    channel : Channel
        Which channel is taken, as `choose_channel` does.

    Example
    -------
    >>> import tempfile
    >>> import soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(f"{folder}/a.wav", torch.rand(44100, 2).numpy(), 44100)
    ...     waveform = read_audio(Clip("a", f"{folder}/a.wav", "noise", start=0.5), sample_rate=16000)
    >>> waveform.shape
    torch.Size([8000])
    """
    try:
        with open_clip(clip) as decoder:
            samples = np.concatenate(list(decoder.blocks))  # [time, channel]
        return to_waveform(samples, decoder.sample_rate, sample_rate, channel)
    except READ_ERRORS as fault:
        raise unreadable(clip, fault) from fault


def unreadable(clip: Clip, fault: Exception) -> DataError:
    """The error of a clip whose file cannot be read."""
    return DataError(
        f"The clip {clip.id!r} was asked for.",
        f"{clip.path} cannot be read: {why_unreadable(fault)}.",
        "Mend or replace the file, or leave it out of the list.",
    )


def to_waveform(samples: Block, from_rate: int, to_rate: int, channel: Channel) -> torch.Tensor:
    """Makes decoded samples ``[time, channel]`` mono ``[time]``, at another rate in Hz."""
    waveform = choose_channel(torch.from_numpy(samples), channel)
    return waveform if from_rate == to_rate else _resampler(from_rate, to_rate)(waveform)


def choose_channel(samples: torch.Tensor, channel: Channel) -> torch.Tensor:
    """One channel of samples ``[time, channel]``: their mean (``mix``), the ``first``, the ``loudest``, or that number.

    Numbers begin at 1. A channel that is not there raises a ValueError.

    Example
    -------
    >>> samples = torch.tensor([[0.5, -1.0], [0.5, -1.0]])
    >>> choose_channel(samples, "mix").tolist(), choose_channel(samples, "loudest").tolist()
    ([-0.25, -0.25], [-1.0, -1.0])
    """
    if channel == "mix":
        return samples.mean(dim=1)
    if channel == "loudest":
        return samples[:, int(samples.square().sum(dim=0).argmax())]
    number = 1 if channel == "first" else channel
    if number > samples.shape[1]:
        raise ValueError(f"channel {number} was asked for, and it has {samples.shape[1]}")
    return samples[:, number - 1]
