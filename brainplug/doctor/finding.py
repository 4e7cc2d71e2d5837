"""The lines that `brainplug doctor` reports."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from brainplug.errors import UsageError

SHOWN = 5  # of a long list

Made = TypeVar("Made")


@dataclass(frozen=True)
class Finding:
    r"""One line of the report: ``ok``, ``warning``, ``error`` or no level for a heading; the text ends with the remedy.

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


def as_finding(function: Callable[..., Made], *arguments: Any, **named: Any) -> Generator[Finding, None, Made | None]:
    """Calls a function; yields the error of one that refuses as a finding, and returns None then.

    Example
    -------
    >>> [finding.level for finding in as_finding(open, "nowhere")]
    ['error']
    """
    try:
        return function(*arguments, **named)
    except (UsageError, OSError) as error:
        yield Finding("error", " ".join(str(error).split()))
        return None


def counted(count: int, thing: str) -> str:
    """A number of things, in the singular or the plural.

    Example
    -------
    >>> counted(1, "clip"), counted(2000, "clip")
    ('1 clip', '2,000 clips')
    """
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def listed(names: Sequence[object]) -> str:
    """Names separated by commas; of many the first ones.

    Example
    -------
    >>> listed(range(7))
    '0, 1, 2, 3, 4 and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more


def size(count: int) -> str:
    """A number of bytes in megabytes or gigabytes.

    Example
    -------
    >>> size(1_600_000_000), size(45_300_000)
    ('1.6 GB', '45 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
