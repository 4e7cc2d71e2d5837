"""Makes the tagging corpus: log-mels of spoken words, synthetic sound events and free recordings, each with tags.

Spoken clips also know which phones sound at which time.

The corpus is one array on disk, ``[clips, frames, mel_bands]`` in half precision, and a table of tags. Every clip is
drawn from a generator of its own, seeded by the run's seed and its number.
"""

import itertools
import json
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
import yaml
from recordings import find_recordings, label_recordings
from sounds import EVENTS, SAMPLE_RATE, draw_event
from tqdm import tqdm

from brainplug.data.audio import read_audio
from brainplug.data.espeak import Voice, speak_with_phones
from brainplug.data.manifest import Clip
from brainplug.data.spoken import TEST_VOICES, VALID_VOICES
from brainplug.data.spoken_phrases import phrase_words
from brainplug.errors import UsageError

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
SECONDS = 4.0
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
PLAYING_RATES = range(19000, 26500, 500)  # Hz that 22,050 are taken for: shorter and longer vocal tracts
# Syllables of made-up words, as they are spelled.
ONSETS = (
    "b bl br c ch cl d dr f fl fr g gl gr h j k l m n p pl pr qu r s sh sk sl sm sn sp st str sw t th tr v w y z"
).split()
NUCLEI = "a a ai ar e e ea ee er i i ie ir o o oa oi oo or ou u u".split()
# A syllable is often open.
CODAS = 6 * [""] + "b ck d f g l ll m mp n nd ng nk nt p r s sh sk st t ts v x z".split()  # codespell:ignore nd
MADE_UP = 6000  # made-up words: phones beside other neighbours than in the vocabulary
TOKEN_SECONDS, EDGE = 0.16, 0.02  # length of a token; a phone that only touches its edge does not count
MOST_PIECES = 6  # clips that are cut from one recording
SHORTEST = 800  # samples; shorter recordings stay silent
CHUNK = 250  # clips that one process makes before it ends, so that espeak-ng starts afresh at known clips


@dataclass(frozen=True)
class Plan:
    """What one clip is made of: `kind` is word, event or file; `what` the words, event names or the file's path."""

    number: int
    kind: str
    what: tuple[str, ...]
    tags: tuple[str, ...]
    part: int = 0  # which piece of a long recording


def voices() -> list[str]:
    """The voices that may speak here: none of the spoken corpus's validation and test voices.

    Returns
    -------
    list[str]
        espeak-ng voice variants.
    """
    barred = {*TEST_VOICES, *VALID_VOICES, *RELATIVES}
    return [voice for voice in VOICES if voice not in barred]


def vocabulary() -> list[str]:
    """The words that are spoken here: none that the spoken corpus's phrases use.

    Returns
    -------
    list[str]
        Words, sorted.
    """
    return sorted(set((HERE / "words.txt").read_text().split()) - phrase_words())


def made_up_words(count: int, draw: np.random.Generator) -> list[str]:
    """Makes up words of one to three syllables, none that is spelled or sounds like one of the spoken corpus's phrases.

    Arguments
    ---------
    count : int
        How many.
    draw : np.random.Generator
        The source of all chance.

    Returns
    -------
    list[str]
        Words; some may occur twice.

    Example
    -------
    >>> words = made_up_words(20, np.random.default_rng(0))
    >>> len(words), all(word.isalpha() for word in words)
    (20, True)
    """
    barred = phrase_words()
    barred_sounds = {_sound(word) for word in barred}
    words = []
    while len(words) < count:
        syllables = draw.integers(1, 4)
        word = "".join(str(draw.choice(part)) for _ in range(syllables) for part in (ONSETS, NUCLEI, CODAS))
        if word not in barred and _sound(word) not in barred_sounds:
            words.append(word)
    return words


def _sound(word: str) -> tuple[str, ...]:
    """The phones of a word in American English."""
    return tuple(phone_name(name) for _, name in speak_with_phones(word, Voice(voices()[0]))[1] if phone_name(name))


