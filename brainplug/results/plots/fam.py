"""What FAM heard: draws its records, band energies over time and the momentum that they led to."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import numpy as np

from brainplug.files import find_files
from brainplug.optim.fam import RECORD_NAME
from brainplug.results.plots.canvas import needing_plot

Series = dict[int, list[dict]]  # step -> records of its parameters


def read_records(path: str | Path) -> dict[str, Series]:
    r"""Reads the records of a run.

    Arguments
    ---------
    path : str | Path
        What `brainplug.optim.FAM` appended with ``debug``.

    Returns
    -------
    dict[str, Series]
        Group -> step -> records, in order. Of a step that was done twice the later record stands; lines that a kill
        tore are left out.

    Example
    -------
    >>> import tempfile
    >>> record = {"step": 1, "group": "conv", "name": "down.weight", "bands": [1.0, 0.0], "momentum": 0.9}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "fam.jsonl").write_text(json.dumps(record) + '\n{"step": 2, "gr')
    ...     read_records(f"{folder}/fam.jsonl")["conv"][1] == [record]
    True
    """
    latest = {}
    for line in Path(path).read_text().splitlines():
        record = _parse(line)
        if record:
            latest[record["group"], record["step"], record["name"]] = record
    groups: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    for (group, step, _), record in sorted(latest.items()):
        groups[group][step].append(record)
    return groups


def draw_records(folder: str) -> list[Path]:
    """Draws the records of every run below a folder, each beside its file.

    Arguments
    ---------
    folder : str
        Any folder above ``fam.jsonl``.

    Returns
    -------
    list[Path]
        The pictures, ``fam.png``.

    Raises
    ------
    UsageError
        There are records, but matplotlib is not installed.

    Example
    -------
    >>> draw_records("nowhere")
    []
    """
    drawn = []
    for path in find_files(folder, RECORD_NAME):
        if groups := read_records(path):
            _draw(groups, path.with_suffix(".png"))
            drawn.append(path.with_suffix(".png"))
    return drawn


def _parse(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _draw(groups: dict[str, Series], path: Path) -> None:
    """One column a group: above the bands' mean energies, low bands dark, below the mean momentum and its range."""
    with needing_plot(f"The records beside {path} were to be drawn."):
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
