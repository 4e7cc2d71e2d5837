"""MFCC as Kaldi makes them, their alignment with the model's frames, clusters and their purity."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import contingency_matrix
from transformers import HubertConfig, HubertModel

from brainplug.errors import DataError
from brainplug.pretrain import clustering
from brainplug.pretrain.clustering import fit_clusters, mfcc, purity
from brainplug.pretrain.corpus import frames_in

LENGTHS = [400, 401, 559, 560, 719, 720, 1039, 1040, 15999, 16000, 16079, 16080, 32000, 33333]


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def kaldi_cepstra(waveform: np.ndarray) -> np.ndarray:
    """Kaldi's defaults in plain NumPy: 25/10 ms, povey window, 23 mel bins from 20 Hz, 13 cepstra, lifter 22."""
    count = (len(waveform) - 400) // 160 + 1
    frames = waveform[160 * np.arange(count)[:, None] + np.arange(400)].astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    frames -= 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames, 512)) ** 2

    def mel(frequency: np.ndarray) -> np.ndarray:
        return 1127 * np.log(1 + frequency / 700)

    edges = np.linspace(mel(20.0), mel(8000.0), 25)
    bins = mel(np.arange(257) * 16000 / 512)[:, None]
    rise, fall = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    log_mels = np.log(np.maximum(power @ np.maximum(np.minimum(rise, fall), 0), np.finfo(np.float32).eps))
    order = np.arange(13)[:, None]
    cosines = np.sqrt(2 / 23) * np.cos(np.pi * order * (np.arange(23) + 0.5) / 23)
    cosines[0] = np.sqrt(1 / 23)
    return log_mels @ cosines.T * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))


def differences(rows: np.ndarray) -> np.ndarray:
    """The slope over five frames, the first and last one repeated at the ends."""
    padded = np.pad(rows, ((2, 2), (0, 0)), mode="edge")
    return (2 * padded[4:] + padded[3:-1] - padded[1:-3] - 2 * padded[:-4]) / 10


def test_features_are_13_cepstra_without_energy_and_their_differences():
    waveform = noise(8000)
    cepstra = kaldi_cepstra(waveform.numpy())
    expected = np.concatenate([cepstra, differences(cepstra), differences(differences(cepstra))], axis=1)
    np.testing.assert_allclose(mfcc(waveform).numpy(), expected, rtol=1e-3, atol=2e-3)


def test_features_are_the_same_each_time_and_finite_in_silence():
    assert torch.equal(mfcc(noise(4000)), mfcc(noise(4000)))  # no dither
    assert mfcc(torch.zeros(4000)).isfinite().all()


@pytest.mark.parametrize("samples", LENGTHS)
def test_every_second_row_is_a_frame_of_the_model(samples):
    model = HubertModel(HubertConfig(num_hidden_layers=0, hidden_size=16, num_attention_heads=2, conv_dim=[8] * 7))
    assert len(mfcc(noise(samples))[::2]) == frames_in(samples) == model._get_feat_extract_output_lengths(samples)


@pytest.mark.parametrize("change", [3200, 8000, 8160, 12345])
def test_labels_of_every_second_row_change_when_the_sound_does(change):
    """Frame t sees samples 320 t to 320 t + 400; differences see 40 ms more on either side."""
    time = torch.arange(16000) / 16000
    low, high = torch.sin(2 * torch.pi * 300 * time), torch.sin(2 * torch.pi * 3000 * time)
    features = mfcc(0.3 * torch.where(torch.arange(16000) < change, low, high) + 0.01 * noise(16000)).numpy()
    cepstra = features[::2, :13]
    labels = fit_clusters(cepstra, 2, seed=1, starts=5).predict(cepstra)
    frames = np.arange(frames_in(16000))
    before, after = 320 * frames + 400 <= change, 320 * frames >= change
    assert (labels[before] == labels[0]).all() and (labels[after] == labels[-1]).all()
    assert labels[0] != labels[-1] and before.sum() + after.sum() >= len(frames) - 2


