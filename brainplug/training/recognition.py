"""The training loops of recognisers: what they have in common, and CTC's."""

from collections.abc import Callable, Iterator, Sequence

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.metric_stats import ErrorRateStats

from brainplug.data.augment import distort
from brainplug.data.characters import BLANK, Characters
from brainplug.errors import UsageError
from brainplug.models.decoding import make_decoder
from brainplug.training.brain import AdaptationBrain


class RecognitionBrain(AdaptationBrain):
    """Trains and tests what writes down speech: counts errors where they are measured.

    The best epoch has the fewest word errors in validation, then the fewest character errors.

    Arguments
    ---------
    characters : Characters
        The vocabulary.
    *arguments : object
        As in `AdaptationBrain`; ``hparams`` needs ``augment`` too.
    """

    best_key = "fewest_errors"

    def __init__(self, characters: Characters, *arguments: object):
        super().__init__(*arguments)
        self.characters = characters

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Forgets the errors of the last stage."""
        self.word_errors, self.character_errors = ErrorRateStats(), ErrorRateStats()

    def count_errors(self, batch: PaddedBatch, written: Sequence[str]) -> None:
        """Compares what was written of a batch with what is said.

        Arguments
        ---------
        batch : PaddedBatch
            With ids and texts.
        written : Sequence[str]
            One text for each clip.
        """
        self.word_errors.append(batch.id, *([text.split() for text in texts] for texts in (written, batch.text)))
        self.character_errors.append(batch.id, *([list(text) for text in texts] for texts in (written, batch.text)))

    def measures(self) -> dict[str, float]:
        """Word and character error rates over all clips."""
        return {
            "WER": self.word_errors.summarize("WER") / 100,
            "CER": self.character_errors.summarize("WER") / 100,
        }

    def meta(self, measured: dict[str, float]) -> dict:
        """The error rates, and what the best epoch has the largest of."""
        return {**measured, self.best_key: [-measured["WER"], -measured["CER"]]}

    def transcripts(self) -> Iterator[tuple[str, str, str, float]]:
        """What the last stage that was measured wrote down.

        Yields
        ------
        tuple[str, str, str, float]
            A clip's id, what is said, what was written, and its word error rate.
        """
        for scores in self.word_errors.scores:
            said, written = (" ".join(scores[name]) for name in ("ref_tokens", "hyp_tokens"))
            yield scores["key"], said, written, scores["WER"] / 100


class CTCBrain(RecognitionBrain):
    """Trains and tests a `CTCModel`.

    Validation decodes greedily, which takes no time; the test decodes as it is asked to.

    Arguments
    ---------
    characters : Characters
        The vocabulary.
    *arguments : object
        As in `RecognitionBrain`; ``hparams`` needs ``frozen_updates``, ``decoding`` and ``beam_size`` too.
    """

    def __init__(self, characters: Characters, *arguments: object):
        super().__init__(characters, *arguments)
        self.decoders: dict[sb.Stage, Callable] = {
            sb.Stage.VALID: make_decoder("greedy", characters),
            sb.Stage.TEST: make_decoder(self.hparams.decoding, characters, self.hparams.beam_size),
        }

    def on_fit_start(self) -> None:
        """Makes sure that more than the head will train.

        Raises
        ------
        UsageError
            The run ends before that.
        """
        if self.hparams.frozen_updates >= self.total_steps:
            raise UsageError(
                f"{self.hparams.frozen_updates} updates of the head alone were asked for.",
                f"The run has {self.total_steps} in all.",
                "Write a smaller --frozen_updates, or a larger --number_of_epochs",
            )
        super().on_fit_start()

    def on_fit_batch_start(self, batch: PaddedBatch, should_step: bool) -> None:
        """Seeds the step; only the head trains in the first ``frozen_updates``."""
        super().on_fit_batch_start(batch, should_step)
        self.model.freeze_backbone(self.optimizer_step < self.hparams.frozen_updates)

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities ``[batch, tokens, characters]`` and the number of tokens of each clip ``[batch]``."""
        batch = batch.to(self.device)
        self.batch_ids = batch.id
        signal, lengths = batch.signal
        augment = self.hparams.augment if stage == sb.Stage.TRAIN else []
        logits, counts = self.modules.model(distort(augment, signal, lengths), lengths)
        return logits.float().log_softmax(2), counts

    def compute_objectives(
        self, scored: tuple[torch.Tensor, torch.Tensor], batch: PaddedBatch, stage: sb.Stage
    ) -> torch.Tensor:
        """CTC's loss, the mean over the clips; counts errors where they are measured."""
        log_probs, counts = scored
        characters, shares = batch.characters
        loss = torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1),  # [tokens, batch, characters]
            characters,
            counts,
            (shares * characters.shape[1]).round().long(),
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,  # of a clip that is too short for its transcript
        ) / len(counts)
        if stage == sb.Stage.TRAIN:
            return loss if self.model.held else loss + self.model.penalty()
        self.check_loss_isfinite(loss)
        self.count_errors(batch, self.decoders[stage](log_probs, counts))
        return loss

    def after_step(self) -> None:
        """As the method wants it, whose steps count from its first one."""
        step, total = (count - self.hparams.frozen_updates for count in (self.optimizer_step + 1, self.total_steps))
        if step > 0:
            self.model.after_step(step, total)

    def _wrap_distributed(self) -> None:
        """As all do; the backbone has no gradient while only the head trains."""
        self.find_unused_parameters = self.find_unused_parameters or self.hparams.frozen_updates > 0
        super()._wrap_distributed()
