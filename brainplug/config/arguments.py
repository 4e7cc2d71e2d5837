"""The command line of a recipe: its file, SpeechBrain's run options, and what it changes."""

import argparse
import json
from collections.abc import Callable, Sequence

import ruamel.yaml
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import RunOptions

from brainplug.config.recipe import LOADING_ERRORS, recipe_nodes, text_keys_of
from brainplug.config.schema import Settings
from brainplug.config.trust import check_trusted
from brainplug.errors import ConfigError
from brainplug.files import find_recipe


def parse_arguments(
    arguments: Sequence[str], schemas: Callable[[str], Sequence[type[Settings]]] = lambda file: ()
) -> tuple[str, RunOptions, dict[str, object]]:
    """Parses a command line as `speechbrain.parse_arguments` does, but takes no abbreviations, and text as it is.

    It returns the recipe's file (see `find_recipe`), SpeechBrain's run options, and the overrides. `schemas` gives
    those of the recipe's file, which say what is text: ``--characters=012`` is no number then. Paths always are text.

    Example
    -------
    >>> parse_arguments(["train.yaml", "--optimizer=adamw", "--seed=2"])[2]
    {'optimizer': 'adamw', 'seed': 2}
    """
    try:
        file, run_opts, pairs = _Options.from_command_line_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ConfigError(
            f"{' '.join(arguments)} was asked for.",
            f"SpeechBrain's options cannot be read: {error}.",
            "Write one of its values, or leave the option out",
        ) from error
    file = find_recipe(file)
    check_trusted(file, dict(pairs))
    try:
        nodes = recipe_nodes(file)
    except LOADING_ERRORS:  # which is refused when it is loaded
        nodes = {}
    texts = text_keys_of(nodes, dict(pairs), schemas(file))
    lines = [f"{key}: {_as_text(value) if key in texts else value}" for key, value in pairs]
    try:
        overrides = ruamel.yaml.YAML().load("\n".join(lines))
    except YAMLError as error:
        raise ConfigError(
            f"{' '.join(arguments)} was asked for.",
            f"The options cannot be loaded: {' '.join(str(error).split())}.",
            "Write each key once, and its value as in YAML",
        ) from error
    return file, run_opts, dict(overrides or {})


def _as_text(value: str) -> str:
    """Quotes a text: in YAML 2024 would be a number, and what follows a # a comment."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if value == "null" or value.startswith("!ref") or is_quoted:
        return value
    return json.dumps(value, ensure_ascii=False)


class _Options(RunOptions):  # type: ignore[misc]  # SpeechBrain has no types
    """SpeechBrain's run options under their whole names: --optimizer is not short for --optimizer_step_limit."""

    @staticmethod
    def _create_parser() -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = RunOptions._create_parser()
        parser.allow_abbrev = parser.exit_on_error = False
        return parser

    @staticmethod
    def _convert_to_yaml(overrides: Sequence[str]) -> list[tuple[str, str]]:
        """Keys and values of ``--key=value`` or ``--key value``; SpeechBrain's own takes the = out of a value."""
        pairs: list[tuple[str, list[str]]] = []
        takes_value = False
        for word in overrides:
            key, equals, value = word.partition("=")
            if word.startswith("--"):
                pairs.append((key.removeprefix("--"), [value] if equals else []))
                takes_value = not equals
            elif takes_value:
                pairs[-1][1].append(word)
            else:
                raise ConfigError(
                    f"{word!r} was asked for, after the recipe.",
                    "It is no option.",
                    "Write --key=value, in quotes where the value has spaces",
                )
        return [(key, " ".join(words)) for key, words in pairs]


def flags_without_value() -> set[str]:
    """Names of SpeechBrain's run options that are switches, such as ``debug``."""
    return {action.dest for action in _Options._create_parser()._actions if action.nargs == 0}
