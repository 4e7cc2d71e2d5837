#!/usr/bin/env python3
"""Trains a small AST to tag sounds: spoken words, synthetic events and free recordings.

    python recipes/pretrain_ast/train.py recipes/pretrain_ast/hparams/nano.yaml

It is to the bundled ``nano-ast`` what tagging AudioSet was to AST (Gong et al., 2021): supervised, with several tags a
clip. Spoken clips also have targets for their phones at each time. The result is a transformers `ASTModel` with its
feature extractor.
"""

import json
import sys
from pathlib import Path

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import numpy as np
import speechbrain as sb
import torch
from card import write_card
from prepare import prepare_corpus
from sklearn.metrics import average_precision_score
from speechbrain.utils.run_opts import RunOptions
from torch.utils.data import BatchSampler, DataLoader, Dataset, WeightedRandomSampler
from transformers import ASTFeatureExtractor

from brainplug.config.arguments import parse_arguments
from brainplug.config.lock import hold_folder
from brainplug.config.output_folder import check_output_folder
from brainplug.config.recipe import Recipe
from brainplug.data.augment import SpecAugment
from brainplug.errors import run_command
from brainplug.optim.schedules import cosine
from brainplug.pretrain.export import export_model
from brainplug.pretrain.schema import AstSettings

VALID_BATCH = 100  # clips
Batch = dict[str, torch.Tensor]


class TaggingCorpus(Dataset):
    """The log-mels and targets of `prepare_corpus`. An index is a list of clips, so that a batch is one read."""

    def __init__(self, folder: str):
        self.log_mels = np.load(Path(folder, "log_mels.npy"), mmap_mode="r")
        self.phone_targets = np.load(Path(folder, "phones.npy"), mmap_mode="r")
        table = json.loads(Path(folder, "corpus.json").read_text())
        self.tags, self.phones, self.clips = table["tags"], table["phones"], table["clips"]
        self.kinds = np.array(table["kinds"])
        self.missing_packages = table["missing_packages"]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: list[int]) -> Batch:
        index = np.sort(index)  # the order on disk
        tags = torch.zeros(len(index), len(self.tags))
        for row, clip in zip(tags, index, strict=True):
            row[self.clips[clip]] = 1
        return {
            "log_mels": torch.from_numpy(self.log_mels[index].astype(np.float32)),  # [batch, frames, mel_bands]
            "tags": tags,  # [batch, tags]
            "phones": torch.from_numpy(self.phone_targets[index].astype(np.float32)),  # [batch, tokens, phones]
            "spoken": torch.from_numpy(self.kinds[index] == "word"),  # [batch]
        }

    def weights(self, kind_fractions: dict[str, float]) -> torch.Tensor:
        """Sampling weights ``[clips]``: each kind has its fraction of the draws; rarer tags are drawn more often."""
        count = np.bincount([tag for tags in self.clips for tag in tags], minlength=len(self.tags))
        rarest = np.array([count[tags].min() for tags in self.clips])
        weights = rarest**-0.5
        for kind, fraction in kind_fractions.items():
            chosen = self.kinds == kind
            weights[chosen] *= fraction / max(weights[chosen].sum(), 1e-9)
        return torch.from_numpy(weights)


