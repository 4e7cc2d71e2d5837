"""The training loop of CTC."""

from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch

from brainplug.data.augment import distort
from brainplug.data.characters import BLANK, Characters
from brainplug.errors import ConfigError
from brainplug.models.decoding import Decoder, make_decoder
from brainplug.training.recognition import RecognitionBrain


class CTCBrain(RecognitionBrain):
    """Trains and tests a `CTCModel`. Validation decodes greedily, which takes no time; the test as the recipe says.

    It takes what `RecognitionBrain` takes; ``hparams`` needs ``frozen_updates``, ``decoding`` and ``beam_size`` too.
    """

    def __init__(self, characters: Characters, *arguments: Any):
        super().__init__(characters, *arguments)
        self.decoders: dict[sb.Stage, Decoder] = {
            sb.Stage.VALID: make_decoder("greedy", characters),
            sb.Stage.TEST: make_decoder(self.hparams.decoding, characters, self.hparams.beam_size),
        }

    def on_fit_start(self) -> None:
        """Refuses a run that ends before more than the head trains."""
        if self.hparams.frozen_updates >= self.total_steps:
            raise ConfigError(
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
        """CTC's loss, the mean over the clips; outside training it counts errors too."""
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
            return loss if self.model.frozen else loss + self.model.penalty()
        self.check_loss_isfinite(loss)
        self.count_errors(batch, self.decoders[stage](log_probs, counts))
        return loss

    def after_step(self) -> None:
        """Lets the method act, whose steps count from its first one."""
        step, total = (count - self.hparams.frozen_updates for count in (self.optimizer_step + 1, self.total_steps))
        if step > 0:
            self.model.after_step(step, total)

    def _wrap_distributed(self) -> None:
        """Wraps as all do; the backbone has no gradient while only the head trains."""
        self.find_unused_parameters = self.find_unused_parameters or self.hparams.frozen_updates > 0
        super()._wrap_distributed()
