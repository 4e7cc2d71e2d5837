"""The built-in spoken corpus: commands to a household, in the structure of Fluent Speech Commands.

31 intents, several phrasings each, and given lists for training, validation and test whose speakers differ. All of it
is synthetic: espeak-ng speaks it on first use. A result on it says that a method works, not how well it serves on real
speech.
"""

import csv
import functools
import hashlib
import importlib.util
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.transforms import Resample
from tqdm import tqdm

from brainplug.data.manifest import Clip
from brainplug.errors import ConfigError, DataError
from brainplug.files import read_json
from brainplug.synthetic.espeak import Voice, espeak_version, in_fresh_process, speak
from brainplug.synthetic.spoken_phrases import PHRASES

# A change of phrasings, voices or anything else in the audio raises the version: it names the cache folder and seeds
# the draws.
CORPUS_VERSION = 2
CLIPS_PER_INTENT = {"train": 60, "valid": 10, "test": 20}
SAMPLE_RATE = 16000  # Hz
FULL_SCALE = 32767  # of 16-bit samples
MAX_SECONDS = 3.0

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbcwmd", "en-gb-x-gbclan", "en-us-nyc")
RATES = (140, 210)  # words a minute, both ends included, as in the ranges below
PITCHES = (30, 70)  # 0 to 100
LEADING_SILENCE = (0.0, 0.3)  # seconds
PEAKS = (-18.0, -1.0)  # dB of full scale
NOISY_SHARE = 0.6
SIGNAL_TO_NOISE = (10.0, 30.0)  # dB

# Speakers are voice variants of espeak-ng. Variants whose settings or sound come close to a test speaker's (steph2,
# mike2, Diogo beside Hugo, aunty beside linda) or a validation speaker's (iven2, Gene2) are in no split.
TRAIN_VOICES = (
    *("f1", "f3", "f5", "Annie", "anika", "grandma", "m1", "m2", "m4", "m8", "Alex", "Denis"),
    *("Jacky", "Michael", "Reed", "boris", "ed", "edward", "grandpa", "max", "quincy", "robert", "shelby", "victor"),
)
VALID_VOICES = ("m5", "f4", "paul", "belinda", "Gene", "iven")
TEST_VOICES = ("m3", "m7", "f2", "david", "linda", "caleb", "steph", "norbert", "Andrea", "Hugo")
VOICES = {"train": TRAIN_VOICES, "valid": VALID_VOICES, "test": TEST_VOICES}


@dataclass(frozen=True)
class Command:
    """The phrase of a clip, its speaker and manner. Its fields are columns of the lists."""

    path: str
    split: str
    speaker: str
    intent: str
    text: str
    accent: str
    rate: int
    pitch: int


def list_clips(data_folder: str | None = None, **_: object) -> list[Clip]:
    """Lists the clips of the spoken corpus, which is made first where it does not exist. Their group is the speaker.

    `data_folder` is by default ``spoken-<version>`` in ``$BRAINPLUG_CACHE``, or in ``~/.cache/brainplug``.
    """
    folder = Path(data_folder).expanduser() if data_folder else _default_folder()
    if not (folder / "corpus.json").exists():
        _make(folder, CLIPS_PER_INTENT)
    version = read_json(folder / "corpus.json").get("version")
    if version != CORPUS_VERSION:
        raise DataError(
            f"The spoken corpus, version {CORPUS_VERSION}, was asked for.",
            f"{folder} holds version {version}.",
            "Write --data_folder= and a folder that does not exist yet, or leave the flag out",
        )
    return [clip for split in CLIPS_PER_INTENT for clip in _read_list(folder, split)]


def _default_folder() -> Path:
    cache = Path(os.environ.get("BRAINPLUG_CACHE", "~/.cache/brainplug")).expanduser()
    return cache / f"spoken-{CORPUS_VERSION}"


def _read_list(folder: Path, split: str) -> Iterator[Clip]:
    with open(folder / f"{split}.csv", newline="") as file:
        for row in csv.DictReader(file):
            yield Clip(
                id=Path(row["path"]).stem,
                path=str(folder / row["path"]),
                label=row["intent"],
                split=split,
                group=row["speaker"],
                duration=float(row["seconds"]),
                text=row["text"],
            )


