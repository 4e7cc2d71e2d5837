"""Augmentation of a batch of signals, on the device, in training only. Each draws from torch's random generator.

Each is called with signals ``[batch, time, ...]``, the share of each that is not padding ``[batch]``, and targets
``[batch, classes]``; it returns signals and targets. One that works on log-mels or waveforms alone says so in its
attribute `signal`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import torch
from speechbrain.augment.time_domain import SpeedPerturb

from brainplug.errors import UsageError, nearest

SAMPLE_RATE = 16000  # Hz
logger = logging.getLogger(__name__)

# ln(10) / 10 / (2 * 4.57) for AST, with the deviation of AudioSet; 1 / 10 / 4 for Whisper.
LOG_MEL_DECIBEL = 0.025


def choose_augmentations(
    chosen: Sequence[str | Callable] | str | None, entries: Mapping[str, Callable], settings: Mapping[str, dict] | None
) -> list[Callable]:
    """Picks augmentations by name.

    Arguments
    ---------
    chosen : Sequence[str | Callable] | str | None
        Names of entries, in the order in which they are applied; an augmentation itself stays as it is.
    entries : Mapping[str, Callable]
        Makes each augmentation, by name: the block ``augmentations``.
    settings : Mapping[str, dict] | None
        What differs from the entries, by name.

    Returns
    -------
    list[Callable]
        The augmentations.

    Raises
    ------
    UsageError
        There is no such entry, or it does not take its settings.

    Example
    -------
    >>> choose_augmentations(["gain"], {"gain": Gain, "mixup": Mixup}, {"gain": {"deviation": 3.0}})
    [Gain(deviation=3.0)]
    """
    chosen, settings = [chosen] if isinstance(chosen, str) else chosen or [], settings or {}
    for name in [*chosen, *settings]:
        if not callable(name) and str(name) not in entries:
            raise UsageError(
                f"The augmentation {name!r} was asked for.",
                "The recipe's block augmentations has no such entry.",
                f"Write --augment='[...]' with names among: {nearest(name, entries)}",
            )
    return [each if callable(each) else _make(each, entries[each], settings.get(each) or {}) for each in chosen]


def _make(name: str, entry: Callable, settings: dict) -> Callable:
    try:
        made = entry(**settings)
        _try(made)
        return made
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"The augmentation {name!r} was asked for, with {settings}.",
            f"It does not take them: {error}.",
            "Write settings that hparams/augmentations.yaml shows for it",
        ) from error


def _try(augment: Callable) -> None:
    """Augments two seconds of nothing: better that a setting fails here than in the first step."""
    shape = (2, 16000) if getattr(augment, "signal", "") == "waveform" else (2, 100, 128)
    with torch.random.fork_rng(devices=[]):
        augment(torch.zeros(shape), torch.ones(2), torch.eye(2))


def suitable(augment: Sequence[Callable], signals: Sequence[str]) -> list[Callable]:
    """Leaves out what does not work on a backbone's signal, and says so in the log.

    Arguments
    ---------
    augment : Sequence[Callable]
        Augmentations, in order.
    signals : Sequence[str]
        What passes through the device: ``log_mel``, ``waveform`` or both.

    Returns
    -------
    list[Callable]
        Those that work on it.

    Example
    -------
    >>> suitable([TimeShift(), SpecAugment()], ["waveform"])
    [TimeShift(max_fraction=1.0)]
    """
    kept = []
    for each in augment:
        if getattr(each, "signal", signals[-1]) in signals:
            kept.append(each)
        else:
            kind, there = type(each).__name__, " and ".join(signals)
            logger.warning("%s is for %s; here there is %s: left out.", kind, each.signal, there)
    return kept


def distort(augment: Iterable[Callable], signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Augments signals whose targets stay what they are.

    Arguments
    ---------
    augment : Iterable[Callable]
        Augmentations, in their order. One that mixes clips does not suit.
    signal : torch.Tensor
        ``[batch, time, ...]``.
    lengths : torch.Tensor
        Share of each that is not padding, ``[batch]``.

    Returns
    -------
    torch.Tensor
        Signals, which may be longer or shorter; the shares are the same.

    Example
    -------
    >>> distort([Gain(), Noise()], torch.ones(2, 8), torch.ones(2)).shape
    torch.Size([2, 8])
    """
    for each in augment:
        signal, _ = each(signal, lengths, torch.ones_like(lengths)[:, None])
    return signal


