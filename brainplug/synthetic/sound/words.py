"""Words and voices of made sound, without those of the spoken corpus's validation and test."""

from pathlib import Path

import numpy as np

from brainplug.synthetic.espeak import Voice, speak_with_phones
from brainplug.synthetic.spoken import TEST_VOICES, VALID_VOICES
from brainplug.synthetic.spoken_phrases import phrase_words

ACCENTS = "en-us en en-gb-scotland en-gb-x-rp en-029 en-gb-x-gbcwmd en-gb-x-gbclan en-us-nyc".split()
# Natural voices; the spoken corpus's validation and test voices, and their near relatives, are taken out below.
VOICES = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Mario Michael Mike Reed adam anika "
    "antonio aunty belinda benjamin boris caleb david ed edward edward2 f1 f2 f3 f4 f5 grandma grandpa gustave ian "
    "iven iven2 iven3 iven4 john linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel mike2 norbert pablo paul "
    "pedro quincy rob robert sandro shelby steph steph2 steph3 travis victor zac"
).split()
RELATIVES = set(  # by name, or by the distance of their log-mels
    "steph2 steph3 mike2 Gene2 iven2 iven3 iven4 Diogo Henrique michel miguel aunty Mike Mario m6 adam benjamin "
    "edward2 john".split()
)
# Syllables of made-up words, as they are spelled.
ONSETS = (
    "b bl br c ch cl d dr f fl fr g gl gr h j k l m n p pl pr qu r s sh sk sl sm sn sp st str sw t th tr v w y z"
).split()
NUCLEI = "a a ai ar e e ea ee er i i ie ir o o oa oi oo or ou u u".split()
# A syllable is often open.
CODAS = 6 * [""] + "b ck d f g l ll m mp n nd ng nk nt p r s sh sk st t ts v x z".split()  # codespell:ignore nd
MADE_UP = 6000  # made-up words: phones beside other neighbours than in the vocabulary


def voices() -> list[str]:
    """The espeak-ng voice variants that may speak: none of the spoken corpus's validation and test voices."""
    barred = {*TEST_VOICES, *VALID_VOICES, *RELATIVES}
    return [voice for voice in VOICES if voice not in barred]


def vocabulary() -> list[str]:
    """The words that may be spoken, sorted: none of the spoken corpus's phrases."""
    return sorted(set(Path(__file__).with_name("words.txt").read_text().split()) - phrase_words())


def made_up_words(count: int, draw: np.random.Generator) -> list[str]:
    """Makes up words of one to three syllables, none spelled or sounding like one of the spoken corpus.

    Example
    -------
    >>> words = made_up_words(20, np.random.default_rng(0))
    >>> len(words), all(word.isalpha() for word in words)
    (20, True)
    """
    barred = phrase_words()
    barred_sounds = {_sound(word) for word in barred}
    words: list[str] = []
    while len(words) < count:
        syllables = draw.integers(1, 4)
        word = "".join(str(draw.choice(part)) for _ in range(syllables) for part in (ONSETS, NUCLEI, CODAS))
        if word not in barred and _sound(word) not in barred_sounds:
            words.append(word)
    return words


def _sound(word: str) -> tuple[str, ...]:
    """The phones of a word in American English."""
    return tuple(phone_name(name) for _, name in speak_with_phones(word, Voice(voices()[0]))[1] if phone_name(name))


def phone_name(name: str) -> str:
    """A phone of espeak-ng without its stress; empty for a pause.

    Example
    -------
    >>> phone_name("'i:"), phone_name("_:")
    ('i:', '')
    """
    return "" if name.startswith("_") else name.strip("',;")


def phone_names() -> list[str]:
    """All phones that the vocabulary has in any accent, sorted."""
    spoken = (speak_with_phones(word, Voice(voices()[0], accent))[1] for accent in ACCENTS for word in vocabulary())
    return sorted({phone_name(name) for phones in spoken for _, name in phones} - {""})
