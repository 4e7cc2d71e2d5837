"""brainplug table: runs all cells of a table, or continues it, and writes the table."""

import argparse

from brainplug.files import find_recipe
from brainplug.sweep import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    command.add_arguments(parser)
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> int:
    """Runs the table; returns 1 if a cell is broken, 130 if the command was interrupted."""
    options.table = find_recipe(options.table)
    return command.run_table(options, options.overrides)
