"""From padded batches of waveforms to signals as a graph of plain operations, which can be exported and run elsewhere.

`extract` of a backbone reads one clip in Python. These modules compute the same for a batch. The Fourier transform is a
matrix product, so that every runtime has what they need.
"""

import math

import torch
from torch.nn.functional import pad
from torchaudio.compliance import kaldi

from brainplug.data.features import LogMel

PREEMPHASIS = 0.97  # Kaldi's
LOWEST_FREQUENCY = 20.0  # Hz, of Kaldi's filters
FAINTEST_POWER, RANGE = 1e-10, 8.0  # Whisper's smallest power, and how far below the loudest point, in powers of ten
EPSILON = 1e-7  # of wav2vec 2.0's variance


class FrontEnd(torch.nn.Module):
    """Turns waveforms ``[batch, samples]`` into signals; `lengths` ``[batch]`` of their samples are no padding.

    `forward` returns the signals, ``[batch, frames, mel_bands]`` or ``[batch, samples]``, and the share of each that is
    not padding, ``[batch]``. What is in the padding does not matter.
    """

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the signals and their shares."""
        raise NotImplementedError


class KaldiFrontEnd(FrontEnd):
    """The log-mels of `LogMel`, of a fixed number of frames.

    Example
    -------
    >>> log_mel, waveform = LogMel(frames=20), torch.randn(3000)
    >>> signal, _ = KaldiFrontEnd(log_mel)(waveform[None], torch.tensor([3000]))
    >>> torch.allclose(signal[0], log_mel.extract(waveform), atol=1e-4)
    True
    """

    transform: torch.Tensor
    filters: torch.Tensor

    def __init__(self, log_mel: LogMel):
        super().__init__()
        self.log_mel = log_mel
        self.window, self.shift = log_mel.samples
        size = 1 << (self.window - 1).bit_length()  # Kaldi fills a window up to a power of two
        steps = torch.eye(self.window, dtype=torch.float64)
        before = torch.cat([steps[:, :1], steps[:, :-1]], dim=1)
        shape = torch.hann_window(self.window, periodic=False, dtype=torch.float64)
        self.register_buffer("transform", fourier_matrix((steps - PREEMPHASIS * before) * shape, size))
        filters, _ = kaldi.get_mel_banks(
            log_mel.mel_bands, size, float(log_mel.sample_rate), LOWEST_FREQUENCY, 0.0, 100.0, -500.0, 1.0
        )
        self.register_buffer("filters", pad(filters, (0, 1)).T.contiguous())  # the highest frequency is in none

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mels ``[batch, frames, mel_bands]``; all of them are the clip's, with its silence."""
        count = self.log_mel.frames
        clips = fitted(waveforms, lengths, self.window + (count - 1) * self.shift)
        windows = windows_of(clips, count, self.window, self.shift)
        power = power_of((windows - windows.mean(2, keepdim=True)) @ self.transform)
        energies = (power @ self.filters).clamp(min=torch.finfo(torch.float32).eps).log()
        whole = (lengths - self.window).div(self.shift, rounding_mode="floor") + 1  # windows without padding
        in_clip = torch.arange(count, device=lengths.device) < whole.clamp(min=1)[:, None]
        signal = (energies * in_clip[:, :, None] - self.log_mel.mean) / (2 * self.log_mel.std)
        return signal, torch.ones_like(lengths, dtype=signal.dtype)


