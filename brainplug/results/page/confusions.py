"""Which classes are taken for which, and by which clips."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix

Answer = dict[str, str]  # id, path, label, predicted


@dataclass(frozen=True)
class Pair:
    """A class that was taken for another one.

    Arguments
    ---------
    label, predicted : str
        The two.
    answers : int
        How often.
    of : int
        Answers to all clips of the class.
    clips : tuple[tuple[str, str, int], ...]
        Id, path and number of wrong answers, the most first.
    """

    label: str
    predicted: str
    answers: int
    of: int
    clips: tuple[tuple[str, str, int], ...]


def count_confusions(answers: Sequence[Answer]) -> tuple[np.ndarray, list[str]]:
    """The confusion matrix.

    Arguments
    ---------
    answers : Sequence[Answer]
        Of one run or several.

    Returns
    -------
    tuple[np.ndarray, list[str]]
        Clips, ``[labels, predictions]``, and the labels.

    Example
    -------
    >>> counts, labels = count_confusions([{"label": "cat", "predicted": "dog"}, {"label": "dog", "predicted": "dog"}])
    >>> counts.tolist(), labels
    ([[0, 1], [0, 1]], ['cat', 'dog'])
    """
    truth, predicted = zip(*((answer["label"], answer["predicted"]) for answer in answers), strict=True)
    labels = sorted({*truth, *predicted})
    return confusion_matrix(truth, predicted, labels=labels), labels


def worst_pairs(answers: Sequence[Answer], most: int = 10) -> list[Pair]:
    """The pairs of classes that are confused most often.

    Arguments
    ---------
    answers : Sequence[Answer]
        Of one run or several: a clip may have several answers.
    most : int
        Pairs.

    Returns
    -------
    list[Pair]
        The worst first.

    Example
    -------
    >>> cat = {"id": "a", "path": "a.wav", "label": "cat", "predicted": "dog"}
    >>> worst_pairs([cat, cat, {**cat, "predicted": "cat"}])
    [Pair(label='cat', predicted='dog', answers=2, of=3, clips=(('a', 'a.wav', 2),))]
    """
    wrong = defaultdict(Counter)
    for answer in answers:
        if answer["label"] != answer["predicted"]:
            wrong[answer["label"], answer["predicted"]][answer["id"], answer["path"]] += 1
    of = Counter(answer["label"] for answer in answers)
    worst = sorted(wrong.items(), key=lambda item: (-item[1].total(), item[0]))[:most]
    return [
        Pair(*pair, clips.total(), of[pair[0]], tuple((*clip, count) for clip, count in clips.most_common()))
        for pair, clips in worst
    ]
