"""The training loop of an Echo."""

from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import ddp_all_reduce

from brainplug.backbones.echo.model import IGNORED
from brainplug.data.augment import distort
from brainplug.data.characters import Characters
from brainplug.training.recognition import RecognitionBrain


class EchoBrain(RecognitionBrain):
    """Trains and tests an `EchoRecognizer`; validation decodes greedily, the test as the recipe says.

    It takes what `RecognitionBrain` takes; ``hparams`` needs ``decoding``, ``beam_size`` and ``label_smoothing`` too.
    """

    def __init__(self, characters: Characters, *arguments: Any):
        super().__init__(characters, *arguments)
        self.losses: list[torch.Tensor] = []  # of the batches since the last step

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Logits of the reference texts, ``[batch, tokens, vocabulary]``."""
        batch = batch.to(self.device)
        self.batch_ids = batch.id
        signal, lengths = batch.signal
        characters, shares = batch.characters
        counts = (shares * characters.shape[1]).round().long()
        self.labels = decoder_labels(characters, counts, self.model.echo.config.eos_token_id)
        if stage == sb.Stage.TRAIN:
            return self.modules.model(distort(self.hparams.augment, signal, lengths), lengths, self.labels)
        self.encoded = self.model.encode(signal, lengths)
        return self.model.decoder_logits(self.encoded, self.labels)

    def compute_objectives(self, logits: torch.Tensor, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Cross-entropy, the mean over all tokens; outside training it counts errors too."""
        smoothing = self.hparams.label_smoothing if stage == sb.Stage.TRAIN else 0.0
        loss = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), self.labels, ignore_index=IGNORED, label_smoothing=smoothing
        )
        if stage == sb.Stage.TRAIN:
            self.losses.append(loss.detach())
            return loss + self.model.penalty()
        self.check_loss_isfinite(loss)
        beam_size = self.hparams.beam_size if stage == sb.Stage.TEST and self.hparams.decoding == "beam" else 1
        self.count_errors(batch, self.model.generate(self.encoded, beam_size))
        return loss

    def after_step(self) -> None:
        """Lets the method act; the rotary base follows the loss of all batches of the step, in all processes."""
        super().after_step()
        loss = ddp_all_reduce(torch.stack(self.losses).mean(), torch.distributed.ReduceOp.SUM)
        self.model.adapt_base(loss / (torch.distributed.get_world_size() if self.distributed_launch else 1))
        self.losses.clear()


def decoder_labels(characters: torch.Tensor, counts: torch.Tensor, end: int) -> torch.Tensor:
    """The labels of the decoder, ``[batch, characters + 1]``: the characters, an end, and `IGNORED` behind it.

    Of the padded numbers ``[batch, characters]`` the first ``counts`` ``[batch]`` are no padding.

    Example
    -------
    >>> decoder_labels(torch.tensor([[5, 6], [7, 0]]), torch.tensor([2, 1]), end=9).tolist()
    [[5, 6, 9], [7, 9, -100]]
    """
    labels = torch.nn.functional.pad(characters, (0, 1))
    positions = torch.arange(labels.shape[1], device=labels.device)
    labels = torch.where(positions == counts[:, None], end, labels)
    return labels.masked_fill(positions > counts[:, None], IGNORED)
