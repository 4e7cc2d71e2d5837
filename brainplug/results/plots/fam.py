"""Draws the records of the optimiser FAM: band energies over time, and the momentum that follows from them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from brainplug.files import find_files
from brainplug.results.plots.canvas import needing_plot

RECORD_NAME = "fam.jsonl"  # as `brainplug.optim.FAM` writes it with ``debug``
Series = Mapping[int, list[dict[str, Any]]]  # step -> records of its parameters


def read_records(path: str | Path) -> dict[str, Series]:
    """Reads the records of a run: group -> step -> records, in order.

    The later record of a repeated step counts; lines that a kill cut short are left out.
    """
    latest: dict[tuple[str, int, str], dict[str, Any]] = {}
    for line in Path(path).read_text().splitlines():
        if record := _parse(line):
            latest[record["group"], record["step"], record["name"]] = record
    groups: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for (group, step, _), record in sorted(latest.items()):
        groups[group][step].append(record)
    return dict(groups)


def draw_records(folder: str) -> list[Path]:
    """Draws the records of every run below a folder; returns the pictures, ``fam.png`` beside the records.

    Raises
    ------
    UsageError
        There are records, but matplotlib is not installed.
    """
    pictures = []
    for path in find_files(folder, RECORD_NAME):
        if groups := read_records(path):
            pictures.append(path.with_suffix(".png"))
            _draw(groups, pictures[-1])
    return pictures


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _draw(groups: Mapping[str, Series], path: Path) -> None:
    """One column a group: above the mean energies of the bands, below the mean momentum and its range."""
    with needing_plot(f"The picture {path} was asked for."):
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    figure = Figure(figsize=(4 * len(groups), 6), layout="constrained")
    axes = figure.subplots(2, len(groups), sharex="col", sharey="row", squeeze=False)
    for (above, below), (group, series) in zip(axes.T, groups.items(), strict=True):
        steps = list(series)
        energies = [_means(record["bands"] for record in series[step]) for step in steps]
        momenta = [[record["momentum"] for record in series[step]] for step in steps]
        above.set_title(group)
        bands = list(zip(*energies, strict=True))
        above.stackplot(steps, *bands, colors=colormaps["viridis"](np.linspace(0, 1, len(bands))))
        below.fill_between(steps, list(map(min, momenta)), list(map(max, momenta)), alpha=0.3)
        below.plot(steps, list(map(mean, momenta)))
        below.set_xlabel("step")
    axes[0, 0].set_ylabel("share of the spectrum, low bands dark")
    axes[1, 0].set_ylabel("momentum: mean, smallest, largest")
    figure.savefig(path)


def _means(rows: Iterable[list[float]]) -> list[float]:
    return [mean(column) for column in zip(*rows, strict=True)]
