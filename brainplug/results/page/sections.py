"""The sections of the page: they choose among the runs, draw, and describe what is drawn."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np

from brainplug.files import OBSERVATIONS, PREDICTIONS, TRAIN_LOG, folder_name
from brainplug.results.page.confusions import Pair, count_confusions, worst_pairs
from brainplug.results.page.runs import (
    Run,
    best_method,
    by_method,
    classification_runs,
    grouped,
    runs_with_file,
    with_most_clips,
)
from brainplug.results.page.vectors import in_the_plane, shares_of_classes
from brainplug.results.plots.accuracy import FewShotPoint, Point, draw_few_shot, draw_scores
from brainplug.results.plots.classes import draw_confusion, draw_experts, draw_vectors
from brainplug.results.plots.learning import draw_learning
from brainplug.results.run_files import learning_curve, read_observations, read_predictions, read_train_log
from brainplug.results.schema import ClassificationResults, Metric
from brainplug.results.statistics import interval_of_mean, mean_and_std

SHARES = {  # of `Mixture.shares`
    "combine": "combine weights",
    "dispatch": "dispatch weights",
    "router": "router weights",
}


@dataclass(frozen=True)
class Figure:
    """A picture: the name of its file, the text below it, the file in base64, and confusions listed below that."""

    name: str
    caption: str
    encoded: str
    pairs: Sequence[Pair] = ()


@dataclass
class Section:
    """A part of the page: what is above its pictures, and sentences about pictures that could not be drawn."""

    title: str
    note: str
    figures: list[Figure] = field(default_factory=list)
    omitted: list[str] = field(default_factory=list)


class Canvas(NamedTuple):
    """The folder of the pictures, and the index of each method's colour and marker."""

    folder: Path
    styles: Mapping[str, int]

    def figure(
        self, kind: str, number: int, name: str, caption: str, draw: Callable[[Path], None], pairs: Sequence[Pair] = ()
    ) -> Figure:
        """Draws a figure. Its number keeps names apart that differ in punctuation alone."""
        path = self.folder / f"{kind}-{number}-{folder_name(name)[:60]}.png"
        draw(path)
        return Figure(path.name, caption, base64.b64encode(path.read_bytes()).decode(), pairs)


def make_sections(runs: Sequence[Run], folder: Path) -> list[Section]:
    """Draws all that the runs allow, into a folder; sections without anything to show are left out."""
    methods = by_method(runs)
    # Methods with few-shot curves come first: the first seven indices have seven colours.
    ordered = sorted(methods, key=lambda method: -len({run.few_shot for run in methods[method]}))
    canvas = Canvas(folder, {method: index for index, method in enumerate(ordered)})
    main = with_most_clips(runs)
    classifying = by_data(classification_runs(main))
    sections = [
        *_scores(main, canvas),
        _few_shot(classification_runs(runs), canvas),
        _learning(by_data(main), canvas),
        _confusions(classifying, canvas),
        _vectors(classifying, canvas),
        _experts(classifying, canvas),
    ]
    return [section for section in sections if section.figures or section.omitted]


