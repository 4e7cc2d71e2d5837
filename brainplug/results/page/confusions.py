"""Which classes are confused with which, and on which clips."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix

from brainplug.results.run_files import Prediction


@dataclass(frozen=True)
class Pair:
    """A class that was taken for another one: confusions of all its clips, and the clips with the most of them."""

    label: str
    predicted: str
    count: int
    total: int
    clips: tuple[tuple[str, str, int], ...]


def count_confusions(predictions: Sequence[Prediction]) -> tuple[np.ndarray, list[str]]:
    """The confusion matrix of one or several runs, ``[labels, predictions]``, and its labels."""
    true, predicted = zip(*((row["label"], row["predicted"]) for row in predictions), strict=True)
    labels = sorted({*true, *predicted})
    return confusion_matrix(true, predicted, labels=labels), labels


def worst_pairs(predictions: Sequence[Prediction], most: int = 10) -> list[Pair]:
    """The most frequent confusions of one or several runs, in which a clip may have several predictions.

    Example
    -------
    >>> cat = {"id": "a", "path": "a.wav", "label": "cat", "predicted": "dog"}
    >>> worst_pairs([cat, cat, {**cat, "predicted": "cat"}])
    [Pair(label='cat', predicted='dog', count=2, total=3, clips=(('a', 'a.wav', 2),))]
    """
    wrong: dict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in predictions:
        if row["label"] != row["predicted"]:
            wrong[row["label"], row["predicted"]][row["id"], row["path"]] += 1
    totals = Counter(row["label"] for row in predictions)
    worst = sorted(wrong.items(), key=lambda item: (-item[1].total(), item[0]))[:most]
    return [
        Pair(*pair, clips.total(), totals[pair[0]], tuple((*clip, count) for clip, count in clips.most_common()))
        for pair, clips in worst
    ]
