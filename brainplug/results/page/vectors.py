"""Pooled vectors in the plane, and how classes use experts."""

import numpy as np
from sklearn.manifold import TSNE

FEWEST_CLIPS = 5  # t-SNE of fewer is meaningless


def in_the_plane(vectors: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """t-SNE of vectors ``[clips, dim]``: ``[clips, 2]``; None if they are too few, all alike or not finite."""
    clips = len(vectors)
    if clips < FEWEST_CLIPS or not np.isfinite(vectors).all() or not (vectors != vectors[0]).any():
        return None
    tsne = TSNE(perplexity=min(30, (clips - 1) / 3), init="pca", random_state=seed)
    return tsne.fit_transform(vectors.astype("float64"))


def shares_of_classes(shares: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The mean use of experts ``[classes, mixtures, experts]`` over each class's clips, and the classes with clips.

    `shares` are ``[clips, mixtures, experts]``, `targets` the class of each clip.
    """
    classes = np.unique(targets).tolist()
    return np.stack([shares[targets == label].mean(axis=0) for label in classes]), classes
