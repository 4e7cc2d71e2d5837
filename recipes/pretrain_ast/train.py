#!/usr/bin/env python3
"""Trains a small AST to tag sounds: spoken words, synthetic sound events and free recordings.

    python recipes/pretrain_ast/train.py recipes/pretrain_ast/hparams/nano.yaml

It is to the bundled ``nano-ast`` what tagging AudioSet was to AST (Gong et al., 2021): supervised, several tags a clip,
binary cross-entropy. The result is a transformers `ASTModel`, its feature extractor, and a card.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import numpy as np
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from prepare import prepare_corpus
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score
from torch.utils.data import BatchSampler, DataLoader, Dataset, WeightedRandomSampler
from transformers import ASTFeatureExtractor, ASTModel

from brainplug.optim.schedules import cosine


class TaggingCorpus(Dataset):
    """The log-mels and tags that `prepare.py` made; indexed by a list of clips, so that a batch is one read.

    Arguments
    ---------
    folder : str
        Where the corpus lies.
    """

    def __init__(self, folder: str):
        self.log_mels = np.load(Path(folder, "log_mels.npy"), mmap_mode="r")
        table = json.loads(Path(folder, "corpus.json").read_text())
        self.tags, self.kinds, self.clips = table["tags"], np.array(table["kinds"]), table["clips"]
        self.missing_packages = table["missing_packages"]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        targets = torch.zeros(len(index), len(self.tags))
        for row, clip in zip(targets, index, strict=True):
            row[self.clips[clip]] = 1
        return torch.from_numpy(self.log_mels[np.sort(index)].astype(np.float32)), targets[np.argsort(index)]

    def weights(self, shares: dict[str, float]) -> torch.Tensor:
        """How often a clip is drawn: each kind by its share, within a kind the rarer tags more often.

        Arguments
        ---------
        shares : dict[str, float]
            Kind -> share of the draws.

        Returns
        -------
        torch.Tensor
            ``[clips]``.
        """
        count = np.bincount([tag for tags in self.clips for tag in tags], minlength=len(self.tags))
        rarest = np.array([count[tags].min() for tags in self.clips])
        weights = rarest**-0.5
        for kind, share in shares.items():
            chosen = self.kinds == kind
            weights[chosen] *= share / max(weights[chosen].sum(), 1e-9)
        return torch.from_numpy(weights)


class TaggingBrain(sb.Brain):
    """Tags log-mels with a transformer and a linear head on the mean of its tokens."""

    def optimizers_step(self) -> None:
        """Sets the rate of this step: warm-up, then a cosine to zero over every step of the run; then steps."""
        total = self.hparams.steps_an_epoch * self.hparams.number_of_epochs
        factor = min((self.optimizer_step + 1) / self.hparams.warm_up_steps, cosine(self.optimizer_step, total))
        for group in self.optimizer.param_groups:
            group["lr"] = self.hparams.lr * factor
        super().optimizers_step()

    def augment(self, log_mels: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rolls in time, mixes pairs in the power domain, changes gain, masks bands and frames.

        Arguments
        ---------
        log_mels : torch.Tensor
            ``[batch, frames, mel_bands]``, not normalised.
        targets : torch.Tensor
            ``[batch, tags]``.

        Returns
        -------
        tuple[torch.Tensor, torch.Tensor]
            The same shapes.
        """
        batch, frames, bands = log_mels.shape
        full = (log_mels[:, -1] != 0).any(1)  # clips without padding at their end may roll
        shift = torch.where(full, torch.randint(frames, (batch,)), 0)
        index = (torch.arange(frames) - shift[:, None]) % frames
        log_mels = log_mels.gather(1, index[..., None].expand(-1, -1, bands))
        padding = (log_mels == 0).all(2, keepdim=True)
        log_mels = log_mels + 2 * torch.randn(batch, 1, 1)
        partner = torch.randperm(batch)
        mixed = (torch.rand(batch) < self.hparams.mix_share) & full & full[partner]
        other = log_mels[partner] + 2 * torch.randn(batch, 1, 1)
        log_mels = torch.where(mixed[:, None, None], torch.logaddexp(log_mels, other), log_mels)
        targets = torch.where(mixed[:, None], torch.maximum(targets, targets[partner]), targets)
        log_mels = log_mels.masked_fill(padding, 0)
        for size, width in ((frames, 40), (bands, 10)):
            start = torch.randint(size, (batch, 1))
            masked = (torch.arange(size) >= start) & (torch.arange(size) < start + torch.randint(width, (batch, 1)))
            masked = masked[:, :, None] if size == frames else masked[:, None, :]
            log_mels = log_mels.masked_fill(masked, self.hparams.mean)
        return log_mels, targets

    def compute_forward(self, batch: tuple, stage: sb.Stage) -> torch.Tensor:
        """Logits ``[batch, tags]``; keeps the targets, which mixing changes."""
        log_mels, self.targets = batch
        if stage == sb.Stage.TRAIN:
            log_mels, self.targets = self.augment(log_mels, self.targets)
        log_mels = ((log_mels - self.hparams.mean) / (2 * self.hparams.deviation)).to(self.device)
        return self.modules.head(self.modules.ast(log_mels).last_hidden_state.mean(1))

    def compute_objectives(self, logits: torch.Tensor, batch: tuple, stage: sb.Stage) -> torch.Tensor:
        """Binary cross-entropy, summed over the tags and averaged over the clips."""
        targets = self.targets.to(self.device)
        if stage != sb.Stage.TRAIN:
            self.scores.append(logits.float().sigmoid().cpu())
            self.truths.append(targets.cpu())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        return loss / len(targets)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Forgets the last stage's scores."""
        self.scores, self.truths = [], []

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs the loss and the mean average precision over tags, and saves."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        truths, scores = torch.cat(self.truths).numpy(), torch.cat(self.scores).numpy()
        present = truths.sum(0) > 0
        precision = average_precision_score(truths[:, present], scores[:, present], average="macro")
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]},
            {"loss": self.train_loss},
            {"loss": stage_loss, "mean average precision": float(precision)},
        )
        self.checkpointer.save_and_keep_only({"precision": float(precision)}, num_to_keep=2)


