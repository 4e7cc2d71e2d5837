"""Audio to pre-train on: any folder of files, as one stream on disk that crops of one length are cut from."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from brainplug.data.audio import read_audio
from brainplug.data.corpora.own import is_audio
from brainplug.data.manifest import Clip
from brainplug.errors import ConfigError, DataError, UsageError
from brainplug.files import read_json, replace, write_json

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
HOP = 320  # samples from one frame of the model to the next, 20 ms
WINDOW = 400  # samples of a frame
FULL_SCALE = 32767
SILENCE = 1e-4  # of full scale: files with a lower peak count as silent
AUDIO_NAME, CORPUS_NAME = "audio.int16", "corpus.json"

Piece = tuple[str, int, int]  # path of a file, its first sample and its end in the stream


@dataclass(frozen=True)
class Corpus:
    """Utterances in one stream. Files shorter than a crop are joined to one utterance.

    Utterances end at multiples of 320 samples, so that frames of the stream and of a crop are the same.
    """

    folder: str
    ends: tuple[int, ...]  # of each utterance; the first one begins at 0
    pieces: tuple[Piece, ...]  # in the order of the stream
    skipped: dict[str, int]  # reason -> number of files that were left out

    def audio(self) -> np.ndarray:
        """The stream of 16-bit samples ``[time]``, mapped from disk."""
        return np.memmap(Path(self.folder, AUDIO_NAME), dtype=np.int16, mode="r")

    def utterances(self) -> Iterator[tuple[int, int]]:
        """Yields the first sample and the end of each utterance."""
        yield from zip((0, *self.ends[:-1]), self.ends, strict=True)


def frames_in(samples: int) -> int:
    """The number of frames that the model makes of 16 kHz samples: one every 20 ms, each of 25 ms.

    Example
    -------
    >>> frames_in(16000)
    49
    """
    return max(0, (samples - WINDOW) // HOP + 1)


def make_corpus(clips: Iterable[Clip], folder: str, crop_seconds: float, seed: int) -> Corpus:
    """Decodes clips into one stream, or reads the stream from disk where clips and settings have not changed.

    Unreadable, silent and too short files are left out and counted, and so are files at the end that do not fill a
    crop. `DataError` where there is no usable audio, or the folder holds other files.

    Arguments
    ---------
    folder : str
        A folder of the corpus's own. It appears only when it is complete.
    crop_seconds, seed : float, int
        The least length of an utterance, and the seed of the order in which files are read and shorter ones joined.
    """
    clips = list(clips)
    source = {"clips": [_state(clip) for clip in clips], "crop": crop_seconds, "seed": seed}
    stored = _read(folder)
    if stored and stored.pop("source") == source:
        return _as_corpus(folder, stored)
    if not clips:
        raise DataError("Audio to pre-train on was asked for.", "There is none.", "Name a folder with audio files")
    if not stored and Path(folder).is_dir() and os.listdir(folder):
        raise DataError(
            f"A corpus was asked for in {folder}.", "Other files are there.", "Name a folder that does not exist yet"
        )
    unfinished = Path(f"{folder}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    ends, pieces, skipped = _write_stream(clips, unfinished / AUDIO_NAME, int(crop_seconds * SAMPLE_RATE), seed)
    if not ends:
        raise DataError(
            f"Audio to pre-train on was asked for: {len(clips)} files.",
            f"No crop of {crop_seconds:g} s is filled; left out: {_counts(skipped)}.",
            "Name a folder with more audio, or write a smaller crop_seconds",
        )
    if skipped:
        logger.warning("%s: left out %s", folder, _counts(skipped))
    description = {"ends": ends, "pieces": pieces, "skipped": dict(skipped)}
    write_json({"source": source, **description}, unfinished / CORPUS_NAME)
    if stored:
        os.replace(folder, unfinished / "before")  # never half removed
    replace(unfinished, folder)
    shutil.rmtree(Path(folder, "before"), ignore_errors=True)
    return _as_corpus(folder, description)


def _state(clip: Clip) -> list[str | float | None]:
    try:
        status = os.stat(clip.path)
    except OSError:
        return [clip.path, clip.start, clip.stop]
    return [clip.path, clip.start, clip.stop, status.st_size, status.st_mtime_ns]


def _read(folder: str) -> dict[str, Any] | None:
    path = Path(folder, CORPUS_NAME)
    return read_json(path) if path.is_file() else None


def _as_corpus(folder: str, description: dict[str, Any]) -> Corpus:
    pieces = tuple((path, start, end) for path, start, end in description["pieces"])
    return Corpus(folder, tuple(description["ends"]), pieces, description["skipped"])


def _counts(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))


def _write_stream(
    clips: Sequence[Clip], path: Path, shortest: int, seed: int
) -> tuple[list[int], list[Piece], Counter[str]]:
    ends: list[int] = []
    pieces: list[Piece] = []
    skipped: Counter[str] = Counter()
    length = utterance_start = 0
    with open(path, "wb") as file:
        for number in tqdm(np.random.default_rng(seed).permutation(len(clips)), desc="Reading audio", unit="file"):
            samples, reason = _samples(clips[number])
            if samples is None:
                skipped[reason] += 1
                continue
            file.write(samples.tobytes())
            pieces.append((clips[number].path, length, length + len(samples)))
            length += len(samples)
            if length - utterance_start >= shortest:
                ends.append(length)
                utterance_start = length
        file.truncate(utterance_start * np.dtype(np.int16).itemsize)
    complete = [piece for piece in pieces if piece[2] <= utterance_start]
    if len(complete) < len(pieces):
        skipped["left over at the end"] = len(pieces) - len(complete)
    return ends, complete, skipped


def _samples(clip: Clip) -> tuple[np.ndarray | None, str]:
    """The 16-bit samples of a clip, or None and the reason to leave it out."""
    try:
        waveform = read_audio(clip, SAMPLE_RATE)
    except UsageError:
        return None, "unreadable"
    if frames_in(len(waveform)) < 1:
        return None, "too short"
    if not torch.isfinite(waveform).all():
        return None, "not finite"
    peak = waveform.abs().max().item()
    if peak < SILENCE:
        return None, "silent"
    whole = waveform[: len(waveform) // HOP * HOP]  # the next file begins with a frame
    return (whole * (FULL_SCALE / max(1.0, peak))).round().to(torch.int16).numpy(), ""


class Crops(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Batches of random crops. A batch depends on the seed and its number alone, so that a run can be resumed.

    Arguments
    ---------
    batches : int
        Number of batches in the whole run.
    labels : np.ndarray, optional
        A cluster for each 20 ms of the stream, ``[time // 320]``, from `make_labels`.
    utterances : slice
        The utterances to cut crops from.
    """

    def __init__(
        self,
        corpus: Corpus,
        batches: int,
        batch_size: int,
        crop_seconds: float,
        seed: int,
        labels: np.ndarray | None = None,
        utterances: slice = slice(None),
    ):
        self.audio = corpus.audio() if Path(corpus.folder, AUDIO_NAME).exists() else np.empty(0, np.int16)
        self.batches, self.batch_size, self.seed, self.labels = batches, batch_size, seed, labels
        self.samples = int(crop_seconds * SAMPLE_RATE)
        self.begins, ends = np.array(list(corpus.utterances())[utterances]).T
        # The number of hops at which a crop may start is an utterance's weight in the draw.
        self.starts_in = np.maximum((ends - self.begins - self.samples) // HOP + 1, 0)
        self.starts_until = self.starts_in.cumsum()
        if not self.starts_until[-1]:
            raise ConfigError(
                f"Crops of {crop_seconds:g} s were asked for.",
                f"The longest utterance has {(ends - self.begins).max() / SAMPLE_RATE:g} s.",
                "Write a smaller crop_seconds",
            )
        if labels is not None and len(labels) != corpus.ends[-1] // HOP:
            raise DataError(
                f"{len(labels):,} labels were given.",
                f"The audio in {corpus.folder} has {corpus.ends[-1] // HOP:,} frames of 20 ms.",
                "Remove the folder of the labels, so that they are made anew",
            )

    def __len__(self) -> int:
        return self.batches

    def starts(self, batch: int) -> np.ndarray:
        """The first samples of a batch's crops, multiples of 320, ``[batch_size]``."""
        positions = np.random.default_rng([self.seed, batch]).integers(self.starts_until[-1], size=self.batch_size)
        utterances = np.searchsorted(self.starts_until, positions, side="right")
        within = positions - (self.starts_until[utterances] - self.starts_in[utterances])
        return self.begins[utterances] + within * HOP

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        if batch >= self.batches:
            raise IndexError(f"batch {batch} of {self.batches}")
        starts = self.starts(batch)
        waveforms = np.stack([self.audio[start : start + self.samples] for start in starts])
        crops = {"waveforms": torch.from_numpy(waveforms.astype(np.float32) / FULL_SCALE)}  # [batch, samples]
        if self.labels is not None:
            frames = frames_in(self.samples)
            labels = np.stack([self.labels[start // HOP : start // HOP + frames] for start in starts])
            crops["labels"] = torch.from_numpy(labels.astype(np.int64))  # [batch, frames]
        return crops


def describe(corpus: Corpus) -> dict[str, Any]:
    """Hours, files, utterances and left-out files of a corpus, for results and cards."""
    return {
        "hours": corpus.ends[-1] / SAMPLE_RATE / 3600,
        "files": len(corpus.pieces),
        "utterances": len(corpus.ends),
        "skipped": corpus.skipped,
    }


def list_audio(folder: str) -> list[Clip]:
    """Lists the audio files of a folder and its subfolders, sorted by path; `DataError` where there is none."""
    paths = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(os.path.abspath(folder), followlinks=True)
        for name in names
        if is_audio(name)
    )
    if not paths:
        raise DataError(
            f"Audio to pre-train on was asked for, below {folder!r}.",
            "There is no audio file." if os.path.isdir(folder) else "There is no such folder.",
            "Write --data_folder= and a folder with audio files",
        )
    return [Clip(id=path, path=path, label="") for path in paths]
