"""Which frames are hidden from a model that is pre-trained: spans, as wav2vec 2.0 and its successors draw them.

Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", 2020, section 3.1,
https://arxiv.org/abs/2006.11477; the counting follows https://github.com/facebookresearch/fairseq, ``data_utils.py``.
"""

import torch

from brainplug.errors import UsageError


def span_mask(
    clips: int,
    frames: int,
    probability: float,
    length: int,
    minimum: int,
    generator: torch.Generator,
    same_count: bool = True,
) -> torch.Tensor:
    """Draws spans of frames.

    ``floor(probability * frames / length + u)`` spans start in each clip, u uniform in [0, 1), at different frames;
    they may overlap.

    Arguments
    ---------
    clips, frames : int
        Size of the batch.
    probability : float
        Share of the frames that spans would cover if none overlapped.
    length : int
        Frames of a span.
    minimum : int
        Least number of spans.
    generator : torch.Generator
        Draws.
    same_count : bool
        Whether clips with more masked frames than the one with the fewest give some back at random, as the published
        code has it. In short clips that opens many spans: of eight clips of 99 frames, less than a half is masked then,
        in place of 0.57, and a hidden frame is next to a visible one far more often.

    Returns
    -------
    torch.Tensor
        True where a frame is masked, ``[clips, frames]``.

    Raises
    ------
    UsageError
        A clip is no longer than a span.

    Example
    -------
    >>> mask = span_mask(4, 200, 0.8, 10, 2, torch.Generator().manual_seed(1))
    >>> mask.sum(1).unique().numel(), 0.4 < mask.float().mean() < 0.7
    (1, tensor(True))
    """
    if frames <= length:
        raise UsageError(
            f"Masks of {length} frames were asked for.",
            f"A clip has {frames} frames.",
            f"Leave clips of up to {length} frames out, or write a smaller mask_length",
        )
    spread = torch.rand(1, generator=generator).item()
    spans = min(max(int(probability * frames / length + spread), minimum), frames - length)
    # Starts without replacement: the places of the largest of random numbers.
    starts = torch.rand(clips, frames - length, generator=generator).topk(spans, dim=1).indices
    covered = (starts[:, :, None] + torch.arange(length)).flatten(1)  # [clips, spans * length]
    mask = torch.zeros(clips, frames, dtype=torch.bool).scatter_(1, covered, True)
    if not same_count:
        return mask
    kept = int(mask.sum(1).min())
    chance = torch.rand(clips, frames, generator=generator).masked_fill(~mask, -1.0)
    return torch.zeros_like(mask).scatter_(1, chance.topk(kept, dim=1).indices, True)