def blobs(frames: int = 2000, centres: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    classes = draw.integers(centres, size=frames)
    return (10 * draw.normal(size=(centres, 4))[classes] + draw.normal(size=(frames, 4))).astype(np.float32), classes


def test_clusters_come_from_the_seed_alone():
    features, _ = blobs()
    first, again, other = (fit_clusters(features, 20, seed, starts=3) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.cluster_centers_, again.cluster_centers_)
    assert (first.predict(features) == again.predict(features)).all()
    assert not np.array_equal(first.cluster_centers_, other.cluster_centers_)


def test_clusters_are_fitted_as_published():
    published = {
        "init": "k-means++",
        "n_init": 20,
        "batch_size": 10_000,
        "max_iter": 100,
        "tol": 0.0,
        "max_no_improvement": 100,
        "reassignment_ratio": 0.0,
        "random_state": 7,
    }
    assert published.items() <= fit_clusters(blobs()[0], 8, seed=7).get_params().items()


def test_more_iterations_do_not_raise_the_inertia():
    features, _ = blobs()
    model = fit_clusters(features, 30, seed=1, starts=1)
    inertias = [clone(model).set_params(max_iter=count).fit(features).inertia_ for count in (1, 3, 10, 30, 100)]
    assert (np.diff(inertias) <= 0.001 * inertias[0]).all() and inertias[-1] < 0.99 * inertias[0]


def test_of_more_starts_the_best_is_kept():
    """Forty groups and forty clusters: one start often puts two clusters into one group, twenty do less often."""
    features, _ = blobs(centres=40)
    best = KMeans(40, n_init=20, random_state=0).fit(features).inertia_
    one = np.mean([fit_clusters(features, 40, seed, starts=1).inertia_ for seed in range(5)])
    twenty = np.mean([fit_clusters(features, 40, seed).inertia_ for seed in range(5)])
    assert best * 0.999 <= twenty < one
    assert twenty == pytest.approx(best, rel=0.05)


def test_groups_that_lie_apart_are_found():
    features, classes = blobs()
    assert purity(fit_clusters(features, 8, seed=1).predict(features), classes) > 0.99


@pytest.mark.parametrize("seed", [0, 1])
def test_no_cluster_stays_empty_where_most_frames_are_equal(seed, monkeypatch):
    """Starts are drawn from a part of the frames; of a corpus that is mostly silent it has fewer than clusters."""
    monkeypatch.setattr(clustering, "BATCH_FRAMES", 20)
    features = np.zeros((4000, 3))
    features[:200] = np.random.default_rng(seed).normal(size=(200, 3))
    labels = fit_clusters(features, 40, seed, starts=2).predict(features)
    assert (np.bincount(labels, minlength=40) > 0).all()


def test_as_many_clusters_as_different_frames_are_filled():
    features = np.repeat(np.arange(12.0)[:, None] * np.ones((1, 2)), 500, axis=0)
    assert (np.bincount(fit_clusters(features, 12, seed=1).predict(features), minlength=12) == 500).all()


@pytest.mark.parametrize(("frames", "copies"), [(0, 1), (9, 1), (9, 4), (9, 2000)])
def test_fewer_different_frames_than_clusters_are_refused(frames, copies):
    features = np.tile(np.random.default_rng(0).normal(size=(frames, 2)), (copies, 1))
    with pytest.raises(DataError, match=f"10 clusters.*{frames} different frames.*fewer clusters"):
        fit_clusters(features, 10, seed=1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=60))
def test_purity_is_the_share_of_the_largest_classes(pairs):
    labels, truths = np.array(pairs).T
    expected = contingency_matrix(truths, labels).max(0).sum() / len(pairs)
    assert purity(labels, truths) == pytest.approx(expected)
    majority = np.bincount(truths).max() / len(pairs)
    assert majority - 1e-9 <= purity(labels, truths) <= 1 and purity(truths, truths) == 1
    assert purity(np.zeros_like(labels), truths) == pytest.approx(majority)
