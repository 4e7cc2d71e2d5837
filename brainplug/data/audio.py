"""Reading a clip: decoded, mixed to mono, resampled."""

import functools
from fractions import Fraction

import torch
import torchaudio

from brainplug.data.manifest import Clip
from brainplug.data.protocol.checks import READ_ERRORS, open_clip, why_unreadable
from brainplug.errors import DataError

LARGEST_TERM = 1000  # 11025 to 16000 Hz is 441 to 640


@functools.lru_cache(maxsize=16)
def _resampler(from_rate: int, to_rate: int) -> torchaudio.transforms.Resample:
    """Keeps the kernel, which takes longer to make than to apply.

    It grows with the terms of the ratio: from 11127 to 16000 Hz it would take gigabytes. The nearest ratio with small
    terms is off by less than one part in a thousand, mostly by a millionth; the usual rates are met exactly.
    """
    ratio = Fraction(from_rate, to_rate).limit_denominator(LARGEST_TERM)
    return torchaudio.transforms.Resample(ratio.numerator, ratio.denominator)


def read_audio(clip: Clip, sample_rate: int = 16000) -> torch.Tensor:
    """Reads a clip as mono audio at one sample rate: float32 samples ``[time]``, the mean of the channels.

    Of a long file only the clip is decoded. A file that cannot be read raises a `DataError`.

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
        with open_clip(clip) as (file, frames):
            samples = torch.from_numpy(file.read(frames, dtype="float32", always_2d=True))  # [time, channel]
            file_rate = file.samplerate
    except READ_ERRORS as fault:
        raise DataError(
            f"The clip {clip.id!r} was asked for.",
            f"{clip.path} cannot be read: {why_unreadable(fault)}.",
            "Mend or replace the file, or leave it out of the list.",
        ) from fault
    waveform = samples.mean(dim=1)
    return waveform if file_rate == sample_rate else _resampler(file_rate, sample_rate)(waveform)
