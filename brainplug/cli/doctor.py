"""brainplug doctor: examines the machine, and a recipe with its data, before a run."""

import argparse

from brainplug.cli.train import with_recipe
from brainplug.doctor import examine, summary
from brainplug.files import find_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "%(prog)s [RECIPE] [--key=value ...] [--full]"
    parser.epilog = (
        "RECIPE and what follows are the arguments of brainplug train. Without any, the machine is examined."
    )
    parser.add_argument("--full", action="store_true", help="decodes all clips, not a sample")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> int:
    """Prints findings as they come; returns 1 if there is an error."""
    findings, arguments = [], with_recipe(options.overrides) if options.overrides else []
    for finding in examine([*map(find_recipe, arguments[:1]), *arguments[1:]], options.full):
        print(finding, flush=True)
        findings.append(finding)
    print(f"\n{summary(findings)}")
    return int(any(finding.level == "error" for finding in findings))
