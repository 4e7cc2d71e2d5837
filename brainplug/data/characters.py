"""The characters that a recogniser can write, and their numbers."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from brainplug.data.manifest import Clip
from brainplug.errors import DataError

BLANK = 0  # CTC's symbol for "nothing new"


@dataclass(frozen=True)
class Characters:
    """A vocabulary of characters; the number of the blank is 0, the first character's 1.

    Example
    -------
    >>> characters = Characters("abc ")
    >>> characters.encode("a cab")
    [1, 4, 3, 1, 2]
    >>> characters.decode(characters.encode("a cab"))
    'a cab'
    """

    symbols: str

    def __post_init__(self) -> None:
        twice = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
        if twice or not self.symbols:
            problem = f"{', '.join(map(repr, twice))} occurs twice." if twice else "There is none."
            raise DataError(f"The characters {self.symbols!r} were asked for.", problem, "Write each character once")

    def __len__(self) -> int:
        return len(self.symbols) + 1  # the blank

    @property
    def names(self) -> list[str]:
        """All symbols in the order of their numbers; the blank's is empty."""
        return ["", *self.symbols]

    def encode(self, text: str) -> list[int]:
        """The numbers of the characters of a text, which are all in the vocabulary."""
        return [self.symbols.index(symbol) + 1 for symbol in text]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of numbers without blanks."""
        return "".join(self.symbols[number - 1] for number in numbers)


def normal_text(text: str) -> str:
    r"""Writes a text as all transcripts are compared: lower case, one space between words, composed characters.

    Example
    -------
    >>> normal_text("  TURN it\toff ")
    'turn it off'
    """
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())


def choose_characters(symbols: str | None, clips: Sequence[Clip]) -> Characters:
    """Makes the vocabulary of a run: `symbols`, or the characters of the training transcripts.

    A `DataError` names the characters of normalised transcripts that are not in it, with their clips.

    Example
    -------
    >>> choose_characters(None, [Clip("a", "a.wav", "", "train", text="no no")]).symbols
    ' no'
    """
    of_training = sorted({symbol for clip in clips if clip.split == "train" for symbol in clip.text})
    characters = Characters("".join(of_training) if symbols is None else str(symbols))
    strangers = defaultdict(list)
    for clip in clips:
        for symbol in sorted(set(clip.text) - set(characters.symbols)):
            strangers[symbol].append(clip.id)
    if strangers:
        named = "; ".join(f"{symbol!r} in {len(ids)}, first {ids[0]!r}" for symbol, ids in sorted(strangers.items()))
        raise DataError(
            f"Transcripts in the characters {characters.symbols!r} were asked for.",
            f"Others occur in clips: {named}.",
            "Write --characters= with all of them, or change the transcripts",
        )
    return characters
