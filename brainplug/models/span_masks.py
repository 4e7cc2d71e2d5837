"""Masks over time and over channels that make fine-tuning robust, after SpecAugment (Park et al., 2019).

Baevski et al., "wav2vec 2.0", 2020, section 4.3, https://arxiv.org/abs/2006.11477
"""

from dataclasses import dataclass

import torch

from brainplug.data.masking import span_mask
from brainplug.errors import ConfigError


@dataclass(frozen=True)
class SpanMasks:
    """Draws the masks of a batch from torch's random generator.

    Arguments
    ---------
    time, channels : float
        Share of the frames, and of the channels, that spans would cover if none overlapped.
    time_length, channel_length : int
        Frames, and channels, of a span.

    Example
    -------
    >>> frames = torch.ones(2, 100, 32)
    >>> masked = SpanMasks(time=0.65, time_length=10)(frames, torch.tensor([100, 50]), torch.zeros(32))
    >>> bool((masked == 0).any()), bool((masked[1, 50:] == 0).any())
    (True, False)
    """

    time: float = 0.0
    time_length: int = 10
    channels: float = 0.0
    channel_length: int = 64

    def __post_init__(self) -> None:
        for name, share in {"time": self.time, "channels": self.channels}.items():
            if not 0 <= share < 1:
                raise ConfigError(f"Masks of {share!r} were asked for.", "It is no share.", f"Write mask_{name}: 0.5")
        for name, length in {"time": self.time_length, "channel": self.channel_length}.items():
            if type(length) is not int or length < 1:
                reason, write = "That is no whole number from 1 on.", f"Write mask_{name}_length: 10"
                raise ConfigError(f"Masks of length {length!r} were asked for.", reason, write)

    def check_width(self, dim: int) -> None:
        """Raises a `ConfigError` if a span of channels is wider than a backbone's tokens."""
        if self.channels and self.channel_length >= dim:
            raise ConfigError(
                f"Masks of {self.channel_length} channels were asked for.",
                f"The backbone's tokens are {dim} wide.",
                f"Write --mask_channel_length={max(1, dim // 12)}, for one, or --mask_channels=0",
            )

    def __call__(self, frames: torch.Tensor, counts: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Masks frames ``[batch, frames, dim]``: masked frames become `embedding` ``[dim]``, masked channels 0.

        Spans lie among the first `counts` ``[batch]`` frames of each clip, which are no padding. A clip that is no
        longer than a span is not masked over time.
        """
        clips, length, dim = frames.shape
        draws = torch.default_generator
        masked = torch.zeros(clips, length, dtype=torch.bool)
        for clip, count in enumerate(counts.tolist()):
            if count > self.time_length:
                masked[clip, :count] = span_mask(1, count, self.time, self.time_length, 0, draws)
        frames = torch.where(masked[..., None].to(frames.device), embedding.to(frames.dtype), frames)
        if not self.channels:
            return frames
        dropped = span_mask(clips, dim, self.channels, self.channel_length, 0, draws).to(frames.device)
        return frames.masked_fill(dropped[:, None], 0.0)
