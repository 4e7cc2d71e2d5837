"""Augmentations keep what they promise to keep."""

import pytest
import torch

from brainplug.data.augment import LogMelGain, MelShift, Mixup, SpecAugment, TimeShift

BATCH, FRAMES, BANDS = 6, 50, 20
ALL = [TimeShift(), LogMelGain(0.5), MelShift(2), Mixup(0.5), SpecAugment(8, 16)]
SEEDS = range(10)


def batch(shape: tuple[int, ...] = (BATCH, FRAMES, BANDS)) -> tuple[torch.Tensor, torch.Tensor]:
    """Random signals, without zeros, and the targets of clips that have a class each."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(7)) + 0.5, torch.eye(shape[0])


def augmented(augment, seed: int, shape: tuple[int, ...] = (BATCH, FRAMES, BANDS)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return augment(*batch(shape))


@pytest.mark.parametrize("augment", ALL, ids=lambda augment: type(augment).__name__)
class TestEveryAugmentation:
    def test_is_decided_by_the_seed_alone(self, augment):
        first, again, other = (augmented(augment, seed)[0] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_leaves_its_input_as_it_was(self, augment):
        signal, targets = batch()
        augment(signal, targets)
        assert torch.equal(signal, batch()[0])
        assert torch.equal(targets, batch()[1])

    @pytest.mark.parametrize("seed", SEEDS)
    def test_keeps_shapes_and_the_sum_of_targets(self, augment, seed):
        signal, targets = augmented(augment, seed)
        assert signal.shape == (BATCH, FRAMES, BANDS)
        assert torch.allclose(targets.sum(1), torch.ones(BATCH))


@pytest.mark.parametrize("augment", [TimeShift(), LogMelGain(0.5), SpecAugment(8, 16)], ids=repr)
def test_each_clip_gets_its_own(augment):
    torch.manual_seed(1)
    signal, _ = augment(batch()[0][:1].expand(BATCH, -1, -1), torch.eye(BATCH))
    assert len({tuple(clip.flatten().tolist()) for clip in signal}) == BATCH


def test_each_clip_is_mixed_in_its_own_proportion():
    _, targets = augmented(Mixup(0.5), 1)
    assert len(set(targets.diagonal().tolist())) > 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(BATCH, FRAMES, BANDS), (BATCH, 400)])
def test_time_shift_rolls_each_clip(shape, seed):
    shifted, targets = augmented(TimeShift(), seed, shape)
    for clip, original in zip(shifted, batch(shape)[0], strict=True):
        assert any(torch.equal(clip, original.roll(shift, 0)) for shift in range(shape[1]))
    assert torch.equal(targets, batch(shape)[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_time_shift_stays_below_its_share(seed):
    shifted, _ = augmented(TimeShift(0.1), seed)
    for clip, original in zip(shifted, batch()[0], strict=True):
        assert any(torch.equal(clip, original.roll(shift, 0)) for shift in range(FRAMES // 10))


def test_gain_adds_one_number_to_each_clip():
    louder, targets = augmented(LogMelGain(0.5), 1)
    offset = louder - batch()[0]
    assert torch.allclose(offset, offset[:, :1, :1].expand_as(offset), atol=1e-6)
    assert torch.equal(targets, batch()[1])


def test_gain_has_its_deviation():
    torch.manual_seed(1)
    offset, _ = LogMelGain(0.5)(torch.zeros(20000, 1, 1), torch.ones(20000, 1))
    assert offset.mean().item() == pytest.approx(0, abs=0.02)
    assert offset.std().item() == pytest.approx(0.5, abs=0.02)


def test_mel_shift_moves_whole_clips_by_every_number_of_bands():
    torch.manual_seed(1)
    original = torch.arange(BANDS).expand(200, FRAMES, BANDS)
    shifted, targets = MelShift(2)(original, torch.eye(200))
    moved = shifted - original  # of each place: by how many bands its content came
    assert set(moved[:, 0, BANDS // 2].tolist()) == {-2, -1, 0, 1, 2}
    wanted = (original + moved[:, :1, BANDS // 2, None]).clamp(0, BANDS - 1)  # the edges are repeated
    assert torch.equal(shifted, wanted)
    assert torch.equal(targets, torch.eye(200))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(BATCH, FRAMES, BANDS), (BATCH, 400)])
def test_mixup_mixes_signals_as_it_mixes_targets(shape, seed):
    mixed, targets = augmented(Mixup(0.5), seed, shape)
    wanted = (targets @ batch(shape)[0].flatten(1)).view(shape)  # each clip is a class of its own
    assert torch.allclose(mixed, wanted, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_mixup_keeps_the_larger_share_of_the_clip_itself(seed):
    _, targets = augmented(Mixup(0.5), seed)
    assert (targets.diagonal() >= 0.5).all()
    assert ((targets > 0).sum(1) <= 2).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_spec_augment_masks_one_stretch_and_one_band(seed):
    masked, targets = augmented(SpecAugment(8, 16), seed)
    original = batch()[0]
    for clip, before in zip(masked, original, strict=True):
        is_masked = clip == 0
        in_time, in_frequency = is_masked.all(1), is_masked.all(0)
        assert torch.equal(is_masked, in_time[:, None] | in_frequency[None, :])
        assert torch.equal(clip[~is_masked], before[~is_masked])
        for places, largest in ((in_time, 16), (in_frequency, 8)):
            inside = places.nonzero().flatten().tolist()
            assert len(inside) <= largest
            assert inside == list(range(inside[0], inside[0] + len(inside))) if inside else True
    assert torch.equal(targets, batch()[1])


def test_spec_augment_reaches_every_place():
    torch.manual_seed(1)
    masked, _ = SpecAugment(8, 16)(torch.ones(2000, FRAMES, BANDS), torch.ones(2000, 1))
    assert (masked == 0).all(2).any(0).all()
    assert (masked == 0).all(1).any(0).all()


@pytest.mark.parametrize(
    ("augment", "shape"),
    [
        (TimeShift(0.0), (2, 9, 3)),
        (LogMelGain(0.0), (2, 9, 3)),
        (MelShift(0), (2, 9, 3)),
        (SpecAugment(0, 0), (2, 9, 3)),
    ],
)
def test_nothing_changes_where_nothing_is_asked(augment, shape):
    assert torch.equal(augmented(augment, 1, shape)[0], batch(shape)[0])


def test_masks_wider_than_the_signal():
    masked, _ = augmented(SpecAugment(100, 100), 1, (BATCH, 5, 3))
    assert masked.shape == (BATCH, 5, 3)
