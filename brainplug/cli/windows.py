"""The options of brainplug predict for long recordings: windows, and the events in them."""

import argparse
import json
from collections.abc import Sequence

from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows
from brainplug.errors import ConfigError
from brainplug.inference import Classifier, SpeechRecognizer
from brainplug.inference.classifier import Prediction
from brainplug.inference.events import Event, EventSettings, check_events_file, find_events, write_events

OF_EVENTS = ("threshold", "median", "shortest")


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("--window", type=float, help="classify windows of so many seconds, each a row")
    parser.add_argument("--hop", type=float, help="seconds from one window to the next; by default half a window")
    parser.add_argument("--events", help="a file for events: .csv, .json, .txt (Audacity), .selections.txt (Raven)")
    parser.add_argument("--threshold", type=float, help="the probability from which a class is there (0.5)")
    parser.add_argument("--median", type=int, help="smooth probabilities over so many windows, an odd number (1)")
    parser.add_argument("--shortest", type=float, help="leave out events of fewer seconds (0)")


class EventFinder:
    """Collects the windows of recordings, one after the other, and writes their events, where a file is named."""

    def __init__(self, path: str | None, settings: EventSettings):
        self.path, self.settings = path, settings
        self.events: list[Event] = []
        self.windows: list[Prediction] = []  # of the present recording

    def add(self, window: Prediction) -> None:
        """Takes the next window."""
        if self.path and self.windows and self.windows[0].path != window.path:
            self._finish()
        if self.path:
            self.windows.append(window)

    def write(self) -> None:
        """Writes the file of all recordings' events."""
        if self.path:
            self._finish()
            write_events(self.events, self.path)

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
        lone = [f"--{name}" for name in ("hop", "events", *given) if getattr(arguments, name) is not None]
        if lone:
            problem = f"There is {' and '.join(lone)} without --window."
            raise ConfigError(asked, problem, "Write --window=SECONDS too")
        return None, EventFinder(None, settings)
    if given and not arguments.events:
        raise ConfigError(asked, f"There is {json.dumps(given)} without --events.", "Write --events=FILE too")
    if isinstance(model, SpeechRecognizer):
        raise ConfigError(asked, "The run recognises speech; it has no classes.", "Leave --window out")
    windows = Windows(arguments.window, arguments.window / 2 if arguments.hop is None else arguments.hop)
    if model.longest_clip is not None and windows.length > model.longest_clip:
        problem = f"The model takes {model.longest_clip:g} s at once."
        raise ConfigError(f"Windows of {windows.length:g} s were asked for.", problem, "Write a shorter --window")
    if arguments.events:
        check_events_file(arguments.events, len({clip.path for clip in clips}))
    return windows, EventFinder(arguments.events, settings)
