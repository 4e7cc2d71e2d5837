"""Classes: which are confused, how their vectors lie, which experts they use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainplug.results.plots.canvas import picture, place_labels, short, style, wrapped

MOST_NAMED = 12  # classes whose names are drawn; more are numbered


def draw_confusion(path: str | Path, title: str, counts: np.ndarray, labels: Sequence[str]) -> None:
    """A confusion matrix of clips, ``[labels, predictions]``: colours are shares of a label, numbers are clips."""
    names, side = list(map(short, labels)), 2.2 + 0.23 * max(8, len(labels))
    with picture(path, side + 1, side) as figure:
        axes = figure.subplots()
        shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 55 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=6, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(np.arange(len(names) - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="0.9", lw=0.4)
        axes.tick_params(which="minor", length=0)
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
        axes.set_title(wrapped(title, 70))
        figure.colorbar(image, label="share of the label's clips (%)", shrink=0.6)


def draw_vectors(
    path: str | Path, title: str, panels: dict[str, np.ndarray], targets: np.ndarray, labels: Sequence[str]
) -> None:
    """Clips in the plane, coloured by class: a panel for each of several sets of locations ``[clips, 2]``."""
    present = sorted(set(targets.tolist()))
    named = len(present) <= MOST_NAMED
    columns = 0 if named else -(-len(present) // 32)
    with picture(path, len(panels) * 5.5 + 2.1 * columns, 6) as figure:
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, clips) in zip(all_axes, panels.items(), strict=True):
            for number, target in enumerate(present, 1):
                colour, marker, _ = style(target)
                axes.scatter(
                    *clips[targets == target].T, s=20, color=colour, marker=marker, edgecolors="black", linewidths=0.3,
                    alpha=0.85, label=f"{number}  {short(labels[target])}",
                )  # fmt: skip
            axes.set_title(name)
            axes.set_xticks([])
            axes.set_yticks([])
        figure.suptitle(wrapped(title, 120))
        if not named:
            handles = all_axes[0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside right upper", ncols=columns, fontsize=7)
        texts = [short(labels[target]) if named else str(number) for number, target in enumerate(present, 1)]
        for axes, clips in zip(all_axes, panels.values(), strict=True):
            medians = np.stack([np.median(clips[targets == target], axis=0) for target in present])
            place_labels(axes, medians, texts, size=8, taken=np.tile(clips, 2) if named else None)


def draw_experts(path: str | Path, title: str, shares: np.ndarray, labels: Sequence[str]) -> None:
    """Above, the use of each expert in the mean over the classes; below, the difference of each class from it.

    `shares` are ``[labels, mixtures, experts]``, from 0 to 1.
    """
    classes, mixtures, experts = shares.shape
    flat = 100 * shares.reshape(classes, -1)  # [classes, mixtures * experts]
    means = flat.mean(axis=0)
    differences = flat - means
    most = max(float(np.abs(differences).max()), 1e-6)
    height = 0.6 + 0.17 * max(6, classes)
    with picture(path, 3.5 + 0.16 * max(40, mixtures * experts), 3.2 + height) as figure:
        above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, height])
        above.bar(range(len(means)), means, color="0.45", width=0.85)
        above.set_ylabel("mean (%)")
        image = axes.imshow(differences, cmap="PuOr", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(classes), list(map(short, labels)), fontsize=7)
        axes.set_xticks(range(len(means)), [str(expert + 1) for _ in range(mixtures) for expert in range(experts)],
                        fontsize=6)  # fmt: skip
        for number in range(mixtures):
            for panel in (above, axes):
                panel.axvline(number * experts - 0.5, color="black", lw=0.8)
            above.text(
                (number + 0.5) * experts - 0.5, 1.02, f"mixture {number + 1}", ha="center", va="bottom", fontsize=7,
                transform=above.get_xaxis_transform(),
            )  # fmt: skip
        axes.set_xlabel("expert, mixture by mixture, the first layer at the left")
        figure.suptitle(wrapped(title, 110))
        figure.colorbar(image, ax=axes, label="class less mean (percentage points)")
