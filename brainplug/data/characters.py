"""The characters that a recogniser can write, and their numbers."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from brainplug.data.manifest import Clip
from brainplug.errors import UsageError

BLANK = 0  # CTC's symbol for "nothing new"


@dataclass(frozen=True)
class Characters:
    """A vocabulary of characters; the number of the blank is 0, the first character's 1.

    Arguments
    ---------
    symbols : str
        The characters in order.

    Raises
    ------
    UsageError
        There is none, or one occurs twice.

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
            found = f"{', '.join(map(repr, twice))} occurs twice." if twice else "There is none."
            raise UsageError(f"The characters {self.symbols!r} were asked for.", found, "Write each character once")

    def __len__(self) -> int:
        return len(self.symbols) + 1  # the blank

    @property
    def names(self) -> list[str]:
        """All symbols in the order of their numbers; the blank's is empty."""
        return ["", *self.symbols]

    def encode(self, text: str) -> list[int]:
        """Numbers the characters of a text.

        Arguments
        ---------
        text : str
            Has none but these characters.

        Returns
        -------
        list[int]
            One number a character.
        """
        return [self.symbols.index(symbol) + 1 for symbol in text]

    def decode(self, numbers: Iterable[int]) -> str:
        """Writes down what `encode` numbered.

        Arguments
        ---------
        numbers : Iterable[int]
            Without blanks.

        Returns
        -------
        str
            The text.
        """
        return "".join(self.symbols[number - 1] for number in numbers)


def normal_text(text: str) -> str:
    r"""Writes a text as all transcripts are compared: lower case, one space between words, composed characters.

    Arguments
    ---------
    text : str
        Any.

    Returns
    -------
    str
        The text.

    Example
    -------
    >>> normal_text("  TURN it\toff ")
    'turn it off'
    """
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())


def choose_characters(symbols: str | None, clips: Sequence[Clip]) -> Characters:
    """Makes the vocabulary of a run, and makes sure that every transcript can be written with it.

    Arguments
    ---------
    symbols : str, optional
        The characters; those of the training transcripts by default.
    clips : Sequence[Clip]
        All clips, with normalised texts.

    Returns
    -------
    Characters
        The vocabulary.

    Raises
    ------
    UsageError
        A transcript has other characters; they are named, with their clips.

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
        raise UsageError(
            f"Transcripts in the characters {characters.symbols!r} were asked for.",
            f"Others occur in clips: {named}.",
            "Write --characters= with all of them, or change the transcripts",
        )
    return characters
