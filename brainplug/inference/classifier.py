"""Classifies clips, or turns them into vectors, with what a run trained."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from brainplug.adapters.description import ClassifierDescription
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows
from brainplug.inference.base import ClipResult, OnError, TrainedModel
from brainplug.models.classifier import AudioClassifier


@dataclass(frozen=True)
class Prediction(ClipResult):
    """The most probable class of a clip, and the probabilities of all classes; the rest is as in `ClipResult`."""

    label: str
    probability: float
    probabilities: dict[str, float]  # by label, in the order of `Classifier.labels`

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most probable labels with their probabilities, the most probable first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]


def make_prediction(labels: Sequence[str], row: Sequence[float], clip: Clip | None = None) -> Prediction:
    """The prediction of probabilities in the order of the labels."""
    index = max(range(len(row)), key=row.__getitem__)
    path, start, stop = ("", None, None) if clip is None else (clip.path, clip.start, clip.stop)
    probabilities = dict(zip(labels, row, strict=True))
    return Prediction(path, labels[index], row[index], probabilities, start=start, stop=stop)


@dataclass(frozen=True)
class Embedding(ClipResult):
    """The pooled vector of a clip, ``[dim]``, which the classifier's head reads; the rest is as in `ClipResult`."""

    vector: torch.Tensor


class Classifier(TrainedModel):
    """Classifies clips with a model that a run trained.

    Example
    -------
    >>> classifier = Classifier.from_run("results/esc50/nano-ast-lora/1234")  # doctest: +SKIP
    >>> classifier.classify_file("bark.wav").label  # doctest: +SKIP
    'dog'
    """

    tasks = ("classification",)
    model: AudioClassifier
    description: ClassifierDescription

    @property
    def labels(self) -> list[str]:
        """The classes, in the order of the probabilities."""
        return list(self.description.labels)

    def classify_file(self, path: str | Path | Clip) -> Prediction:
        """Classifies one audio file, of any sample rate and length; channels are averaged."""
        [prediction] = self.classify_files([path])
        return prediction

    def classify_files(
        self,
        paths: Iterable[str | Path | Clip],
        batch_size: int = 16,
        on_error: OnError | None = None,
        windows: Windows | None = None,
        skip: Callable[[Clip], bool] | None = None,
    ) -> Iterator[Prediction]:
        """Classifies audio files batch by batch, in order; the arguments are those of `TrainedModel.batches`.

        A prediction does not depend on the batch that the clip is in.
        """
        labels = self.labels
        for clips, signal, lengths in self.batches(paths, batch_size, on_error, windows, skip):
            logits = self._logits(signal, lengths)
            for clip, row in zip(clips, logits.softmax(1).tolist(), strict=True):
                yield make_prediction(labels, row, clip)

    def classify_batch(
        self, wavs: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
        """Classifies a padded batch of waveforms, as SpeechBrain's ``EncoderClassifier.classify_batch`` does.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms at 16 kHz ``[batch, samples]``, or one ``[samples]``.
        lengths : torch.Tensor, optional
            The fraction of each waveform that is not padding, ``[batch]``; None: all of it.

        Returns
        -------
        tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]
            Probabilities ``[batch, classes]``, the largest of each clip and its index ``[batch]``, and its label.
        """
        logits = self._logits(*self.signals_of(wavs, lengths))
        probabilities, index = logits.softmax(1), logits.argmax(1)
        score = probabilities.gather(1, index[:, None])[:, 0]
        return probabilities, score, index, [self.description.labels[number] for number in index.tolist()]

    def embed_files(
        self, paths: Iterable[str | Path | Clip], batch_size: int = 16, on_error: OnError | None = None
    ) -> Iterator[Embedding]:
        """Turns audio files into pooled vectors, as `classify_files` classifies them."""
        for clips, signal, lengths in self.batches(paths, batch_size, on_error):
            for clip, vector in zip(clips, self._vectors(signal, lengths).cpu(), strict=True):
                yield Embedding(clip.path, vector, start=clip.start, stop=clip.stop)

    def embed_batch(self, wavs: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Turns a padded batch of waveforms, given as in `classify_batch`, into pooled vectors ``[batch, dim]``."""
        return self._vectors(*self.signals_of(wavs, lengths))

    forward = classify_batch

    @torch.no_grad()
    def _logits(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            logits: torch.Tensor = self.model(signal, lengths)
        return logits.float()

    @torch.no_grad()
    def _vectors(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            return self.model.pool(*self.model.backbone(signal, lengths)).float()
