"""Makes the tagging corpus: log-mels and tags of spoken words, synthetic events and free recordings.

The corpus is one array on disk, ``[clips, frames, mel_bands]`` in half precision, a table of tags, and for spoken clips
the phones over time. Each clip has its own random generator, which depends on the run's seed and the clip's number.
"""

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import torch
import torchaudio

from brainplug.files import atomic_file
from brainplug.synthetic.sound.clips import Plan, is_sound, make_chunks, make_clip, plan_corpus
from brainplug.synthetic.sound.events import SAMPLE_RATE
from brainplug.synthetic.sound.words import phone_names

logger = logging.getLogger(__name__)

TOKEN_SECONDS = 0.16
EDGE = 0.02  # seconds: a phone that only touches the edge of a token does not count


def phone_targets(phones: list[tuple[float, str]], names: list[str], tokens: int) -> np.ndarray:
    """The phones within each token, ``[tokens, phones]`` of zeros and ones.

    Arguments
    ---------
    phones : list[tuple[float, str]]
        The start of each phone in seconds, and its name.
    names : list[str]
        All phones.
    tokens : int
        Number of tokens along time: one every 0.1 s, of 0.16 s.

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
    """Log-mels ``[clips, frames, mel_bands]``, padded with zeros as AST does, and phone targets."""
    torch.set_num_threads(1)
    log_mels = np.zeros((len(plans), frames, mel_bands), np.float16)
    targets = np.zeros((len(plans), token_count(frames), len(names)), np.uint8)
    for row, plan in enumerate(plans):
        waveform, phones = make_clip(plan, np.random.default_rng([seed, plan.number]))
        targets[row] = phone_targets(phones, names, targets.shape[1])
        if not is_sound(waveform):
            continue
        log_mel = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(waveform)[None], sample_frequency=SAMPLE_RATE, window_type="hanning",
            num_mel_bins=mel_bands, htk_compat=True, use_energy=False, dither=0.0,
        )  # fmt: skip
        log_mels[row, : min(frames, len(log_mel))] = log_mel[:frames].numpy()
    return log_mels, targets


def token_count(frames: int) -> int:
    """The number of tokens along time: patches of 16 frames of 10 ms, one every 10 frames."""
    return (frames - 16) // 10 + 1


def prepare_corpus(
    folder: str, recordings_folder: str, spoken_clips: int, event_clips: int, frames: int, mel_bands: int, seed: int
) -> None:
    """Makes the corpus, unless the folder holds one of the same settings.

    Arguments
    ---------
    folder : str
        Where ``log_mels.npy``, ``phones.npy`` and ``corpus.json`` go.
    recordings_folder : str
        The root of the packages of `brainplug/synthetic/sound/packages.yaml`; all their recordings are used.
    """
    settings = [recordings_folder, spoken_clips, event_clips, frames, mel_bands, seed]
    path = Path(folder)
    table_path = path / "corpus.json"
    if table_path.exists() and json.loads(table_path.read_text()).get("settings") == settings:
        return
    table_path.unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)
    plans, missing = plan_corpus(spoken_clips, event_clips, recordings_folder, seed)
    if missing:
        logger.warning("packages of free recordings that are not installed: %s", ", ".join(missing))
    names = phone_names()
    shape = (len(plans), frames, mel_bands)
    log_mels = np.lib.format.open_memmap(path / "log_mels.npy", "w+", np.float16, shape)
    shape = (len(plans), token_count(frames), len(names))
    phones = np.lib.format.open_memmap(path / "phones.npy", "w+", np.uint8, shape)
    for chunk, (values, targets) in make_chunks(_make_chunk, plans, seed, frames, mel_bands, names):
        rows = slice(chunk[0].number, chunk[-1].number + 1)
        log_mels[rows], phones[rows] = values, targets
    log_mels.flush()
    phones.flush()
    tags = sorted({tag for plan in plans for tag in plan.tags})
    numbers = {tag: number for number, tag in enumerate(tags)}
    table = {
        "tags": tags, "phones": names, "missing_packages": missing, "kinds": [plan.kind for plan in plans],
        "clips": [[numbers[tag] for tag in plan.tags] for plan in plans], "settings": settings,
    }  # fmt: skip
    with atomic_file(str(table_path)) as file:
        json.dump(table, file)
