"""Pictures: the Pareto front is right, names lie on no other, and any name can be drawn."""

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text

from brainplug.results.plots.accuracy import FewShotPoint, Point, draw_few_shot, draw_scores, pareto_front
from brainplug.results.plots.canvas import COLOURS, picture, place_labels, short, style
from brainplug.results.plots.classes import draw_confusion, draw_experts, draw_vectors
from brainplug.results.plots.learning import draw_learning, over_runs

STRANGE = ["$x_1$", "a $ sign", "a\nline", "<b>&amp;</b>", "Müller", "x" * 80, "$", r"\alpha$\frac{"]


def random_points(seed: int, count: int = 15) -> dict[str, Point]:
    draws = random.Random(seed)
    return {f"m{n}": Point(draws.choice([1, 5, 9, 100]), draws.choice([40, 50, 60]), 1.0, 2) for n in range(count)}


def is_beaten(point: Point, others: list[Point]) -> bool:
    return any(
        other.parameters <= point.parameters
        and other.score >= point.score
        and (other.parameters, other.score) != (point.parameters, point.score)
        for other in others
    )


@pytest.mark.parametrize("seed", range(30))
def test_the_pareto_front_is_what_nothing_beats(seed):
    points = random_points(seed, count=seed % 16 + 1)
    front = pareto_front(points)
    assert sorted(front) == sorted(name for name, point in points.items() if not is_beaten(point, points.values()))
    assert [points[name].parameters for name in front] == sorted(points[name].parameters for name in front)


@pytest.mark.parametrize("seed", range(30))
def test_of_errors_the_front_is_that_of_the_mirrored_points(seed):
    points = random_points(seed)
    mirrored = {name: replace(point, score=-point.score) for name, point in points.items()}
    assert pareto_front(mirrored, higher_is_better=False) == pareto_front(points)


@pytest.mark.parametrize("seed", range(5))
def test_no_name_lies_on_another(seed, tmp_path):
    points = np.random.default_rng(seed).normal(size=(25, 2)) * [0.5, 1]
    points[:4] = points[0]  # some at one place
    with picture(tmp_path / "a.png", 8, 5) as figure:
        axes = figure.subplots()
        axes.scatter(*points.T)
        names = place_labels(axes, points, [f"method {n}" for n in range(25)])
    boxes = [Text.get_window_extent(name) for name in names]  # that of an annotation has its line in it
    assert [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])] == []
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_styles_are_told_apart_without_colour():
    assert len({style(index)[:2] for index in range(56)}) == 56
    for index in range(len(COLOURS) - 1):
        assert all(ours != theirs for ours, theirs in zip(style(index), style(index + 1), strict=True))


@pytest.mark.parametrize("name", STRANGE)
def test_short_names_are_short_and_on_one_line(name):
    assert 0 < len(short(name)) <= 28
    assert "\n" not in short(name)


def test_long_names_that_differ_at_the_end_still_differ():
    assert short("increase the heat in the upper bathroom") != short("increase the heat in the upper bedroom")


def test_any_name_can_be_drawn(tmp_path):
    title, styles = " ".join(STRANGE), {name: index for index, name in enumerate(STRANGE)}
    draws = np.random.default_rng(0)
    curve = {epoch: (0.0, 1 / epoch, 50.0) for epoch in (1, 2)}
    few = [FewShotPoint(1, 40, 30, 50), FewShotPoint(24, 60, 60, 60, everything=True)]
    targets = np.arange(40) % len(STRANGE)
    drawn = {
        "accuracy": (draw_scores, {name: Point(n, 50 + n, 1, 2) for n, name in enumerate(STRANGE)}, styles),
        "few": (draw_few_shot, dict.fromkeys(STRANGE, few), styles),
        "learning": (draw_learning, dict.fromkeys(STRANGE, [curve]), styles, "validation $x$ (%)"),
        "confusion": (draw_confusion, draws.integers(9, size=(8, 8)), STRANGE),
        "vectors": (draw_vectors, {"before": draws.normal(size=(40, 2))}, targets, STRANGE),
        "many": (draw_vectors, {"before": draws.normal(size=(40, 2))}, np.arange(40), STRANGE * 5),
        "experts": (draw_experts, draws.random((8, 6, 7)), STRANGE),
        "alike": (draw_experts, np.full((8, 1, 1), 1.0), STRANGE),
    }
    for name, (draw, *arguments) in drawn.items():
        draw(tmp_path / f"{name}.png", title, *arguments)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_different_length_are_averaged_where_they_are():
    epochs, means, lows, highs = over_runs([{1: (4, 4, 0), 2: (2, 2, 10)}, {1: (2, 0, 20)}])
    assert epochs == [1, 2]
    assert means.tolist() == [[3, 2, 10], [2, 2, 10]]
    assert lows.tolist() == [[2, 0, 0], [2, 2, 10]]
    assert highs.tolist() == [[4, 4, 20], [2, 2, 10]]
