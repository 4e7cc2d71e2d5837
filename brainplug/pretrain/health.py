"""Does pre-training learn, or does it collapse? What to look at, and when to raise an alarm."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

EPSILON = 1e-6


def deviation(vectors: torch.Tensor) -> torch.Tensor:
    """The mean over the dimensions of their standard deviation over frames.

    data2vec's code calls it a variance; targets that are all alike have none.

    Arguments
    ---------
    vectors : torch.Tensor
        ``[frames, dim]``.

    Returns
    -------
    torch.Tensor
        A scalar.

    Example
    -------
    >>> bool(deviation(torch.ones(10, 3)) < 0.01), bool(deviation(torch.randn(1000, 3)) > 0.9)
    (True, True)
    """
    return (vectors.float().var(0) + EPSILON).sqrt().mean()


def effective_rank(vectors: torch.Tensor) -> torch.Tensor:
    """Over how many directions vectors spread: the exponential of the entropy of their singular values.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007.

    Arguments
    ---------
    vectors : torch.Tensor
        ``[frames, dim]``.

    Returns
    -------
    torch.Tensor
        From 1 to dim.

    Example
    -------
    >>> round(effective_rank(torch.randn(10, 1) @ torch.randn(1, 5)).item(), 1)
    1.0
    """
    centred = vectors.float() - vectors.float().mean(0)
    return perplexity(torch.linalg.svdvals(centred))


def perplexity(weights: torch.Tensor) -> torch.Tensor:
    """How many of equal weight would be as mixed: the exponential of the entropy.

    Arguments
    ---------
    weights : torch.Tensor
        Not negative, ``[n]``; they need not sum to one.

    Returns
    -------
    torch.Tensor
        From 1 to n.

    Example
    -------
    >>> round(perplexity(torch.ones(8)).item(), 3)
    8.0
    """
    shares = weights.float() / weights.float().sum().clamp(min=EPSILON)
    return torch.special.entr(shares).sum().exp()


def mean_correlation(vectors: torch.Tensor) -> torch.Tensor:
    """The mean absolute correlation between different dimensions.

    Arguments
    ---------
    vectors : torch.Tensor
        ``[frames, dim]``.

    Returns
    -------
    torch.Tensor
        0 to 1.

    Example
    -------
    >>> column = torch.randn(50, 1)
    >>> round(mean_correlation(torch.cat([column, -column], dim=1)).item(), 3)
    1.0
    """
    correlations = torch.corrcoef(vectors.float().t()).nan_to_num().abs()
    dim = len(correlations)
    return (correlations.sum() - correlations.diagonal().sum()) / (dim * (dim - 1))


def mean_cosine(
    vectors: torch.Tensor, clips: torch.Tensor, generator: torch.Generator, pairs: int = 512
) -> torch.Tensor:
    """The mean cosine of vectors of different clips: near 1 where every clip has the same targets.

    Arguments
    ---------
    vectors : torch.Tensor
        ``[frames, dim]``.
    clips : torch.Tensor
        To which clip a vector belongs, ``[frames]``.
    generator : torch.Generator
        Draws the pairs.
    pairs : int
        How many are drawn; those of one clip are left out.

    Returns
    -------
    torch.Tensor
        -1 to 1.

    Example
    -------
    >>> clips = torch.arange(10) // 5
    >>> round(mean_cosine(torch.ones(10, 3), clips, torch.Generator().manual_seed(1)).item(), 3)
    1.0
    """
    first, second = torch.randint(len(vectors), (2, pairs), generator=generator)
    apart = clips[first] != clips[second]
    cosines = torch.nn.functional.cosine_similarity(vectors[first[apart]].float(), vectors[second[apart]].float())
    return cosines.mean()


def explained(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """R squared against the mean of each dimension.

    Arguments
    ---------
    predictions, targets : torch.Tensor
        ``[frames, dim]``.

    Returns
    -------
    torch.Tensor
        1 where all is predicted, 0 where the mean would do as well, below that where it would do better.

    Example
    -------
    >>> targets = torch.randn(20, 3)
    >>> explained(targets, targets).item(), abs(explained(targets.mean(0).expand(20, 3), targets).item()) < 1e-5
    (1.0, True)
    """
    targets = targets.float()
    return 1 - (predictions.float() - targets).square().mean() / targets.var(0, correction=0).mean().clamp(min=EPSILON)


def copy_accuracy(labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How often a masked frame has the label of the nearest frame that is not masked: what copying would reach.

    Arguments
    ---------
    labels : torch.Tensor
        ``[batch, frames]``.
    mask : torch.Tensor
        ``[batch, frames]``.

    Returns
    -------
    torch.Tensor
        0 to 1.

    Example
    -------
    >>> labels = torch.tensor([[1, 1, 2, 2]])
    >>> copy_accuracy(labels, torch.tensor([[False, True, True, False]])).item()
    1.0
    """
    frames = torch.arange(labels.shape[1], device=labels.device)
    distance = (frames[:, None] - frames[None, :]).abs().float()  # [frames, frames]
    nearest = distance.masked_fill(mask[:, None, :], float("inf")).argmin(2)  # [batch, frames]
    return (labels.gather(1, nearest) == labels)[mask].float().mean()


def majority_accuracy(labels: torch.Tensor) -> torch.Tensor:
    """The share of the most frequent label.

    Arguments
    ---------
    labels : torch.Tensor
        Any shape.

    Returns
    -------
    torch.Tensor
        0 to 1.

    Example
    -------
    >>> majority_accuracy(torch.tensor([1, 1, 1, 2])).item()
    0.75
    """
    return torch.bincount(labels.flatten()).max() / labels.numel()


@dataclass(frozen=True)
class Alarm:
    """A bound that an indicator should not cross.

    Arguments
    ---------
    indicator : str
        Which one.
    meaning : str
        What it means to cross it.
    below, above : float
        Outside of these it rings.
    stops : bool
        Whether it ends the run.
    rows : int
        Of how many measurements the mean is taken, the last ones: a batch alone says little of two that are close.

    Example
    -------
    >>> Alarm("deviation", "all targets are alike", below=0.1).rings([{"deviation": 0.5}, {"deviation": 0.05}])
    True
    """

    indicator: str
    meaning: str
    below: float = -math.inf
    above: float = math.inf
    stops: bool = False
    rows: int = 1

    def rings(self, log: Sequence[dict[str, float]]) -> bool:
        """Whether the bound is crossed; NaN crosses every bound."""
        return not self.below <= self.value(log) <= self.above

    def value(self, log: Sequence[dict[str, float]]) -> float:
        """What is held against the bounds."""
        return statistics.fmean(row[self.indicator] for row in log[-self.rows :])

    def __str__(self) -> str:
        bound = f"below {self.below:g}" if self.below > -math.inf else f"above {self.above:g}"
        return f"{bound} {self.meaning}"
