"""The command brainplug, one module a command: it trains models, uses them, and lists what a recipe can name."""

import argparse
import gc
from importlib import import_module
from types import ModuleType

import brainplug
from brainplug.errors import run_command

# Name -> what it does. The module of that name has `add_arguments` and `run`; it is imported if its command is chosen.
COMMANDS = {
    "train": "adapts a backbone to a task, as a recipe describes",
    "predict": "classifies or transcribes files with what a run trained",
    "embed": "turns files into the vectors that a run's classifier reads",
    "export": "writes what a run trained as an ONNX file, which runs without Python",
    "push": "uploads the adapter of a run to the hub",
    "table": "runs all cells of a table, or continues it, and writes the table",
    "report": "shows the results of all runs in a folder: a table, and a page with pictures",
    "doctor": "examines the machine, and a recipe with its data, before a run",
    "methods": "lists the methods and what they train on a backbone",
    "backbones": "lists the backbones that have a short name",
    "optimizers": "lists which parameters an optimiser treats alike, and how",
    "sound": "makes sound to pre-train on: spoken words, events, free recordings",
    "import-peft": "converts an adapter that peft trained on a classifier of transformers",
    "import-petl-ast": "converts the checkpoints and command lines of the published code",
}


def command() -> int:
    """Runs the process's command line; returns the exit code."""
    return run_command(main)


def main(arguments: list[str]) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    name = _main_parser().parse_args(arguments[:1]).command
    module = _import_quickly(module_of(name))
    parser = argparse.ArgumentParser(f"brainplug {name}", description=COMMANDS[name], allow_abbrev=False)
    module.add_arguments(parser)
    options, overrides = parser.parse_known_args(arguments[1:])
    if "overrides" in options:  # the command passes what it does not know to a recipe
        options.overrides = overrides
    elif overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    return int(module.run(options))


def _import_quickly(module: str) -> ModuleType:
    """Imports a module without collecting garbage, since imports leave none and a sixth of their time went there."""
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.enable()
        gc.freeze()


def module_of(name: str) -> str:
    """The name of a command's module."""
    return f"brainplug.cli.{name.replace('-', '_')}"


def _main_parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:17}{purpose}" for name, purpose in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "brainplug",
        usage="brainplug COMMAND ...",
        description=f"Adapts pretrained audio transformers with few parameters.\n\ncommands:\n{commands}",
        epilog="brainplug COMMAND --help explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=brainplug.__version__)
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS, metavar="COMMAND")
    return parser
