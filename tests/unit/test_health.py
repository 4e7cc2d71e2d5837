"""Health indicators against NumPy and scikit-learn, their values in a collapse, the log and alarms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import cosine_similarity

from brainplug.pretrain.health import (
    Alarm,
    HealthLog,
    copy_accuracy,
    effective_rank,
    explained_variance,
    majority_accuracy,
    mean_correlation,
    mean_cosine,
    mean_std,
    perplexity,
)


def vectors(frames: int = 60, dim: int = 7, seed: int = 0) -> torch.Tensor:
    """Correlated, with means and scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(frames, dim, generator=generator) @ torch.randn(dim, dim, generator=generator)
    return mixed * torch.arange(1, dim + 1) + 3


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_mean_std_is_the_published_guard():
    expected = np.sqrt(vectors().numpy().var(0, ddof=1) + 1e-6).mean()
    assert mean_std(vectors()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("layers", "alike", "expected"), [(8, False, 8**-0.5), (8, True, 1.0), (3, False, 3**-0.5)])
def test_the_mean_of_normalised_layers_deviates_as_they_agree(layers, alike, expected):
    outputs = torch.randn(layers, 5000, 4, generator=seeded())
    outputs = outputs[:1].expand(layers, -1, -1) if alike else outputs
    assert mean_std(outputs.mean(0)).item() == pytest.approx(expected, rel=0.03)


def test_effective_rank_is_the_exponential_of_the_entropy_of_the_spectrum():
    centred = vectors().numpy() - vectors().numpy().mean(0)
    shares = np.linalg.svd(centred, compute_uv=False)
    shares = shares / shares.sum()
    assert effective_rank(vectors()).item() == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_vectors_of_a_few_directions_have_a_rank_of_no_more(rank):
    flat = torch.randn(500, rank, generator=seeded()) @ torch.randn(rank, 20, generator=seeded())
    assert 0.5 * rank < effective_rank(flat) < rank + 0.01
    # The means do not count, nor does the scale.
    assert effective_rank(100 * flat + 5).item() == pytest.approx(effective_rank(flat).item(), abs=0.05)


def test_round_noise_has_full_rank():
    assert effective_rank(torch.randn(5000, 16, generator=seeded())) > 15.8


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_perplexity_is_the_exponential_of_the_entropy(counts):
    shares = np.array(counts) / max(sum(counts), 1)
    expected = math.exp(-sum(share * math.log(share) for share in shares if share))
    assert perplexity(torch.tensor(counts)).item() == pytest.approx(expected, rel=1e-4)
    assert perplexity(torch.tensor(counts) / 7).item() == pytest.approx(expected, rel=1e-4)


def test_mean_correlation_is_that_of_different_dimensions():
    correlations = np.abs(np.corrcoef(vectors().numpy().T))
    expected = correlations[~np.eye(7, dtype=bool)].mean()
    assert 0.1 < expected < 0.9
    assert mean_correlation(vectors()).item() == pytest.approx(expected, rel=1e-4)


def test_a_dimension_that_never_changes_correlates_with_none():
    constant = torch.cat([vectors(dim=2), torch.ones(60, 1)], dim=1)
    pair = abs(np.corrcoef(vectors(dim=2).numpy().T)[0, 1])
    assert mean_correlation(constant).item() == pytest.approx(2 * pair / 6, rel=1e-4)


def test_mean_cosine_is_that_of_pairs_of_different_clips():
    targets, clips = vectors(frames=24), torch.arange(24) // 8
    apart = clips[:, None] != clips[None, :]
    expected = cosine_similarity(targets.numpy())[apart.numpy()].mean()
    assert mean_cosine(targets, clips, seeded(), pairs=20_000).item() == pytest.approx(expected, abs=0.02)


def test_mean_cosine_leaves_pairs_of_one_clip_out():
    """Two clips of opposite directions: every pair that counts has a cosine of -1."""
    clips = torch.arange(20) // 10
    opposite = torch.where(clips[:, None] == 0, 1.0, -1.0).expand(20, 3)
    assert mean_cosine(opposite, clips, seeded()).item() == pytest.approx(-1)
    assert mean_cosine(torch.randn(400, 64, generator=seeded()), torch.arange(400), seeded()).abs() < 0.03


