"""The training loop of classifiers."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch

from brainplug.training.brain import AdaptationBrain


class ClassificationBrain(AdaptationBrain):
    """Trains and tests an `AudioClassifier`; ``hparams`` needs ``augment`` and ``features_on_device`` too."""

    best_key = "accuracy"
    correct: torch.Tensor  # a count
    seen: int

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Classifies a batch; returns logits ``[batch, classes]``."""
        batch = batch.to(self.device)
        self.batch_ids = batch.id
        signal, lengths = batch.signal
        self.targets = batch.target.data[:, 0]  # [batch]
        augment = []
        if stage == sb.Stage.TRAIN:
            self.targets = torch.nn.functional.one_hot(self.targets, self.model.head.out_features).float()
            augment = self.hparams.augment
        if self.hparams.features_on_device:
            of_waveforms = [
                augmentation for augmentation in augment if getattr(augmentation, "signal", "") == "waveform"
            ]
            signal = self._augment(of_waveforms, signal, lengths)
            signal, lengths = self.model.backbone.extract_batch(signal, lengths), torch.ones_like(lengths)
            augment = [augmentation for augmentation in augment if augmentation not in of_waveforms]
        return self.modules.model(self._augment(augment, signal, lengths), lengths)

    def _augment(
        self, augment: Iterable[Callable[..., Any]], signal: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        for augmentation in augment:
            signal, self.targets = augmentation(signal, lengths, self.targets)
        return signal

    def compute_objectives(self, logits: torch.Tensor, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Cross-entropy; outside training it counts correct predictions too."""
        loss = torch.nn.functional.cross_entropy(logits.float(), self.targets)
        if stage == sb.Stage.TRAIN:
            return loss + self.model.penalty()
        self.check_loss_isfinite(loss)
        predicted = logits.argmax(1)
        probabilities = logits.float().softmax(1).gather(1, predicted[:, None])[:, 0]
        self.correct = self.correct + (predicted == self.targets).sum()
        self.seen += len(self.targets)
        self.predicted.append((batch.id, predicted, probabilities))
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Resets the counts."""
        self.correct, self.seen = torch.zeros((), dtype=torch.long, device=self.device), 0
        self.predicted: list[tuple[list[str], torch.Tensor, torch.Tensor]] = []

    def metrics(self) -> dict[str, float]:
        """Accuracy, the share of correct predictions."""
        return {"accuracy": self.correct.item() / max(1, self.seen)}

    def predictions(self) -> Iterator[tuple[str, int, float]]:
        """Yields, for each clip of the last stage, its id, the predicted class's index and its probability."""
        for ids, indices, probabilities in self.predicted:
            yield from zip(ids, indices.tolist(), probabilities.tolist(), strict=True)
