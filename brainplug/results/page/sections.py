"""The sections of the page: chooses among the runs, draws, and says what is seen."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from brainplug.results.page.confusions import Pair, count_confusions, worst_pairs
from brainplug.results.page.kept import TRAIN_LOG, Run, best_method, grouped, learning_curve, that_keep, with_most_clips
from brainplug.results.page.vectors import in_the_plane, shares_of_classes
from brainplug.results.plots.accuracy import FewShotPoint, Point, draw_accuracy, draw_few_shot
from brainplug.results.plots.classes import draw_confusion, draw_experts, draw_vectors
from brainplug.results.plots.learning import draw_learning
from brainplug.sweep.faults import folder_name
from brainplug.tasks.runs import interval_of_mean
from brainplug.training.diagnostics import OBSERVATIONS, PREDICTIONS, read_observations, read_predictions

SHARES = {
    "combine": "combine weights",
    "dispatch": "dispatch weights",
    "router": "router weights",
}  # of `Mixture.shares`


@dataclass(frozen=True)
class Figure:
    """A picture of the page.

    Arguments
    ---------
    name : str
        Of its file.
    caption : str
        Below it.
    encoded : str
        The file, in base64.
    pairs : Sequence[Pair]
        What stands below a confusion matrix.
    """

    name: str
    caption: str
    encoded: str
    pairs: Sequence[Pair] = ()


@dataclass
class Section:
    """A part of the page.

    Arguments
    ---------
    title, note : str
        Above the pictures.
    figures : list[Figure]
        Pictures.
    omitted : list[str]
        What could not be drawn.
    """

    title: str
    note: str
    figures: list[Figure] = field(default_factory=list)
    omitted: list[str] = field(default_factory=list)


def make_sections(runs: Sequence[Run], folder: Path) -> list[Section]:
    """Draws all that the runs allow.

    Arguments
    ---------
    runs : Sequence[Run]
        As `find_runs` returns them.
    folder : Path
        Where the pictures go.

    Returns
    -------
    list[Section]
        Those that have pictures, or say why they have none.
    """
    methods = grouped(runs, lambda run: run.method)
    # Those with few-shot curves first: the first seven places have seven colours.
    ordered = sorted(methods, key=lambda method: -len({run.few_shot for run in methods[method]}))
    places = {method: place for place, method in enumerate(ordered)}
    main = grouped(with_most_clips(runs), lambda run: run.data)
    sections = [
        _accuracy(main, places, folder),
        _few_shot(runs, places, folder),
        _learning(main, places, folder),
        _confusions(main, folder),
        _vectors(main, folder),
        _experts(main, folder),
    ]
    return [section for section in sections if section.figures or section.omitted]


def _figure(path: Path, caption: str, draw: Callable, *drawn: object, pairs: Sequence[Pair] = ()) -> Figure:
    draw(path, *drawn)
    return Figure(path.name, caption, base64.b64encode(path.read_bytes()).decode(), pairs)


def _path(folder: Path, kind: str, number: int, name: str) -> Path:
    """With a number, as two names may differ in signs alone."""
    return folder / f"{kind}-{number}-{folder_name(name)[:60]}.png"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _range(counts: Iterable[int]) -> str:
    counts = set(counts)
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def _accuracy(main: Mapping[str, list[Run]], places: Mapping[str, int], folder: Path) -> Section:
    section = Section(
        "Accuracy against trained parameters",
        "A point a method: mean test accuracy over folds and seeds, with one standard deviation up and down. On the "
        "Pareto front are the methods to which no other one is better with as few parameters.",
    )
    for number, (data, runs) in enumerate(main.items(), 1):
        points = {method: _point(group) for method, group in grouped(runs, lambda run: run.method).items()}
        each = _range(point.runs for point in points.values())
        caption = f"{data}: {_counted(len(points), 'method')}, n = {each} runs each."
        title = f"{data} (n = {each} runs a method, ± one standard deviation; dashed: Pareto front)"
        path = _path(folder, "accuracy", number, data)
        section.figures.append(_figure(path, caption, draw_accuracy, title, points, places))
    return section


def _point(runs: Sequence[Run]) -> Point:
    accuracies = [100 * run.results["test_accuracy"] for run in runs]
    deviation = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return Point(runs[0].results["trainable_without_head"], mean(accuracies), deviation, len(runs))


def _few_shot(runs: Sequence[Run], places: Mapping[str, int], folder: Path) -> Section:
    section = Section(
        "Few training clips",
        "Mean test accuracy with the 95 % interval of the mean (Student's t) over the draws of training clips, after "
        "the mean over the folds of each draw. Of a single draw the interval is over its folds: these share training "
        "clips, so that it is too narrow rather than too wide.",
    )
    for number, (task, of_task) in enumerate(grouped(runs, lambda run: run.task).items(), 1):
        if any(len(grouped(same, lambda run: run.data)) > 1 for same in grouped(of_task, _shots).values()):
            continue  # columns that differ in other settings are no one curve
        all_clips = max([1, *(round(run.results["n_train"] / run.results["n_classes"]) for run in of_task)])
        curves = {
            method: [few_shot_point(same, all_clips) for same in grouped(group, _shots).values()]
            for method, group in grouped(of_task, lambda run: run.method).items()
        }
        curves = {method: points for method, points in curves.items() if len(points) > 1}
        if not curves:
            continue
        each = _range(len(same) for same in grouped(of_task, lambda run: run.method + _shots(run)).values())
        caption = f"{task}: n = {each} runs a point."
        title = f"{task} (n = {each} runs a point, 95 % intervals)"
        path = _path(folder, "few_shot", number, task)
        section.figures.append(_figure(path, caption, draw_few_shot, title, curves, places))
    return section


def _shots(run: Run) -> str:
    return str(run.few_shot)


def few_shot_point(runs: Sequence[Run], all_clips: int) -> FewShotPoint:
    """What runs with as many training clips say together.

    Arguments
    ---------
    runs : Sequence[Run]
        Of one method.
    all_clips : int
        A class has where none are left out.

    Returns
    -------
    FewShotPoint
        Their mean, and its interval: over draws where there are several, else over folds.
    """
    of_draw = grouped(runs, lambda run: str(run.results["seed"]))
    means = [mean(run.results["test_accuracy"] for run in draw) for draw in of_draw.values()]
    values = [100 * value for value in (means if len(means) > 1 else (run.results["test_accuracy"] for run in runs))]
    low, high = interval_of_mean(values) if len(values) > 1 else (values[0], values[0])
    few_shot = runs[0].results["few_shot"]
    return FewShotPoint(few_shot or all_clips, mean(values), low, high, everything=few_shot is None)


def _learning(main: Mapping[str, list[Run]], places: Mapping[str, int], folder: Path) -> Section:
    section = Section(
        "Learning curves",
        "Mean over folds and seeds; the band reaches from the lowest run to the highest. An epoch that was trained "
        "again after a stop counts once.",
    )
    for number, (data, runs) in enumerate(main.items(), 1):
        curves = {
            method: [curve for run in group if (curve := learning_curve((run.folder / TRAIN_LOG).read_text()))]
            for method, group in grouped(that_keep(runs, TRAIN_LOG), lambda run: run.method).items()
        }
        curves = {method: of_method for method, of_method in curves.items() if of_method}
        if not curves:
            continue
        count = _counted(sum(map(len, curves.values())), "run")
        caption = f"{data}: {_counted(len(curves), 'method')}, {count}."
        path = _path(folder, "learning", number, data)
        title = f"{data} ({count}; mean, lowest and highest)"
        section.figures.append(_figure(path, caption, draw_learning, title, curves, places))
    return section


def _confusions(main: Mapping[str, list[Run]], folder: Path) -> Section:
    section = Section(
        "Confusions",
        "Of the method with the best validation accuracy, summed over its folds and seeds. Numbers are test clips, a "
        "clip counts once a run; colours are shares of a label's clips. Below each matrix the ten worst pairs of "
        "classes, with their clips; their paths show under the pointer.",
    )
    for number, (data, runs) in enumerate(main.items(), 1):
        kept = that_keep(runs, PREDICTIONS)
        best = best_method(kept) if kept else []
        answers = [answer for run in best for answer in read_predictions(str(run.folder))]
        if not answers:
            continue
        seen = f"{best[0].method}, {_counted(len(answers), 'answer')} in {_counted(len(best), 'run')}"
        path = _path(folder, "confusion", number, data)
        drawn = f"{data}: {seen}", *count_confusions(answers)
        section.figures.append(
            _figure(path, f"{data}: {seen}.", draw_confusion, *drawn, pairs=tuple(worst_pairs(answers)))
        )
    return section


def _vectors(main: Mapping[str, list[Run]], folder: Path) -> Section:
    section = Section(
        "Pooled vectors before and after adapting",
        "t-SNE of what the head reads, of at most 500 test clips of one run of the method with the best validation "
        "accuracy: with the backbone as it was, and as it is adapted. Distances between groups say little. Names, "
        "or of many classes numbers, stand near the median of their clips.",
    )
    for number, (data, runs) in enumerate(main.items(), 1):
        kept = that_keep(runs, OBSERVATIONS)
        if not kept:
            continue
        run = best_method(kept)[0]
        seen, labels = read_observations(str(run.folder))
        panels = {name: in_the_plane(seen[key]) for name, key in (("before", "vectors_before"), ("after", "vectors"))}
        if any(clips is None for clips in panels.values()):
            section.omitted.append(f"{data}: the vectors of {run.method} are too few or all alike.")
            continue
        title = f"{data}: {run.method}, {run.name}, {_counted(len(seen['targets']), 'test clip')} (t-SNE)"
        drawn = title, panels, seen["targets"].long().numpy(), labels
        section.figures.append(_figure(_path(folder, "vectors", number, data), f"{title}.", draw_vectors, *drawn))
    return section


def _experts(main: Mapping[str, list[Run]], folder: Path) -> Section:
    section = Section(
        "Experts of mixtures",
        "Of one run, since the experts of two runs have no common order. Combine and router weights: an expert's "
        "weight in the mean over a clip's tokens; all experts of a mixture sum to 100 %. Dispatch weights: the share "
        "of the clip's tokens that an expert's slots gather, exp(entropy) over their number; 100 % means all tokens "
        "alike. Above the mean over the classes, below how far each class is from it.",
    )
    for number, (data, runs) in enumerate(main.items(), 1):
        kept = that_keep(runs, OBSERVATIONS)
        kinds = {run.folder: set(read_observations(str(run.folder))[0]) for run in kept}
        for kind, kind_name in SHARES.items():
            with_kind = [run for run in kept if kind in kinds[run.folder]]
            if not with_kind:
                continue
            run = best_method(with_kind)[0]
            seen, labels = read_observations(str(run.folder))
            shares, classes = shares_of_classes(seen[kind], seen["targets"])
            clips = _counted(len(seen["targets"]), "test clip")
            title = f"{data}: {kind_name} of {run.method}, {run.name}, {clips}"
            drawn = title, shares, [labels[int(place)] for place in classes]
            path = _path(folder, f"experts-{kind}", number, data)
            section.figures.append(_figure(path, f"{title}.", draw_experts, *drawn))
    return section
