"""The options of brainplug predict for long recordings: windows, and the events in them."""

import argparse
import json
from collections.abc import Callable, Sequence

import numpy as np

from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows
from brainplug.errors import ConfigError
from brainplug.inference import Classifier, SpeechRecognizer
from brainplug.inference.classifier import Prediction
from brainplug.inference.events import Event, EventSettings, check_events_file, find_events, write_events
from brainplug.results.plots.recording import draw_recording

SAMPLE_RATE = 16000  # Hz, of the picture
OF_EVENTS = ("threshold", "median", "shortest")


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--window", type=float, help="classify windows of so many seconds, each a row")
    parser.add_argument("--hop", type=float, help="seconds from one window to the next; by default half a window")
    parser.add_argument("--events", help="a file for events: .csv, .json, .txt (Audacity), .selections.txt (Raven)")
    parser.add_argument("--picture", help="a file .png: spectrogram, scores and events of one recording")
    parser.add_argument("--threshold", type=float, help="the probability from which a class is there (0.5)")
    parser.add_argument("--median", type=int, help="smooth probabilities over so many windows, an odd number (1)")
    parser.add_argument("--shortest", type=float, help="leave out events of fewer seconds (0)")


class EventFinder:
    """Collects the windows of recordings, one after the other; writes their events and the picture of a single one."""

    def __init__(self, path: str | None, picture: str | None, settings: EventSettings):
        self.path, self.picture, self.settings = path, picture, settings
        self.needs_all = bool(path or picture)  # windows, also those that have a row already
        self.events: list[Event] = []
        self.windows: list[Prediction] = []  # of the present recording

    def add(self, window: Prediction) -> None:
        """Takes the next window."""
        if not self.needs_all:
            return
        if self.windows and self.windows[0].path != window.path:
            self._finish()
        self.windows.append(window)

    def write(self, spectra: Callable[[], np.ndarray]) -> None:
        """Writes the files that were asked for; `spectra` computes `mean_spectra` of the picture's recording."""
        windows = self.windows
        self._finish()
        if self.path:
            write_events(self.events, self.path)
        if self.picture and windows:
            labels = list(windows[0].probabilities)
            spans: dict[str, list[tuple[float, float]]] = {label: [] for label in labels}
            for event in self.events:
                spans[event.label].append((event.start, event.stop))
            draw_recording(
                self.picture,
                f"{windows[0].path}: {len(windows):,} windows",
                spectra()[:, : len(windows)],
                SAMPLE_RATE / 2,
                np.array([(window.start, window.stop) for window in windows]),
                {label: np.array([window.probabilities[label] for window in windows]) for label in labels},
                spans,
                self.settings.threshold,
            )

    def _finish(self) -> None:
        self.events += find_events(self.windows, self.settings)
        self.windows = []


def read_windows_options(
    arguments: argparse.Namespace, clips: Sequence[Clip], model: Classifier | SpeechRecognizer
) -> tuple[Windows | None, EventFinder]:
    """The windows and the events that are asked for; a `ConfigError` says what does not go together."""
    given = {name: getattr(arguments, name) for name in OF_EVENTS if getattr(arguments, name) is not None}
    settings = EventSettings(**given)
    asked = "Windows of recordings were asked for."
    if arguments.window is None:
        lone = [f"--{name}" for name in ("hop", "events", "picture", *given) if getattr(arguments, name) is not None]
        if lone:
            problem = f"There is {' and '.join(lone)} without --window."
            raise ConfigError(asked, problem, "Write --window=SECONDS too")
        return None, EventFinder(None, None, settings)
    if given and not (arguments.events or arguments.picture):
        raise ConfigError(asked, f"There is {json.dumps(given)} without --events.", "Write --events=FILE too")
    if isinstance(model, SpeechRecognizer):
        raise ConfigError(asked, "The run recognises speech; it has no classes.", "Leave --window out")
    windows = Windows(arguments.window, arguments.window / 2 if arguments.hop is None else arguments.hop)
    if model.longest_clip is not None and windows.length > model.longest_clip:
        problem = f"The model takes {model.longest_clip:g} s at once."
        raise ConfigError(f"Windows of {windows.length:g} s were asked for.", problem, "Write a shorter --window")
    recordings = len({clip.path for clip in clips})
    if arguments.events:
        check_events_file(arguments.events, recordings)
    if arguments.picture and (recordings > 1 or not arguments.picture.endswith(".png")):
        problem = f"It is of one recording and ends in .png; there are {recordings}."
        raise ConfigError(f"The picture {arguments.picture} was asked for.", problem, "Name one file, and FILE.png")
    return windows, EventFinder(arguments.events, arguments.picture, settings)
