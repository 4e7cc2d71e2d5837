"""brainplug optimizers: lists which parameters an optimiser treats alike, and how."""

import argparse
import re
from typing import Any

import torch

from brainplug.backbones import known_config
from brainplug.cli.methods import add_model_arguments, check_hparams, read_blocks, read_methods
from brainplug.config.recipe import choose
from brainplug.methods import choose_method
from brainplug.models.classifier import classifier_without_weights
from brainplug.optim.entry import as_entry
from brainplug.results.tables import markdown_table

COLUMNS = ("group", "tensors", "parameters", "learning rate", "decay", "alpha", "bands", "handler", "which")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--method", default="conformer")
    parser.add_argument("--optimizer", default="fam")


def run(options: argparse.Namespace) -> int:
    """Prints the table."""
    check_hparams(options)
    print(
        list_optimizer_groups(options.hparams, options.optimizer, options.backbone, options.method, options.n_classes)
    )
    return 0


def list_optimizer_groups(folder: str, optimizer: str, backbone: str, method: str, n_classes: int) -> str:
    """A Markdown table with one row for each group of parameters, of a model without weights.

    Example
    -------
    >>> "| conv " in list_optimizer_groups("hparams", "fam", "nano-ast", "conformer", n_classes=10)
    True
    """
    methods, changes = read_methods(folder, backbone)
    [optimizers] = read_blocks(folder, ("optimizers.yaml",))
    entry = as_entry(choose("optimizer", optimizer, optimizers))
    adaptation, lr = choose_method(method, methods, changes)
    model = classifier_without_weights(known_config(backbone), adaptation, n_classes)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = entry.build(model, lr * entry.lr_scale).param_groups
    return markdown_table(COLUMNS, [_row(group, names) for group in groups])


def _row(group: dict[str, Any], names: dict[torch.nn.Parameter, str]) -> tuple[str, ...]:
    """A group's settings and the names of its parameters, in which * stands for a number."""
    parameters: list[torch.nn.Parameter] = group["params"]
    kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", names[parameter]) for parameter in parameters)
    count = sum(parameter.numel() for parameter in parameters)
    settings = [str(group.get(name, "-")) for name in ("alpha", "n_bands", "handler")]
    numbers = f"{len(parameters)}", f"{count:,}", f"{group['lr']:g}", f"{group['weight_decay']:g}"
    return str(group.get("name", "all")), *numbers, *settings, ", ".join(kinds)
