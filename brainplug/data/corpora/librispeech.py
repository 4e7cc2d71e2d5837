"""LibriSpeech: read English speech with transcripts, from audio books.

Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015,
https://www.openslr.org/12
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from brainplug.data.corpora.layout import check_layout, readable
from brainplug.data.manifest import Clip
from brainplug.errors import DataError

LABEL = "speech"  # of every clip: nothing is classified


def list_clips(
    data_folder: str,
    train: Sequence[str] = ("train-clean-100",),
    valid: Sequence[str] = ("dev-clean",),
    test: Sequence[str] = ("test-clean",),
    **_: object,
) -> list[Clip]:
    """Lists the transcribed utterances of some parts, by part, speaker and chapter; the group is the speaker.

    Arguments
    ---------
    data_folder : str
        The folder ``LibriSpeech``, with ``PART/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`` and, beside these,
        ``SPEAKER-CHAPTER.trans.txt``.
    train, valid, test : Sequence[str]
        Parts that train, validate and test.
    """
    parts = {"train": train, "valid": valid, "test": test}
    folder = check_layout("LibriSpeech", data_folder, [f"{part}/" for names in parts.values() for part in names])
    return [clip for split, names in parts.items() for part in names for clip in _utterances(folder / part, split)]


def _utterances(part: Path, split: str) -> Iterator[Clip]:
    with readable(part):
        chapters = sorted(part.glob("*/*/*.trans.txt"))
    if not chapters:
        raise DataError(
            f"The transcripts of {part} were asked for.",
            "There is no SPEAKER/CHAPTER/*.trans.txt.",
            "Unpack the part's archive anew",
        )
    for path in chapters:
        with readable(path):
            lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            name, _, text = line.strip().partition(" ")
            if not (name and text):
                problem = f"Line {number} is {line!r}."
                raise DataError(
                    f"The transcripts of {path} were asked for.", problem, "Write: the id, a space, the text"
                )
            speaker = path.parent.parent.name
            yield Clip(name, str(path.with_name(f"{name}.flac")), LABEL, split, group=speaker, text=text)
