"""What the training loops of recognisers share."""

from collections.abc import Iterator, Sequence
from typing import Any

import speechbrain as sb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.metric_stats import ErrorRateStats

from brainplug.data.characters import Characters
from brainplug.training.brain import AdaptationBrain


class RecognitionBrain(AdaptationBrain):
    """Trains and tests a model that transcribes speech; counts word and character errors.

    The best epoch has the fewest word errors in validation, then the fewest character errors. It takes the vocabulary,
    then what `AdaptationBrain` takes; ``hparams`` needs ``augment`` too.
    """

    best_key = "fewest_errors"

    def __init__(self, characters: Characters, *arguments: Any):
        super().__init__(*arguments)
        self.characters = characters

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Resets the errors."""
        self.word_errors, self.character_errors = ErrorRateStats(), ErrorRateStats()

    def count_errors(self, batch: PaddedBatch, transcripts: Sequence[str]) -> None:
        """Compares the transcripts of a batch with its reference texts."""
        self.word_errors.append(batch.id, *([text.split() for text in texts] for texts in (transcripts, batch.text)))
        self.character_errors.append(batch.id, *([list(text) for text in texts] for texts in (transcripts, batch.text)))

    def metrics(self) -> dict[str, float]:
        """Word and character error rates over all clips."""
        return {
            "WER": self.word_errors.summarize("WER") / 100,
            "CER": self.character_errors.summarize("WER") / 100,
        }

    def checkpoint_meta(self, metrics: dict[str, float]) -> dict[str, Any]:
        """The error rates, and their negatives, which the best epoch has the largest of."""
        return {**metrics, self.best_key: [-metrics["WER"], -metrics["CER"]]}

    def transcripts(self) -> Iterator[tuple[str, str, str, float]]:
        """Yields, for each clip of the last stage, its id, the reference, the transcript and its word error rate."""
        for scores in self.word_errors.scores:
            reference, transcript = (" ".join(scores[name]) for name in ("ref_tokens", "hyp_tokens"))
            yield scores["key"], reference, transcript, scores["WER"] / 100
