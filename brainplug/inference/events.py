"""Events in long recordings: stretches of windows in which a class is probable."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.ndimage import median_filter

from brainplug.errors import ConfigError
from brainplug.files import atomic_file
from brainplug.inference.classifier import Prediction

RAVEN = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Annotation", "Score")
ENDINGS = (".csv", ".json", ".selections.txt", ".txt")  # the last two: Raven's selections and Audacity's labels


@dataclass(frozen=True)
class Event:
    """A stretch of a recording, in seconds, with a class and the mean of its probability there."""

    path: str
    start: float
    stop: float
    label: str
    score: float


@dataclass(frozen=True)
class EventSettings:
    """What counts as an event.

    Arguments
    ---------
    threshold : float
        The probability from which a class is there, 0 to 1.
    median : int
        Width of the median filter over the probabilities, in windows; 1 filters nothing.
    shortest : float
        Events that are shorter, in seconds, are left out.
    """

    threshold: float = 0.5
    median: int = 1
    shortest: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 1 and self.median >= 1 and self.median % 2 and self.shortest >= 0):
            raise ConfigError(
                f"Events from --threshold={self.threshold:g}, --median={self.median} and --shortest={self.shortest:g} "
                "were asked for.",
                "They cannot be found so.",
                "Write a threshold from 0 to 1, an odd number of windows, and seconds from 0 on",
            )


def find_events(windows: Sequence[Prediction], settings: EventSettings) -> list[Event]:
    """Finds the events of one recording, in the order of their begin; `windows` are its windows in order.

    Windows of a class that overlap or touch are one event.

    Example
    -------
    >>> shares = enumerate([0.9, 0.8, 0.1], start=1)
    >>> windows = [Prediction("a.wav", "dog", share, {"dog": share}, start=n, stop=n + 2) for n, share in shares]
    >>> [(event.start, event.stop, event.label) for event in find_events(windows, EventSettings())]
    [(1, 4, 'dog')]
    """
    if not windows:
        return []
    labels = list(windows[0].probabilities)
    scores = np.array([list(window.probabilities.values()) for window in windows])  # [windows, labels]
    smooth = median_filter(scores, size=(settings.median, 1), mode="nearest")
    events = []
    for column, label in enumerate(labels):
        stretches: list[list[int]] = []  # of windows that are one event
        for index in np.flatnonzero(smooth[:, column] >= settings.threshold).tolist():
            if stretches and _times(windows[index])[0] <= _times(windows[stretches[-1][-1]])[1]:
                stretches[-1].append(index)
            else:
                stretches.append([index])
        for stretch in stretches:
            start, stop = _times(windows[stretch[0]])[0], _times(windows[stretch[-1]])[1]
            if stop - start >= settings.shortest:
                events.append(Event(windows[0].path, start, stop, label, float(scores[stretch, column].mean())))
    return sorted(events, key=lambda event: (event.start, event.label))


def _times(window: Prediction) -> tuple[float, float]:
    return window.start or 0.0, window.stop or 0.0


def check_events_file(path: str, recordings: int) -> None:
    """Refuses a file whose ending names no format, or a format of one recording for several."""
    asked = f"Events in {path} were asked for."
    if not path.endswith(ENDINGS):
        write = "Write --events=FILE.csv, .json, .txt (Audacity) or .selections.txt (Raven)"
        raise ConfigError(asked, "Its ending names no format.", write)
    if path.endswith(".txt") and recordings > 1:
        problem = f"Labels of Audacity and selections of Raven are of one recording, and there are {recordings}."
        raise ConfigError(asked, problem, "Write --events=FILE.csv or FILE.json")


def write_events(events: Iterable[Event], path: str) -> None:
    """Writes events as CSV, JSON, Audacity's labels or Raven's selections, as the ending says; all or nothing."""
    with atomic_file(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        if path.endswith(".json"):
            file.write(json.dumps([asdict(event) for event in events], indent=1, ensure_ascii=False) + "\n")
        else:
            file.write(_table(events, path))


def _table(events: Iterable[Event], path: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="," if path.endswith(".csv") else "\t", lineterminator="\n")
    if path.endswith(".csv"):
        writer.writerow(["path", "start", "stop", "label", "score"])
        writer.writerows([*list(asdict(event).values())[:4], f"{event.score:.6f}"] for event in events)
    elif path.endswith(".selections.txt"):
        writer.writerow(RAVEN)
        for number, event in enumerate(events, 1):
            row = (number, "Spectrogram 1", 1, f"{event.start:.6f}", f"{event.stop:.6f}", event.label)
            writer.writerow([*row, f"{event.score:.6f}"])
    else:
        writer.writerows([f"{event.start:.6f}", f"{event.stop:.6f}", event.label] for event in events)
    return text.getvalue()
