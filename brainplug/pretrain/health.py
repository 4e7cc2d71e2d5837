"""Indicators that show whether pre-training learns or collapses, their log, and alarms."""

import csv
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks

from brainplug.files import atomic_file

EPSILON = 1e-6


def mean_std(vectors: torch.Tensor) -> torch.Tensor:
    """The standard deviation of vectors ``[frames, dim]`` over frames, averaged over dimensions; 0 if all are alike."""
    return (vectors.float().var(0) + EPSILON).sqrt().mean()


def effective_rank(vectors: torch.Tensor) -> torch.Tensor:
    """The number of directions of vectors ``[frames, dim]``: the exponential of the entropy of their singular values.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007.
    """
    centred = vectors.float() - vectors.float().mean(0)
    return perplexity(torch.linalg.svdvals(centred))


def perplexity(weights: torch.Tensor) -> torch.Tensor:
    """The exponential of the entropy of weights ``[n]``, which need not sum to one: n where all are equal."""
    probabilities = weights.float() / weights.float().sum().clamp(min=EPSILON)
    return torch.special.entr(probabilities).sum().exp()


def mean_correlation(vectors: torch.Tensor) -> torch.Tensor:
    """The mean absolute correlation between different dimensions of vectors ``[frames, dim]``."""
    correlations = torch.corrcoef(vectors.float().t()).nan_to_num().abs()
    dim = len(correlations)
    return (correlations.sum() - correlations.diagonal().sum()) / (dim * (dim - 1))


def mean_cosine(
    vectors: torch.Tensor, clips: torch.Tensor, generator: torch.Generator, pairs: int = 512
) -> torch.Tensor:
    """The mean cosine of random pairs of vectors from different clips; near 1 where every clip has the same targets.

    Arguments
    ---------
    vectors, clips : torch.Tensor
        ``[frames, dim]``, and the clip of each vector, ``[frames]``.
    pairs : int
        Number of pairs to draw. Those within a clip do not count.
    """
    first, second = torch.randint(len(vectors), (2, pairs), generator=generator)
    apart = clips[first] != clips[second]
    cosines = torch.nn.functional.cosine_similarity(vectors[first[apart]].float(), vectors[second[apart]].float())
    return cosines.mean()


def explained_variance(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """R squared of predictions ``[frames, dim]``: 0 where they are as good as the mean of each dimension."""
    targets = targets.float()
    return 1 - (predictions.float() - targets).square().mean() / targets.var(0, correction=0).mean().clamp(min=EPSILON)


def copy_accuracy(labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The accuracy at masked frames of copying the nearest visible frame's label; both are ``[batch, frames]``."""
    frames = torch.arange(labels.shape[1], device=labels.device)
    distance = (frames[:, None] - frames[None, :]).abs().float()  # [frames, frames]
    nearest = distance.masked_fill(mask[:, None, :], float("inf")).argmin(2)  # [batch, frames]
    return (labels.gather(1, nearest) == labels)[mask].float().mean()


def majority_accuracy(labels: torch.Tensor) -> torch.Tensor:
    """The accuracy of guessing the most frequent label."""
    return torch.bincount(labels.flatten()).max() / labels.numel()


@dataclass(frozen=True)
class Alarm:
    """Rings where the mean of an indicator over its last `rows` measurements crosses a bound; it may stop the run."""

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
        """The value that is compared with the bounds."""
        return statistics.fmean(row[self.indicator] for row in log[-self.rows :])

    def __str__(self) -> str:
        bound = f"below {self.below:g}" if self.below > -math.inf else f"above {self.above:g}"
        return f"{bound} {self.meaning}"


@register_checkpoint_hooks
class HealthLog:
    """A CSV file with a row of measurements every so many steps. A resumed run continues with its checkpoint's rows."""

    def __init__(self, path: str):
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.valid: dict[str, float] = {}  # of the last epoch

    def add(self, row: dict[str, float]) -> None:
        """Adds a row and writes the file."""
        self.rows.append(row)
        with atomic_file(self.path, newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)

    @mark_as_saver
    def save(self, path: str) -> None:
        """Writes the log for a checkpoint."""
        Path(path).write_text(json.dumps([self.rows, self.valid]))

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        """Restores the log of a checkpoint."""
        self.rows, self.valid = json.loads(Path(path).read_text())
