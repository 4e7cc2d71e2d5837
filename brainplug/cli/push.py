"""brainplug push: uploads the adapter of a run to the hub."""

import argparse

from brainplug.adapters.file import read_adapter
from brainplug.adapters.hub import push_adapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run", help="the output folder of a finished run, or a copy of its adapter")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="made if it does not exist")
    parser.add_argument("--branch", help="made if it does not exist; by default the main one")
    parser.add_argument("--private", action="store_true", help="a new repository can be read by its owner alone")


def run(arguments: argparse.Namespace) -> int:
    """Verifies the files, uploads them, and prints how to use them."""
    read_adapter(arguments.run)
    commit = push_adapter(arguments.run, arguments.repo, arguments.private, arguments.branch)
    print(f"{arguments.repo} has it as {commit}; use it: brainplug predict {arguments.repo}@{commit[:12]} clip.wav")
    return 0