def _mask_of(signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Where a signal is no padding, ``[batch, time]``."""
    return torch.arange(signal.shape[1], device=signal.device) < _counts(signal, lengths)


def _counts(signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """How many samples or frames of each signal are no padding, ``[batch, 1]``."""
    return (lengths[:, None] * signal.shape[1]).round().long()


@dataclass(frozen=True)
class TimeShift:
    """Rolls each clip along time by a random amount; what leaves at its end comes back at its start.

    Arguments
    ---------
    max_fraction : float
        Largest shift as a share of the clip's length.

    Example
    -------
    >>> signal = torch.arange(6.0).view(1, 6, 1)
    >>> shifted, _ = TimeShift()(signal, torch.ones(1), torch.ones(1, 2))
    >>> sorted(shifted.flatten().tolist()) == signal.flatten().tolist()
    True
    """

    max_fraction: float = 1.0

    def __call__(
        self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, time, ...]`` and targets ``[batch, classes]``."""
        batch, time = signal.shape[:2]
        own = _counts(signal, lengths)
        shift = (torch.rand(batch, 1, device=signal.device) * self.max_fraction * own).long()
        places = torch.arange(time, device=signal.device)
        index = torch.where(places < own, (places - shift) % own.clamp(min=1), places)  # [batch, time]
        index = index.view(batch, time, *[1] * (signal.dim() - 2)).expand_as(signal)
        return signal.gather(1, index), targets


@dataclass(frozen=True)
class Gain:
    """Makes each clip louder or softer.

    Waveforms are multiplied. To log-mels a number is added; normalised as AST and Whisper want them, 0.025 a decibel.

    Arguments
    ---------
    deviation : float
        Standard deviation of the gain, in decibels.

    Example
    -------
    >>> louder, _ = Gain(3.0)(torch.zeros(2, 3, 4), torch.ones(2), torch.ones(2, 2))
    >>> bool((louder == louder[:, :1, :1]).all())
    True
    """

    deviation: float = 4.0

    def __call__(
        self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes signals ``[batch, time]`` or ``[batch, frames, mel_bands]``, and targets ``[batch, classes]``."""
        if signal.dim() == 3:
            offset = LOG_MEL_DECIBEL * self.deviation
            return signal + offset * torch.randn(len(signal), 1, 1, device=signal.device), targets
        gain = self.deviation * torch.randn(len(signal), 1, device=signal.device)
        return signal * 10 ** (gain / 20), targets


@dataclass(frozen=True)
class Noise:
    """Adds noise to each waveform.

    Arguments
    ---------
    lowest, highest : float
        Range of the signal-to-noise ratio, in decibels; it is drawn uniformly. The signal's power is that of the clip.
    pink : float
        Share of the clips, drawn by chance, whose noise is pink: its power falls with frequency. Elsewhere it is white.

    Example
    -------
    >>> clip = torch.ones(1, 16000)
    >>> noisy, _ = Noise(20.0, 20.0)(clip, torch.ones(1), torch.ones(1, 2))
    >>> round((noisy - clip).square().mean().item(), 3)
    0.01
    """

    signal: ClassVar[str] = "waveform"
    lowest: float = 10.0
    highest: float = 30.0
    pink: float = 0.0

    def __call__(
        self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, time]`` and targets ``[batch, classes]``."""
        present = _mask_of(signal, lengths)
        power = (signal * present).square().sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
        drawn = torch.rand(len(signal), 1, device=signal.device)
        ratio = self.lowest + (self.highest - self.lowest) * drawn  # dB
        noise = torch.randn_like(signal)
        if self.pink:
            noise = torch.where(torch.rand_like(drawn) < self.pink, _pink(noise), noise)
        return signal + noise * torch.sqrt(power) * 10 ** (-ratio / 20) * present, targets


def _pink(noise: torch.Tensor) -> torch.Tensor:
    """White noise ``[batch, time]``, its power divided by the frequency and its level as before."""
    spectrum = torch.fft.rfft(noise)
    frequencies = torch.arange(spectrum.shape[1], device=noise.device).clamp(min=1)
    shaped = torch.fft.irfft(spectrum / frequencies.sqrt(), n=noise.shape[1])
    return shaped * (noise.square().mean(1, keepdim=True) / shaped.square().mean(1, keepdim=True)).sqrt()


class Speed:
    """Plays waveforms faster or slower, a whole batch at one speed; pitch and formants move with it.

    Ko et al., "Audio Augmentation for Speech Recognition", 2015.

    Arguments
    ---------
    speeds : Sequence[int]
        Of which one is drawn, in per cent.

    Example
    -------
    >>> faster, _ = Speed([125])(torch.zeros(2, 16000), torch.ones(2), torch.ones(2, 2))
    >>> faster.shape
    torch.Size([2, 12800])
    """

    signal: ClassVar[str] = "waveform"

    def __init__(self, speeds: Sequence[int] = (90, 100, 110)):
        self.perturb = SpeedPerturb(SAMPLE_RATE, list(speeds))

    def __call__(
        self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, time]`` and targets ``[batch, classes]``."""
        self.perturb.device = signal.device
        return self.perturb(signal), targets


@dataclass(frozen=True)
class MelShift:
    """Moves each log-mel up or down by a few bands, as a shorter or longer vocal tract does; edges are repeated.

    A change of the vocal tract's length multiplies all frequencies; on the mel scale, which is logarithmic well above
    700 Hz, that is a shift. Jaitly and Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition",
    2013.

    Arguments
    ---------
    largest : int
        Largest shift, in mel bands.

    Example
    -------
    >>> shifted, _ = MelShift(2)(torch.arange(10.0).expand(5, 3, 10), torch.ones(5), torch.ones(5, 2))
    >>> bool((shifted - torch.arange(10.0)).abs().amax() <= 2)
    True
    """

    signal: ClassVar[str] = "log_mel"
    largest: int = 2

    def __call__(
        self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, frames, mel_bands]`` and targets ``[batch, classes]``."""
        batch, _, bands = signal.shape
        shift = torch.randint(-self.largest, self.largest + 1, (batch, 1), device=signal.device)
        index = (torch.arange(bands, device=signal.device) + shift).clamp(0, bands - 1)  # [batch, mel_bands]
        return signal.gather(2, index[:, None].expand_as(signal)), targets


@dataclass(frozen=True)
class Mixup:
    """Mixes each clip with another one, and their targets in the same proportion. A longer partner is cut.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, https://arxiv.org/abs/1710.09412

    Arguments
    ---------
    alpha : float
        Both parameters of the Beta distribution of the proportion.

    Example
    -------
    >>> _, targets = Mixup(0.5)(torch.randn(4, 3, 2), torch.ones(4), torch.eye(4))
    >>> bool(torch.allclose(targets.sum(1), torch.ones(4)))
    True
    """

    alpha: float = 0.3

    def __call__(
        self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, time, ...]`` and targets ``[batch, classes]``."""
        # Whoever compiles turns torch's checks of distributions off.
        beta = torch.distributions.Beta(self.alpha, self.alpha, validate_args=True)
        share = beta.sample((len(signal),)).to(signal.device)
        share = torch.maximum(share, 1 - share)
        partner = torch.randperm(len(signal), device=signal.device)
        of_signal, of_targets = share.view(-1, *[1] * (signal.dim() - 1)), share[:, None]
        other = signal[partner] * _mask_of(signal, lengths).view(*signal.shape[:2], *[1] * (signal.dim() - 2))
        return (
            of_signal * signal + (1 - of_signal) * other,
            of_targets * targets + (1 - of_targets) * targets[partner],
        )


@dataclass(frozen=True)
class SpecAugment:
    """Masks one band of frequencies and one stretch of time.

    Park et al., "SpecAugment", 2019, https://arxiv.org/abs/1904.08779

    Arguments
    ---------
    frequency_width, time_width : int
        Largest widths of the masks, in mel bands and frames.
    value : float, optional
        What stands in the masks; each log-mel's mean by default.

    Example
    -------
    >>> log_mels = torch.arange(1000.0).view(1, 50, 20)
    >>> masked, _ = SpecAugment(4, 8)(log_mels, torch.ones(1), torch.ones(1, 2))
    >>> changed = masked != log_mels
    >>> int(changed.all(2).sum()) <= 8, int(changed.all(1).sum()) <= 4, set(masked[changed].tolist()) <= {499.5}
    (True, True, True)
    """

    signal: ClassVar[str] = "log_mel"
    frequency_width: int = 24
    time_width: int = 80
    value: float | None = None

    def __call__(
        self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, frames, mel_bands]`` and targets ``[batch, classes]``."""
        batch, frames, bands = signal.shape
        in_time = _stretch(batch, frames, self.time_width, signal.device)[:, :, None]
        in_frequency = _stretch(batch, bands, self.frequency_width, signal.device)[:, None, :]
        if self.value is not None:
            return signal.masked_fill(in_time | in_frequency, self.value), targets
        return torch.where(in_time | in_frequency, signal.mean((1, 2), keepdim=True), signal), targets


def _stretch(batch: int, size: int, largest: int, device: torch.device) -> torch.Tensor:
    """A random stretch of up to `largest` places for each clip, ``[batch, size]``, True inside."""
    width = (torch.rand(batch, 1, device=device) * (min(largest, size) + 1)).floor()
    start = (torch.rand(batch, 1, device=device) * (size - width + 1)).floor()
    places = torch.arange(size, device=device)
    return (places >= start) & (places < start + width)