def plan_corpus(spoken_clips: int, event_clips: int, recordings_folder: str, seed: int) -> tuple[list[Plan], list[str]]:
    """Decides what every clip of the corpus is made of.

    Arguments
    ---------
    spoken_clips : int
        Number of clips with spoken words.
    event_clips : int
        Number of clips with synthetic sound events.
    recordings_folder : str
        Where the packages of `packages.yaml` are installed.
    seed : int
        The run's seed.

    Returns
    -------
    tuple[list[Plan], list[str]]
        One plan a clip, and the packages that are missing.
    """
    draw = np.random.default_rng(seed)
    words, plans = np.array(vocabulary()), []
    others = np.array(made_up_words(MADE_UP, draw) if spoken_clips else [])
    for _ in range(spoken_clips):
        known = draw.choice(words, draw.integers(1, 3), replace=False)
        said = draw.permutation([*known, *(draw.choice(others) for _ in range(draw.integers(0, 3)))])
        plans.append(("word", tuple(said), tuple(f"word {word}" for word in known)))
    for _ in range(event_clips):
        names = tuple(draw.choice(list(EVENTS), 1 if draw.random() < 0.7 else 2, replace=False))
        plans.append(("event", names, tuple(f"event {name}" for name in names)))
    packages = yaml.safe_load((HERE / "packages.yaml").read_text())
    files, missing = find_recordings(recordings_folder, packages)
    for path, labels in label_recordings(files).items():
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


def phone_name(name: str) -> str:
    """A phone without its stress; empty for a pause.

    Arguments
    ---------
    name : str
        As espeak-ng names it.

    Returns
    -------
    str
        The phone.

    Example
    -------
    >>> phone_name("'i:"), phone_name("_:")
    ('i:', '')
    """
    return "" if name.startswith("_") else name.strip("',;")


def phone_names() -> list[str]:
    """All phones that the words have in any accent.

    Returns
    -------
    list[str]
        Sorted.
    """
    spoken = (speak_with_phones(word, Voice(voices()[0], accent))[1] for accent in ACCENTS for word in vocabulary())
    return sorted({phone_name(name) for phones in spoken for _, name in phones} - {""})


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


def read_recording(path: str, start: float = 0.0, seconds: float = SECONDS, rate: int = SAMPLE_RATE) -> torch.Tensor:
    """Reads a part of a recording, mono.

    Arguments
    ---------
    path : str
        An audio file.
    start, seconds : float
        Where the part begins and how long it is at most, in seconds.
    rate : int
        Samples a second of the result.

    Returns
    -------
    torch.Tensor
        ``[time]``, empty where the file cannot be read.
    """
    try:
        return read_audio(Clip(path, path, label="", start=start, stop=start + seconds), rate)
    except UsageError as error:
        logger.warning("left out, unreadable: %s (%s)", path, error.__cause__)
        return torch.zeros(0)