class WhisperFrontEnd(FrontEnd):
    """The log-mels of transformers' ``WhisperFeatureExtractor``, of a fixed number of frames.

    Arguments
    ---------
    filters : torch.Tensor
        The mel filters, ``[frequencies, mel_bands]``.
    frames, window, shift : int
        The number of frames; samples of a window, and from one to the next.
    padding : float
        What a short clip is filled up with.
    """

    transform: torch.Tensor
    filters: torch.Tensor

    def __init__(self, filters: torch.Tensor, frames: int, window: int, shift: int, padding: float = 0.0):
        super().__init__()
        self.frames, self.window, self.shift, self.padding = frames, window, shift, padding
        shape = torch.hann_window(window, dtype=torch.float64)
        self.register_buffer("transform", fourier_matrix(torch.diag(shape), window))
        self.register_buffer("filters", filters.float())

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mels ``[batch, frames, mel_bands]``, normalised by each clip's loudest point."""
        clips = fitted(waveforms, lengths, self.frames * self.shift, self.padding)
        centred = pad(clips[:, None], (self.window // 2, self.window // 2), mode="reflect")[:, 0]
        power = power_of(windows_of(centred, self.frames, self.window, self.shift) @ self.transform)
        log_mel = (power @ self.filters).clamp(min=FAINTEST_POWER).log10()
        signal = normalised_by_loudest(log_mel)
        return signal, torch.ones_like(lengths, dtype=signal.dtype)


class WaveformFrontEnd(FrontEnd):
    """Waveforms of zero mean and unit variance, or as they are, of at least `shortest` samples.

    The signals are `shortest` samples longer than the batch, so that the number of samples may be any.
    """

    def __init__(self, shortest: int, normalize: bool):
        super().__init__()
        self.shortest, self.normalize = shortest, normalize

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveforms ``[batch, samples + shortest]``, with zeros as padding."""
        signal = pad(without_padding(waveforms, lengths), (0, self.shortest))
        counts = lengths.clamp(min=self.shortest)
        if self.normalize:
            present = torch.arange(signal.shape[1], device=lengths.device) < counts[:, None]
            centred = torch.where(present, signal - signal.sum(1, keepdim=True) / counts[:, None], 0.0)
            variance = centred.square().sum(1, keepdim=True) / counts[:, None]
            signal = centred / torch.sqrt(variance + EPSILON)
        return signal, counts.to(signal.dtype) / signal.shape[1]


def normalised_by_loudest(log_mel: torch.Tensor) -> torch.Tensor:
    """Log-mels ``[..., frames, mel_bands]``, in powers of ten, as Whisper takes them: by each clip's loudest point."""
    return (torch.maximum(log_mel, log_mel.amax((-2, -1), keepdim=True) - RANGE) + 4.0) / 4.0


def without_padding(waveforms: torch.Tensor, lengths: torch.Tensor, padding: float = 0.0) -> torch.Tensor:
    """Waveforms ``[batch, samples]`` with one value wherever there is padding."""
    present = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
    return torch.where(present, waveforms, padding)


def fitted(waveforms: torch.Tensor, lengths: torch.Tensor, samples: int, padding: float = 0.0) -> torch.Tensor:
    """Waveforms cut or padded to ``[batch, samples]``."""
    clips = pad(without_padding(waveforms, lengths, padding), (0, samples), value=padding)
    return clips[:, :samples]


def windows_of(waveforms: torch.Tensor, count: int, window: int, shift: int) -> torch.Tensor:
    """The first windows of waveforms, ``[batch, count, window]``.

    Example
    -------
    >>> windows_of(torch.arange(8.0)[None], count=2, window=4, shift=2).tolist()
    [[[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]]]
    """
    step = math.gcd(window, shift)  # samples of a piece; windows begin and end where pieces do
    samples = window + (count - 1) * shift
    # Not `unflatten`, which is exported with the example's number of clips.
    pieces = waveforms[:, :samples].reshape(waveforms.shape[0], samples // step, step)
    stride, last = shift // step, (count - 1) * shift // step
    return torch.cat([pieces[:, first : first + last + 1 : stride] for first in range(window // step)], dim=2)


def fourier_matrix(windows: torch.Tensor, size: int) -> torch.Tensor:
    """The transform of samples after a linear map, both in one matrix ``[samples, 2 * frequencies]``.

    Arguments
    ---------
    windows : torch.Tensor
        What the map makes of each unit vector, ``[samples, window]``; in double precision.
    size : int
        Samples that are transformed, with zeros after the window.
    """
    spectra = torch.fft.rfft(windows, n=size)
    return torch.cat([spectra.real, spectra.imag], dim=1).float()


def power_of(spectra: torch.Tensor) -> torch.Tensor:
    """The power ``[..., frequencies]`` of what a `fourier_matrix` made, ``[..., 2 * frequencies]``."""
    real, imaginary = spectra.chunk(2, dim=-1)
    return real.square() + imaginary.square()
