"""How runs learned: losses and validation accuracy, epoch by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from brainplug.results.plots.canvas import picture, short, style, wrapped

Curve = Mapping[int, tuple[float, float, float]]  # epoch -> train loss, valid loss, valid accuracy in per cent
SMALLEST_LOSS = 1e-6  # that a logarithmic axis shows; a loss of zero lies there
PANELS = ("training loss, logarithmic", "validation loss", "validation accuracy (%)")


def draw_learning(
    path: str | Path, title: str, curves: Mapping[str, Sequence[Curve]], places: Mapping[str, int]
) -> None:
    """Means over runs, with a band from the lowest run to the highest.

    Arguments
    ---------
    path : str | Path
        The PNG.
    title : str
        Above it.
    curves : Mapping[str, Sequence[Curve]]
        By method; one a run.
    places : Mapping[str, int]
        Of the methods, for their `style`.
    """
    with picture(path, 13, 4.2) as figure:
        from matplotlib.ticker import LogLocator

        panels = figure.subplots(1, len(PANELS))
        floors = np.array([SMALLEST_LOSS, 0, 0])
        for name, runs in curves.items():
            colour, marker, line = style(places[name])
            epochs, *drawn = over_runs(runs)
            every = max(1, len(epochs) // 8)
            for axes, mean, low, high in zip(panels, *(np.maximum(of, floors).T for of in drawn), strict=True):
                axes.fill_between(epochs, low, high, color=colour, alpha=0.12, lw=0)
                axes.plot(
                    epochs, mean, color=colour, ls=line, marker=marker, lw=1.3, ms=4, mec="black", mew=0.3,
                    markevery=(places[name] % every, every), label=short(name),
                )  # fmt: skip
        for axes, name in zip(panels, PANELS, strict=True):
            axes.set_title(name)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlim(left=0.5)
            axes.grid(alpha=0.3)
        training = panels[0]
        training.set_yscale("log")
        low, high = training.get_ylim()
        training.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 20 else (1, 1.5, 2, 3, 5, 7)))
        training.minorticks_off()
        training.yaxis.set_major_formatter("{x:g}")
        figure.suptitle(wrapped(title, 150))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")


def over_runs(curves: Sequence[Curve]) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """What runs did together.

    Arguments
    ---------
    curves : Sequence[Curve]
        One a run.

    Returns
    -------
    tuple[list[int], np.ndarray, np.ndarray, np.ndarray]
        Epochs, and ``[epochs, 3]`` of means, lowest and highest values, over the runs that have the epoch.

    Example
    -------
    >>> epochs, means, lows, highs = over_runs([{1: (1, 1, 50), 2: (1, 1, 60)}, {1: (3, 1, 70)}])
    >>> epochs, means[:, 0].tolist(), highs[:, 2].tolist()
    ([1, 2], [2.0, 1.0], [70.0, 60.0])
    """
    epochs = sorted(set().union(*curves))
    values = [np.array([curve[epoch] for curve in curves if epoch in curve], dtype=float) for epoch in epochs]
    return epochs, *(np.stack([over(of, axis=0) for of in values]) for over in (np.mean, np.min, np.max))
