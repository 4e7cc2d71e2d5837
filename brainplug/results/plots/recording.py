"""A long recording: its spectrogram, the scores of its windows, and the events in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from brainplug.results.plots.canvas import picture, short, style, wrapped

MOST_CLASSES = 7  # in a picture: those with the highest scores
RANGE = 60  # dB below the loudest point


def draw_recording(
    path: str | Path,
    title: str,
    spectrogram: np.ndarray,
    highest: float,
    times: np.ndarray,
    scores: Mapping[str, np.ndarray],
    events: Mapping[str, Sequence[tuple[float, float]]],
    threshold: float,
) -> None:
    """Draws spectrogram, scores and events above each other, over the same time.

    Arguments
    ---------
    spectrogram : np.ndarray
        The mean power of each window, ``[bands, windows]``, from 0 Hz to `highest`.
    times : np.ndarray
        Begin and end of each window in seconds, ``[windows, 2]``.
    scores : Mapping[str, np.ndarray]
        By label, the probability in each window.
    events : Mapping[str, Sequence[tuple[float, float]]]
        By label, begin and end of each event.
    """
    labels = sorted(scores, key=lambda label: -float(scores[label].max()))[:MOST_CLASSES]
    middles = times.mean(axis=1)
    with picture(path, 10, 6) as figure:
        chosen = f", the {len(labels)} of {len(scores)} classes with the highest scores" * (len(labels) < len(scores))
        figure.suptitle(wrapped(title + chosen))
        sound, curves, bars = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1 + len(labels) / 4])
        decibels = 10 * np.log10(np.maximum(spectrogram, 1e-12))
        low = float(decibels.max()) - RANGE
        edges = np.append(middles - np.gradient(middles) / 2 if len(middles) > 1 else times[0, :1], times[-1, 1])
        sound.pcolormesh(edges, np.linspace(0, highest / 1000, len(spectrogram) + 1), decibels, vmin=low, cmap="magma")
        sound.set_ylabel("kHz")
        for index, label in enumerate(labels):
            colour, _, line = style(index)
            curves.plot(middles, scores[label], color=colour, linestyle=line, linewidth=1, label=short(label))
            spans = [(start, stop - start) for start, stop in events.get(label, ())]
            bars.broken_barh(spans, (index - 0.4, 0.8), color=colour)
        curves.axhline(threshold, color="grey", linewidth=0.5)
        curves.set_ylim(0, 1.02)
        curves.set_ylabel("probability")
        curves.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        bars.set_yticks(range(len(labels)), [short(label) for label in labels])
        bars.set_ylim(len(labels) - 0.5, -0.5)
        bars.set_xlim(times[0, 0], times[-1, 1])
        bars.set_ylabel("events")
        bars.set_xlabel("seconds")