def export(brain: TaggingBrain, hparams: dict, corpus: TaggingCorpus) -> None:
    """Writes the backbone as transformers' own files, in half precision, with its feature extractor.

    Arguments
    ---------
    brain : TaggingBrain
        After training.
    hparams : dict
        The run's settings.
    corpus : TaggingCorpus
        What it was trained on.
    """
    folder = Path(hparams["export_folder"])
    folder.mkdir(parents=True, exist_ok=True)
    model = brain.modules.ast
    ASTModel(model.config).save_pretrained(folder)  # the configuration; the weights follow in half precision
    halves = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(halves, folder / "model.safetensors.new", metadata={"format": "pt"})
    os.replace(folder / "model.safetensors.new", folder / "model.safetensors")
    ASTFeatureExtractor(
        num_mel_bins=hparams["mel_bands"], max_length=hparams["frames"], mean=hparams["mean"], std=hparams["deviation"]
    ).save_pretrained(folder)
    shutil.copy(hparams["train_log"], folder / "train_log.txt")


def main() -> None:
    """Parses the command line and runs."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file) as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)
    prepare_corpus(
        hparams["corpus_folder"], hparams["recordings_folder"], hparams["spoken_clips"], hparams["event_clips"],
        hparams["frames"], hparams["mel_bands"], hparams["seed"],
    )  # fmt: skip
    corpus = TaggingCorpus(hparams["corpus_folder"])
    draw = np.random.default_rng(hparams["seed"])
    held_out = np.sort(draw.choice(len(corpus), hparams["valid_clips"], replace=False))
    weights = corpus.weights(hparams["shares"])
    weights[torch.from_numpy(held_out)] = 0
    sampler = WeightedRandomSampler(weights, hparams["steps_an_epoch"] * hparams["batch_size"])
    batches = BatchSampler(sampler, hparams["batch_size"], drop_last=True)
    valid = [held_out[start : start + 100].tolist() for start in range(0, len(held_out), 100)]
    brain = TaggingBrain(
        {"ast": hparams["ast"], "head": torch.nn.Linear(hparams["hidden_size"], len(corpus.tags))},
        hparams["optimizer"], hparams, run_opts, hparams["checkpointer"],
    )  # fmt: skip
    torch.nn.init.constant_(brain.modules.head.bias, -5.0)  # tags are rare
    brain.checkpointer.add_recoverables({"ast": brain.modules.ast, "head": brain.modules.head})
    brain.fit(
        hparams["epoch_counter"],
        DataLoader(corpus, sampler=batches, batch_size=None),
        DataLoader(corpus, sampler=valid, batch_size=None),
    )
    export(brain, hparams, corpus)


if __name__ == "__main__":
    main()
