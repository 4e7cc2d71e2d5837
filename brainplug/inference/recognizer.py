"""Transcribes speech with what a run trained."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from brainplug.adapters.description import RecognizerDescription
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip
from brainplug.inference.base import ClipResult, OnError, TrainedModel
from brainplug.models.ctc import CTCModel
from brainplug.models.decoding import make_decoder
from brainplug.models.echo_recognizer import EchoRecognizer


@dataclass(frozen=True)
class Transcript(ClipResult):
    """The text of a clip; the rest is as in `ClipResult`."""

    text: str


class SpeechRecognizer(TrainedModel):
    """Transcribes speech with a model that a run trained, greedily or with a beam, as the run did in its test.

    Example
    -------
    >>> recognizer = SpeechRecognizer.from_run("results/spoken_ctc/hubert-lora/1234")  # doctest: +SKIP
    >>> recognizer.transcribe_file("speech.wav")  # doctest: +SKIP
    'turn on the lights'
    """

    tasks = ("ctc", "seq2seq")
    model: CTCModel | EchoRecognizer
    description: RecognizerDescription

    def __init__(self, model: CTCModel | EchoRecognizer, description: RecognizerDescription, precision: str = "fp32"):
        super().__init__(model, description, precision)
        characters = Characters(description.characters)
        self._decode_ctc = make_decoder(description.decoding, characters, description.beam_size)
        self._beam_size = description.beam_size if description.decoding == "beam" else 1

    def transcribe_file(self, path: str | Path | Clip) -> str:
        """Transcribes one audio file, of any sample rate; channels are averaged."""
        [transcript] = self.transcribe_files([path])
        return transcript.text

    def transcribe_files(
        self, paths: Iterable[str | Path | Clip], batch_size: int = 16, on_error: OnError | None = None
    ) -> Iterator[Transcript]:
        """Transcribes audio files batch by batch, in order; the arguments are those of `TrainedModel.batches`."""
        for clips, signal, lengths in self.batches(paths, batch_size, on_error):
            for clip, text in zip(clips, self._texts(signal, lengths), strict=True):
                yield Transcript(clip.path, text, start=clip.start, stop=clip.stop)

    def transcribe_batch(self, wavs: torch.Tensor, lengths: torch.Tensor | None = None) -> list[str]:
        """Transcribes a padded batch of waveforms, given as in `Classifier.classify_batch`."""
        return self._texts(*self.signals_of(wavs, lengths))

    forward = transcribe_batch

    @torch.no_grad()
    def _texts(self, signal: torch.Tensor, lengths: torch.Tensor) -> list[str]:
        with self.autocast():
            if isinstance(self.model, EchoRecognizer):
                return self.model.generate(self.model.encode(signal, lengths), self._beam_size)
            logits, counts = self.model(signal, lengths)
            return self._decode_ctc(logits.float().log_softmax(2), counts)
