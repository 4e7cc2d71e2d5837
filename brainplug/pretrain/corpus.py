"""Sound to pre-train on: any folder of audio, as one stream on disk, from which crops of one length are cut."""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from brainplug.data.audio import read_audio
from brainplug.data.corpora.own import is_audio
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError
from brainplug.files import write_json

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
HOP = 320  # samples from one frame of the model to the next, 20 ms
WINDOW = 400  # samples that a frame sees
FULL_SCALE = 32767
SILENCE = 1e-4  # of full scale: the peak of a file in which there is nothing to hear
AUDIO_NAME, CORPUS_NAME = "audio.int16", "corpus.json"


@dataclass(frozen=True)
class Corpus:
    """Utterances in one file.

    Arguments
    ---------
    folder : str
        Where it lies.
    ends : tuple[int, ...]
        Samples at which utterances end, the first one beginning at 0; multiples of 320, so that frames of a stream and
        of a crop are the same. Files that are shorter than a crop were joined.
    pieces : tuple[tuple[str, int, int], ...]
        What lies where: path, first sample and end in the stream.
    skipped : dict[str, int]
        How many files were left out, by reason.
    """

    folder: str
    ends: tuple[int, ...]
    pieces: tuple[tuple[str, int, int], ...]
    skipped: dict[str, int]

    def audio(self) -> np.ndarray:
        """The stream, on disk until it is read.

        Returns
        -------
        np.ndarray
            16-bit samples ``[time]``.
        """
        return np.memmap(Path(self.folder, AUDIO_NAME), dtype=np.int16, mode="r")

    def utterances(self) -> Iterator[tuple[int, int]]:
        """Where utterances lie.

        Yields
        ------
        tuple[int, int]
            First sample and end.
        """
        yield from zip((0, *self.ends[:-1]), self.ends, strict=True)


def frames_in(samples: int) -> int:
    """How many frames the model makes.

    Arguments
    ---------
    samples : int
        At 16 kHz.

    Returns
    -------
    int
        One every 20 ms, each of 25 ms.

    Example
    -------
    >>> frames_in(16000)
    49
    """
    return max(0, (samples - WINDOW) // HOP + 1)


def make_corpus(clips: Iterable[Clip], folder: str, crop_seconds: float, seed: int) -> Corpus:
    """Decodes clips into one stream; in a second call with the same clips and unchanged files it is read from disk.

    Arguments
    ---------
    clips : Iterable[Clip]
        Files; those without an end are read whole.
    folder : str
        Where the corpus goes, a folder of its own. It appears when it is whole.
    crop_seconds : float
        The least length of an utterance: shorter files are joined, in an order that is drawn.
    seed : int
        Of the order.

    Returns
    -------
    Corpus
        The utterances. Files that cannot be read, silent ones, those without a frame and what is left over at the end
        were left out and counted.

    Raises
    ------
    UsageError
        There is no sound, or the folder holds something else.
    """
    clips = list(clips)
    source = {"clips": [_state(clip) for clip in clips], "crop": crop_seconds, "seed": seed}
    there = _read(folder)
    if there and there.pop("source") == source:
        return _as_corpus(folder, there)
    if not clips:
        raise UsageError("Audio to pre-train on was asked for.", "There is none.", "Name a folder with audio files")
    if not there and Path(folder).is_dir() and os.listdir(folder):
        raise UsageError(
            f"A corpus was to be made in {folder}.", "Other files are there.", "Name a folder that does not exist yet"
        )
    unfinished = Path(f"{folder}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    ends, pieces, skipped = _write_stream(clips, unfinished / AUDIO_NAME, int(crop_seconds * SAMPLE_RATE), seed)
    if not ends:
        raise UsageError(
            f"Audio to pre-train on was asked for: {len(clips)} files.",
            f"No crop of {crop_seconds:g} s is filled; left out: {_counts(skipped)}.",
            "Name a folder with more sound, or write a smaller crop_seconds",
        )
    if skipped:
        logger.warning("%s: left out %s", folder, _counts(skipped))
    found = {"ends": ends, "pieces": pieces, "skipped": dict(skipped)}
    write_json({"source": source, **found}, unfinished / CORPUS_NAME)
    if there:
        os.replace(folder, unfinished / "before")  # never half removed
    os.replace(unfinished, folder)
    shutil.rmtree(Path(folder, "before"), ignore_errors=True)
    return _as_corpus(folder, found)


def _state(clip: Clip) -> list:
    try:
        status = os.stat(clip.path)
    except OSError:
        return [clip.path, clip.start, clip.stop]
    return [clip.path, clip.start, clip.stop, status.st_size, status.st_mtime_ns]


def _read(folder: str) -> dict | None:
    path = Path(folder, CORPUS_NAME)
    return json.loads(path.read_text()) if path.is_file() else None


def _as_corpus(folder: str, found: dict) -> Corpus:
    pieces = tuple((path, start, end) for path, start, end in found["pieces"])
    return Corpus(folder, tuple(found["ends"]), pieces, found["skipped"])


def _counts(skipped: Counter) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))


