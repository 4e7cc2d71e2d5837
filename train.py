#!/usr/bin/env python3
"""Adapts a pretrained audio transformer to a classification task.

python train.py hparams/train.yaml
python train.py hparams/train.yaml --method=lora --backbone=nano-ast --seed=2
python train.py recipes/ESC50/hparams/train.yaml --data_folder=ESC-50-master --fold=1
"""

import sys

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_barrier, ddp_init_group, if_main_process, run_on_main

from brainplug.adapter_io import keep_delta, save_adapter
from brainplug.backbones import load_backbone
from brainplug.brain import AudioBrain
from brainplug.data.augment import choose_augmentations, suitable
from brainplug.data.few_shot import keep_examples
from brainplug.data.manifest import label_map, read_manifest
from brainplug.data.pipeline import check_batching, make_datasets, make_reader, training_batches
from brainplug.data.prepare import prepare_manifest
from brainplug.experiment import (
    choose,
    choose_optimizer,
    claim_output_folder,
    load_experiment,
    parse_arguments,
    run_command,
)
from brainplug.files import write_json
from brainplug.methods import choose_method
from brainplug.model import AudioClassifier, classifier_without_weights
from brainplug.report import collect_results, describe_adapter, summary


def main(arguments: list[str]) -> None:
    """Runs one experiment.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    recipe_file, run_opts, overrides = parse_arguments(arguments)
    ddp_init_group(run_opts)
    experiment = load_experiment(recipe_file, run_opts, overrides)
    hparams, run_opts = experiment.hparams, experiment.run_opts
    paper_code = hparams["paper_code"]

    # What can fail at once fails here, before anything is written or read.
    list_clips = choose("dataset", hparams)
    optimizer = choose_optimizer(hparams)
    augment = choose_augmentations(hparams["augment"], hparams["augmentations"], hparams["augment_settings"])
    check_batching(hparams["sorting"], hparams["batch_seconds"])
    of_backbone = hparams["backbones"].get(hparams["backbone"])
    method, method_lr = choose_method(
        hparams["method"], hparams["methods"], of_backbone, hparams["method_settings"], paper_code=paper_code
    )
    backbone = load_backbone(
        hparams["backbone"], hparams["backbone_revision"], frames=hparams["frames"], positions=hparams["positions"]
    )
    classifier_without_weights(backbone.model.config, method, n_classes=2, pooling=hparams["pooling"])

    extract, signal_settings, signals = backbone.extract, backbone.signal_settings, [backbone.spec.signal]
    if hparams["features_on_device"]:
        backbone.extract_batch(torch.zeros(1, 1), torch.ones(1))  # it can
        extract, signal_settings, signals = torch.nn.Identity(), {"signal": "waveform"}, ["waveform", *signals]

    claim_output_folder(experiment)
    sb.create_experiment_directory(hparams["output_folder"], recipe_file, experiment.overrides)
    run_on_main(prepare_manifest, kwargs={"list_clips": list_clips, **hparams["prepare"]})
    clips = read_manifest(hparams["manifest"])
    if hparams["few_shot"]:
        clips = keep_examples(clips, hparams["few_shot"], hparams["seed"], first=paper_code)
    labels = label_map(clips)
    cache_folder = hparams["cache_folder"] if hparams["cache_features"] else None
    reader = make_reader(extract, signal_settings, backbone.sample_rate, cache_folder)
    datasets = make_datasets(clips, labels, reader)

    hparams["augment"] = suitable(augment, signals)
    model = AudioClassifier(
        backbone, method, len(labels), hparams["pooling"], gradient_checkpointing=hparams["gradient_checkpointing"]
    )
    description = describe_adapter(model, method, hparams, labels)
    keep_delta(hparams["checkpointer"], model, description)
    lr = hparams["lr"] or method_lr * optimizer.lr_scale
    brain = AudioBrain(model, method, optimizer, lr, hparams, run_opts, hparams["checkpointer"])

    train_set, train_loader = training_batches(
        datasets["train"], hparams["batch_size"], hparams["batch_seconds"], hparams["sorting"], hparams["seed"]
    )
    workers = {"num_workers": hparams["num_workers"]}
    loaders = {"batch_size": hparams["batch_size"], **workers}
    brain.fit(
        hparams["epoch_counter"],
        train_set,
        datasets["valid"],
        train_loader_kwargs={**train_loader, **workers},
        valid_loader_kwargs=loaders,
    )
    tested = brain.test_epochs(datasets["test"], "last" if paper_code else "best", loaders)

    if if_main_process():
        results = collect_results(brain, hparams, clips, labels, tested)
        save_adapter(model, hparams["output_folder"], description)
        write_json(results, f"{hparams['output_folder']}/results.json")
        print(summary(results, hparams["output_folder"]))
    ddp_barrier()  # until all have read the checkpoints, which --debug removes


if __name__ == "__main__":
    sys.exit(run_command(main))
