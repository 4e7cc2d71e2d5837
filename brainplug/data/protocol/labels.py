"""Labels that are probably one class: the same to the eye, or but for capitals."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator


def doubtful_labels(labels: Iterable[str]) -> Iterator[str]:
    r"""Says of labels which may be one class, and which may be several in one field.

    Example
    -------
    >>> for line in doubtful_labels(["Dog", "dog", "rain", "wind", "rain,wind"]):
    ...     print(line)
    'Dog' and 'dog' are 2 classes, though they differ in capitals alone
    'rain,wind' is one class, though it joins 'rain' and 'wind'; a clip has one label
    """
    names = sorted(set(labels))
    for of_kind, difference in ((_seen, "in invisible characters alone"), (_folded, "in capitals alone")):
        alike = defaultdict(list)
        for name in names:
            alike[of_kind(name)].append(name)
        for twins in alike.values():
            if len(twins) > 1:
                shown = " and ".join(map(_shown, twins))
                yield f"{shown} are {len(twins)} classes, though they differ {difference}"
        names = [twins[0] for twins in alike.values()]  # what is told once is not told again
    for name in names:
        joined = [part.strip() for part in re.split(r"[,;|/+&]", name)]
        if len(joined) > 1 and set(joined) <= set(names):
            yield f"{name!r} is one class, though it joins {' and '.join(map(repr, joined))}; a clip has one label"


def _seen(label: str) -> str:
    """A label as the eye sees it: letters composed, all kinds of spaces one, no marks without width."""
    composed = unicodedata.normalize("NFC", label)
    visible = "".join(letter for letter in composed if unicodedata.category(letter) != "Cf")
    return " ".join(visible.split())


def _folded(label: str) -> str:
    return _seen(label).casefold()


def _shown(label: str) -> str:
    """A label with its invisible characters as escapes, where it is not what the eye sees."""
    return repr(label) if label == _seen(label) else ascii(label)
