#!/usr/bin/env python3
"""Adapts a pretrained audio transformer to a classification task.

python train.py hparams/train.yaml
python train.py hparams/train.yaml --method=lora --backbone=nano-ast --seed=2
python train.py recipes/ESC50/hparams/train.yaml --data_folder=ESC-50-master --fold=all
python train.py hparams/train.yaml --few_shot=8 --few_shot_draws=5
python train.py hparams/train.yaml --dataset=own --data_folder=DIR
"""

import sys
import tempfile

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import speechbrain as sb
from speechbrain.utils.distributed import ddp_barrier, ddp_init_group, if_main_process, run_on_main

from brainplug.adapters.file import register_adapter, save_adapter
from brainplug.config.output_folder import check_output_folder
from brainplug.config.recipe import (
    Experiment,
    load_aside,
    load_experiment,
    parse_arguments,
    run_command,
)
from brainplug.data.manifest import label_map, read_manifest
from brainplug.data.pipeline import make_datasets, make_reader, training_batches
from brainplug.data.protocol.few_shot import keep_examples, write_examples
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.files import write_json
from brainplug.models.adapted import AudioClassifier
from brainplug.results.report import collect_results, describe_adapter, summary
from brainplug.tasks.components import choose_parts
from brainplug.tasks.runs import separate_runs, summary_of_runs
from brainplug.training.brain import AudioBrain
from brainplug.training.diagnostics import observe, write_observations, write_predictions
from brainplug.training.loggers import make_loggers


def main(arguments: list[str]) -> None:
    """Does the run that a command line asks for, or the runs: one for each fold and draw.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    recipe_file, run_opts, overrides = parse_arguments(arguments)
    ddp_init_group(run_opts)
    with tempfile.TemporaryDirectory() as folder:
        runs = separate_runs(load_aside(recipe_file, run_opts, overrides, folder), overrides)
    results = [run(load_experiment(recipe_file, run_opts, changes)) for changes in runs]
    if len(results) > 1 and if_main_process():
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
    paper_code, seed = hparams["paper_code"], hparams["seed"]
    parts = choose_parts(hparams)

    check_output_folder(experiment)
    sb.create_experiment_directory(hparams["output_folder"], experiment.recipe_file, experiment.overrides)
    hparams["train_loggers"] = make_loggers(hparams)
    trained = bool(hparams["checkpointer"].list_checkpoints())
    run_on_main(prepare_manifest, kwargs={"list_clips": parts.list_clips, "trained": trained, **hparams["prepare"]})
    clips = read_manifest(f"{hparams['prepare']['manifest_folder']}/manifest.csv")
    if hparams["few_shot"]:
        examples = hparams["few_shot"]
        clips = keep_examples(clips, examples, seed, first=paper_code, short=hparams["few_shot_short"])
        run_on_main(write_examples, args=[clips, hparams["output_folder"], examples, seed])
    labels = label_map(clips)
    cache_folder = hparams["cache_folder"] if hparams["cache_features"] else None
    reader = make_reader(parts.extract, parts.signal_settings, parts.backbone.sample_rate, cache_folder)
    datasets = make_datasets(clips, labels, reader)

    hparams["augment"] = parts.augment
    model = AudioClassifier(
        parts.backbone,
        parts.method,
        len(labels),
        hparams["pooling"],
        gradient_checkpointing=hparams["gradient_checkpointing"],
    )
    description = describe_adapter(model, parts.method, hparams, labels)
    register_adapter(hparams["checkpointer"], model, description)
    brain = AudioBrain(model, parts.method, parts.optimizer, parts.lr, hparams, run_opts, hparams["checkpointer"])

    train_set, train_loader = training_batches(
        datasets["train"], hparams["batch_size"], hparams["batch_seconds"], hparams["sorting"], seed
    )
    workers = {"num_workers": hparams["num_workers"]}
    loaders = {"batch_size": hparams["batch_size"], **workers}
    before = observe(brain, datasets["test"], loaders)
    brain.fit(
        hparams["epoch_counter"],
        train_set,
        datasets["valid"],
        train_loader_kwargs={**train_loader, **workers},
        valid_loader_kwargs=loaders,
    )
    tested = brain.test_epochs(datasets["test"], "last" if paper_code else "best", loaders)

    after = observe(brain, datasets["test"], loaders)
    results = None
    if if_main_process():
        results = collect_results(brain, hparams, clips, labels, tested)
        save_adapter(model, hparams["output_folder"], description)
        write_predictions(brain, clips, labels, hparams["output_folder"])
        write_observations(before, after, labels, hparams["output_folder"])
        write_json(results, f"{hparams['output_folder']}/results.json")
        print(summary(results, hparams["output_folder"]))
    ddp_barrier()  # until all have read the checkpoints, which --debug removes
    return results


if __name__ == "__main__":
    sys.exit(run_command(main))
