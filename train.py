#!/usr/bin/env python3
"""Adapts a pretrained audio transformer to a classification task.

python train.py hparams/train.yaml
python train.py hparams/train.yaml --method=lora --backbone=nano-ast --seed=2
python train.py recipes/ESC50/hparams/train.yaml --data_folder=ESC-50-master --fold=all
python train.py hparams/train.yaml --few_shot=8 --few_shot_draws=5
python train.py hparams/train.yaml --dataset=own --data_folder=DIR
"""

import sys

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import speechbrain as sb
from speechbrain.utils.distributed import ddp_barrier, ddp_init_group, if_main_process, run_on_main

from brainplug.adapter_io import keep_delta, save_adapter
from brainplug.backbones import load_backbone
from brainplug.brain import AudioBrain
from brainplug.data.augment import suitable
from brainplug.data.few_shot import keep_examples, write_examples
from brainplug.data.manifest import label_map, read_manifest
from brainplug.data.pipeline import make_datasets, make_reader
from brainplug.data.prepare import prepare_manifest
from brainplug.experiment import (
    Experiment,
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
from brainplug.runs import separate_runs, summary_of_runs


def main(arguments: list[str]) -> None:
    """Does the run that a command line asks for, or the runs: one for each fold and draw.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    recipe_file, run_opts, overrides = parse_arguments(arguments)
    ddp_init_group(run_opts)
    experiment = load_experiment(recipe_file, run_opts, overrides)
    runs = separate_runs(experiment, overrides)
    if len(runs) == 1:
        run(experiment)
        return
    results = [run(load_experiment(recipe_file, run_opts, changes)) for changes in runs]
    if if_main_process():
        print(summary_of_runs(results))


def run(experiment: Experiment) -> dict | None:
    """Does one run.

    Arguments
    ---------
    experiment : Experiment
        The recipe.

    Returns
    -------
    dict | None
        What results.json says of it; None in all processes but the first.
    """
    hparams, run_opts = experiment.hparams, experiment.run_opts
    paper_code = hparams["paper_code"]

    # What can fail at once fails here, before anything is written or read.
    list_clips = choose("dataset", hparams)
    optimizer = choose_optimizer(hparams)
    of_backbone = hparams["backbones"].get(hparams["backbone"])
    method, method_lr = choose_method(
        hparams["method"], hparams["methods"], of_backbone, hparams["method_settings"], paper_code=paper_code
    )
    backbone = load_backbone(
        hparams["backbone"], hparams["backbone_revision"], frames=hparams["frames"], positions=hparams["positions"]
    )
    classifier_without_weights(backbone.model.config, method, n_classes=2, pooling=hparams["pooling"])

    claim_output_folder(experiment)
    sb.create_experiment_directory(hparams["output_folder"], experiment.recipe_file, experiment.overrides)
    run_on_main(prepare_manifest, kwargs={"list_clips": list_clips, **hparams["prepare"]})
    clips = read_manifest(f"{hparams['prepare']['manifest_folder']}/manifest.csv")
    if hparams["few_shot"]:
        clips = keep_examples(
            clips, hparams["few_shot"], hparams["seed"], first=paper_code, short=hparams["few_shot_short"]
        )
        run_on_main(write_examples, args=[clips, hparams["output_folder"], hparams["few_shot"], hparams["seed"]])
    labels = label_map(clips)
    reader = make_reader(backbone.extract, backbone.signal_settings, backbone.sample_rate, hparams["feature_cache"])
    datasets = make_datasets(clips, labels, reader)

    hparams["augment"] = suitable(hparams["augment"], backbone.spec.signal)
    model = AudioClassifier(
        backbone, method, len(labels), hparams["pooling"], gradient_checkpointing=hparams["gradient_checkpointing"]
    )
    description = describe_adapter(model, method, hparams, labels)
    keep_delta(hparams["checkpointer"], model, description)
    lr = hparams["lr"] or method_lr * optimizer.lr_scale
    brain = AudioBrain(model, method, optimizer, lr, hparams, run_opts, hparams["checkpointer"])

    loaders = {"batch_size": hparams["batch_size"], "num_workers": hparams["num_workers"]}
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs={**loaders, "shuffle": True},
        valid_loader_kwargs=loaders,
    )
    tested = brain.test_epochs(datasets["test"], "last" if paper_code else "best", loaders)

    results = None
    if if_main_process():
        results = collect_results(brain, hparams, clips, labels, tested)
        save_adapter(model, hparams["output_folder"], description)
        write_json(results, f"{hparams['output_folder']}/results.json")
        print(summary(results, hparams["output_folder"]))
    ddp_barrier()  # until all have read the checkpoints, which --debug removes
    return results


if __name__ == "__main__":
    sys.exit(run_command(main))
