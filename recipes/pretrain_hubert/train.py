#!/usr/bin/env python3
"""Pre-trains a HuBERT on any folder of sound (Hsu et al., 2021).

    python recipes/pretrain_hubert/train.py recipes/pretrain_hubert/hparams/nano.yaml --data_folder=FOLDER

The first iteration predicts clusters of MFCC; each further one starts anew, on clusters of a layer of the one before.
"""

import sys
import tempfile
from pathlib import Path

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process, run_on_main
from transformers import AutoModel

from brainplug.backbones.filters import begin_with_mel_filters
from brainplug.backbones.loading import find_source, load_pretrained
from brainplug.config.output_folder import check_output_folder
from brainplug.config.recipe import Experiment, load_aside, load_experiment, parse_arguments, run_command
from brainplug.errors import UsageError
from brainplug.pretrain.brain import PretrainBrain
from brainplug.pretrain.corpus import Corpus
from brainplug.pretrain.health import Alarm, copy_accuracy, majority_accuracy, perplexity
from brainplug.pretrain.hubert import HubertPretraining
from brainplug.pretrain.labels import Features, make_labels, mfcc_features, normalized_mfcc_features
from brainplug.pretrain.run import changes_of, finish, is_finished, layer_features, open_sound, pretrain

MFCC = {"mfcc": mfcc_features, "normalized_mfcc": normalized_mfcc_features}


class HubertBrain(PretrainBrain):
    """Predicts at masked frames to which cluster they belong."""

    alarms = (
        Alarm("prediction_perplexity", "the model predicts one cluster for everything", below=2, stops=True),
        Alarm("accuracy_over_majority", "the most frequent cluster would be the better guess", below=0, rows=10),
        Alarm("accuracy_over_copy", "the nearest frame's cluster would be the better guess", below=0, rows=10),
    )

    def compute_forward(self, batch: dict[str, torch.Tensor], stage: sb.Stage) -> dict[str, torch.Tensor]:
        """The loss, and what `indicators` looks at."""
        labels = batch["labels"].to(self.device)
        mask = self.draw_mask(*labels.shape, stage)
        return self.modules.pretraining(self.heard(batch["waveforms"].to(self.device), stage), labels, mask)

    def indicators(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Accuracies beside what guessing would reach, and over how many clusters predictions and labels spread."""
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


def labelling(hparams: dict) -> tuple[dict, Features]:
    """What is clustered, MFCC or a layer of the model that the recipe names: its description, and how to compute it."""
    if hparams["labels_from"] in MFCC:
        return {"features": hparams["labels_from"]}, MFCC[hparams["labels_from"]]
    folder = find_source(hparams["labels_from"])
    model = load_pretrained(AutoModel, folder, None)
    source = {"features": folder, "layer": hparams["label_layer"]}
    return source, layer_features(model, hparams["label_layer"], normalize=False)


def label(hparams: dict, corpus: Corpus) -> np.ndarray:
    """Clusters the corpus."""
    source, features = labelling(hparams)
    settings = {name: hparams[name] for name in ("clusters", "seed")}
    return make_labels(
        corpus, features, source, hparams["labels_folder"],
        frames=hparams["clustered_frames"], starts=hparams["cluster_starts"], **settings,
    )  # fmt: skip


def run(experiment: Experiment) -> None:
    """Makes one iteration, unless it was made before."""
    hparams, run_opts = experiment.hparams, experiment.run_opts
    check_output_folder(experiment)
    if is_finished(hparams):
        print(f"iteration {hparams['iteration']} was finished before: {hparams['model_folder']}")
        return
    sb.create_experiment_directory(hparams["output_folder"], experiment.recipe_file, experiment.overrides)
    sound = open_sound(hparams)
    run_on_main(label, args=[hparams, sound.corpus])
    labels = label(hparams, sound.corpus)  # from disk
    begin_with_mel_filters(hparams["model"])
    pretraining = HubertPretraining(
        hparams["model"], hparams["clusters"], hparams["projection"], hparams["alpha"],
        hparams["feature_penalty"], hparams["feature_gradient"],
    )  # fmt: skip
    brain = HubertBrain(
        {"pretraining": pretraining}, hparams["optimizer"], hparams, run_opts, hparams["checkpointer"]
    )  # fmt: skip
    pretrain(brain, hparams, sound, labels)
    if if_main_process():
        settings = {name: hparams[name] for name in ("iteration", "labels_from", "label_layer", "clusters")}
        compared = {"MFCC": mfcc_features}
        if hparams["labels_from"] in MFCC:
            del settings["label_layer"]
        else:
            settings["labels_from"] = "/".join(Path(hparams["labels_from"]).parts[-2:])  # of a card others read
            compared[f"layer {hparams['label_layer']} of {settings['labels_from']}"] = labelling(hparams)[1]
        finish(brain, hparams, sound, normalize=False, others=compared, settings=settings)


def main(arguments: list[str]) -> None:
    """Makes the iterations, one after the other."""
    recipe_file, run_opts, overrides = parse_arguments(arguments)
    ddp_init_group(run_opts)
    with tempfile.TemporaryDirectory() as folder:
        iterations = load_aside(recipe_file, run_opts, overrides, folder).hparams["iterations"]
    if len(iterations) > 1 and any(line.startswith("output_folder:") for line in overrides.splitlines()):
        raise UsageError(
            f"One output folder was asked for, for {len(iterations)} iterations.",
            "Each has a folder of its own.",
            "Write --results_folder=FOLDER",
        )
    for number, changes in enumerate(iterations, 1):
        run(load_experiment(recipe_file, run_opts, changes_of({"iteration": number, **changes}, overrides)))


if __name__ == "__main__":
    sys.exit(run_command(main))
