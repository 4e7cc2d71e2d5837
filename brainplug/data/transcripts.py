"""Transcribed clips: which of them can be used, and what SpeechBrain reads of them."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial

import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from brainplug.data.characters import Characters, choose_characters, normal_text
from brainplug.data.manifest import Clip, write_table
from brainplug.data.pipeline import make_datasets
from brainplug.data.protocol.splits import SPLITS
from brainplug.errors import DataError


def list_transcribed(list_clips: Callable[..., list[Clip]], symbols: str | None, **arguments: object) -> list[Clip]:
    """Lists the clips of a corpus with normalised transcripts that can be written with `symbols`.

    `symbols` is as in `choose_characters`; `arguments` are those of `list_clips`.
    """
    clips = [dataclasses.replace(clip, text=normal_text(clip.text)) for clip in list_clips(**arguments)]
    if not any(clip.text for clip in clips):
        raise DataError(
            "Transcripts were asked for.",
            f"None of the {len(clips)} clips has a text.",
            "Name data with a column text, such as --dataset=spoken",
        )
    choose_characters(symbols, clips)
    return clips


def usable_clips(
    clips: Sequence[Clip], characters: Characters, count_tokens: Callable[[int], int], sample_rate: int
) -> tuple[list[Clip], list[tuple[Clip, str]]]:
    """The clips to use, and the others with reasons: no transcript, or a training clip too short for it.

    CTC writes at most one character a token, and puts a blank between two that are equal. Clips that are only tested
    may be too short: what is missing counts as an error. `count_tokens` says how many tokens the backbone makes of so
    many samples.

    Example
    -------
    >>> clips = [Clip(split, "", "", split, duration=1.0, text="no") for split in SPLITS]
    >>> short = Clip("short", "", "", "train", duration=1.0, text="noon")
    >>> usable, skipped = usable_clips([*clips, short], Characters("no"), lambda samples: 4, 16000)
    >>> len(usable), skipped[0][1]
    (3, 'needs 5 tokens, has 4')
    """

    def too_short(clip: Clip) -> str | None:
        needed = _tokens_needed(characters.encode(clip.text))
        actual = count_tokens(int((clip.duration or 0.0) * sample_rate))
        return f"needs {needed} tokens, has {actual}" if clip.split == "train" and actual < needed else None

    return set_aside(clips, too_short)


def set_aside(
    clips: Sequence[Clip], why_not: Callable[[Clip], str | None] = lambda clip: None
) -> tuple[list[Clip], list[tuple[Clip, str]]]:
    """The clips to use, and the others with reasons: no transcript, or what `why_not` returns.

    A `DataError` is raised if a split would be empty.

    Example
    -------
    >>> clips = [Clip(split, "", "", split, text="no") for split in SPLITS]
    >>> usable, skipped = set_aside([*clips, Clip("silent", "", "", "train", text="")])
    >>> [clip.id for clip, _ in skipped]
    ['silent']
    """
    reasons = [why_not(clip) if clip.text else "has an empty transcript" for clip in clips]
    skipped = [(clip, reason) for clip, reason in zip(clips, reasons, strict=True) if reason]
    usable = [clip for clip, reason in zip(clips, reasons, strict=True) if not reason]
    for split in SPLITS:
        if not any(clip.split == split for clip in usable):
            reasons_of_split = [f"{clip.id!r} {reason}" for clip, reason in skipped if clip.split == split]
            raise DataError(
                f"Transcribed clips of the split {split} were asked for.",
                f"None can be used: {'; '.join(reasons_of_split[:3]) or 'there is none'}.",
                "Write longer clips or shorter transcripts",
            )
    return usable, skipped


def _tokens_needed(numbers: Sequence[int]) -> int:
    return len(numbers) + sum(one == next_one for one, next_one in zip(numbers, numbers[1:], strict=False))


def write_skipped(skipped: Sequence[tuple[Clip, str]], path: str) -> None:
    """Lists the clips that were set aside in a CSV file, which is removed if there are none."""
    if skipped:
        write_table(path, ["id", "path", "reason"], [(clip.id, clip.path, reason) for clip, reason in skipped])
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def make_transcribed_datasets(
    clips: Sequence[Clip], characters: Characters, read: Callable[[Clip], torch.Tensor]
) -> dict[str, DynamicItemDataset]:
    """Makes one dataset for each split, with the items ``id``, ``signal``, ``text``, ``characters`` ``[characters]``.

    Example
    -------
    >>> clip = Clip("a", "a.wav", "", "train", text="no")
    >>> make_transcribed_datasets([clip], Characters("no"), lambda clip: torch.zeros(3))["train"][0]["characters"]
    tensor([1, 2])
    """
    datasets = make_datasets(clips, {clip.label: 0 for clip in clips}, read)
    for dataset in datasets.values():
        dataset.add_dynamic_item(_text, takes=["clip"], provides="text")
        dataset.add_dynamic_item(partial(_numbers, characters), takes=["text"], provides="characters")
        dataset.set_output_keys(["id", "signal", "text", "characters"])
    return datasets


def _text(clip: Clip) -> str:
    return clip.text


def _numbers(characters: Characters, text: str) -> torch.Tensor:
    return torch.tensor(characters.encode(text))
