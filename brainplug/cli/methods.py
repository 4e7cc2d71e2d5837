"""brainplug methods: lists the methods and what they train on a backbone, without any weight."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

from transformers import PreTrainedConfig

from brainplug.backbones import base_name, known_config
from brainplug.config.recipe import load_entries
from brainplug.config.trust import check_trusted
from brainplug.errors import ConfigError, UsageError
from brainplug.files import hparams_folder
from brainplug.methods import Method, choose_method
from brainplug.methods.peft_method import PeftMethod
from brainplug.methods.registry import MethodEntry, Settings
from brainplug.models.classifier import classifier_without_weights
from brainplug.results.documents import METHODS_MARKS, write_between_marks
from brainplug.results.tables import markdown_table

COLUMNS = ("method", "trainable", "without head", "share", "learning rate", "settings")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--write", metavar="DOCUMENT", help="also writes the table into a document, between marks")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that describe a model."""
    parser.add_argument("--backbone", default="nano-ast")
    parser.add_argument("--hparams", default=str(hparams_folder()), help="the folder with methods.yaml")
    parser.add_argument("--n_classes", type=positive, default=50)
    parser.add_argument("--trust", action="store_true", help="runs what that folder names, whoever wrote it")


def check_hparams(options: argparse.Namespace) -> None:
    """Refuses a stranger's folder, unless it is trusted."""
    for path in [] if options.trust else sorted(Path(options.hparams).glob("*.yaml")):
        check_trusted(str(path))


def positive(text: str) -> int:
    """A number of things that are there."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def run(options: argparse.Namespace) -> int:
    """Prints the table."""
    check_hparams(options)
    table = list_methods(options.hparams, options.backbone, options.n_classes)
    print(table, flush=True)
    if options.write:
        write_between_marks(table, options.write, METHODS_MARKS)
    return 0


def read_methods(folder: str, backbone: str) -> tuple[dict[str, MethodEntry], dict[str, Settings]]:
    """Reads the entries of ``methods.yaml`` and what ``backbones.yaml`` changes in them for a backbone.

    Example
    -------
    >>> methods, changes = read_methods("hparams", "nano-ast")
    >>> changes.keys() <= methods.keys()
    True
    """
    methods, backbones = read_blocks(folder, ("methods.yaml", "backbones.yaml"))
    return methods, backbones.get(base_name(backbone)) or {}


def read_blocks(folder: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Loads YAML files of a folder."""
    try:
        return [load_entries(str(Path(folder, name))) for name in names]
    except OSError as error:
        raise ConfigError(
            f"The settings in the folder {folder!r} were asked for.", f"They cannot be read: {error}.",
            f"Write --hparams=FOLDER, one with {' and '.join(names)}",
        ) from error  # fmt: skip


def list_methods(folder: str, backbone: str, n_classes: int) -> str:
    """A Markdown table with one row for each method in ``methods.yaml``, on one backbone.

    Only the backbone's configuration is read. The row of a method that does not support it has the reason.

    Example
    -------
    >>> "| linear " in list_methods("hparams", "ast", n_classes=50)
    True
    """
    methods, changes = read_methods(folder, backbone)
    config, rows = known_config(backbone), []
    for name, entry in methods.items():
        method, lr = choose_method(name, methods, changes)
        given = {**getattr(entry["settings"], "keywords", {}), **(changes.get(name) or {})}
        counts = count_on_meta(config, method, n_classes)
        if isinstance(counts, str):
            rows.append((name, "-", "-", "-", f"{lr:g}", f"-: {counts}"))
            continue
        trainable, without_head, total = counts.values()
        numbers = f"{trainable:,}", f"{without_head:,}", f"{trainable / total:.2%}", f"{lr:g}"
        rows.append((name, *numbers, describe_settings(method, given)))
    return markdown_table(COLUMNS, rows)


def describe_settings(method: Method, given: Mapping[str, object]) -> str:
    """A method's settings that are not null, as YAML on one line.

    Of a peft configuration, which has dozens of settings, only the `given` ones of the method's entry are shown.

    Example
    -------
    >>> from brainplug.methods.lora import LoRA
    >>> describe_settings(LoRA(rank=6, targets=["query"]), {})
    'rank: 6, alpha: 8, scaling: rank, targets: [query]'
    """
    settings = given if isinstance(method, PeftMethod) else asdict(method)
    shown = {name: value for name, value in settings.items() if value is not None and name != "lr"}
    return ", ".join(f"{name}: {value}" for name, value in shown.items()).replace("'", "")


def count_on_meta(config: PreTrainedConfig, method: Method, n_classes: int) -> dict[str, int] | str:
    """Counts what a method trains, as `AdaptedModel.count_parameters` does, or says why it cannot be used.

    Example
    -------
    >>> from brainplug.methods.linear import LinearProbe
    >>> count_on_meta(known_config("ast"), LinearProbe(), n_classes=2)["trainable_without_head"] == 2 * 768
    True
    """
    try:
        return classifier_without_weights(config, method, n_classes).count_parameters()
    except UsageError as error:
        return " ".join(str(error).split()).replace("|", "\\|")
