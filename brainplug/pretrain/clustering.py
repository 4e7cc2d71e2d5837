"""Clusters of MFCC or of a layer's output, which are HuBERT's targets.

Hsu et al., "HuBERT", 2021, section IV-B, https://arxiv.org/abs/2106.07447; sizes and restarts follow
``examples/hubert/simple_kmeans`` of https://github.com/facebookresearch/fairseq.
"""

import numpy as np
import torch
import torchaudio
from sklearn.cluster import MiniBatchKMeans

from brainplug.errors import DataError

SAMPLE_RATE = 16000
COEFFICIENTS = 13
BATCH_FRAMES = 10_000


def mfcc(waveform: torch.Tensor) -> torch.Tensor:
    """Kaldi's MFCC of a 16 kHz waveform ``[samples]``, with their differences: ``[frames, 39]``, a row every 10 ms."""
    cepstra = torchaudio.compliance.kaldi.mfcc(
        waveform[None], sample_frequency=SAMPLE_RATE, num_ceps=COEFFICIENTS, use_energy=False
    ).t()  # [coefficients, frames]
    deltas = torchaudio.functional.compute_deltas(cepstra)
    return torch.cat([cepstra, deltas, torchaudio.functional.compute_deltas(deltas)]).t()


def fit_clusters(features: np.ndarray, clusters: int, seed: int, starts: int = 20) -> MiniBatchKMeans:
    """Fits k-means to frames ``[frames, dim]``, with the best of some initialisations; no cluster stays empty.

    `DataError` where there are fewer distinct frames than clusters.
    """
    distinct: set[bytes] = set()
    for frame in features:
        distinct.add(frame.tobytes())
        if len(distinct) == clusters:
            break
    else:
        raise DataError(
            f"{clusters} clusters were asked for.",
            f"There are {len(distinct):,} different frames.",
            "Write fewer clusters, or name a folder with more audio",
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
    """Moves empty clusters, which many equal frames can cause, to the frame that is farthest from its centre."""
    for _ in range(model.n_clusters):
        labels = model.predict(features)
        sizes = np.bincount(labels, minlength=model.n_clusters)
        if sizes.all():
            return
        distances = np.square(features - model.cluster_centers_[labels]).sum(1)
        model.cluster_centers_[sizes.argmin()] = features[distances.argmax()]


def purity(labels: np.ndarray, classes: np.ndarray) -> float:
    """The fraction of frames whose class (a phone, say) is the most frequent one of their cluster.

    Example
    -------
    >>> purity(np.array([0, 0, 1, 1]), np.array([5, 5, 5, 7]))
    0.75
    """
    counts = np.zeros((labels.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(counts, (labels, classes), 1)
    return float(counts.max(1).sum() / len(labels))
