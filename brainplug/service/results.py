"""Makes the answer of what was predicted for a clip or its windows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from brainplug.inference import AdapterHub
from brainplug.inference.adapter_hub import Predictions
from brainplug.inference.base import FAINTEST
from brainplug.inference.classifier import Prediction
from brainplug.inference.events import EventSettings, find_events
from brainplug.service.hubs import seconds_read
from brainplug.service.schema import Answer, ClassifyForm, FoundEvent, Label, Result, Window
from brainplug.service.uploads import Piece

TOLERANCE = 0.1  # seconds at the end of a clip that may stay unread without a remark


class Collected:
    """What the adapters of a hub predict for a clip, or for its windows one after the other."""

    def __init__(self, hub: AdapterHub, names: Sequence[str]):
        self.hub, self.names = hub, names
        self.seconds = self._loudest = self._longest = 0.0
        self._predictions: dict[str, list[Prediction]] = {name: [] for name in names}

    def __len__(self) -> int:
        return len(self._predictions[self.names[0]])

    def add(self, pieces: Sequence[Piece], predictions: Sequence[Predictions]) -> None:
        """Takes the next pieces of the clip, and their predictions."""
        for piece, by_name in zip(pieces, predictions, strict=True):
            self.seconds = piece.stop
            self._longest = max(self._longest, piece.stop - piece.start)
            self._loudest = max(self._loudest, float(piece.waveform.square().mean()))
            for name, prediction in by_name.items():
                self._predictions[name].append(replace(prediction, start=piece.start, stop=piece.stop))

    def remarks(self) -> list[str]:
        """What is odd about the clip."""
        remarks = []
        if self._loudest < FAINTEST**2:
            remarks.append("The clip is silent, or nearly: the results say nothing.")
        reads = seconds_read(self.hub)
        if reads and self._longest > reads + TOLERANCE:
            backbone = Path(self.hub.name).name
            remarks.append(f"{backbone} reads the first {reads:g} s; window={reads:g} reads all of the clip.")
        return remarks

    def result(self, name: str, form: ClassifyForm) -> Result:
        """The answer's part of one adapter."""
        windows = self._predictions[name]
        scores = np.mean([list(window.probabilities.values()) for window in windows], axis=0).tolist()
        mean = Prediction("", "", 0.0, dict(zip(self.hub.labels(name), scores, strict=True)))
        labels = [Label(label=label, probability=score) for label, score in mean.top(form.top_k)]
        if form.window is None:
            return Result(adapter=name, labels=labels)
        events = find_events(windows, EventSettings(form.threshold, form.median, form.shortest))
        return Result(
            adapter=name,
            labels=labels,
            windows=[Window.model_validate(window) for window in windows],
            events=[FoundEvent.model_validate(event) for event in events],
        )


def make_answer(collected: Sequence[Collected], form: ClassifyForm) -> Answer:
    """The answer of what several hubs predict; the results are in the order in which the form names their adapters."""
    results = {name: part.result(name, form) for part in collected for name in part.names}
    return Answer(
        seconds=collected[0].seconds,
        remarks=sorted({remark for part in collected for remark in part.remarks()}),
        results=[results[name] for name in form.adapters],
    )
