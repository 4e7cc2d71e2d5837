"""Errors for people: what was asked, what was found, what to write instead."""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence

MANY = 40  # names, more than a message lists


class UsageError(ValueError):
    """A mistake that the user can correct, in three sentences: what was asked, what was found, what to write instead.

    Commands print it without a traceback and exit with code 2.

    Example
    -------
    >>> print(UsageError("The method 'loar' was asked for.", "It does not exist.", "Write --method=lora"))
    The method 'loar' was asked for. It does not exist. Write --method=lora
    """

    def __init__(self, asked: str, found: str, write: str):
        super().__init__(f"{asked} {found} {write}")


class ConfigError(UsageError):
    """A recipe, an option or a setting cannot be used."""


class DataError(UsageError):
    """Audio, a list of clips or a data folder cannot be used."""


class CheckpointError(UsageError):
    """A checkpoint, an adapter or a run's folder cannot be used."""


class Faults:
    """Collects what several steps refuse, so that one message names all of it.

    Example
    -------
    >>> faults = Faults()
    >>> with faults:
    ...     raise ConfigError("--lr=fast was asked for.", "It is no number.", "Write --lr=0.001")
    >>> faults.raise_all()
    Traceback (most recent call last):
    brainplug.errors.ConfigError: --lr=fast was asked for. It is no number. Write --lr=0.001
    """

    def __init__(self) -> None:
        self.errors: list[UsageError] = []

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UsageError):
            self.errors.append(error)
        return isinstance(error, UsageError)

    def raise_all(self) -> None:
        """Raises what was collected, if anything was."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            listed = "\n".join(map(str, self.errors))
            raise ConfigError(
                f"{len(self.errors)} things were asked for that cannot be.\n", listed, "\nCorrect them all"
            )


def nearest(name: object, candidates: Iterable[object]) -> str:
    """Lists the candidates that come nearest to a name, separated by commas; all, or five of many, if none comes near.

    Example
    -------
    >>> nearest("conformr", ["linear", "conformer"])
    'conformer'
    """
    names = sorted(map(str, candidates))
    few = names if len(names) <= MANY else difflib.get_close_matches(str(name), names, n=5, cutoff=0.0)
    return ", ".join(difflib.get_close_matches(str(name), names) or few)


def run_command(main: Callable[[list[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Runs a command, and returns its exit code; an error that the user can correct is printed without a traceback.

    `arguments` are by default those of the process. The code is 2 after a `UsageError`, and that of a closed pipe (141)
    if the reader has gone, as ``head`` does.
    """
    try:
        code = main(list(sys.argv[1:] if arguments is None else arguments)) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 128 + signal.SIGPIPE
    except UsageError as error:
        text = str(error)
    except RuntimeError as error:  # a data loader's worker passes on a UsageError as one, behind its traceback
        _, mark, text = str(error).strip().rpartition("brainplug.errors.")
        kind, colon, text = text.partition(": ")
        if not (mark and colon and kind in ("UsageError", "ConfigError", "DataError", "CheckpointError")):
            raise
    print(f"error: {text}", file=sys.stderr)  # noqa: T201  what a person reads
    return 2
