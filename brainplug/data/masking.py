"""Span masks over frames, as wav2vec 2.0 and its successors draw them.

Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", 2020, section 3.1,
https://arxiv.org/abs/2006.11477; counts follow ``data_utils.py`` of https://github.com/facebookresearch/fairseq.
"""

import torch

from brainplug.errors import ConfigError


def span_mask(
    clips: int,
    frames: int,
    probability: float,
    length: int,
    minimum: int,
    generator: torch.Generator,
    same_count: bool = True,
) -> torch.Tensor:
    """Draws a mask ``[clips, frames]`` that is True on spans of `length` frames.

    ``floor(probability * frames / length + u)`` spans, u uniform in [0, 1), start at different frames of each clip.
    Spans may overlap.

    Arguments
    ---------
    probability : float
        Fraction of the frames that spans would cover if none overlapped.
    minimum : int
        Least number of spans in a clip.
    same_count : bool
        Whether clips unmask random frames until all have as few masked ones as the clip with the fewest, as in fairseq.
        In short clips this opens many spans: of eight clips of 99 frames less than half is masked instead of 0.57, and
        masked frames are next to visible ones far more often.

    Raises
    ------
    ConfigError
        A clip is not longer than a span.
    """
    if frames <= length:
        raise ConfigError(
            f"Masks of {length} frames were asked for.",
            f"A clip has {frames} frames.",
            f"Leave clips of up to {length} frames out, or write a smaller mask_length",
        )
    spread = torch.rand(1, generator=generator).item()
    spans = min(max(int(probability * frames / length + spread), minimum), frames - length)
    # The positions of the largest of random numbers are starts without replacement.
    starts = torch.rand(clips, frames - length, generator=generator).topk(spans, dim=1).indices
    covered = (starts[:, :, None] + torch.arange(length)).flatten(1)  # [clips, spans * length]
    mask = torch.zeros(clips, frames, dtype=torch.bool).scatter_(1, covered, True)
    if not same_count:
        return mask
    count = int(mask.sum(1).min())
    priorities = torch.rand(clips, frames, generator=generator).masked_fill(~mask, -1.0)
    return torch.zeros_like(mask).scatter_(1, priorities.topk(count, dim=1).indices, True)
