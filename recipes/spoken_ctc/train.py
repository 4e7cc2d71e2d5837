#!/usr/bin/env python3
"""Fine-tunes a backbone of the wav2vec 2.0 family to write down what is said, character by character (CTC).

python recipes/spoken_ctc/train.py recipes/spoken_ctc/hparams/train.yaml
python recipes/spoken_ctc/train.py recipes/spoken_ctc/hparams/train.yaml --backbone=hubert --method=lora --decoding=beam
python recipes/spoken_ctc/train.py recipes/LibriSpeech_ctc/hparams/train.yaml --data_folder=LibriSpeech
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
from brainplug.recognition.brain import CTCBrain
from brainplug.recognition.characters import choose_characters
from brainplug.recognition.decoding import check_decoding
from brainplug.recognition.model import CTCModel, load_waveform_backbone
from brainplug.recognition.results import collect_results, describe_recogniser, summary, write_transcripts
from brainplug.recognition.transcripts import (
    list_transcribed,
    make_transcribed_datasets,
    usable_clips,
    write_skipped,
)

# What recipes of classification choose, and recognition does not.
FIXED = {
    "frames": None,
    "positions": "crop",
    "pooling": "ALL",
    "paper_code": False,
    "features_on_device": False,
    "augmentations": {},
    "augment_settings": {},
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
    parts = choose_parts(hparams, load_waveform_backbone)
    backbone = parts.backbone
    hparams["masks"].check_width(backbone.dim)

    claim_output_folder(experiment)
    sb.create_experiment_directory(folder, experiment.recipe_file, experiment.overrides)
    hparams["train_loggers"] = make_loggers(hparams)
    trained = bool(hparams["checkpointer"].list_checkpoints())
    list_clips = partial(list_transcribed, parts.list_clips, hparams["characters"])
    run_on_main(prepare_manifest, kwargs={"list_clips": list_clips, "trained": trained, **hparams["prepare"]})
    listed = read_manifest(f"{hparams['prepare']['manifest_folder']}/manifest.csv")
    characters = choose_characters(hparams["characters"], listed)
    clips, skipped = usable_clips(listed, characters, backbone.count_tokens, backbone.sample_rate)
    run_on_main(write_skipped, args=[skipped, f"{folder}/skipped.csv"])
    cache_folder = hparams["cache_folder"] if hparams["cache_features"] else None
    reader = make_reader(parts.extract, parts.signal_settings, backbone.sample_rate, cache_folder)
    datasets = make_transcribed_datasets(clips, characters, reader)

    model = CTCModel(
        backbone,
        parts.method,
        len(characters),
        hparams["masks"],
        hparams["layerdrop"],
        hparams["gradient_checkpointing"],
    )
    description = describe_recogniser(model, hparams, characters)
    keep_delta(hparams["checkpointer"], model, description)
    brain = CTCBrain(
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
        save_adapter(model, folder, description)
        write_transcripts(brain, clips, folder)
        write_json(results, f"{folder}/results.json")
        print(summary(results, folder))
    ddp_barrier()  # until all have read the checkpoints, which --debug removes


if __name__ == "__main__":
    sys.exit(run_command(main))
