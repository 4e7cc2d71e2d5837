"""What python -m brainplug doctor reports, and how it is worded."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from brainplug.errors import UsageError

SHOWN = 5  # of a long list

Made = TypeVar("Made")


@dataclass(frozen=True)
class Finding:
    r"""One line of what python -m brainplug doctor reports.

    Arguments
    ---------
    level : str
        ``ok``, ``warning`` or ``error``; empty for a heading or a table, which judge nothing.
    text : str
        What was found, and at its end what to do about it.

    Example
    -------
    >>> print(Finding("ok", "2 cores"), Finding("warning", "no GPU"), sep="\n")
    ok       2 cores
    warning  no GPU
    """

    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.text}" if self.level else self.text


def tried(function: Callable[..., Made], *arguments: object, **named: object) -> Generator[Finding, None, Made | None]:
    """Calls a function, and makes a finding of what it refuses.

    Arguments
    ---------
    function : Callable
        Raises a `UsageError` where the user can mend something.
    *arguments, **named : object
        Its arguments.

    Yields
    ------
    Finding
        The error, if there is one.

    Returns
    -------
    Made | None
        What the function returns; None after an error.

    Example
    -------
    >>> [finding.level for finding in tried(open, "nowhere")]
    ['error']
    """
    try:
        return function(*arguments, **named)
    except (UsageError, OSError) as error:
        yield Finding("error", " ".join(str(error).split()))


def counted(count: int, thing: str) -> str:
    """Writes a number of things.

    Arguments
    ---------
    count : int
        How many.
    thing : str
        One of them.

    Returns
    -------
    str
        In the singular or the plural.

    Example
    -------
    >>> counted(1, "clip"), counted(2000, "clip")
    ('1 clip', '2,000 clips')
    """
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def listed(names: Sequence[object]) -> str:
    """Writes names one after the other, of many the first ones.

    Arguments
    ---------
    names : Sequence[object]
        What is listed.

    Returns
    -------
    str
        Separated by commas.

    Example
    -------
    >>> listed(range(7))
    '0, 1, 2, 3, 4 and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def size(count: int) -> str:
    """Writes a number of bytes for people.

    Arguments
    ---------
    count : int
        Bytes.

    Returns
    -------
    str
        In megabytes or gigabytes.

    Example
    -------
    >>> size(1_600_000_000), size(45_300_000)
    ('1.6 GB', '45 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
