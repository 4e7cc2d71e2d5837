"""Targets for HuBERT: clusters of MFCC, later of a layer's output.

Hsu et al., "HuBERT", 2021, section IV-B, https://arxiv.org/abs/2106.07447; sizes and restarts after
https://github.com/facebookresearch/fairseq, ``examples/hubert/simple_kmeans``.
"""

import brainplug  # noqa: F401  before torchaudio: it lets it load beside any torch

# isort: split
import numpy as np
import torch
import torchaudio
from sklearn.cluster import MiniBatchKMeans

from brainplug.errors import UsageError

SAMPLE_RATE = 16000
COEFFICIENTS = 13
BATCH_FRAMES = 10_000


def mfcc(waveform: torch.Tensor) -> torch.Tensor:
    """Kaldi's mel-frequency cepstra with their first and second differences, without the energy.

    Arguments
    ---------
    waveform : torch.Tensor
        16 kHz, ``[samples]``.

    Returns
    -------
    torch.Tensor
        A row every 10 ms, ``[frames, 39]``.

    Example
    -------
    >>> mfcc(torch.randn(16000)).shape
    torch.Size([98, 39])
    """
    cepstra = torchaudio.compliance.kaldi.mfcc(
        waveform[None], sample_frequency=SAMPLE_RATE, num_ceps=COEFFICIENTS, use_energy=False
    ).t()  # [coefficients, frames]
    deltas = torchaudio.functional.compute_deltas(cepstra)
    return torch.cat([cepstra, deltas, torchaudio.functional.compute_deltas(deltas)]).t()


def fit_clusters(features: np.ndarray, clusters: int, seed: int, starts: int = 20) -> MiniBatchKMeans:
    """Clusters frames; no cluster is left without one.

    Arguments
    ---------
    features : np.ndarray
        ``[frames, dim]``.
    clusters : int
        How many.
    seed : int
        Of the starts and batches.
    starts : int
        From as many, the best one is kept.

    Returns
    -------
    MiniBatchKMeans
        Fitted; ``predict`` labels frames.

    Raises
    ------
    UsageError
        There are fewer different frames than clusters.

    Example
    -------
    >>> frames = np.random.default_rng(0).normal(size=(100, 2))
    >>> sorted(set(fit_clusters(frames, 4, seed=1).predict(frames).tolist()))
    [0, 1, 2, 3]
    """
    different = set()
    for frame in features:
        different.add(frame.tobytes())
        if len(different) == clusters:
            break
    else:
        raise UsageError(
            f"{clusters} clusters were asked for.",
            f"There are {len(different):,} different frames.",
            "Write fewer clusters, or name a folder with more sound",
        )
    model = MiniBatchKMeans(
        clusters,
        init="k-means++",
        n_init=starts,
        batch_size=BATCH_FRAMES,
        max_iter=100,
        tol=0.0,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        random_state=seed,
    ).fit(features)
    _fill_empty(model, features)
    return model


def _fill_empty(model: MiniBatchKMeans, features: np.ndarray) -> None:
    """Puts an empty cluster at the frame that is farthest from its centre. Many equal frames can leave one empty."""
    for _ in range(model.n_clusters):
        labels = model.predict(features)
        sizes = np.bincount(labels, minlength=model.n_clusters)
        if sizes.all():
            return
        distances = np.square(features - model.cluster_centers_[labels]).sum(1)
        model.cluster_centers_[sizes.argmin()] = features[distances.argmax()]


def purity(labels: np.ndarray, truths: np.ndarray) -> float:
    """How often a cluster's frames are of the class that most of them are of.

    Arguments
    ---------
    labels, truths : np.ndarray
        Clusters, and phones or letters, ``[frames]``.

    Returns
    -------
    float
        From the share of the largest class to 1.

    Example
    -------
    >>> purity(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7]))
    0.75
    """
    counts = np.zeros((labels.max() + 1, truths.max() + 1), dtype=np.int64)
    np.add.at(counts, (labels, truths), 1)
    return float(counts.max(1).sum() / len(labels))