def test_explained_variance_is_r_squared_over_all_dimensions():
    targets = vectors()
    predictions = 0.7 * targets + torch.randn(60, 7, generator=seeded())
    expected = r2_score(targets.numpy(), predictions.numpy(), multioutput="variance_weighted")
    assert 0 < expected < 1
    assert explained_variance(predictions, targets).item() == pytest.approx(expected, rel=1e-4)


def test_the_mean_explains_nothing_and_worse_than_it_is_below_zero():
    targets = vectors()
    assert explained_variance(targets.mean(0).expand_as(targets), targets).item() == pytest.approx(0, abs=1e-5)
    assert explained_variance(-targets, targets) < 0


@given(
    frames=st.integers(2, 15),
    clips=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    share=st.floats(0.1, 0.9),
)
def test_copy_accuracy_is_that_of_the_nearest_visible_frame(frames, clips, seed, share):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (clips, frames), generator=generator)
    mask = torch.rand(clips, frames, generator=generator) < share
    mask[:, 0], mask[:, -1] = True, False  # both kinds in every clip
    hits = []
    for clip in range(clips):
        visible = [frame for frame in range(frames) if not mask[clip, frame]]
        for frame in range(frames):
            if mask[clip, frame]:
                nearest = min(visible, key=lambda other: (abs(other - frame), other))
                hits.append(labels[clip, nearest] == labels[clip, frame])
    assert copy_accuracy(labels, mask).item() == pytest.approx(np.mean(hits))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_majority_accuracy_is_the_share_of_the_most_frequent_label(labels):
    expected = max(map(labels.count, labels)) / len(labels)
    assert majority_accuracy(torch.tensor(labels)).item() == pytest.approx(expected)


def test_a_collapse_shows_in_every_indicator():
    """All targets alike but for rounding: the alarms of data2vec's guards and of the rank go off."""
    collapsed = torch.full((200, 30), 0.37) + 1e-4 * torch.randn(200, 1, generator=seeded())
    assert mean_std(collapsed) < 0.01
    assert effective_rank(collapsed) < 3
    assert mean_cosine(collapsed, torch.arange(200) // 10, seeded()) > 0.9
    assert perplexity(torch.softmax(100 * torch.eye(30)[:1].expand(200, -1), dim=1).mean(0)) < 1.1


def test_indicators_of_constant_vectors_are_numbers():
    constant = torch.zeros(20, 5)
    assert explained_variance(constant, constant).isfinite()
    assert all(indicator(constant).isfinite() for indicator in (mean_std, effective_rank, mean_correlation))
    assert effective_rank(constant).item() == pytest.approx(1)


@pytest.mark.parametrize("indicator", [mean_std, effective_rank, mean_correlation])
def test_indicators_of_16_bits_are_computed_in_32(indicator):
    half = vectors().bfloat16()
    assert indicator(half).item() == pytest.approx(indicator(half.float()).item())


@pytest.mark.parametrize(("rows", "rings"), [(1, True), (2, True), (3, False)])
def test_an_alarm_looks_at_the_mean_of_its_last_rows(rows, rings):
    alarm = Alarm("gain", "too little", below=0, rows=rows)
    assert alarm.rings([{"gain": 9.0}, {"gain": 0.5}, {"gain": -1.0}]) == rings


def test_an_alarm_rings_for_what_is_not_a_number_and_not_at_its_bound():
    assert Alarm("gain", "too little", below=0).rings([{"gain": math.nan}])
    assert not Alarm("gain", "too little", below=0).rings([{"gain": 0.0}])


def test_a_restored_log_goes_on_with_the_rows_of_its_checkpoint(tmp_path):
    log = HealthLog(str(tmp_path / "health.csv"))
    log.add({"step": 10, "loss": 2.5})
    log.valid = {"loss": 2.0}
    log.save(str(tmp_path / "checkpoint"))
    log.add({"step": 20, "loss": 1.5})
    assert Path(log.path).read_text().splitlines() == ["step,loss", "10,2.5", "20,1.5"]
    restored = HealthLog(log.path)
    restored.load(str(tmp_path / "checkpoint"), end_of_epoch=True)
    restored.add({"step": 20, "loss": 0.5})
    assert restored.valid == {"loss": 2.0}
    assert Path(log.path).read_text().splitlines() == ["step,loss", "10,2.5", "20,0.5"]
