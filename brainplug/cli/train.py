"""brainplug train: adapts a backbone to a task, as a recipe describes."""

import argparse
from collections.abc import Sequence

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

from speechbrain.utils.distributed import ddp_init_group

from brainplug.config.lock import hold_folder
from brainplug.files import hparams_folder
from brainplug.tasks import load_recipe, read_arguments, task_of
from brainplug.tasks.runs import separate_runs, summary_of_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "%(prog)s [RECIPE] [--key=value ...] [run options of SpeechBrain]"
    parser.epilog = (
        "RECIPE is a YAML, by default the packaged hparams/train.yaml, which explains the keys. "
        "With that default, --data_folder=FOLDER trains on your own clips, one sub-folder a class."
    )
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> int:
    """Does the runs that the command line describes."""
    main(options.overrides)
    return 0


def main(arguments: Sequence[str]) -> None:
    """Does the run that a command line describes, or the runs: one for each fold and draw."""
    file, run_opts, overrides = read_arguments(with_recipe(arguments))
    ddp_init_group(run_opts)
    results = []
    for changes in separate_runs(load_recipe(file, overrides, run_opts, inspect=True), overrides):
        recipe = load_recipe(file, changes, run_opts)
        with hold_folder(recipe.settings.output_folder):
            results.append(task_of(recipe).run(recipe))
    finished = [result for result in results if result is not None]  # the first process has them
    if len(finished) > 1:
        print(summary_of_runs(finished))


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """A command line with a recipe: the packaged hparams/train.yaml where it names none.

    A data folder without a data set holds the user's own clips then.

    Example
    -------
    >>> with_recipe(["--data_folder=clips"])[1:]
    ['--data_folder=clips', '--dataset=own']
    """
    if arguments and not arguments[0].startswith("-"):
        return list(arguments)
    options = {word.partition("=")[0] for word in arguments}
    own = "--data_folder" in options and not options & {"--dataset", "--manifest"}
    return [str(hparams_folder() / "train.yaml"), *arguments, *(["--dataset=own"] if own else [])]
