#!/usr/bin/env python3
"""Trains an Echo to write down what is said, character by character: an encoder hears, a decoder writes.

python recipes/spoken_echo/train.py recipes/spoken_echo/hparams/train.yaml
python recipes/spoken_echo/train.py recipes/spoken_echo/hparams/train.yaml --optimizer=fam --rotation=plain
python recipes/spoken_echo/train.py recipes/spoken_echo/hparams/train.yaml --backbone=FOLDER --method=lora
"""

import sys
from functools import partial

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import speechbrain as sb
from speechbrain.utils.distributed import ddp_barrier, ddp_init_group, if_main_process, run_on_main

from brainplug.adapter_io import keep_delta, save_adapter
from brainplug.data.manifest import read_manifest
from brainplug.data.pipeline import make_reader, training_batches
from brainplug.data.prepare import prepare_manifest
from brainplug.experiment import Experiment, load_experiment, parse_arguments, run_command
from brainplug.files import write_json
from brainplug.loggers import make_loggers
from brainplug.output_folder import claim_output_folder
from brainplug.parts import choose_parts
from brainplug.recognition.characters import Characters, choose_characters
from brainplug.recognition.decoding import check_decoding
from brainplug.recognition.results import collect_results, describe_recogniser, summary, write_transcripts
from brainplug.recognition.sequence import (
    ECHO_FOLDER,
    EchoBrain,
    EchoRecognizer,
    check_texts_fit,
    load_echo,
    parts_of,
    save_echo,
    why_too_long,
)
from brainplug.recognition.transcripts import (
    list_transcribed,
    make_transcribed_datasets,
    set_aside,
    write_skipped,
)

# What recipes of classification choose, and recognition does not.
FIXED = {
    "frames": None,
    "positions": "crop",
    "pooling": "ALL",
    "paper_code": False,
    "features_on_device": False,
    "frozen_updates": 0,
}


def main(arguments: list[str]) -> None:
    """Does the run that a command line asks for.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    recipe_file, run_opts, overrides = parse_arguments(arguments)
    ddp_init_group(run_opts)
    run(load_experiment(recipe_file, run_opts, overrides))


def run(experiment: Experiment) -> None:
    """Does one run.

    Arguments
    ---------
    experiment : Experiment
        The recipe.
    """
    hparams, folder = experiment.hparams, experiment.hparams["output_folder"]
    hparams.update(FIXED)
    check_decoding(hparams["decoding"])
    characters = Characters(hparams["characters"])
    echo, backbone = load_echo(hparams["backbone"], hparams["backbone_revision"], hparams["model"], characters)
    parts = choose_parts(hparams, lambda *_, **__: backbone)
    hparams["augment"] = parts.augment
    model = EchoRecognizer(backbone, parts.method, echo, characters, hparams["gradient_checkpointing"])

    claim_output_folder(experiment)
    sb.create_experiment_directory(folder, experiment.recipe_file, experiment.overrides)
    hparams["train_loggers"] = make_loggers(hparams)
    trained = bool(hparams["checkpointer"].list_checkpoints())
    list_clips = partial(list_transcribed, parts.list_clips, hparams["characters"])
    run_on_main(prepare_manifest, kwargs={"list_clips": list_clips, "trained": trained, **hparams["prepare"]})
    listed = read_manifest(f"{hparams['prepare']['manifest_folder']}/manifest.csv")
    choose_characters(hparams["characters"], listed)
    clips, skipped = set_aside(listed, partial(why_too_long, backbone))
    check_texts_fit([clip.text for clip in clips], echo.config.n_text_ctx)
    run_on_main(write_skipped, args=[skipped, f"{folder}/skipped.csv"])
    cache_folder = hparams["cache_folder"] if hparams["cache_features"] else None
    reader = make_reader(parts.extract, parts.signal_settings, backbone.sample_rate, cache_folder)
    datasets = make_transcribed_datasets(clips, characters, reader)

    description = {**describe_recogniser(model, hparams, characters), "recogniser": "echo"}
    keep_delta(hparams["checkpointer"], model, description)
    brain = EchoBrain(
        characters,
        *(model, parts.method, parts.optimizer, parts.lr, hparams, experiment.run_opts, hparams["checkpointer"]),
    )

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
    tested = brain.test_epochs(datasets["test"], "best", loaders)

    if if_main_process():
        results = collect_results(brain, hparams, clips, len(skipped), tested)
        results |= {"backbone": parts_of(echo.config), "echo": echo.config.to_diff_dict()}
        save_adapter(model, folder, description)
        save_echo(model, f"{folder}/{ECHO_FOLDER}")
        write_transcripts(brain, clips, folder)
        write_json(results, f"{folder}/results.json")
        print(summary(results, folder))
    ddp_barrier()  # until all have read the checkpoints, which --debug removes


if __name__ == "__main__":
    sys.exit(run_command(main))