def make_clip(plan: Plan, draw: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Makes one clip's sound.

    Arguments
    ---------
    plan : Plan
        What the clip is made of.
    draw : np.random.Generator
        The source of all chance.

    Returns
    -------
    tuple[np.ndarray, list[tuple[float, str]]]
        Waveform ``[time]``, 16 kHz, at most 4 s, empty where a file cannot be read; and when each phone begins, in
        seconds.
    """
    longest, phones = int(SECONDS * SAMPLE_RATE), []
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
    if draw.random() < 0.5 and len(waveform):  # else the spectrogram is padded, as the feature extractor does
        waveform = np.pad(waveform, (0, longest - len(waveform)))
    waveform = waveform * 10 ** draw.uniform(-1.2, 0)
    if draw.random() < 0.5:
        waveform = waveform + draw.standard_normal(len(waveform)) * 10 ** draw.uniform(-4, -1.7)
    return waveform.astype(np.float32), phones


def phone_targets(phones: list[tuple[float, str]], names: list[str], tokens: int) -> np.ndarray:
    """Which phones sound within which token.

    Arguments
    ---------
    phones : list[tuple[float, str]]
        When each phone begins, in seconds, and its name.
    names : list[str]
        All phones.
    tokens : int
        Number of tokens along time; one each 0.1 s, of 0.16 s.

    Returns
    -------
    np.ndarray
        ``[tokens, phones]`` of zeros and ones.

    Example
    -------
    >>> phone_targets([(0.05, "s"), (0.25, "i:"), (0.4, "")], ["i:", "s"], 5).tolist()
    [[0, 1], [0, 1], [1, 1], [1, 0], [0, 0]]
    """
    targets = np.zeros((tokens, len(names)), np.uint8)
    starts = np.arange(tokens) * 0.1
    for (start, name), (stop, _) in itertools.pairwise([*phones, (np.inf, "")]):
        if name in names:
            targets[(start < starts + TOKEN_SECONDS - EDGE) & (stop > starts + EDGE), names.index(name)] = 1
    return targets


def _make_chunk(
    plans: list[Plan], seed: int, frames: int, mel_bands: int, names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Log-mels ``[clips, frames, mel_bands]``, zero where there is no sound (as AST pads), and phone targets."""
    torch.set_num_threads(1)
    log_mels = np.zeros((len(plans), frames, mel_bands), np.float16)
    targets = np.zeros((len(plans), token_count(frames), len(names)), np.uint8)
    for row, plan in enumerate(plans):
        waveform, phones = make_clip(plan, np.random.default_rng([seed, plan.number]))
        targets[row] = phone_targets(phones, names, targets.shape[1])
        if len(waveform) < SHORTEST or not np.isfinite(waveform).all():
            continue
        log_mel = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(waveform)[None], sample_frequency=SAMPLE_RATE, window_type="hanning",
            num_mel_bins=mel_bands, htk_compat=True, use_energy=False, dither=0.0,
        )  # fmt: skip
        log_mels[row, : min(frames, len(log_mel))] = log_mel[:frames].numpy()
    return log_mels, targets


def token_count(frames: int) -> int:
    """Tokens along time of a clip: patches of 16 frames each 10 frames.

    Arguments
    ---------
    frames : int
        Frames of 10 ms.

    Returns
    -------
    int
        Tokens.

    Example
    -------
    >>> token_count(300)
    29
    """
    return (frames - 16) // 10 + 1


def prepare_corpus(
    folder: str, recordings_folder: str, spoken_clips: int, event_clips: int, frames: int, mel_bands: int, seed: int
) -> None:
    """Makes the corpus in a folder, unless it is there.

    Arguments
    ---------
    folder : str
        Where ``log_mels.npy``, ``phones.npy`` and ``corpus.json`` go.
    recordings_folder : str
        Where the packages of `packages.yaml` are installed.
    spoken_clips, event_clips : int
        Number of clips of each kind; recordings are all that there are.
    frames, mel_bands : int
        Size of a log-mel.
    seed : int
        The run's seed.
    """
    folder = Path(folder)
    if (folder / "corpus.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    plans, missing = plan_corpus(spoken_clips, event_clips, recordings_folder, seed)
    if missing:
        logger.warning("packages of free recordings that are not installed: %s", ", ".join(missing))
    shape = (len(plans), frames, mel_bands)
    log_mels = np.lib.format.open_memmap(folder / "log_mels.npy", "w+", np.float16, shape)
    names = phone_names()
    shape = (len(plans), token_count(frames), len(names))
    phones = np.lib.format.open_memmap(folder / "phones.npy", "w+", np.uint8, shape)
    chunks = [plans[start : start + CHUNK] for start in range(0, len(plans), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:
        made = pool.map(_make_chunk, chunks, *([value] * len(chunks) for value in (seed, frames, mel_bands, names)))
        for chunk, (values, targets) in zip(tqdm(chunks, desc="corpus"), made, strict=True):
            rows = slice(chunk[0].number, chunk[-1].number + 1)
            log_mels[rows], phones[rows] = values, targets
    log_mels.flush()
    phones.flush()
    tags = sorted({tag for plan in plans for tag in plan.tags})
    numbers = {tag: number for number, tag in enumerate(tags)}
    table = {
        "tags": tags, "phones": names, "missing_packages": missing, "kinds": [plan.kind for plan in plans],
        "clips": [[numbers[tag] for tag in plan.tags] for plan in plans],
    }  # fmt: skip
    (folder / "corpus.json.new").write_text(json.dumps(table))
    os.replace(folder / "corpus.json.new", folder / "corpus.json")
