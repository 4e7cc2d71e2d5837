"""How runs learned: losses and the metric in validation, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brainplug.results.plots.canvas import picture, short, style, wrapped
from brainplug.results.run_files import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST_LOSS = 1e-6  # that a logarithmic axis shows; a loss of zero is drawn there


def draw_learning(
    path: str | Path, title: str, curves: Mapping[str, Sequence[Curve]], styles: Mapping[str, int], metric: str
) -> None:
    """Means over the curves of each method's runs, with a band from the lowest run to the highest."""
    panels = ("training loss, logarithmic", "validation loss", metric)
    with picture(path, 13, 4.2) as figure:
        all_axes = figure.subplots(1, len(panels))
        floors = np.array([SMALLEST_LOSS, 0, 0])
        for name, runs in curves.items():
            colour, marker, line = style(styles[name])
            epochs, *drawn = over_runs(runs)
            every = max(1, len(epochs) // 8)
            values = (np.maximum(panel, floors).T for panel in drawn)  # means, lowest and highest, by panel
            for axes, mean, low, high in zip(all_axes, *values, strict=True):
                axes.fill_between(epochs, low, high, color=colour, alpha=0.12, lw=0)
                axes.plot(
                    epochs, mean, color=colour, ls=line, marker=marker, lw=1.3, ms=4, mec="black", mew=0.3,
                    markevery=(styles[name] % every, every), label=short(name),
                )  # fmt: skip
        for axes, name in zip(all_axes, panels, strict=True):
            axes.set_title(name)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlim(left=0.5)
            axes.grid(alpha=0.3)
        _logarithmic(all_axes[0])
        figure.suptitle(wrapped(title, 150))
        figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right upper")


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 20 else (1, 1.5, 2, 3, 5, 7)))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")


def over_runs(curves: Sequence[Curve]) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Summarises the curves of several runs.

    Returns
    -------
    tuple[list[int], np.ndarray, np.ndarray, np.ndarray]
        Epochs, and ``[epochs, 3]`` of means, lowest and highest values, over the runs that have the epoch.
    """
    epochs = sorted(set().union(*curves))
    values = [np.array([curve[epoch] for curve in curves if epoch in curve], dtype=float) for epoch in epochs]
    means, lows, highs = (np.stack([over(runs, axis=0) for runs in values]) for over in (np.mean, np.min, np.max))
    return epochs, means, lows, highs
