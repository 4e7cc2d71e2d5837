"""Accuracy against what it costs: trainable parameters, and training clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from brainplug.results.plots.canvas import picture, place_labels, short, style, wrapped


@dataclass(frozen=True)
class Point:
    """A method.

    Arguments
    ---------
    parameters : int
        Trainable ones without the head.
    accuracy : float
        Mean test accuracy, in per cent.
    deviation : float
        Over the runs; 0 of a single one.
    runs : int
        How many.
    """

    parameters: int
    accuracy: float
    deviation: float
    runs: int


@dataclass(frozen=True)
class FewShotPoint:
    """A method with so many training clips.

    Arguments
    ---------
    clips : float
        A class.
    accuracy : float
        Mean test accuracy, in per cent.
    low, high : float
        Ends of the mean's 95 % interval; both are the accuracy where there is none.
    everything : bool
        These are all clips that there are.
    """

    clips: float
    accuracy: float
    low: float
    high: float
    everything: bool = False


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """The methods that no other one beats: with fewer parameters as good, or with as many better.

    Arguments
    ---------
    points : Mapping[str, Point]
        By method.

    Returns
    -------
    list[str]
        From few parameters to many.

    Example
    -------
    >>> pareto_front({"a": Point(10, 50, 0, 1), "b": Point(20, 60, 0, 1), "c": Point(20, 55, 0, 1)})
    ['a', 'b']
    """
    front, best = [], float("-inf")
    for name, point in sorted(points.items(), key=lambda item: (item[1].parameters, -item[1].accuracy)):
        same = front and (points[front[-1]].parameters, best) == (point.parameters, point.accuracy)
        if point.accuracy > best or same:
            front.append(name)
            best = point.accuracy
    return front


def draw_accuracy(path: str | Path, title: str, points: Mapping[str, Point], places: Mapping[str, int]) -> None:
    """Accuracy against trainable parameters, with the Pareto front.

    Arguments
    ---------
    path : str | Path
        The PNG.
    title : str
        Above it.
    points : Mapping[str, Point]
        By method.
    places : Mapping[str, int]
        Of the methods, for their `style`.
    """
    with picture(path, 8, 5) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        drawn = {name: (max(1, point.parameters), point.accuracy) for name, point in points.items()}
        for name, point in points.items():
            colour, marker, _ = style(places[name])
            axes.errorbar(*drawn[name], point.deviation, fmt=marker, color=colour, mec="black", mew=0.5, capsize=3)
        left, right = min(drawn.values())[0] / 4, max(drawn.values())[0] * 4
        axes.set_xlim(left, right)
        axes.set_xticks(ticks := _ticks(left, right), list(map(_with_unit, ticks)))
        axes.minorticks_off()
        front = [drawn[name] for name in pareto_front(points)]
        front.append((right, front[-1][1]))  # more parameters alone make nothing better
        axes.step(*zip(*front, strict=True), where="post", color="0.4", lw=1, ls="--", zorder=0)
        axes.set_title(wrapped(title, 105))
        axes.set_xlabel("trainable parameters without head")
        axes.set_ylabel("test accuracy (%)")
        axes.margins(y=0.12)
        axes.grid(alpha=0.3)
        bars = [(x, y - points[name].deviation, x, y + points[name].deviation) for name, (x, y) in drawn.items()]
        bars += [(*here, there[0], here[1]) for here, there in pairwise(front)]
        bars += [(there[0], here[1], *there) for here, there in pairwise(front)]
        place_labels(axes, np.array(list(drawn.values())), list(map(short, drawn)), taken=np.array(bars))


def _ticks(left: float, right: float) -> list[int]:
    """Powers of ten, and what lies between them where there are few."""
    between = (1,) if right / left > 1000 else (1, 2, 5)
    ticks = [digit * 10**power for power in range(12) for digit in between]
    return [tick for tick in ticks if left <= tick <= right]


def _with_unit(tick: int) -> str:
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if tick >= size:
            return f"{tick // size}{unit}"
    return str(tick)


def draw_few_shot(
    path: str | Path, title: str, curves: Mapping[str, Sequence[FewShotPoint]], places: Mapping[str, int]
) -> None:
    """Accuracy against training clips a class.

    Arguments
    ---------
    path : str | Path
        The PNG.
    title : str
        Above it.
    curves : Mapping[str, Sequence[FewShotPoint]]
        By method.
    places : Mapping[str, int]
        Of the methods, for their `style`.
    """
    with picture(path, 8, 4.5) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        sizes = {point.clips: point for points in curves.values() for point in points}
        step = (max(sizes) / min(sizes)) ** 0.012  # so that the intervals stand beside each other
        for number, (name, points) in enumerate(curves.items()):
            colour, marker, line = style(places[name])
            aside = step ** (number - (len(curves) - 1) / 2)
            points = sorted(points, key=lambda point: point.clips)
            accuracies = np.array([(point.accuracy, point.low, point.high) for point in points]).T
            axes.errorbar(
                [point.clips * aside for point in points], accuracies[0],
                np.abs(accuracies[1:] - accuracies[0]), label=short(name),
                color=colour, marker=marker, ls=line, capsize=2, ms=5, elinewidth=1, mec="black", mew=0.4,
            )  # fmt: skip
        axes.set_xticks(list(sizes), [f"all ({at:g})" if of.everything else f"{at:g}" for at, of in sizes.items()])
        axes.minorticks_off()
        axes.set_title(wrapped(title))
        axes.set_xlabel("training clips a class")
        axes.set_ylabel("test accuracy (%)")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper")
