"""brainplug import-petl-ast: converts the checkpoints and command lines of the published code."""

import argparse
import sys
from pathlib import Path

from brainplug.adapters.description import PACKAGES, ClassifierDescription
from brainplug.adapters.file import save_adapter
from brainplug.compat.petl_ast.checkpoint import HEAD, build_classifier, read_checkpoint
from brainplug.compat.petl_ast.command_line import entry_of, new_command, read_command
from brainplug.config.versions import package_versions
from brainplug.errors import ConfigError, DataError
from brainplug.methods import method_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkpoint", nargs="?", help=".pt, .pth or .safetensors; without it, --flags is translated")
    parser.add_argument("--flags", default="", help='the published command line, as --flags="--method LoRA ..."')
    parser.add_argument("--method", help="the published method, where --flags does not say it")
    parser.add_argument("--pooling", default="ALL", help="final_output of the published YAML")
    parser.add_argument("--out", help="the folder for the adapter")
    parser.add_argument("--labels", help="a file with one class a line, in the order of the head")
    parser.add_argument("--backbone", help="its name here; by default ast or wav2vec2")
    parser.add_argument("--config", help="the backbone's config.json, where its name does not say it")


def run(options: argparse.Namespace) -> int:
    """Writes the adapter, or translates the command line if no checkpoint is given, and prints the outcome."""
    print(import_petl_ast(options))
    return 0


def import_petl_ast(options: argparse.Namespace) -> str:
    """Imports a checkpoint, or translates a command line; returns what to print.

    Raises
    ------
    UsageError
        The flags or the checkpoint cannot be understood, or do not fit each other.
    """
    method = f" --method {options.method}" if options.method else ""
    command = read_command(options.flags + method)
    sys.stderr.writelines(f"warning: {warning}\n" for warning in command.warnings)
    if not options.checkpoint:
        return new_command(command, options.pooling)
    if not options.out:
        asked = f"The import of {options.checkpoint} was asked for."
        raise ConfigError(asked, "No folder for the adapter is named.", "Write --out=FOLDER")
    published = read_checkpoint(options.checkpoint)
    model = build_classifier(
        published, str(command.value("method")), command.model_flags, options.pooling, options.backbone, options.config
    )
    labels = read_labels(options.labels, len(published[HEAD]))
    description = ClassifierDescription(
        backbone=model.backbone.name,
        backbone_revision=model.backbone.revision,
        signal=model.backbone.signal_settings,
        method=entry_of(model.method),
        method_settings=method_settings(model.method),
        versions=package_versions(PACKAGES),
        paper_code=True,
        positions="published",
        pooling=model.pooling,
        labels=labels,
    )
    save_adapter(model, options.out, description)
    outcome = f"{description.method} on {model.backbone.name}, {len(labels)} classes"
    return f"{options.out}: {outcome}, {model.count_parameters()['trainable']:,} trained parameters"


def read_labels(path: str | None, n_classes: int) -> list[str]:
    """The names of the classes, in the order of the head: the lines of a file, or numbers without one.

    Raises
    ------
    DataError
        The file cannot be read, or does not have as many different lines as there are classes.
    """
    if path is None:
        return [*map(str, range(n_classes))]
    asked = f"The labels in {path!r} were asked for."
    try:
        labels = Path(path).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(asked, f"They cannot be read: {error}.", "Name a text file in UTF-8") from error
    different = len(set(labels))
    if not different == len(labels) == n_classes:
        problem = f"It has {len(labels)} lines, {different} of them different; the head has {n_classes} classes."
        raise DataError(asked, problem, "Write one name a line, in the order of the head")
    return labels
