"""Sound to pre-train on, as FLAC files: spoken words, synthetic events, free recordings."""

import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from brainplug.errors import ConfigError, DataError
from brainplug.files import read_json, replace, write_json
from brainplug.synthetic.espeak import espeak_version
from brainplug.synthetic.sound.clips import Plan, is_sound, make_chunks, make_clip, plan_corpus
from brainplug.synthetic.sound.events import SAMPLE_RATE
from brainplug.synthetic.sound.recordings import known_packages
from brainplug.synthetic.sound.words import RELATIVES, voices
from brainplug.synthetic.spoken import TEST_VOICES, VALID_VOICES

logger = logging.getLogger(__name__)

INDEX_NAME, PHONES_NAME = "sound.json", "phones.json"
# Words of a clip, which one voice speaks. With few made-up words, the sounds of a word predict those of its neighbours.
WORDS = {"known": (5, 8), "made_up": (0, 1)}
VERSION = 2  # of the content of clips


def render(
    folder: str,
    spoken_clips: int,
    event_clips: int,
    recordings_folder: str = "/",
    seed: int = 1000,
    recordings: int | None = None,
) -> dict[str, Any]:
    """Makes sound and writes it below a folder, unless it is there: ``{word,event,file}/NNNNN.flac``.

    ``phones.json`` has for each spoken clip its words, and the second at which each phone begins; a pause is a phone
    without a name. ``sound.json``, which is returned, describes the rest. Clips last as long as their content, 4 s at
    most.

    Arguments
    ---------
    folder : str
        It appears when it is complete.
    spoken_clips, event_clips, recordings_folder, recordings : int, int, str, int
        As in `plan_corpus`.
    seed : int
        Of every draw.
    """
    settings = {
        "spoken_clips": spoken_clips, "event_clips": event_clips, "recordings_folder": recordings_folder,
        "seed": seed, "recordings": recordings, "version": VERSION,
    }  # fmt: skip
    if made := _existing_index(folder, settings):
        return made
    plans, missing = plan_corpus(spoken_clips, event_clips, recordings_folder, seed, recordings, **WORDS)
    if missing:
        logger.warning("packages of free recordings that are not installed: %s", ", ".join(missing))
    if not plans:
        raise ConfigError(
            f"Sound was asked for in {folder}.",
            f"Nothing is to be spoken or synthesised, and {recordings_folder} holds no recording that is known.",
            "Write --spoken_clips=1000, for one",
        )
    unfinished = Path(f"{os.path.abspath(folder)}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for kind in {plan.kind for plan in plans}:
        (unfinished / kind).mkdir(parents=True)
    clips: dict[str, dict[str, Any]] = {}
    for _, written in make_chunks(_render_chunk, plans, seed, unfinished):
        clips.update(written)
    spoken = {path: clip for path, clip in clips.items() if path.startswith("word/")}
    made = {
        "settings": settings,
        "clips": Counter(path.split("/")[0] for path in clips),
        "left_out": len(plans) - len(clips),  # unreadable, nearly empty or not finite
        "hours": round(sum(clip["seconds"] for clip in clips.values()) / 3600, 3),
        "espeak_ng": espeak_version() if spoken_clips else None,
        "voices": voices(),
        "voices_not_heard": sorted({*TEST_VOICES, *VALID_VOICES, *RELATIVES}),
        "packages": _packages(plans, recordings_folder),
        "missing_packages": missing,
    }
    (unfinished / PHONES_NAME).write_text(json.dumps(spoken))
    write_json(made, unfinished / INDEX_NAME)
    replace(unfinished, folder)
    return made


def _existing_index(folder: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The index of a folder that was made with these settings; None if it does not exist yet."""
    asked = f"Sound was asked for in {folder}."
    index = Path(folder, INDEX_NAME)
    if index.is_file():
        made = read_json(index, ["settings"])
        if made["settings"] == settings:
            return made
        raise DataError(asked, f"It was made with other settings: {made['settings']}.", "Write another folder")
    if Path(folder).exists() and not (Path(folder).is_dir() and not any(Path(folder).iterdir())):
        raise DataError(asked, f"Something else is there, and no {INDEX_NAME}.", "Write another folder")
    return None


def _render_chunk(plans: list[Plan], seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Writes clips; returns the seconds, words and phones of each by its path, without those that are no sound."""
    torch.set_num_threads(1)
    clips = {}
    for plan in plans:
        waveform, phones = make_clip(plan, np.random.default_rng([seed, plan.number]), padded_share=0, noisy_share=0)
        if not is_sound(waveform):
            continue
        path, seconds = f"{plan.kind}/{plan.number:05d}.flac", len(waveform) / SAMPLE_RATE
        soundfile.write(folder / path, waveform, SAMPLE_RATE, subtype="PCM_16")
        starts = [(round(start, 4), name) for start, name in phones if start < seconds]
        clips[path] = {"seconds": seconds, "words": plan.what, "phones": starts}
    return clips


def _packages(plans: list[Plan], recordings_folder: str) -> dict[str, str]:
    """The packages that the recordings are from, with their licences."""
    paths = {plan.what[0] for plan in plans if plan.kind == "file"}
    return {
        name: about["licence"]
        for name, about in known_packages().items()
        if any(Path(path).is_relative_to(Path(recordings_folder, about["folder"])) for path in paths)
    }
