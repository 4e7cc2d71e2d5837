#!/usr/bin/env python3
"""Pre-trains a HuBERT on any folder of audio (Hsu et al., 2021).

    python recipes/pretrain_hubert/train.py recipes/pretrain_hubert/hparams/nano.yaml --data_folder=FOLDER

The first iteration predicts clusters of MFCC. Each further one starts from random weights and predicts clusters of a
layer of the model before.
"""

import sys
from pathlib import Path

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group, run_on_main
from speechbrain.utils.run_opts import RunOptions
from transformers import AutoModel

from brainplug.backbones.filters import begin_with_mel_filters
from brainplug.backbones.hub import load_model
from brainplug.backbones.loading import find_source
from brainplug.config.arguments import parse_arguments
from brainplug.config.lock import hold_folder
from brainplug.config.recipe import Recipe
from brainplug.errors import ConfigError, run_command
from brainplug.pretrain.brain import Batch, PretrainBrain
from brainplug.pretrain.health import Alarm, copy_accuracy, majority_accuracy, perplexity
from brainplug.pretrain.hubert import HubertPretraining
from brainplug.pretrain.labels import Features, make_labels, mfcc_features, normalized_mfcc_features
from brainplug.pretrain.run import begin_run, layer_features, train_and_export
from brainplug.pretrain.schema import HubertSettings

MFCC = {"mfcc": mfcc_features, "normalized_mfcc": normalized_mfcc_features}


class HubertBrain(PretrainBrain):
    """Predicts the clusters of masked frames."""

    normalize = False
    alarms = (
        Alarm("prediction_perplexity", "the model predicts one cluster for everything", below=2, stops=True),
        Alarm("accuracy_over_majority", "the most frequent cluster is the better guess", below=0, rows=10),
        Alarm("accuracy_over_copy", "the nearest frame's cluster is the better guess", below=0, rows=10),
    )

    def __init__(self, settings: HubertSettings, run_opts: RunOptions):
        pretraining = HubertPretraining(
            settings.model, settings.clusters, settings.projection, settings.alpha, settings.feature_penalty,
            settings.feature_gradient,
        )  # fmt: skip
        super().__init__(pretraining, settings, run_opts)

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> Batch:
        """The loss, and the inputs of `indicators`."""
        labels = batch["labels"].to(self.device)
        mask = self.draw_mask(*labels.shape, stage)
        return self.modules.pretraining(self.augment(batch["waveforms"].to(self.device), stage), labels, mask)

    def indicators(self, outputs: Batch) -> Batch:
        """Accuracies beside those of guessing, and the perplexity of predictions and labels."""
        labels, mask, objective = outputs["labels"], outputs["mask"], self.pretraining.objective
        masked, visible = (objective(outputs["tokens"][where].float()) for where in (mask, ~mask))
        accuracy = (masked.argmax(1) == labels[mask]).float().mean()
        copied, majority = copy_accuracy(labels, mask), majority_accuracy(labels)
        return {
            "masked_accuracy": accuracy,
            "unmasked_accuracy": (visible.argmax(1) == labels[~mask]).float().mean(),
            "majority_accuracy": majority,
            "copy_accuracy": copied,
            "accuracy_over_majority": accuracy - majority,
            "accuracy_over_copy": accuracy - copied,
            "prediction_perplexity": perplexity(masked.softmax(1).mean(0)),
            "label_perplexity": perplexity(torch.bincount(labels.flatten(), minlength=masked.shape[1])),
        }


def clustered_features(labels_from: str, layer: int) -> tuple[dict[str, object], Features]:
    """The features to cluster, MFCC or a layer of a model: what identifies them, and the function."""
    if labels_from in MFCC:
        return {"features": labels_from}, MFCC[labels_from]
    folder = find_source(labels_from)
    model = load_model(AutoModel, folder, None)
    return {"features": folder, "layer": layer}, layer_features(model, layer, normalize=False)


def run_iteration(recipe: Recipe[HubertSettings]) -> None:
    """Trains one iteration, unless it was finished before."""
    settings, audio = recipe.settings, begin_run(recipe)
    if audio is None:
        print(f"Iteration {settings.iteration} was finished before: {settings.model_folder}")
        return
    source, features = clustered_features(settings.labels_from, settings.label_layer)
    arguments = (
        audio.corpus, features, source, settings.labels_folder, settings.clusters, settings.seed,
        settings.clustered_frames, settings.cluster_starts,
    )  # fmt: skip
    run_on_main(make_labels, args=arguments)
    labels = make_labels(*arguments)  # from disk
    begin_with_mel_filters(settings.model)
    brain = HubertBrain(settings, recipe.run_opts)
    facts: dict[str, object] = {"iteration": settings.iteration, "labels_from": settings.labels_from}
    compared: dict[str, Features] = {"MFCC": mfcc_features}
    if "layer" in source:
        facts["labels_from"] = name = "/".join(Path(settings.labels_from).parts[-2:])  # without the path to the results
        facts["label_layer"] = settings.label_layer
        compared[f"layer {settings.label_layer} of {name}"] = features
    train_and_export(brain, audio, compared, {**facts, "clusters": settings.clusters}, labels)


def main(arguments: list[str]) -> None:
    """Trains the iterations, one after the other."""
    recipe_file, run_opts, overrides = parse_arguments(arguments, lambda file: [HubertSettings])
    ddp_init_group(run_opts)
    iterations = Recipe.load(recipe_file, overrides, run_opts, HubertSettings, inspect=True).settings.iterations
    if len(iterations) > 1 and "output_folder" in overrides:
        raise ConfigError(
            f"One output folder was asked for, for {len(iterations)} iterations.",
            "Each iteration has a folder of its own.",
            "Write --results_folder=FOLDER",
        )
    for number, changes in enumerate(iterations, 1):
        merged = {"iteration": number, **changes, **overrides}
        recipe = Recipe.load(recipe_file, merged, run_opts, HubertSettings)
        with hold_folder(recipe.settings.output_folder):
            run_iteration(recipe)


if __name__ == "__main__":
    sys.exit(run_command(main))
