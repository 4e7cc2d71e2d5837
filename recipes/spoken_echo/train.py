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
from speechbrain.utils.distributed import ddp_barrier, ddp_init_group, if_main_process

from brainplug.adapters.file import register_adapter, save_adapter
from brainplug.config.recipe import Experiment, choose, load_experiment, parse_arguments, run_command
from brainplug.data.characters import Characters, choose_characters
from brainplug.data.transcripts import set_aside
from brainplug.files import write_json
from brainplug.models.decoding import check_decoding
from brainplug.models.echo_recognizer import (
    ECHO_FOLDER,
    EchoBrain,
    EchoRecognizer,
    check_texts_fit,
    load_echo,
    parts_of,
    save_echo,
    why_too_long,
)
from brainplug.tasks.components import choose_parts
from brainplug.tasks.recognition import begin_run, make_run_datasets, train_and_test
from brainplug.tasks.recognition_results import collect_results, describe_recogniser, summary, write_transcripts

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
    begin = partial(begin_run, experiment, choose("dataset", hparams))
    listed = begin() if hparams["characters"] is None else None  # the training transcripts say which there are
    characters = choose_characters(None, listed) if listed else Characters(hparams["characters"])
    echo, backbone = load_echo(hparams["backbone"], hparams["backbone_revision"], hparams["model"], characters)
    parts = choose_parts(hparams, lambda *_, **__: backbone)
    hparams["augment"] = parts.augment
    model = EchoRecognizer(backbone, parts.method, echo, characters, hparams["gradient_checkpointing"])

    listed = listed or begin()
    choose_characters(characters.symbols, listed)  # they are all that occur
    clips, skipped = set_aside(listed, partial(why_too_long, backbone))
    check_texts_fit([clip.text for clip in clips], echo.config.n_text_ctx)
    datasets = make_run_datasets(hparams, parts, characters, clips, skipped)

    description = {**describe_recogniser(model, hparams, characters), "recogniser": "echo"}
    register_adapter(hparams["checkpointer"], model, description)
    brain = EchoBrain(
        characters,
        *(model, parts.method, parts.optimizer, parts.lr, hparams, experiment.run_opts, hparams["checkpointer"]),
    )
    tested = train_and_test(brain, hparams, datasets)

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