class TaggingBrain(sb.Brain):
    """Tags log-mels with a linear head on the mean of an AST's tokens, and predicts phones with one on each time."""

    def __init__(self, settings: AstSettings, corpus: TaggingCorpus, run_opts: RunOptions):
        ast, dim = settings.ast, settings.hidden_size
        bands, _ = ast.embeddings.get_shape(ast.config)
        # transformers starts with zeros. With random values, bands and times differ from the first step on.
        torch.nn.init.normal_(ast.embeddings.position_embeddings, std=0.1)
        modules = {
            "ast": ast,
            "tag_head": torch.nn.Linear(dim, len(corpus.tags)),
            "phone_head": torch.nn.Linear(bands * dim, len(corpus.phones)),
        }
        torch.nn.init.constant_(modules["phone_head"].bias, -3.0)  # few phones sound at a time
        super().__init__(modules, settings.optimizer, dict(settings), run_opts, settings.checkpointer)
        self.settings = settings
        self.checkpointer.add_recoverables(dict(self.modules.items()))

    def optimizers_step(self) -> None:
        """Sets the learning rate of this step, a warm-up and then a cosine to zero over the run, and steps."""
        settings = self.settings
        total = settings.steps_per_epoch * settings.number_of_epochs
        factor = min((self.optimizer_step + 1) / settings.warm_up_steps, cosine(self.optimizer_step, total))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * factor
        super().optimizers_step()

    def augment(self, batch: Batch) -> Batch:
        """Rolls in time, mixes clips, changes gain, and masks bands and frames; log-mels are not normalised yet."""
        settings = self.settings
        log_mels, tags, spoken = batch["log_mels"], batch["tags"], batch["spoken"]
        clips, frames, bands = log_mels.shape
        full = (log_mels[:, -1] != 0).any(1)  # clips without padding at their end
        shift = torch.where(full & ~spoken, torch.randint(frames, (clips,)), 0)  # phones stay where they are
        index = (torch.arange(frames) - shift[:, None]) % frames
        log_mels = log_mels.gather(1, index[..., None].expand(-1, -1, bands))
        padding = (log_mels == 0).all(2, keepdim=True)
        log_mels = log_mels + 2 * torch.randn(clips, 1, 1)
        partner = torch.randperm(clips)
        mixed = (torch.rand(clips) < settings.mix_probability) & full & full[partner] & ~spoken[partner]
        other = log_mels[partner] + 2 * torch.randn(clips, 1, 1)
        log_mels = torch.where(mixed[:, None, None], torch.logaddexp(log_mels, other), log_mels)  # sum of powers
        tags = torch.where(mixed[:, None], torch.maximum(tags, tags[partner]), tags)
        log_mels = log_mels.masked_fill(padding, 0)
        masks = SpecAugment(settings.mask_bands, settings.mask_frames, value=0.0)
        log_mels = masks(log_mels - settings.mean, torch.ones(clips), tags)[0] + settings.mean
        return {**batch, "log_mels": log_mels, "tags": tags}

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the tags ``[batch, tags]`` and of the phones ``[batch, tokens, phones]``."""
        if stage == sb.Stage.TRAIN:
            batch = self.augment(batch)
        self.batch = {name: value.to(self.device) for name, value in batch.items()}
        frames = self.modules.ast.config.max_length
        log_mels = (self.batch["log_mels"][:, :frames] - self.settings.mean) / (2 * self.settings.std)
        tokens = self.modules.ast(log_mels).last_hidden_state
        bands, times = self.modules.ast.embeddings.get_shape(self.modules.ast.config)
        patches = tokens[:, 2:].unflatten(1, (bands, times))  # after [CLS] and the distillation token
        along_time = patches.transpose(1, 2).flatten(2)  # [batch, times, bands * dim]
        return self.modules.tag_head(tokens.mean(1)), self.modules.phone_head(along_time)

    def compute_objectives(
        self, logits: tuple[torch.Tensor, torch.Tensor], batch: Batch, stage: sb.Stage
    ) -> torch.Tensor:
        """Cross-entropy with the tags, equally weighted, plus binary cross-entropy with each token's phones."""
        tag_logits, phone_logits = (value.float() for value in logits)
        tags, spoken = self.batch["tags"], self.batch["spoken"]
        if stage != sb.Stage.TRAIN:
            self.scores.append(tag_logits.cpu())
            self.truths.append(tags.cpu())
        tag_loss = torch.nn.functional.cross_entropy(tag_logits, tags / tags.sum(1, keepdim=True))
        phones = self.batch["phones"][:, : phone_logits.shape[1]]
        losses = torch.nn.functional.binary_cross_entropy_with_logits(phone_logits, phones, reduction="none")
        # [batch, tokens, phones] -> summed over phones, averaged over the tokens of spoken clips
        phone_loss = (losses.sum(2).mean(1) * spoken).sum() / spoken.sum().clamp(min=1)
        return tag_loss + phone_loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Clears the scores of the last stage."""
        self.scores: list[torch.Tensor] = []
        self.truths: list[torch.Tensor] = []

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs the loss and the mean average precision over tags, and saves a checkpoint."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        truths, scores = torch.cat(self.truths).numpy(), torch.cat(self.scores).numpy()
        present = truths.sum(0) > 0  # else precision is not defined
        precision = average_precision_score(truths[:, present], scores[:, present], average="macro")
        self.settings.train_logger.log_stats(
            {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]},
            {"loss": self.train_loss},
            {"loss": stage_loss, "mean average precision": float(precision)},
        )
        self.checkpointer.save_and_keep_only({"precision": float(precision)}, num_to_keep=2)


def make_loaders(corpus: TaggingCorpus, settings: AstSettings) -> tuple[DataLoader, DataLoader]:
    """Random batches to train on, and the clips that are held out."""
    draw = np.random.default_rng(settings.seed)
    held_out = np.sort(draw.choice(len(corpus), settings.valid_clips, replace=False))
    weights = corpus.weights(settings.kind_fractions)
    weights[torch.from_numpy(held_out)] = 0
    sampler = WeightedRandomSampler(weights, settings.steps_per_epoch * settings.batch_size)
    batches = BatchSampler(sampler, settings.batch_size, drop_last=True)
    valid = [held_out[start : start + VALID_BATCH].tolist() for start in range(0, len(held_out), VALID_BATCH)]
    return DataLoader(corpus, sampler=batches, batch_size=None), DataLoader(corpus, sampler=valid, batch_size=None)


def run(recipe: Recipe[AstSettings]) -> None:
    """Does the run, or goes on with it."""
    settings = recipe.settings
    check_output_folder(recipe, settings.output_folder, settings.save_folder)
    sb.create_experiment_directory(settings.output_folder, recipe.file, recipe.overrides_text())
    prepare_corpus(
        settings.corpus_folder, settings.recordings_folder, settings.spoken_clips, settings.event_clips,
        settings.frames, settings.mel_bands, settings.seed,
    )  # fmt: skip
    corpus = TaggingCorpus(settings.corpus_folder)
    loaders = make_loaders(corpus, settings)
    brain = TaggingBrain(settings, corpus, recipe.run_opts)
    brain.fit(settings.epoch_counter, *loaders)
    model = brain.modules.ast
    extractor = ASTFeatureExtractor(
        num_mel_bins=settings.mel_bands, max_length=model.config.max_length, mean=settings.mean, std=settings.std
    )
    export_model(model, extractor, settings.export_folder)
    parameters = sum(value.numel() for value in model.parameters())
    write_card(settings, corpus.kinds.tolist(), corpus.missing_packages, parameters)


def main(arguments: list[str]) -> None:
    """Makes the corpus, trains, and writes the model with its card."""
    recipe_file, run_opts, overrides = parse_arguments(arguments, lambda file: [AstSettings])
    recipe = Recipe.load(recipe_file, overrides, run_opts, AstSettings)
    with hold_folder(recipe.settings.output_folder):
        run(recipe)


if __name__ == "__main__":
    sys.exit(run_command(main))
