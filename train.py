#!/usr/bin/env python3
"""Runs a recipe: adapts a pretrained audio transformer to the task that the YAML names.

python train.py hparams/train.yaml
python train.py hparams/train.yaml --method=lora --backbone=nano-ast --seed=2
python train.py recipes/ESC50/hparams/train.yaml --data_folder=ESC-50-master --fold=all
python train.py recipes/spoken_ctc/hparams/train.yaml --method=lora
"""

import sys
from collections.abc import Sequence

import brainplug.compat.torchaudio  # noqa: F401  before SpeechBrain

# isort: split
from speechbrain.utils.distributed import ddp_init_group, if_main_process

from brainplug.config.recipe import parse_arguments
from brainplug.errors import run_command
from brainplug.tasks import load_recipe, task_of
from brainplug.tasks.runs import separate_runs, summary_of_runs


def main(arguments: Sequence[str]) -> None:
    """Does the run that a command line asks for, or the runs: one for each fold and draw."""
    file, run_opts, overrides = parse_arguments(arguments)
    ddp_init_group(run_opts)
    results = []
    for changes in separate_runs(load_recipe(file, overrides, run_opts, inspect=True), overrides):
        recipe = load_recipe(file, changes, run_opts)
        results.append(task_of(recipe).run(recipe))
    if len(results) > 1 and if_main_process():
        print(summary_of_runs(results))


if __name__ == "__main__":
    sys.exit(run_command(main))
