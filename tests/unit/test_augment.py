"""Augmentations keep what they promise to keep."""

import numpy as np
import pytest
import torch

from brainplug.backbones import load_backbone
from brainplug.data.augment import (
    LOG_MEL_DECIBEL,
    Gain,
    MelShift,
    Mixup,
    Noise,
    SpecAugment,
    Speed,
    TimeShift,
    choose_augmentations,
    distort,
    suitable,
)
from brainplug.errors import UsageError

BATCH, FRAMES, BANDS = 6, 50, 20
WAVEFORM = (BATCH, 400)
ALL = [
    *(
        (augment, (BATCH, FRAMES, BANDS))
        for augment in (TimeShift(), Gain(20.0), MelShift(2), Mixup(0.5), SpecAugment(8, 16))
    ),
    *((augment, WAVEFORM) for augment in (TimeShift(), Gain(), Noise(), Mixup(0.5))),
]
SEEDS = range(10)


def batch(shape: tuple[int, ...] = (BATCH, FRAMES, BANDS)) -> tuple[torch.Tensor, torch.Tensor]:
    """Random signals, without zeros, and the targets of clips that have a class each."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(7)) + 0.5, torch.eye(shape[0])


def augmented(augment, seed: int, shape: tuple[int, ...] = (BATCH, FRAMES, BANDS)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    signal, targets = batch(shape)
    return augment(signal, torch.ones(len(signal)), targets)


@pytest.mark.parametrize(("augment", "shape"), ALL, ids=lambda value: type(value).__name__)
class TestEveryAugmentation:
    def test_is_decided_by_the_seed_alone(self, augment, shape):
        first, again, other = (augmented(augment, seed, shape)[0] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_leaves_its_input_as_it_was(self, augment, shape):
        signal, targets = batch(shape)
        augment(signal, torch.ones(BATCH), targets)
        assert torch.equal(signal, batch(shape)[0])
        assert torch.equal(targets, batch(shape)[1])

    @pytest.mark.parametrize("seed", SEEDS)
    def test_keeps_shapes_and_the_sum_of_targets(self, augment, shape, seed):
        signal, targets = augmented(augment, seed, shape)
        assert signal.shape == shape
        assert torch.allclose(targets.sum(1), torch.ones(BATCH))


@pytest.mark.parametrize("augment", [TimeShift(), Gain(), Noise(), Mixup(0.5)], ids=lambda value: type(value).__name__)
def test_padding_stays_silent_and_clips_stay_whole(augment):
    signal, targets = batch(WAVEFORM)
    lengths = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.1, 0.75])
    padding = torch.arange(400) >= 400 * lengths[:, None]
    torch.manual_seed(1)
    changed, _ = augment(signal.masked_fill(padding, 0), lengths, targets)
    assert (changed[padding] == 0).all()
    assert (changed[~padding] != 0).all()


@pytest.mark.parametrize("augment", [TimeShift(), Gain(), SpecAugment(8, 16)], ids=repr)
def test_each_clip_gets_its_own(augment):
    torch.manual_seed(1)
    signal, _ = augment(batch()[0][:1].expand(BATCH, -1, -1), torch.ones(BATCH), torch.eye(BATCH))
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


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rolled_clip_keeps_its_samples_where_its_padding_begins(seed):
    signal, targets = batch(WAVEFORM)
    signal[0, 100:] = 0
    torch.manual_seed(seed)
    shifted, _ = TimeShift()(signal, torch.tensor([0.25, *[1.0] * (BATCH - 1)]), targets)
    assert any(torch.equal(shifted[0, :100], signal[0, :100].roll(shift)) for shift in range(100))


def test_gain_adds_one_number_to_each_log_mel():
    louder, targets = augmented(Gain(20.0), 1)
    offset = louder - batch()[0]
    assert torch.allclose(offset, offset[:, :1, :1].expand_as(offset), atol=1e-6)
    assert torch.equal(targets, batch()[1])


@pytest.mark.parametrize("signal", ["log_mel", "waveform"])
def test_gain_has_its_deviation(signal):
    torch.manual_seed(1)
    start = torch.zeros(20000, 1, 1) if signal == "log_mel" else torch.ones(20000, 1)
    louder, _ = Gain(2.0)(start, torch.ones(20000), torch.ones(20000, 1))
    decibels = louder / LOG_MEL_DECIBEL if signal == "log_mel" else 20 * louder.log10()
    assert decibels.mean().item() == pytest.approx(0, abs=0.05)
    assert decibels.std().item() == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("backbone", ["ast", "whisper"])
def test_a_decibel_of_a_log_mel_is_one_of_the_waveform(backbone, tiny_backbones):
    extract = load_backbone(tiny_backbones[backbone], frames=64).extract
    waveform = 0.1 * torch.randn(64 * 160, generator=torch.Generator().manual_seed(1))
    louder = extract(waveform * 10 ** (6 / 20)) - extract(waveform)
    assert louder[:60].median().item() == pytest.approx(6 * LOG_MEL_DECIBEL, rel=0.02)


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_noise_has_its_ratio_to_the_clip_whatever_its_padding(decibels):
    torch.manual_seed(1)
    clips = torch.randn(4, 16000) * torch.tensor([[0.1], [1.0], [10.0], [1.0]])
    lengths = torch.tensor([1.0, 1.0, 1.0, 0.25])
    clips[3, 4000:] = 0
    noisy, _ = Noise(decibels, decibels)(clips, lengths, torch.ones(4, 1))
    power = clips.square().sum(1) / (noisy - clips).square().sum(1)
    assert torch.allclose(10 * power.log10(), torch.full((4,), decibels), atol=0.3)


def test_noise_draws_its_ratio_from_the_whole_range():
    torch.manual_seed(1)
    clips = torch.ones(2000, 500)
    noisy, _ = Noise(10.0, 30.0)(clips, torch.ones(2000), torch.ones(2000, 1))
    ratios = -10 * (noisy - clips).square().mean(1).log10()
    assert torch.allclose(ratios.quantile(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([10.0, 20.0, 30.0]), atol=1.0)


@pytest.mark.parametrize(("pink", "slope"), [(0.0, 0.0), (1.0, -1.0)])
def test_pink_noise_loses_power_with_frequency_and_keeps_its_level(pink, slope):
    torch.manual_seed(1)
    clips = torch.ones(64, 16000)
    noisy, _ = Noise(10.0, 10.0, pink)(clips, torch.ones(64), torch.ones(64, 1))
    noise = noisy - clips
    torch.testing.assert_close(noise.square().mean(1), torch.full((64,), 0.1), rtol=0.05, atol=0)
    power = torch.fft.rfft(noise).abs().square().mean(0)[50:5000].log().numpy()
    assert np.polyfit(np.log(np.arange(50, 5000)), power, 1)[0] == pytest.approx(slope, abs=0.03)


def test_a_share_of_the_clips_has_pink_noise():
    torch.manual_seed(1)
    clips = torch.ones(400, 2000)
    noise = Noise(10.0, 10.0, pink=0.25)(clips, torch.ones(400), torch.ones(400, 1))[0] - clips
    power = torch.fft.rfft(noise).abs().square()
    is_pink = power[:, 1:100].mean(1) > 3 * power[:, 900:].mean(1)
    assert is_pink.float().mean().item() == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("percent", [80, 100, 125])
def test_speed_moves_pitch_and_length(percent):
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)[None]
    played, targets = Speed([percent])(tone, torch.ones(1), torch.eye(1))
    assert played.shape == (1, 16000 * 100 // percent)
    spectrum = torch.fft.rfft(played * torch.hann_window(played.shape[1])).abs()
    peak = 16000 * spectrum.argmax().item() / played.shape[1]  # Hz
    assert peak == pytest.approx(10 * percent, abs=2)
    assert torch.equal(targets, torch.eye(1))


def test_speed_draws_one_of_its_speeds_from_torchs_generator():
    torch.manual_seed(1)
    speed, clips = Speed([50, 100, 200]), torch.zeros(2, 800)
    lengths = [speed(clips, torch.ones(2), torch.ones(2, 1))[0].shape[1] for _ in range(40)]
    assert set(lengths) == {400, 800, 1600}
    torch.manual_seed(1)
    assert [speed(clips, torch.ones(2), torch.ones(2, 1))[0].shape[1] for _ in range(40)] == lengths


def test_signals_are_distorted_in_order_and_their_padding_stays_silent():
    torch.manual_seed(1)
    clips = torch.randn(2, 1000)
    clips[1, 500:] = 0
    actual = distort([Speed([50]), Noise(0.0, 0.0)], clips, torch.tensor([1.0, 0.5]))
    assert actual.shape == (2, 2000)
    assert actual[1, :950].abs().min() > 0 and actual[1, 1050:].abs().max() < 1e-3
    assert distort([], clips, torch.ones(2)) is clips


def test_mel_shift_moves_whole_clips_by_every_number_of_bands():
    torch.manual_seed(1)
    original = torch.arange(BANDS).expand(200, FRAMES, BANDS)
    shifted, targets = MelShift(2)(original, torch.ones(200), torch.eye(200))
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


@pytest.mark.parametrize("value", [None, 0.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_spec_augment_masks_one_stretch_and_one_band(seed, value):
    masked, targets = augmented(SpecAugment(8, 16, value), seed)
    original = batch()[0]
    for clip, before in zip(masked, original, strict=True):
        is_masked = clip == (before.mean() if value is None else value)
        in_time, in_frequency = is_masked.all(1), is_masked.all(0)
        assert torch.equal(is_masked, in_time[:, None] | in_frequency[None, :])
        assert torch.equal(clip[~is_masked], before[~is_masked])
        for positions, largest in ((in_time, 16), (in_frequency, 8)):
            inner = positions.nonzero().flatten().tolist()
            assert len(inner) <= largest
            assert inner == list(range(inner[0], inner[0] + len(inner))) if inner else True
    assert torch.equal(targets, batch()[1])


def test_spec_augment_reaches_every_place():
    torch.manual_seed(1)
    masked, _ = SpecAugment(8, 16, value=0.0)(torch.ones(2000, FRAMES, BANDS), torch.ones(2000), torch.ones(2000, 1))
    assert (masked == 0).all(2).any(0).all()
    assert (masked == 0).all(1).any(0).all()


@pytest.mark.parametrize(
    ("augment", "shape"),
    [
        (TimeShift(0.0), (2, 9, 3)),
        (Gain(0.0), (2, 9, 3)),
        (MelShift(0), (2, 9, 3)),
        (SpecAugment(0, 0), (2, 9, 3)),
    ],
)
def test_nothing_changes_where_nothing_is_asked(augment, shape):
    assert torch.equal(augmented(augment, 1, shape)[0], batch(shape)[0])


def test_masks_wider_than_the_signal():
    masked, _ = augmented(SpecAugment(100, 100), 1, (BATCH, 5, 3))
    assert masked.shape == (BATCH, 5, 3)


ENTRIES = {"time_shift": TimeShift, "gain": Gain, "mixup": Mixup}


class TestChoice:
    @pytest.mark.parametrize(
        ("chosen", "expected"),
        [
            (["mixup", "gain"], [Mixup(0.3), Gain(3.0)]),
            ("gain", [Gain(3.0)]),
            ([SpecAugment(1, 2), "mixup"], [SpecAugment(1, 2), Mixup(0.3)]),
            ([], []),
            (None, []),
        ],
    )
    def test_by_name_with_settings(self, chosen, expected):
        assert choose_augmentations(chosen, ENTRIES, {"gain": {"std": 3.0}, "mixup": None}) == expected

    @pytest.mark.parametrize("chosen", [["gian"], "gian", ["gain", "gian"], [{"gian": {}}]])
    def test_an_unknown_name_is_refused_with_the_nearest(self, chosen):
        with pytest.raises(UsageError, match=r"gian.*no such entry.*gain"):
            choose_augmentations(chosen, ENTRIES, {})

    def test_settings_of_an_unknown_name_are_refused(self):
        with pytest.raises(UsageError, match="'mixpu'.*mixup"):
            choose_augmentations(["gain"], ENTRIES, {"mixpu": {"alpha": 1}})

    def test_settings_that_it_does_not_take_are_refused(self):
        with pytest.raises(UsageError, match="'mixup' was asked for, with {'beta': 1}.*augmentations.yaml"):
            choose_augmentations(["mixup"], ENTRIES, {"mixup": {"beta": 1}})

    @pytest.mark.parametrize(
        ("name", "settings"),
        [("gain", {"std": "loud"}), ("mixup", {"alpha": 0}), ("time_shift", {"max_fraction": None})],
    )
    def test_values_that_it_cannot_work_with_are_refused(self, name, settings, monkeypatch):
        monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # as torch.compile leaves it
        with pytest.raises(UsageError, match=f"'{name}' was asked for, with"):
            choose_augmentations([name], ENTRIES, {name: settings})

    def test_nothing_is_drawn_and_no_settings_are_none(self):
        torch.manual_seed(1)
        assert choose_augmentations(["gain", "mixup"], ENTRIES, None) == [Gain(), Mixup()]
        drawn = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), drawn)

    @pytest.mark.parametrize(
        ("signals", "remaining"),
        [
            (["log_mel"], [TimeShift(), SpecAugment()]),
            (["waveform"], [TimeShift(), Noise()]),
            (["waveform", "log_mel"], [TimeShift(), Noise(), SpecAugment()]),
        ],
    )
    def test_what_does_not_suit_the_signal_is_left_out_with_a_warning(self, signals, remaining, caplog):
        assert suitable([TimeShift(), Noise(), SpecAugment()], signals) == remaining
        assert len(caplog.records) == 3 - len(remaining)
