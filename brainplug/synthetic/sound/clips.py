"""Clips to pre-train on: spoken words, synthetic events and free recordings, each at its own level and noise.

Every clip is drawn from a generator of its own, seeded by the run's seed and its number.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import soundfile
import torch
import torchaudio
from tqdm import tqdm

from brainplug.synthetic.espeak import Voice, speak_with_phones
from brainplug.synthetic.sound.events import EVENTS, SAMPLE_RATE, draw_event
from brainplug.synthetic.sound.recordings import (
    MOST_PIECES,
    SECONDS,
    find_recordings,
    known_packages,
    label_recordings,
    read_recording,
)
from brainplug.synthetic.sound.words import ACCENTS, MADE_UP, made_up_words, phone_name, vocabulary, voices

PLAYING_RATES = range(19000, 26500, 500)  # Hz that 22,050 are taken for: shorter and longer vocal tracts
SHORTEST = 800  # samples; shorter clips are no sound
T = TypeVar("T")
CHUNK = 250  # clips that one process makes before it ends, so that espeak-ng starts afresh at known clips


@dataclass(frozen=True)
class Plan:
    """The content of a clip: `kind` is word, event or file; `what` the words, event names or the file's path."""

    number: int
    kind: str
    what: tuple[str, ...]
    tags: tuple[str, ...]
    part: int = 0  # which piece of a long recording


def plan_corpus(
    spoken_clips: int,
    event_clips: int,
    recordings_folder: str,
    seed: int,
    recordings: int | None = None,
    known: tuple[int, int] = (1, 2),
    made_up: tuple[int, int] = (0, 2),
) -> tuple[list[Plan], list[str]]:
    """Draws the content of every clip of a corpus, and names the packages of recordings that are missing.

    Arguments
    ---------
    spoken_clips, event_clips : int
        Numbers of clips with spoken words and with synthetic sound events.
    recordings_folder : str
        Where the packages of `packages.yaml` are installed.
    recordings : int, optional
        Number of recordings, which are drawn; by default all. A long one makes several clips.
    known, made_up : tuple[int, int]
        How many words of the vocabulary, and how many made-up ones, a spoken clip has: at least and at most.
    """
    draw = np.random.default_rng(seed)
    words = np.array(vocabulary())
    plans: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    others = np.array(made_up_words(MADE_UP, draw) if spoken_clips else [])
    for _ in range(spoken_clips):
        chosen = draw.choice(words, draw.integers(*known, endpoint=True), replace=False)
        beside = [draw.choice(others) for _ in range(draw.integers(*made_up, endpoint=True))]
        plans.append(("word", tuple(draw.permutation([*chosen, *beside])), tuple(f"word {word}" for word in chosen)))
    for _ in range(event_clips):
        names = tuple(draw.choice(list(EVENTS), 1 if draw.random() < 0.7 else 2, replace=False))
        plans.append(("event", names, tuple(f"event {name}" for name in names)))
    files, missing = find_recordings(recordings_folder, known_packages())
    labelled = list(label_recordings(files).items())
    if recordings is not None and recordings < len(labelled):
        labelled = [labelled[k] for k in np.sort(draw.choice(len(labelled), recordings, replace=False))]
    for path, labels in labelled:
        plans.append(("file", (str(path),), tuple(sorted(labels))))
    numbered = [Plan(number, *plan) for number, plan in enumerate(plans)]
    for plan in [plan for plan in numbered if plan.kind == "file"]:
        pieces = min(MOST_PIECES, int(_seconds(plan.what[0]) // SECONDS)) if "speech" not in plan.tags else 1
        numbered.extend(Plan(len(numbered) + k, "file", plan.what, plan.tags, k + 1) for k in range(pieces - 1))
    return [Plan(number, p.kind, p.what, p.tags, p.part) for number, p in enumerate(numbered)], missing


def _seconds(path: str) -> float:
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError:
        return 0.0


def _to_16k(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    if sample_rate == SAMPLE_RATE or len(samples) == 0:
        return samples
    return torchaudio.functional.resample(torch.from_numpy(samples), sample_rate, SAMPLE_RATE).numpy()


def _say(words: tuple[str, ...], draw: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Speaks after a short silence; returns the waveform and when each phone begins.

    Played faster or slower, which moves pitch and formants together, one voice becomes several speakers.
    """
    voice = Voice(
        str(draw.choice(voices())), str(draw.choice(ACCENTS)), int(draw.integers(25, 76)), int(draw.integers(130, 230))
    )
    samples, phones, sample_rate = speak_with_phones(" ".join(words), voice)
    playing_rate = int(draw.choice(PLAYING_RATES))
    silence = draw.uniform(0, 0.4)  # seconds
    waveform = np.pad(_to_16k(samples, playing_rate), (int(silence * SAMPLE_RATE), 0))
    return waveform, [(start * sample_rate / playing_rate + silence, phone_name(name)) for start, name in phones]


def make_clip(
    plan: Plan, draw: np.random.Generator, padded_share: float = 0.5, noisy_share: float = 0.5
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Makes a clip: a waveform ``[time]`` of 16 kHz and at most 4 s, and the second at which each phone begins.

    The waveform is empty if a file cannot be read. `padded_share` of the clips are padded with silence to 4 s, and
    white noise is added to `noisy_share` of them.
    """
    longest = int(SECONDS * SAMPLE_RATE)
    phones: list[tuple[float, str]] = []
    if plan.kind == "word":
        waveform, phones = _say(plan.what, draw)
    elif plan.kind == "file":
        waveform = read_recording(plan.what[0], plan.part * SECONDS).numpy()
    else:
        waveform = np.zeros(longest, np.float32)
        for name in plan.what:
            event = draw_event(name, draw)[:longest]
            at = draw.integers(0, longest - len(event) + 1)
            waveform[at : at + len(event)] += event * draw.uniform(0.3, 1)
    waveform = waveform[:longest] / (np.abs(waveform).max(initial=0) + 1e-9)
    if draw.random() < padded_share and len(waveform):
        waveform = np.pad(waveform, (0, longest - len(waveform)))
    waveform = waveform * 10 ** draw.uniform(-1.2, 0)
    if draw.random() < noisy_share:
        waveform = waveform + draw.standard_normal(len(waveform)) * 10 ** draw.uniform(-4, -1.7)
    return waveform.astype(np.float32), phones


def is_sound(waveform: np.ndarray) -> bool:
    """Whether a clip is finite and long enough to be used.

    Example
    -------
    >>> is_sound(np.ones(800)), is_sound(np.ones(799)), is_sound(np.full(800, np.nan))
    (True, False, False)
    """
    return len(waveform) >= SHORTEST and bool(np.isfinite(waveform).all())


def make_chunks(function: Callable[..., T], plans: list[Plan], *settings: object) -> Iterator[tuple[list[Plan], T]]:
    """Makes clips in as many processes as there are processors, whose number changes no clip; yields plans and results.

    `function`, defined at the top of a module, takes a list of plans and the settings.
    """
    chunks = [plans[start : start + CHUNK] for start in range(0, len(plans), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool,
        tqdm(total=len(plans), desc="Making sound", unit="clip") as progress,
    ):
        made = pool.map(function, chunks, *([value] * len(chunks) for value in settings))
        for chunk, result in zip(chunks, made, strict=True):
            yield chunk, result
            progress.update(len(chunk))
