#!/usr/bin/env python3
"""Fine-tunes a backbone of the wav2vec 2.0 family to write down what is said, character by character (CTC).

python recipes/spoken_ctc/train.py recipes/spoken_ctc/hparams/train.yaml
python recipes/spoken_ctc/train.py recipes/spoken_ctc/hparams/train.yaml --backbone=hubert --method=lora --decoding=beam
python recipes/spoken_ctc/train.py recipes/LibriSpeech_ctc/hparams/train.yaml --data_folder=LibriSpeech
"""

import sys

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
from speechbrain.utils.distributed import ddp_barrier, ddp_init_group, if_main_process

from brainplug.adapters.file import register_adapter, save_adapter
from brainplug.config.recipe import Experiment, load_experiment, parse_arguments, run_command
from brainplug.data.characters import choose_characters
from brainplug.data.transcripts import usable_clips
from brainplug.files import write_json
from brainplug.models.ctc import CTCModel, load_waveform_backbone
from brainplug.models.decoding import check_decoding
from brainplug.tasks.components import choose_parts
from brainplug.tasks.recognition import begin_run, make_run_datasets, train_and_test
from brainplug.tasks.recognition_results import collect_results, describe_recogniser, summary, write_transcripts
from brainplug.training.recognition import CTCBrain

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

    listed = begin_run(experiment, parts.list_clips)
    characters = choose_characters(hparams["characters"], listed)
    clips, skipped = usable_clips(listed, characters, backbone.count_tokens, backbone.sample_rate)
    datasets = make_run_datasets(hparams, parts, characters, clips, skipped)

    model = CTCModel(
        backbone,
        parts.method,
        len(characters),
        hparams["masks"],
        hparams["layerdrop"],
        hparams["gradient_checkpointing"],
    )
    description = describe_recogniser(model, hparams, characters)
    register_adapter(hparams["checkpointer"], model, description)
    brain = CTCBrain(
        characters,
        *(model, parts.method, parts.optimizer, parts.lr, hparams, experiment.run_opts, hparams["checkpointer"]),
    )
    tested = train_and_test(brain, hparams, datasets)

    if if_main_process():
        results = collect_results(brain, hparams, clips, len(skipped), tested)
        save_adapter(model, folder, description)
        write_transcripts(brain, clips, folder)
        write_json(results, f"{folder}/results.json")
        print(summary(results, folder))
    ddp_barrier()  # until all have read the checkpoints, which --debug removes


if __name__ == "__main__":
    sys.exit(run_command(main))
