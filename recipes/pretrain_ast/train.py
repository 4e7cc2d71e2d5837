#!/usr/bin/env python3
"""Trains a small AST to tag sounds: spoken words, synthetic sound events and free recordings.

    python recipes/pretrain_ast/train.py recipes/pretrain_ast/hparams/nano.yaml

It is to the bundled ``nano-ast`` what tagging AudioSet was to AST (Gong et al., 2021): supervised, several tags a clip.
Spoken clips also say which phones sound at which time. The result is a transformers `ASTModel` and its feature
extractor.
"""

import json
import os
import sys
from pathlib import Path

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import numpy as np
import speechbrain as sb
import torch
from card import write_card
from hyperpyyaml import load_hyperpyyaml
from prepare import prepare_corpus
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score
from torch.utils.data import BatchSampler, DataLoader, Dataset, WeightedRandomSampler
from transformers import ASTFeatureExtractor, ASTModel

from brainplug.config.recipe import run_command
from brainplug.data.augment import SpecAugment
from brainplug.files import write_json
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
        self.phone_targets = np.load(Path(folder, "phones.npy"), mmap_mode="r")
        table = json.loads(Path(folder, "corpus.json").read_text())
        self.tags, self.phones, self.clips = table["tags"], table["phones"], table["clips"]
        self.kinds = np.array(table["kinds"])
        self.missing_packages = table["missing_packages"]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: list[int]) -> dict[str, torch.Tensor]:
        index = np.sort(index)  # clips are read in the order in which they lie on disk
        tags = torch.zeros(len(index), len(self.tags))
        for row, clip in zip(tags, index, strict=True):
            row[self.clips[clip]] = 1
        return {
            "log_mels": torch.from_numpy(self.log_mels[index].astype(np.float32)),  # [batch, frames, mel_bands]
            "tags": tags,  # [batch, tags]
            "phones": torch.from_numpy(self.phone_targets[index].astype(np.float32)),  # [batch, tokens, phones]
            "spoken": torch.from_numpy(self.kinds[index] == "word"),  # [batch]
        }

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
    """Tags log-mels with a linear head on the mean of a transformer's tokens; hears phones with one on each time."""

    def optimizers_step(self) -> None:
        """Sets the rate of this step: warm-up, then a cosine to zero over every step of the run; then steps."""
        total = self.hparams.steps_an_epoch * self.hparams.number_of_epochs
        factor = min((self.optimizer_step + 1) / self.hparams.warm_up_steps, cosine(self.optimizer_step, total))
        for group in self.optimizer.param_groups:
            group["lr"] = self.hparams.lr * factor
        super().optimizers_step()

    def augment(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rolls in time, mixes in other sounds, changes gain, masks bands and frames.

        Arguments
        ---------
        batch : dict[str, torch.Tensor]
            As `TaggingCorpus` returns it; log-mels are not normalised.

        Returns
        -------
        dict[str, torch.Tensor]
            The same shapes.
        """
        log_mels, tags, spoken = batch["log_mels"], batch["tags"], batch["spoken"]
        clips, frames, bands = log_mels.shape
        full = (log_mels[:, -1] != 0).any(1)  # clips without padding at their end
        shift = torch.where(full & ~spoken, torch.randint(frames, (clips,)), 0)  # phones stay where they are
        index = (torch.arange(frames) - shift[:, None]) % frames
        log_mels = log_mels.gather(1, index[..., None].expand(-1, -1, bands))
        padding = (log_mels == 0).all(2, keepdim=True)
        log_mels = log_mels + 2 * torch.randn(clips, 1, 1)
        partner = torch.randperm(clips)
        mixed = (torch.rand(clips) < self.hparams.mix_share) & full & full[partner] & ~spoken[partner]
        other = log_mels[partner] + 2 * torch.randn(clips, 1, 1)
        log_mels = torch.where(mixed[:, None, None], torch.logaddexp(log_mels, other), log_mels)  # sum of powers
        tags = torch.where(mixed[:, None], torch.maximum(tags, tags[partner]), tags)
        log_mels = log_mels.masked_fill(padding, 0)
        masks = SpecAugment(self.hparams.mask_bands, self.hparams.mask_frames, value=0.0)
        log_mels = masks(log_mels - self.hparams.mean, torch.ones(clips), tags)[0] + self.hparams.mean
        return {**batch, "log_mels": log_mels, "tags": tags}

    def compute_forward(self, batch: dict, stage: sb.Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the tags ``[batch, tags]`` and of the phones ``[batch, tokens, phones]``."""
        if stage == sb.Stage.TRAIN:
            batch = self.augment(batch)
        self.batch = {name: value.to(self.device) for name, value in batch.items()}
        frames = self.modules.ast.config.max_length
        log_mels = (self.batch["log_mels"][:, :frames] - self.hparams.mean) / (2 * self.hparams.deviation)
        tokens = self.modules.ast(log_mels).last_hidden_state
        bands, times = self.modules.ast.embeddings.get_shape(self.modules.ast.config)
        patches = tokens[:, 2:].unflatten(1, (bands, times))  # after [CLS] and the distillation token
        along_time = patches.transpose(1, 2).flatten(2)  # [batch, times, bands * dim]
        return self.modules.tag_head(tokens.mean(1)), self.modules.phone_head(along_time)

    def compute_objectives(self, logits: tuple, batch: dict, stage: sb.Stage) -> torch.Tensor:
        """Cross-entropy with the tags, each an equal share, plus binary cross-entropy with each token's phones."""
        tag_logits, phone_logits = (value.float() for value in logits)
        tags, spoken = self.batch["tags"], self.batch["spoken"]
        if stage != sb.Stage.TRAIN:
            self.scores.append(tag_logits.cpu())
            self.truths.append(tags.cpu())
        loss = torch.nn.functional.cross_entropy(tag_logits, tags / tags.sum(1, keepdim=True))
        phones = self.batch["phones"][:, : phone_logits.shape[1]]
        each = torch.nn.functional.binary_cross_entropy_with_logits(phone_logits, phones, reduction="none")
        # [batch, tokens, phones] -> summed over phones, averaged over the tokens of spoken clips
        of_phones = (each.sum(2).mean(1) * spoken).sum() / spoken.sum().clamp(min=1)
        return loss + of_phones

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Forgets the last stage's scores."""
        self.scores, self.truths = [], []

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs the loss and the mean average precision over tags, and saves."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        truths, scores = torch.cat(self.truths).numpy(), torch.cat(self.scores).numpy()
        present = truths.sum(0) > 0  # else precision is not defined
        precision = average_precision_score(truths[:, present], scores[:, present], average="macro")
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]},
            {"loss": self.train_loss},
            {"loss": stage_loss, "mean average precision": float(precision)},
        )
        self.checkpointer.save_and_keep_only({"precision": float(precision)}, num_to_keep=2)


