"""brainplug import-peft: converts an adapter that peft wrote to one of ours, with its head."""

import argparse

from brainplug.adapters.file import save_adapter
from brainplug.adapters.peft_import import import_peft
from brainplug.cli.import_petl_ast import read_labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("adapter", help="a folder with adapter_config.json and adapter_model.safetensors")
    parser.add_argument("--out", required=True, help="the folder for the adapter")
    parser.add_argument("--backbone", help="the model that it was trained on, if it has moved")
    parser.add_argument("--labels", help="a file with one class a line, in the order of the head")


def run(arguments: argparse.Namespace) -> int:
    """Writes the adapter, and prints what it is."""
    model, description = import_peft(arguments.adapter, arguments.backbone)
    if arguments.labels is not None:
        labels = read_labels(arguments.labels, len(description.labels))
        description = description.model_copy(update={"labels": labels})
    save_adapter(model, arguments.out, description)
    trained = model.count_parameters()["trainable"]
    print(f"{arguments.out}: {description.method} on {description.backbone}, {len(description.labels)} classes")
    print(f"{trained:,} trained parameters")
    return 0
