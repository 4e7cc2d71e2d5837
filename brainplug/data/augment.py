"""Augmentations of a batch of signals, on the device, in training only. Each draws from torch's random generator.

Each is called with signals ``[batch, time, ...]``, the share of each that is not padding ``[batch]``, and targets
``[batch, classes]``; it returns signals and targets. One for log-mels or waveforms alone says so in its attribute
`signal`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from speechbrain.augment.time_domain import SpeedPerturb

from brainplug.errors import ConfigError, nearest

SAMPLE_RATE = 16000  # Hz
logger = logging.getLogger(__name__)
Augmented = tuple[torch.Tensor, torch.Tensor]  # signals and targets
Augmentation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Augmented]

# ln(10) / 10 / (2 * 4.57) for AST, with AudioSet's standard deviation; 1 / 10 / 4 for Whisper.
LOG_MEL_DECIBEL = 0.025


def choose_augmentations(
    chosen: Sequence[str | Augmentation] | str | None,
    entries: Mapping[str, Callable[..., Augmentation]],
    settings: Mapping[str, dict[str, Any] | None] | None,
) -> list[Augmentation]:
    """Picks augmentations by name, in the order in which they are applied.

    Arguments
    ---------
    chosen : Sequence[str | Callable] | str | None
        Names of entries; an augmentation itself stays as it is.
    entries : Mapping[str, Callable]
        Makes each augmentation, by name: the block ``augmentations``.
    settings : Mapping[str, dict] | None
        What differs from the entries, by name.

    Example
    -------
    >>> choose_augmentations(["gain"], {"gain": Gain, "mixup": Mixup}, {"gain": {"std": 3.0}})
    [Gain(std=3.0)]
    """
    chosen, settings = [chosen] if isinstance(chosen, str) else chosen or [], settings or {}
    for name in [*chosen, *settings]:
        if not callable(name) and str(name) not in entries:
            raise ConfigError(
                f"The augmentation {name!r} was asked for.",
                "The recipe's block augmentations has no such entry.",
                f"Write --augment='[...]' with names among: {nearest(name, entries)}",
            )
    return [name if callable(name) else _make(name, entries[name], settings.get(name) or {}) for name in chosen]


def _make(name: str, entry: Callable[..., Augmentation], settings: dict[str, Any]) -> Augmentation:
    try:
        augment = entry(**settings)
        _augment_silence(augment)
        return augment
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"The augmentation {name!r} was asked for, with {settings}.",
            f"It does not take them: {error}.",
            "Write settings that hparams/augmentations.yaml shows for it",
        ) from error


def _augment_silence(augment: Augmentation) -> None:
    """Augments two clips of zeros, so that a wrong setting fails here and not in the first step."""
    shape = (2, 16000) if getattr(augment, "signal", "") == "waveform" else (2, 100, 128)
    with torch.random.fork_rng(devices=[]):
        augment(torch.zeros(shape), torch.ones(2), torch.eye(2))


def suitable(augment: Sequence[Augmentation], signals: Sequence[str]) -> list[Augmentation]:
    """Leaves out augmentations that do not work on a backbone's signals (``log_mel``, ``waveform``), with a warning.

    Example
    -------
    >>> suitable([TimeShift(), SpecAugment()], ["waveform"])
    [TimeShift(max_fraction=1.0)]
    """
    chosen = []
    for augmentation in augment:
        wanted = getattr(augmentation, "signal", signals[-1])
        if wanted in signals:
            chosen.append(augmentation)
        else:
            kind, actual = type(augmentation).__name__, " and ".join(signals)
            logger.warning("%s is for %s; the signal is %s: left out.", kind, wanted, actual)
    return chosen


def distort(augment: Iterable[Augmentation], signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Augments signals ``[batch, time, ...]`` whose targets do not change, with `lengths` as in all augmentations.

    The signals may become longer or shorter; their shares without padding stay the same.

    Example
    -------
    >>> distort([Gain(), Noise()], torch.ones(2, 8), torch.ones(2)).shape
    torch.Size([2, 8])
    """
    for augmentation in augment:
        signal, _ = augmentation(signal, lengths, torch.ones_like(lengths)[:, None])
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

    The largest shift is `max_fraction` of the clip's length.

    Example
    -------
    >>> signal = torch.arange(6.0).view(1, 6, 1)
    >>> shifted, _ = TimeShift()(signal, torch.ones(1), torch.ones(1, 2))
    >>> sorted(shifted.flatten().tolist()) == signal.flatten().tolist()
    True
    """

    max_fraction: float = 1.0

    def __call__(self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> Augmented:
        """Augments signals ``[batch, time, ...]``."""
        batch, time = signal.shape[:2]
        own = _counts(signal, lengths)
        shift = (torch.rand(batch, 1, device=signal.device) * self.max_fraction * own).long()
        positions = torch.arange(time, device=signal.device)
        index = torch.where(positions < own, (positions - shift) % own.clamp(min=1), positions)  # [batch, time]
        index = index.view(batch, time, *[1] * (signal.dim() - 2)).expand_as(signal)
        return signal.gather(1, index), targets


@dataclass(frozen=True)
class Gain:
    """Makes each clip louder or softer by a normally distributed gain of standard deviation `std`, in decibels.

    Waveforms are multiplied. To log-mels, normalised as AST and Whisper take them, 0.025 a decibel is added.

    Example
    -------
    >>> louder, _ = Gain(3.0)(torch.zeros(2, 3, 4), torch.ones(2), torch.ones(2, 2))
    >>> bool((louder == louder[:, :1, :1]).all())
    True
    """

    std: float = 4.0

    def __call__(self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> Augmented:
        """Augments signals ``[batch, time]`` or ``[batch, frames, mel_bands]``."""
        if signal.dim() == 3:
            offset = LOG_MEL_DECIBEL * self.std
            return signal + offset * torch.randn(len(signal), 1, 1, device=signal.device), targets
        gain = self.std * torch.randn(len(signal), 1, device=signal.device)
        return signal * 10 ** (gain / 20), targets


@dataclass(frozen=True)
class Noise:
    """Adds noise to each waveform, at a signal-to-noise ratio drawn uniformly from `lowest` to `highest`, in decibels.

    The signal's power is that of the clip. The noise is white, or, for a share `pink` of the clips, drawn by chance,
    pink: its power falls with frequency.

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

    def __call__(self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> Augmented:
        """Augments waveforms ``[batch, time]``."""
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
    """Plays a batch of waveforms at one of the `speeds`, in per cent; pitch and formants move with it.

    Ko et al., "Audio Augmentation for Speech Recognition", 2015.

    Example
    -------
    >>> faster, _ = Speed([125])(torch.zeros(2, 16000), torch.ones(2), torch.ones(2, 2))
    >>> faster.shape
    torch.Size([2, 12800])
    """

    signal: ClassVar[str] = "waveform"

    def __init__(self, speeds: Sequence[int] = (90, 100, 110)):
        self.perturb = SpeedPerturb(SAMPLE_RATE, list(speeds))

    def __call__(self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> Augmented:
        """Augments waveforms ``[batch, time]``."""
        self.perturb.device = signal.device
        return self.perturb(signal), targets


@dataclass(frozen=True)
class MelShift:
    """Moves each log-mel by up to `largest` bands, as a vocal tract of another length does; edges are repeated.

    A change of the vocal tract's length multiplies all frequencies; on the mel scale, which is logarithmic well above
    700 Hz, that is a shift. Jaitly and Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition",
    2013.

    Example
    -------
    >>> shifted, _ = MelShift(2)(torch.arange(10.0).expand(5, 3, 10), torch.ones(5), torch.ones(5, 2))
    >>> bool((shifted - torch.arange(10.0)).abs().amax() <= 2)
    True
    """

    signal: ClassVar[str] = "log_mel"
    largest: int = 2

    def __call__(self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> Augmented:
        """Augments log-mels ``[batch, frames, mel_bands]``."""
        batch, _, bands = signal.shape
        shift = torch.randint(-self.largest, self.largest + 1, (batch, 1), device=signal.device)
        index = (torch.arange(bands, device=signal.device) + shift).clamp(0, bands - 1)  # [batch, mel_bands]
        return signal.gather(2, index[:, None].expand_as(signal)), targets


@dataclass(frozen=True)
class Mixup:
    """Mixes each clip with another one, and their targets in the same proportion. A longer partner is cut.

    The proportion has a Beta distribution with both parameters `alpha`. Zhang et al., "mixup: Beyond Empirical Risk
    Minimization", 2018, https://arxiv.org/abs/1710.09412

    Example
    -------
    >>> _, targets = Mixup(0.5)(torch.randn(4, 3, 2), torch.ones(4), torch.eye(4))
    >>> bool(torch.allclose(targets.sum(1), torch.ones(4)))
    True
    """

    alpha: float = 0.3

    def __call__(self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> Augmented:
        """Augments signals ``[batch, time, ...]`` and their targets."""
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
    """Masks one band of up to `frequency_width` mel bands and one stretch of up to `time_width` frames of each log-mel.

    Masked values become `value`, or the log-mel's mean without one. Park et al., "SpecAugment", 2019,
    https://arxiv.org/abs/1904.08779

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

    def __call__(self, signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> Augmented:
        """Augments log-mels ``[batch, frames, mel_bands]``."""
        batch, frames, bands = signal.shape
        in_time = _stretch(batch, frames, self.time_width, signal.device)[:, :, None]
        in_frequency = _stretch(batch, bands, self.frequency_width, signal.device)[:, None, :]
        if self.value is not None:
            return signal.masked_fill(in_time | in_frequency, self.value), targets
        return torch.where(in_time | in_frequency, signal.mean((1, 2), keepdim=True), signal), targets


def _stretch(batch: int, size: int, largest: int, device: torch.device) -> torch.Tensor:
    """A random stretch of up to `largest` positions for each clip, ``[batch, size]``, True inside."""
    width = (torch.rand(batch, 1, device=device) * (min(largest, size) + 1)).floor()
    start = (torch.rand(batch, 1, device=device) * (size - width + 1)).floor()
    positions = torch.arange(size, device=device)
    return (positions >= start) & (positions < start + width)
