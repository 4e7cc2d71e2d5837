"""Pooled vectors in the plane, and how classes use experts."""

import numpy as np
import torch
from sklearn.manifold import TSNE

FEWEST_CLIPS = 5  # that t-SNE has something to say of


def in_the_plane(vectors: torch.Tensor, seed: int = 0) -> np.ndarray | None:
    """t-SNE.

    Arguments
    ---------
    vectors : torch.Tensor
        ``[clips, dim]``.
    seed : int
        Of its random choices.

    Returns
    -------
    np.ndarray | None
        ``[clips, 2]``; None of vectors that are too few, all alike or not finite.

    Example
    -------
    >>> vectors = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    >>> in_the_plane(vectors).shape, in_the_plane(torch.zeros(8, 4)) is None
    ((8, 2), True)
    """
    clips = len(vectors)
    if clips < FEWEST_CLIPS or not vectors.isfinite().all() or not (vectors != vectors[0]).any():
        return None
    tsne = TSNE(perplexity=min(30, (clips - 1) / 3), init="pca", random_state=seed)
    return tsne.fit_transform(vectors.double().numpy())


def shares_of_classes(shares: torch.Tensor, targets: torch.Tensor) -> tuple[np.ndarray, list[int]]:
    """How much each class uses each expert.

    Arguments
    ---------
    shares : torch.Tensor
        ``[clips, mixtures, experts]``.
    targets : torch.Tensor
        Class of each clip.

    Returns
    -------
    tuple[np.ndarray, list[int]]
        Means over the clips of a class, ``[classes, mixtures, experts]``, and the classes that have clips.

    Example
    -------
    >>> shares, classes = shares_of_classes(torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]]]), torch.tensor([3, 3]))
    >>> shares.shape, round(float(shares[0, 0, 0]), 6), classes
    ((1, 1, 2), 0.4, [3])
    """
    classes = targets.unique().tolist()
    return torch.stack([shares[targets == place].mean(0) for place in classes]).numpy(), classes