def _make(folder: Path, clips_per_intent: dict[str, int]) -> None:
    """Makes the corpus in a temporary folder beside its own and renames that when all is there."""
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"The spoken corpus was asked for in {folder}.",
            "Something else is there, and no corpus.json.",
            "Write --data_folder= and a folder that does not exist yet, or leave the flag out; for clips of your own "
            "write --dataset=own",
        )
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ConfigError(
            "The spoken corpus was asked for.",
            "It is not made yet, and the package espeakng-loader, which speaks it, is not installed.",
            "Write: pip install 'brainplug[demo]'",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = Path(temporary) / "corpus"
            in_fresh_process(_record_corpus, made, clips_per_intent)
            _rename_unless_made(made, folder)
    except OSError as error:
        raise DataError(
            f"The spoken corpus was asked for in {folder}.",
            f"It cannot be made there: {error}.",
            "Write --data_folder= and a folder in a place that you may write to",
        ) from error


def _rename_unless_made(made: Path, folder: Path) -> None:
    """Another process may have made the corpus meanwhile; then its corpus stays."""
    try:
        os.rename(made, folder)
    except OSError:
        if not (folder / "corpus.json").exists():
            raise


def _record_corpus(folder: Path, clips_per_intent: dict[str, int]) -> None:
    """Speaks and writes all clips, the lists and corpus.json; see `in_fresh_process`."""
    torch.set_num_threads(1)  # for phrases as short as these more threads only wait for one another
    generator = np.random.default_rng(CORPUS_VERSION)
    digest = hashlib.sha256()
    commands = _draw_commands(clips_per_intent, generator)
    rows = []
    for command in tqdm(commands, desc="Making the spoken corpus", unit="clip", mininterval=1):
        samples = _record(command, generator)
        path = folder / command.path
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        digest.update(samples.tobytes())
        rows.append({**asdict(command), "seconds": len(samples) / SAMPLE_RATE})
    for split in clips_per_intent:
        _write_list(folder / f"{split}.csv", [row for row in rows if row["split"] == split])
    description = {
        "name": "brainplug spoken corpus (synthetic)",
        "version": CORPUS_VERSION,
        "espeak_ng": espeak_version(),
        "intents": len(PHRASES),
        "clips": {split: sum(command.split == split for command in commands) for split in clips_per_intent},
        "sha256_of_samples": digest.hexdigest(),
    }
    (folder / "corpus.json").write_text(json.dumps(description, indent=2) + "\n")


def _draw_commands(clips_per_intent: dict[str, int], generator: np.random.Generator) -> list[Command]:
    """Draws the commands: phrasings in turn, the rest by chance."""
    commands: list[Command] = []
    for split, count in clips_per_intent.items():
        for intent, i in itertools.product(PHRASES, range(count)):
            command = Command(
                path=f"{split}/{split}-{len(commands):04d}.wav",
                split=split,
                speaker=str(generator.choice(VOICES[split])),
                intent=intent,
                text=PHRASES[intent][i % len(PHRASES[intent])],
                accent=str(generator.choice(ACCENTS)),
                rate=int(generator.integers(*RATES, endpoint=True)),
                pitch=int(generator.integers(*PITCHES, endpoint=True)),
            )
            commands.append(command)
    return commands


@functools.cache
def _resampler(sample_rate: int) -> Resample:
    """Double precision: sums in another order, as other processors take them, then round to the same 16 bits."""
    return Resample(sample_rate, SAMPLE_RATE, dtype=torch.float64)


def _record(command: Command, generator: np.random.Generator) -> np.ndarray:
    """Speaks a command into a room with more or less noise; 16-bit samples ``[time]``."""
    voice = Voice(command.speaker, command.accent, command.pitch, command.rate)
    spoken, spoken_rate = speak(command.text, voice)
    speech = _resampler(spoken_rate)(torch.from_numpy(spoken).double()).numpy()
    silence = np.zeros(int(generator.uniform(*LEADING_SILENCE) * SAMPLE_RATE))
    samples = np.concatenate([silence, speech])
    if len(samples) > MAX_SECONDS * SAMPLE_RATE:
        raise ValueError(f"{command} lasts {len(samples) / SAMPLE_RATE:.2f} s, longer than {MAX_SECONDS} s.")
    if generator.random() < NOISY_SHARE:
        samples += _noise(len(samples), np.sqrt(np.mean(speech**2)), generator)
    peak = 10 ** (generator.uniform(*PEAKS) / 20)
    return np.round(samples * (peak / np.abs(samples).max()) * FULL_SCALE).astype(np.int16)


def _noise(length: int, speech_level: float, generator: np.random.Generator) -> np.ndarray:
    """White or pink noise, ``[time]``, at a drawn distance below the speech's level (root mean square)."""
    noise = generator.standard_normal(int(MAX_SECONDS * SAMPLE_RATE))
    if generator.random() < 0.5:  # pink: the power falls with frequency
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
    noise = noise[:length]
    level = speech_level / 10 ** (generator.uniform(*SIGNAL_TO_NOISE) / 20)
    return noise * (level / np.sqrt(np.mean(noise**2)))


def _write_list(path: Path, rows: list[dict[str, object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