def by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Sorts runs into groups of the same data."""
    return grouped(runs, lambda run: run.data)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _range(counts: Iterable[int]) -> str:
    counts = set(counts)
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def _scores(runs: Sequence[Run], canvas: Canvas) -> list[Section]:
    """One section for each metric, since accuracies and error rates have no common axis."""
    metrics = dict.fromkeys(run.results.metrics[0] for run in runs)
    return [_scores_of([run for run in runs if run.results.metrics[0] == metric], metric, canvas) for metric in metrics]


def _scores_of(runs: Sequence[Run], metric: Metric, canvas: Canvas) -> Section:
    section = Section(
        f"{metric.name[0].upper()}{metric.name[1:]} against trained parameters",
        f"Each point is a method: the mean {metric.title} over folds and seeds, plus and minus one standard deviation. "
        "A method is on the Pareto front if no other is better with as few parameters.",
    )
    for number, (data, of_data) in enumerate(by_data(runs).items(), 1):
        points = {method: _point(group) for method, group in by_method(of_data).items()}
        n = _range(point.runs for point in points.values())
        draw = partial(
            draw_scores,
            title=f"{data} (n = {n} runs a method, ± one standard deviation; dashed: Pareto front)",
            points=points,
            styles=canvas.styles,
            parameters=of_data[0].results.counted[0].replace("trainable", "trainable parameters"),
            score=f"{metric.title} (%)",
            higher_is_better=metric.higher_is_better,
        )
        caption = f"{data}: {_count(len(points), 'method')}, n = {n} runs each."
        section.figures.append(canvas.figure(metric.key, number, data, caption, draw))
    return section


def _point(runs: Sequence[Run]) -> Point:
    score, std = mean_and_std(run.results.score() for run in runs)
    return Point(runs[0].results.counted[1], score or 0.0, std or 0.0, len(runs))


def _few_shot(runs: Sequence[Run], canvas: Canvas) -> Section:
    section = Section(
        "Few training clips",
        "Mean test accuracy with the 95 % interval of the mean (Student's t) over the draws of training clips, after "
        "the mean over the folds of each draw. For a single draw the interval is over its folds, which share training "
        "clips: it is too narrow rather than too wide.",
    )
    for number, (benchmark, group) in enumerate(grouped(runs, lambda run: run.benchmark).items(), 1):
        if any(len(by_data(same)) > 1 for same in grouped(group, _shots).values()):
            continue  # columns that differ in other settings do not make one curve
        curves = few_shot_curves(group)
        if not curves:
            continue
        n = _range(len(same) for same in grouped(group, lambda run: run.method + _shots(run)).values())
        title = f"{benchmark} (n = {n} runs a point, 95 % intervals)"
        draw = partial(draw_few_shot, title=title, curves=curves, styles=canvas.styles)
        caption = f"{benchmark}: n = {n} runs a point."
        section.figures.append(canvas.figure("few_shot", number, benchmark, caption, draw))
    return section


def _shots(run: Run) -> str:
    return str(run.few_shot)


def few_shot_curves(runs: Sequence[Run]) -> dict[str, list[FewShotPoint]]:
    """The curve of each method that has runs with different numbers of training clips."""
    sizes = [run.results for run in runs if isinstance(run.results, ClassificationResults)]
    all_clips = max([1, *(round(results.n_train / results.n_classes) for results in sizes)])
    curves = {
        method: [few_shot_point(same, all_clips) for same in grouped(group, _shots).values()]
        for method, group in by_method(runs).items()
    }
    return {method: points for method, points in curves.items() if len(points) > 1}


def few_shot_point(runs: Sequence[Run], all_clips: int) -> FewShotPoint:
    """The mean of runs of one method with the same number of training clips, and its interval.

    Arguments
    ---------
    runs : Sequence[Run]
        The interval is over their draws where there are several, else over folds.
    all_clips : int
        The number a class where none are left out.
    """
    draws = grouped(runs, lambda run: str(run.results.seed))
    means = [mean(run.results.score() for run in draw) for draw in draws.values()]
    values = means if len(means) > 1 else [run.results.score() for run in runs]
    low, high = interval_of_mean(values) if len(values) > 1 else (values[0], values[0])
    few_shot = runs[0].results.few_shot
    return FewShotPoint(few_shot or all_clips, mean(values), low, high, everything=few_shot is None)


def _learning(groups: Mapping[str, Sequence[Run]], canvas: Canvas) -> Section:
    section = Section(
        "Learning curves",
        "Means over folds and seeds; the band is between the lowest and the highest run. An epoch that was trained "
        "again after a stop counts once.",
    )
    for number, (data, runs) in enumerate(groups.items(), 1):
        logs = {
            method: [read_train_log(run.folder) for run in group]
            for method, group in by_method(runs_with_file(runs, TRAIN_LOG)).items()
        }
        curves = {
            method: [curve for text in texts if (curve := learning_curve(text))] for method, texts in logs.items()
        }
        curves = {method: of_method for method, of_method in curves.items() if of_method}
        if not curves:
            continue
        count = _count(sum(map(len, curves.values())), "run")
        title, metric = f"{data} ({count}; mean, lowest and highest)", runs[0].results.metrics[0].name
        draw = partial(
            draw_learning, title=title, curves=curves, styles=canvas.styles, metric=f"validation {metric} (%)"
        )
        caption = f"{data}: {_count(len(curves), 'method')}, {count}."
        section.figures.append(canvas.figure("learning", number, data, caption, draw))
    return section


def _confusions(groups: Mapping[str, Sequence[Run]], canvas: Canvas) -> Section:
    section = Section(
        "Confusions",
        "Of the method with the best validation accuracy, summed over its folds and seeds. Numbers are test clips, one "
        "for each run; colours are shares of a label's clips. Below each matrix are the ten worst pairs of classes "
        "with their clips, whose paths show under the pointer.",
    )
    for number, (data, runs) in enumerate(groups.items(), 1):
        candidates = runs_with_file(runs, PREDICTIONS)
        best = best_method(candidates) if candidates else []
        predictions = [row for run in best for row in read_predictions(run.folder)]
        if not predictions:
            continue
        counted = f"{_count(len(predictions), 'prediction')} in {_count(len(best), 'run')}"
        title = f"{data}: {best[0].method}, {counted}"
        counts, labels = count_confusions(predictions)
        draw = partial(draw_confusion, title=title, counts=counts, labels=labels)
        pairs = worst_pairs(predictions)
        section.figures.append(canvas.figure("confusion", number, data, f"{title}.", draw, pairs))
    return section


def _vectors(groups: Mapping[str, Sequence[Run]], canvas: Canvas) -> Section:
    section = Section(
        "Pooled vectors before and after adapting",
        "t-SNE of the input of the head, for at most 500 test clips of one run of the method with the best validation "
        "accuracy: with the backbone before training, and with the adapted one. Distances between groups mean little. "
        "Names, or numbers where there are many classes, are near the median of their clips.",
    )
    for number, (data, runs) in enumerate(groups.items(), 1):
        candidates = runs_with_file(runs, OBSERVATIONS)
        if not candidates:
            continue
        run = best_method(candidates)[0]
        arrays, labels = _observations(run)
        panels = {name: in_the_plane(arrays[key]) for name, key in (("before", "vectors_before"), ("after", "vectors"))}
        drawable = {name: points for name, points in panels.items() if points is not None}
        if len(drawable) < len(panels):
            section.omitted.append(f"{data}: the vectors of {run.method} are too few or all alike.")
            continue
        title = f"{data}: {run.method}, {run.name}, {_count(len(arrays['targets']), 'test clip')} (t-SNE)"
        draw = partial(draw_vectors, title=title, panels=drawable, targets=arrays["targets"], labels=labels)
        section.figures.append(canvas.figure("vectors", number, data, f"{title}.", draw))
    return section


def _observations(run: Run) -> tuple[dict[str, np.ndarray], list[str]]:
    return read_observations(run.folder) or ({}, [])


def _experts(groups: Mapping[str, Sequence[Run]], canvas: Canvas) -> Section:
    section = Section(
        "Experts of mixtures",
        "Of one run, since the experts of two runs have no common order. Combine and router weights: an expert's mean "
        "weight over a clip's tokens; all experts of a mixture sum to 100 %. Dispatch weights: the share of the "
        "clip's tokens that an expert's slots gather, exp(entropy) over their number; 100 % means all tokens alike. "
        "Above is the mean over the classes, below the difference of each class from it.",
    )
    for number, (data, runs) in enumerate(groups.items(), 1):
        candidates = runs_with_file(runs, OBSERVATIONS)
        arrays_of = {run.folder: _observations(run)[0] for run in candidates}
        for kind, kind_name in SHARES.items():
            with_kind = [run for run in candidates if kind in arrays_of[run.folder]]
            if not with_kind:
                continue
            run = best_method(with_kind)[0]
            arrays, labels = _observations(run)
            shares, classes = shares_of_classes(arrays[kind], arrays["targets"])
            clips = _count(len(arrays["targets"]), "test clip")
            title = f"{data}: {kind_name} of {run.method}, {run.name}, {clips}"
            draw = partial(draw_experts, title=title, shares=shares, labels=[labels[index] for index in classes])
            section.figures.append(canvas.figure(f"experts-{kind}", number, data, f"{title}.", draw))
    return section
