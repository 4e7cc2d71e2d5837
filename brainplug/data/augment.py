"""Augmentation of a batch of signals, on the device, in training only. Each draws from torch's random generator.

One that works on log-mels alone says so in its attribute `signal`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from brainplug.errors import UsageError

logger = logging.getLogger(__name__)


def suitable(augment: Sequence[Callable], signal: str) -> list[Callable]:
    """Leaves out what does not work on a backbone's signal, and says so in the log.

    Arguments
    ---------
    augment : Sequence[Callable]
        Augmentations, in order.
    signal : str
        ``log_mel`` or ``waveform``.

    Returns
    -------
    list[Callable]
        Those that work on it.

    Raises
    ------
    UsageError
        An entry is no augmentation.

    Example
    -------
    >>> suitable([TimeShift(), SpecAugment()], "waveform")
    [TimeShift(largest_share=1.0)]
    """
    for each in augment:
        if not callable(each):
            raise UsageError(
                f"The augmentation {each!r} was asked for.",
                "It is no object: its tag is missing.",
                "Write - !new:brainplug.data.augment.TimeShift, with its settings on lines of their own",
            )
    kept = [each for each in augment if getattr(each, "signal", signal) == signal]
    for each in augment:
        if each not in kept:
            logger.warning("%s is for %s; the backbone takes %s: left out.", type(each).__name__, each.signal, signal)
    return kept


@dataclass(frozen=True)
class TimeShift:
    """Rolls each signal along time by a random amount; what leaves at the end comes back at the start.

    Arguments
    ---------
    largest_share : float
        Largest shift as a share of the signal's length.

    Example
    -------
    >>> signal = torch.arange(6.0).view(1, 6, 1)
    >>> shifted, _ = TimeShift()(signal, torch.ones(1, 2))
    >>> sorted(shifted.flatten().tolist()) == signal.flatten().tolist()
    True
    """

    largest_share: float = 1.0

    def __call__(self, signal: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, time, ...]`` and targets ``[batch, classes]``."""
        batch, time = signal.shape[:2]
        shift = (torch.rand(batch, 1, device=signal.device) * self.largest_share * time).long()
        index = (torch.arange(time, device=signal.device) - shift) % time  # [batch, time]
        index = index.view(batch, time, *[1] * (signal.dim() - 2)).expand_as(signal)
        return signal.gather(1, index), targets


@dataclass(frozen=True)
class LogMelGain:
    """Makes each log-mel louder or softer.

    Arguments
    ---------
    deviation : float
        Standard deviation of the offset, in units of the normalised log-mel.

    Example
    -------
    >>> louder, _ = LogMelGain(0.1)(torch.zeros(2, 3, 4), torch.ones(2, 2))
    >>> bool((louder == louder[:, :1, :1]).all())
    True
    """

    signal: ClassVar[str] = "log_mel"
    deviation: float = 0.1

    def __call__(self, signal: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, frames, mel_bands]`` and targets ``[batch, classes]``."""
        return signal + self.deviation * torch.randn(len(signal), 1, 1, device=signal.device), targets


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
    >>> shifted, _ = MelShift(2)(torch.arange(10.0).expand(5, 3, 10), torch.ones(5, 2))
    >>> bool((shifted - torch.arange(10.0)).abs().amax() <= 2)
    True
    """

    signal: ClassVar[str] = "log_mel"
    largest: int = 2

    def __call__(self, signal: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, frames, mel_bands]`` and targets ``[batch, classes]``."""
        batch, _, bands = signal.shape
        shift = torch.randint(-self.largest, self.largest + 1, (batch, 1), device=signal.device)
        index = (torch.arange(bands, device=signal.device) + shift).clamp(0, bands - 1)  # [batch, mel_bands]
        return signal.gather(2, index[:, None].expand_as(signal)), targets


@dataclass(frozen=True)
class Mixup:
    """Mixes each clip with another one, and their targets in the same proportion.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, https://arxiv.org/abs/1710.09412

    Arguments
    ---------
    alpha : float
        Both parameters of the Beta distribution of the proportion.

    Example
    -------
    >>> _, targets = Mixup(0.5)(torch.randn(4, 3, 2), torch.eye(4))
    >>> bool(torch.allclose(targets.sum(1), torch.ones(4)))
    True
    """

    alpha: float = 0.3

    def __call__(self, signal: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, time, ...]`` and targets ``[batch, classes]``."""
        share = torch.distributions.Beta(self.alpha, self.alpha).sample((len(signal),)).to(signal.device)
        share = torch.maximum(share, 1 - share)
        partner = torch.randperm(len(signal), device=signal.device)
        of_signal, of_targets = share.view(-1, *[1] * (signal.dim() - 1)), share[:, None]
        return (
            of_signal * signal + (1 - of_signal) * signal[partner],
            of_targets * targets + (1 - of_targets) * targets[partner],
        )


@dataclass(frozen=True)
class SpecAugment:
    """Masks one band of frequencies and one stretch of time with the signal's mean, zero.

    Park et al., "SpecAugment", 2019, https://arxiv.org/abs/1904.08779

    Arguments
    ---------
    frequency_width, time_width : int
        Largest widths of the masks, in mel bands and frames.

    Example
    -------
    >>> masked, _ = SpecAugment(4, 8)(torch.ones(1, 50, 20), torch.ones(1, 2))
    >>> int((masked == 0).all(2).sum()) <= 8, int((masked == 0).all(1).sum()) <= 4
    (True, True)
    """

    signal: ClassVar[str] = "log_mel"
    frequency_width: int = 24
    time_width: int = 80

    def __call__(self, signal: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes and returns signals ``[batch, frames, mel_bands]`` and targets ``[batch, classes]``."""
        batch, frames, bands = signal.shape
        in_time = _stretch(batch, frames, self.time_width, signal.device)[:, :, None]
        in_frequency = _stretch(batch, bands, self.frequency_width, signal.device)[:, None, :]
        return signal.masked_fill(in_time | in_frequency, 0.0), targets


def _stretch(batch: int, size: int, largest: int, device: torch.device) -> torch.Tensor:
    """A random stretch of up to `largest` places for each clip, ``[batch, size]``, True inside."""
    width = (torch.rand(batch, 1, device=device) * (min(largest, size) + 1)).floor()
    start = (torch.rand(batch, 1, device=device) * (size - width + 1)).floor()
    places = torch.arange(size, device=device)
    return (places >= start) & (places < start + width)
