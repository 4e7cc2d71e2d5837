#!/usr/bin/env python3
"""Runs a recipe: adapts a pretrained audio transformer to the task that the YAML names, as ``brainplug train`` does.

python train.py hparams/train.yaml
python train.py hparams/train.yaml --method=lora --backbone=nano-ast --seed=2
python train.py recipes/ESC50/hparams/train.yaml --data_folder=ESC-50-master --fold=all
python train.py recipes/spoken_ctc/hparams/train.yaml --method=lora
"""

import sys

from brainplug.cli.train import main
from brainplug.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
