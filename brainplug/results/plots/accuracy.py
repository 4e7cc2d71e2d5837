"""Scores against what they cost: trainable parameters, and training clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from brainplug.results.plots.canvas import picture, place_labels, short, style, wrapped


@dataclass(frozen=True)
class Point:
    """A method: its trainable parameters, the mean and standard deviation of its runs in per cent, and their number."""

    parameters: int
    score: float
    std: float
    runs: int


@dataclass(frozen=True)
class FewShotPoint:
    """A method's mean test accuracy in per cent, with a 95 % interval, for a number of clips a class or for all."""

    clips: float
    accuracy: float
    low: float
    high: float
    everything: bool = False


def pareto_front(points: Mapping[str, Point], higher_is_better: bool = True) -> list[str]:
    """The methods to which no other one is better with as few parameters or as good with fewer, by parameters.

    Example
    -------
    >>> pareto_front({"a": Point(10, 50, 0, 1), "b": Point(20, 60, 0, 1), "c": Point(20, 55, 0, 1)})
    ['a', 'b']
    """
    sign = 1 if higher_is_better else -1
    front: list[str] = []
    best = (0, float("-inf"))  # parameters and signed score
    for name, point in sorted(points.items(), key=lambda item: (item[1].parameters, -sign * item[1].score)):
        candidate = point.parameters, sign * point.score
        if candidate[1] > best[1] or candidate == best:
            front.append(name)
            best = candidate
    return front


def draw_scores(
    path: str | Path,
    title: str,
    points: Mapping[str, Point],
    styles: Mapping[str, int],
    parameters: str = "trainable parameters without head",
    score: str = "test accuracy (%)",
    higher_is_better: bool = True,
) -> None:
    """Scores against trainable parameters, with the Pareto front; `styles` are indices of `style`, by method."""
    with picture(path, 8, 5) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        drawn = {name: (max(1, point.parameters), point.score) for name, point in points.items()}
        for name, point in points.items():
            colour, marker, _ = style(styles[name])
            axes.errorbar(*drawn[name], point.std, fmt=marker, color=colour, mec="black", mew=0.5, capsize=3)
        left, right = min(drawn.values())[0] / 4, max(drawn.values())[0] * 4
        axes.set_xlim(left, right)
        axes.set_xticks(ticks := _ticks(left, right), list(map(_with_unit, ticks)))
        axes.minorticks_off()
        front = [drawn[name] for name in pareto_front(points, higher_is_better)]
        front.append((right, front[-1][1]))  # more parameters alone improve nothing
        axes.step(*zip(*front, strict=True), where="post", color="0.4", lw=1, ls="--", zorder=0)
        axes.set_title(wrapped(title, 105))
        axes.set_xlabel(parameters)
        axes.set_ylabel(score)
        axes.margins(y=0.12)
        axes.grid(alpha=0.3)
        boxes = [(x, y - points[name].std, x, y + points[name].std) for name, (x, y) in drawn.items()]
        for (x, y), (next_x, next_y) in pairwise(front):
            boxes += [(x, y, next_x, y), (next_x, min(y, next_y), next_x, max(y, next_y))]
        place_labels(axes, np.array(list(drawn.values())), list(map(short, drawn)), taken=np.array(boxes))


def _ticks(left: float, right: float) -> list[int]:
    """Powers of ten; with twice and five times as much where there are few of them."""
    digits = (1,) if right / left > 1000 else (1, 2, 5)
    ticks = [digit * 10**power for power in range(12) for digit in digits]
    return [tick for tick in ticks if left <= tick <= right]


def _with_unit(tick: int) -> str:
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if tick >= size:
            return f"{tick // size}{unit}"
    return str(tick)


def draw_few_shot(
    path: str | Path, title: str, curves: Mapping[str, Sequence[FewShotPoint]], styles: Mapping[str, int]
) -> None:
    """Accuracy against training clips a class; as in `draw_scores`, by method."""
    with picture(path, 8, 4.5) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        sizes = {point.clips: point for points in curves.values() for point in points}
        step = (max(sizes) / min(sizes)) ** 0.012  # draws the intervals beside each other
        for number, (name, points) in enumerate(curves.items()):
            colour, marker, line = style(styles[name])
            shift = step ** (number - (len(curves) - 1) / 2)
            points = sorted(points, key=lambda point: point.clips)
            accuracies = np.array([(point.accuracy, point.low, point.high) for point in points]).T
            axes.errorbar(
                [point.clips * shift for point in points], accuracies[0],
                np.abs(accuracies[1:] - accuracies[0]), label=short(name),
                color=colour, marker=marker, ls=line, capsize=2, ms=5, elinewidth=1, mec="black", mew=0.4,
            )  # fmt: skip
        names = [f"all ({size:g})" if point.everything else f"{size:g}" for size, point in sizes.items()]
        axes.set_xticks(list(sizes), names)
        axes.minorticks_off()
        axes.set_title(wrapped(title))
        axes.set_xlabel("training clips a class")
        axes.set_ylabel("test accuracy (%)")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper")