def _write_stream(
    clips: Sequence[Clip], path: Path, shortest: int, seed: int
) -> tuple[list[int], list[tuple[str, int, int]], Counter]:
    order = np.random.default_rng(seed).permutation(len(clips))
    ends, pieces, skipped, length, began = [], [], Counter(), 0, 0
    with open(path, "wb") as file:
        for place in tqdm(order, desc="Reading audio", unit="file"):
            samples, reason = _samples(clips[place])
            if reason:
                skipped[reason] += 1
                continue
            file.write(samples.tobytes())
            pieces.append((clips[place].path, length, length + len(samples)))
            length += len(samples)
            if length - began >= shortest:
                ends.append(length)
                began = length
        file.truncate(began * np.dtype(np.int16).itemsize)
    kept = [piece for piece in pieces if piece[2] <= began]
    if len(kept) < len(pieces):
        skipped["left over at the end"] = len(pieces) - len(kept)
    return ends, kept, skipped


def _samples(clip: Clip) -> tuple[np.ndarray | None, str]:
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


class Crops(torch.utils.data.Dataset):
    """Batches of crops, each drawn from the seed and its number alone: a resumed run hears what an unbroken one does.

    Arguments
    ---------
    corpus : Corpus
        Utterances.
    batches : int
        How many there are, over the whole run.
    clips : int
        Crops in a batch.
    crop_seconds : float
        Of each.
    seed : int
        Of the draws.
    labels : np.ndarray, optional
        A cluster for each 20 ms of the stream, ``[time // 320]``, as `make_labels` makes it.
    utterances : slice, optional
        Of which crops are cut; of all by default.

    Raises
    ------
    UsageError
        No utterance is as long as a crop, or the labels are not of this stream.

    Example
    -------
    >>> corpus = Corpus(getfixture("tmp_path"), (32000, 64000), (), {})
    >>> Crops(corpus, batches=10, clips=4, crop_seconds=1.0, seed=1).starts(3) % 320
    array([0, 0, 0, 0])
    """

    def __init__(
        self,
        corpus: Corpus,
        batches: int,
        clips: int,
        crop_seconds: float,
        seed: int,
        labels: np.ndarray | None = None,
        utterances: slice = slice(None),
    ):
        self.audio = corpus.audio() if Path(corpus.folder, AUDIO_NAME).exists() else None
        self.batches, self.clips, self.seed, self.labels = batches, clips, seed, labels
        self.samples = int(crop_seconds * SAMPLE_RATE)
        self.begins, ends = np.array(list(corpus.utterances())[utterances]).T
        # Places at which a crop may start, in hops; an utterance is drawn by how many it has.
        self.room = np.maximum((ends - self.begins - self.samples) // HOP + 1, 0)
        self.until = self.room.cumsum()
        if not self.until[-1]:
            raise UsageError(
                f"Crops of {crop_seconds:g} s were asked for.",
                f"The longest utterance has {(ends - self.begins).max() / SAMPLE_RATE:g} s.",
                "Write a smaller crop_seconds",
            )
        if labels is not None and len(labels) != corpus.ends[-1] // HOP:
            raise UsageError(
                f"{len(labels):,} labels were given.",
                f"The sound in {corpus.folder} has {corpus.ends[-1] // HOP:,} frames of 20 ms.",
                "Remove the labels, so that they are made anew",
            )

    def __len__(self) -> int:
        return self.batches

    def starts(self, batch: int) -> np.ndarray:
        """Where the crops of a batch start.

        Arguments
        ---------
        batch : int
            Its number in the run.

        Returns
        -------
        np.ndarray
            Samples, multiples of 320, ``[clips]``.
        """
        draw = np.random.default_rng([self.seed, batch])
        places = draw.integers(self.until[-1], size=self.clips)
        utterances = np.searchsorted(self.until, places, side="right")
        within = places - (self.until[utterances] - self.room[utterances])
        return self.begins[utterances] + within * HOP

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        if batch >= self.batches:
            raise IndexError(f"batch {batch} of {self.batches}")
        starts = self.starts(batch)
        waveforms = np.stack([self.audio[start : start + self.samples] for start in starts])
        found = {"waveforms": torch.from_numpy(waveforms.astype(np.float32) / FULL_SCALE)}  # [clips, samples]
        if self.labels is not None:
            frames = frames_in(self.samples)
            labels = np.stack([self.labels[start // HOP : start // HOP + frames] for start in starts])
            found["labels"] = torch.from_numpy(labels.astype(np.int64))  # [clips, frames]
        return found


def describe(corpus: Corpus) -> dict:
    """What a corpus holds, for results and cards.

    Arguments
    ---------
    corpus : Corpus
        Any.

    Returns
    -------
    dict
        Hours, files, utterances, and what was left out.
    """
    return {
        "hours": corpus.ends[-1] / SAMPLE_RATE / 3600,
        "files": len(corpus.pieces),
        "utterances": len(corpus.ends),
        "skipped": corpus.skipped,
    }


def list_audio(folder: str) -> list[Clip]:
    """The audio files of a folder and of those below it.

    Arguments
    ---------
    folder : str
        Any.

    Returns
    -------
    list[Clip]
        Sorted by their paths.

    Raises
    ------
    UsageError
        There is none.
    """
    paths = sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(os.path.abspath(folder), followlinks=True)
        for name in names
        if is_audio(name)
    )
    if not paths:
        raise UsageError(
            f"Audio to pre-train on was asked for, below {folder!r}.",
            "There is no audio file." if os.path.isdir(folder) else "There is no such folder.",
            "Write --data_folder= and a folder with audio files",
        )
    return [Clip(id=path, path=path, label="") for path in paths]
