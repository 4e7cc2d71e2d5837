"""Span masks: the fraction and number of masked frames, and the published way to draw them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brainplug.data.masking import span_mask
from brainplug.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def published_mask(draw: np.random.Generator, clips: int, frames: int, probability: float, length: int) -> np.ndarray:
    """As fairseq's compute_mask_indices does for fixed lengths and equal counts, written with NumPy."""
    spans = int(probability * frames / length + draw.random())
    rows = []
    for _ in range(clips):
        starts = draw.choice(frames - length, spans, replace=False)
        rows.append(np.unique(starts[:, None] + np.arange(length)))
    mask = np.zeros((clips, frames), dtype=bool)
    for row, covered in zip(mask, rows, strict=True):
        row[draw.choice(covered, min(map(len, rows)), replace=False)] = True
    return mask


@pytest.mark.parametrize("frames", [100, 200, 400])
@pytest.mark.parametrize(("probability", "length"), [(0.8, 10), (0.65, 10), (0.75, 5), (0.625, 5), (0.5, 10)])
def test_a_clip_is_masked_by_the_share_of_the_closed_form(probability, length, frames):
    generator = seeded()
    share = np.mean([span_mask(1, frames, probability, length, 1, generator).float().mean() for _ in range(500)])
    assert share == pytest.approx(1 - (1 - probability / length) ** length, rel=0.03)


@pytest.mark.parametrize(("clips", "frames"), [(4, 99), (16, 99), (4, 400)])
def test_batches_are_masked_as_by_the_published_construction(clips, frames):
    """Its rows give frames back until all have as few as the fewest: the share falls as the batch grows."""
    generator, draw = seeded(), np.random.default_rng(0)
    ours = np.stack([span_mask(clips, frames, 0.8, 10, 2, generator).numpy() for _ in range(400)])
    theirs = np.stack([published_mask(draw, clips, frames, 0.8, 10) for _ in range(400)])
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.01)
    assert ours.mean((0, 1)) == pytest.approx(theirs.mean((0, 1)), abs=0.08 if clips == 4 else 0.04)  # frame by frame


@pytest.mark.parametrize("clips", [1, 8, 32])
def test_without_equal_counts_spans_stay_whole_whatever_the_size_of_a_batch(clips):
    masks = [span_mask(clips, 99, 0.8, 10, 2, seeded(seed), same_count=False) for seed in range(200)]
    assert torch.cat(masks).float().mean().item() == pytest.approx(1 - (1 - 0.08) ** 10, rel=0.04)
    for mask in masks:
        change = torch.nn.functional.pad(mask.int(), (1, 1)).diff(dim=1)
        starts, ends = (change == 1).nonzero()[:, 1], (change == -1).nonzero()[:, 1]
        assert (ends - starts).min() >= 10


def test_the_number_of_starts_is_drawn_around_its_mean_without_replacement():
    """Spans of one frame show their starts: twice the same one would be a frame less."""
    generator = seeded()
    counts = np.array([span_mask(1, 101, 0.325, 1, 0, generator).sum().item() for _ in range(2000)])
    assert set(counts) == {32, 33}  # floor(32.825 + u)
    assert counts.mean() == pytest.approx(32.825, abs=0.03)


def test_all_clips_of_a_batch_get_the_same_number_of_starts():
    assert {span_mask(8, 101, 0.325, 1, 0, seeded(seed)).sum().item() for seed in range(50)} == {8 * 32, 8 * 33}


@given(
    clips=st.integers(1, 6),
    length=st.integers(1, 12),
    more=st.integers(1, 80),
    probability=st.floats(0, 2),
    minimum=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_each_clip_has_the_same_count_of_at_least_a_span_and_keeps_a_frame(
    clips, length, more, probability, minimum, seed
):
    mask = span_mask(clips, length + more, probability, length, minimum, seeded(seed))
    assert mask.shape == (clips, length + more) and mask.dtype == torch.bool
    counts = mask.sum(1)
    assert len(counts.unique()) == 1
    assert length <= counts[0] < length + more
    assert not mask[:, -1].any()  # as published: a span ends before the last frame


@given(length=st.integers(2, 12), more=st.integers(1, 80), seed=st.integers(0, 2**31))
def test_masked_frames_of_a_single_clip_lie_in_whole_spans(length, more, seed):
    mask = span_mask(1, length + more, 0.5, length, 1, seeded(seed))[0].int()
    edges = torch.nn.functional.pad(mask, (1, 1)).diff()
    runs = (edges == -1).nonzero() - (edges == 1).nonzero()
    assert runs.min() >= length


@pytest.mark.parametrize("minimum", [1, 2, 5])
def test_there_are_at_least_so_many_spans(minimum):
    assert span_mask(3, 50, 0.0, 1, minimum, seeded()).sum(1).tolist() == [minimum] * 3


def test_more_spans_than_positions_mask_all_they_can():
    assert span_mask(2, 20, 50.0, 5, 1, seeded()).sum(1).tolist() == [19, 19]


def test_masks_come_from_their_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (span_mask(4, 200, 0.8, 10, 2, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], first[1])  # clips do not share their spans


@pytest.mark.parametrize("frames", [0, 1, 9, 10])
def test_a_clip_no_longer_than_a_span_is_refused(frames):
    with pytest.raises(ConfigError, match=f"Masks of 10 frames.*has {frames} frames.*mask_length"):
        span_mask(2, frames, 0.8, 10, 2, seeded())