def export(brain: TaggingBrain, hparams: dict, corpus: TaggingCorpus) -> None:
    """Writes the backbone as transformers' own files, in half precision, with its feature extractor and its card.

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
    config = json.loads((folder / "config.json").read_text())
    config["attn_implementation"] = model.config._attn_implementation  # transformers reads it, but does not write it
    write_json(config, folder / "config.json")
    halves = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(halves, folder / "model.safetensors.new", metadata={"format": "pt"})
    os.replace(folder / "model.safetensors.new", folder / "model.safetensors")
    ASTFeatureExtractor(
        num_mel_bins=hparams["mel_bands"],
        max_length=model.config.max_length,
        mean=hparams["mean"],
        std=hparams["deviation"],
    ).save_pretrained(folder)
    write_card(str(folder), hparams, corpus, sum(value.numel() for value in model.parameters()))


def main(arguments: list[str]) -> None:
    """Makes the corpus, trains, and writes the model.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
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
    embeddings = hparams["ast"].embeddings
    bands, _ = embeddings.get_shape(hparams["ast"].config)
    # Not zero, as transformers begins: bands and times can be told apart from the first step.
    torch.nn.init.normal_(embeddings.position_embeddings, std=0.1)
    brain = TaggingBrain(
        {
            "ast": hparams["ast"],
            "tag_head": torch.nn.Linear(hparams["hidden_size"], len(corpus.tags)),
            "phone_head": torch.nn.Linear(bands * hparams["hidden_size"], len(corpus.phones)),
        },
        hparams["optimizer"], hparams, run_opts, hparams["checkpointer"],
    )  # fmt: skip
    torch.nn.init.constant_(brain.modules.phone_head.bias, -3.0)  # few phones sound at a time
    brain.checkpointer.add_recoverables(dict(brain.modules.items()))
    brain.fit(
        hparams["epoch_counter"],
        DataLoader(corpus, sampler=batches, batch_size=None),
        DataLoader(corpus, sampler=valid, batch_size=None),
    )
    export(brain, hparams, corpus)


if __name__ == "__main__":
    sys.exit(run_command(main))
