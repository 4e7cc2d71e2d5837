"""Labels for HuBERT: a cluster for each 20 ms of a corpus, and how well clusters agree with phones."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import mutual_info_score
from tqdm import tqdm

from brainplug.errors import UsageError
from brainplug.files import write_json
from brainplug.pretrain.clustering import fit_clusters, mfcc, purity
from brainplug.pretrain.corpus import FULL_SCALE, HOP, SAMPLE_RATE, WINDOW, Corpus
from brainplug.pretrain.health import perplexity

logger = logging.getLogger(__name__)

SMALL_DEVIATION = 1e-3  # beside it, what hardly changes is constant; speech has 0.1 to 10
NONE = -1  # the label of what lies between utterances
LONGEST = 15.6  # seconds that are computed at once, as HuBERT's longest crops
LABELS_NAME, SUMMARY_NAME = "labels.npy", "labels.json"

Features = Callable[[torch.Tensor], torch.Tensor]  # [samples] -> [frames of 20 ms, dim]


def mfcc_features(waveform: torch.Tensor) -> torch.Tensor:
    """MFCC at the model's rate: frame t of the model goes with frame 2 t of theirs.

    Arguments
    ---------
    waveform : torch.Tensor
        16 kHz, ``[samples]``.

    Returns
    -------
    torch.Tensor
        ``[frames, 39]``.

    Example
    -------
    >>> mfcc_features(torch.randn(16000)).shape
    torch.Size([49, 39])
    """
    return mfcc(waveform)[::2]


def normalized_mfcc_features(waveform: torch.Tensor) -> torch.Tensor:
    """MFCC as in `mfcc_features`, each coefficient with mean 0 and variance 1 over the utterance.

    What stays the same over an utterance goes, such as its level and much of the voice and the noise, and clusters tell
    more of what is said.

    Arguments
    ---------
    waveform : torch.Tensor
        16 kHz, ``[samples]``.

    Returns
    -------
    torch.Tensor
        ``[frames, 39]``; all 0 where nothing changes.

    Example
    -------
    >>> noise = torch.randn(16000)
    >>> torch.allclose(normalized_mfcc_features(noise), normalized_mfcc_features(0.1 * noise), atol=0.01)
    True
    """
    found = mfcc_features(waveform)
    return (found - found.mean(0)) / (found.std(0, unbiased=False) + SMALL_DEVIATION)


def windows(corpus: Corpus, utterances: range | None = None) -> Iterator[tuple[int, int]]:
    """Parts of utterances, short enough to be computed at once.

    Arguments
    ---------
    corpus : Corpus
        Any.
    utterances : range, optional
        Of which; of all by default.

    Yields
    ------
    tuple[int, int]
        First sample, a multiple of 320, and the end: each 320 samples of it begin a frame that lies in the utterance.
    """
    places, step = list(corpus.utterances()), int(LONGEST * SAMPLE_RATE) // HOP * HOP
    for number in utterances if utterances is not None else range(len(places)):
        start, end = places[number]
        last = end - HOP  # the last frame that begins here would end behind the utterance
        yield from ((begin, min(begin + step, last)) for begin in range(start, last, step))


def read_window(audio: np.ndarray, window: tuple[int, int]) -> torch.Tensor:
    """The sound of a window, with what its last frame needs.

    Arguments
    ---------
    audio : np.ndarray
        The stream.
    window : tuple[int, int]
        As `windows` yields them.

    Returns
    -------
    torch.Tensor
        ``[samples]``, full scale 1.
    """
    begin, end = window
    return torch.from_numpy(audio[begin : end + WINDOW - HOP].astype(np.float32) / FULL_SCALE)


@torch.inference_mode()
def gather(corpus: Corpus, features: Features, frames: int, seed: int, path: str) -> np.ndarray:
    """Features of parts of the corpus, drawn by chance; on disk, since they may be more than fits into memory.

    Arguments
    ---------
    corpus : Corpus
        Any.
    features : Features
        What is computed.
    frames : int
        How many at most.
    seed : int
        Of the draw.
    path : str
        Of the file, an array of numpy's.

    Returns
    -------
    np.ndarray
        ``[frames, dim]``.
    """
    audio, places = corpus.audio(), list(windows(corpus))
    order = np.random.default_rng(seed).permutation(len(places))
    frames = min(frames, sum((end - begin) // HOP for begin, end in places))
    gathered, filled = None, 0
    for place in tqdm(order, desc="Features", unit="utterance", mininterval=1):
        if filled == frames:
            break
        found = features(read_window(audio, places[place])).float().numpy()[: frames - filled]
        if gathered is None:
            gathered = np.lib.format.open_memmap(path, "w+", np.float32, (frames, found.shape[1]))
        gathered[filled : filled + len(found)] = found
        filled += len(found)
    return gathered


def make_labels(
    corpus: Corpus, features: Features, source: dict, folder: str, clusters: int, seed: int, frames: int, starts: int
) -> np.ndarray:
    """Clusters a corpus; in a second call with the same source the labels are read from disk.

    Arguments
    ---------
    corpus : Corpus
        What is labelled.
    features : Features
        By what.
    source : dict
        What the features are made of, to know them again; JSON can hold it.
    folder : str
        Where ``labels.npy`` and ``labels.json`` go. It appears when it is whole.
    clusters, seed, starts : int
        As in `fit_clusters`.
    frames : int
        How many the clusters are fitted to at most.

    Returns
    -------
    np.ndarray
        A label for each 320 samples of the stream, ``[time // 320]``, -1 where no frame begins; on disk until read.

    Raises
    ------
    UsageError
        There are fewer different frames than clusters.
    """
    wanted = {**source, "clusters": clusters, "seed": seed, "frames": frames, "starts": starts}
    wanted["samples"] = corpus.ends[-1]
    summary_path = Path(folder, SUMMARY_NAME)
    if not summary_path.exists() or json.loads(summary_path.read_text())["source"] != wanted:
        unfinished = Path(f"{folder}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        summary = _write_labels(corpus, features, clusters, seed, frames, starts, unfinished / LABELS_NAME)
        write_json({"source": wanted, **summary}, unfinished / SUMMARY_NAME)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
        if summary["empty"] or summary["perplexity"] < clusters / 2:
            logger.warning(
                "%s: %d of %d clusters are empty, and their use is that of %.1f equal ones",
                folder, summary["empty"], clusters, summary["perplexity"],
            )  # fmt: skip
    return np.load(Path(folder, LABELS_NAME), mmap_mode="r")


def _write_labels(
    corpus: Corpus, features: Features, clusters: int, seed: int, frames: int, starts: int, path: Path
) -> dict:
    drawn = path.with_name("drawn.npy")
    fitted = fit_clusters(gather(corpus, features, frames, seed, drawn), clusters, seed, starts)
    drawn.unlink()
    labels = np.lib.format.open_memmap(path, "w+", np.int16, (corpus.ends[-1] // HOP,))
    labels[:] = NONE
    audio, counts = corpus.audio(), np.zeros(clusters, np.int64)
    for begin, end in tqdm(list(windows(corpus)), desc="Labels", unit="utterance", mininterval=1):
        with torch.inference_mode():
            found = fitted.predict(features(read_window(audio, (begin, end))).float().numpy())
        labels[begin // HOP : end // HOP] = found
        counts += np.bincount(found, minlength=clusters)
    labels.flush()
    return {
        "inertia_a_frame": float(fitted.inertia_) / len(fitted.labels_),
        "empty": int((counts == 0).sum()),
        "perplexity": perplexity(torch.from_numpy(counts)).item(),
    }


def phone_stream(corpus: Corpus, phones: dict[str, list[tuple[float, str]]]) -> tuple[np.ndarray, list[str]]:
    """Which phone sounds in the middle of each frame.

    Arguments
    ---------
    corpus : Corpus
        Any.
    phones : dict[str, list[tuple[float, str]]]
        Path of a file -> when each phone begins, in seconds, and its name; empty names are pauses.

    Returns
    -------
    tuple[np.ndarray, list[str]]
        A phone's number for each 320 samples, ``[time // 320]``, -1 in pauses and where nothing is known; the names.
    """
    names = sorted({name for said in phones.values() for _, name in said} - {""})
    numbers = {name: number for number, name in enumerate(names)}
    stream = np.full(corpus.ends[-1] // HOP, NONE, np.int16)
    for path, start, end in corpus.pieces:
        said = phones.get(path)
        if not said:
            continue
        hops = np.arange(start // HOP, end // HOP)
        middles = (hops * HOP + WINDOW / 2 - start) / SAMPLE_RATE  # seconds
        sounding = np.searchsorted([begin for begin, _ in said], middles, side="right") - 1
        of_phones = np.array([numbers.get(name, NONE) for _, name in said], np.int16)
        stream[hops] = np.where(sounding >= 0, of_phones[np.maximum(sounding, 0)], NONE)
    return stream, names


def agreement(
    corpus: Corpus, features: Features, stream: np.ndarray, utterances: range, clusters: int, seed: int
) -> dict[str, float]:
    """How well clusters of features agree with phones, on utterances that nothing was trained on.

    Half of the utterances make the clusters, the other half is measured. Purity grows with the number of clusters:
    compare at the same number.

    Arguments
    ---------
    corpus : Corpus
        Any.
    features : Features
        What is clustered.
    stream : np.ndarray
        As `phone_stream` returns it.
    utterances : range
        Which are used.
    clusters, seed : int
        As in `fit_clusters`.

    Returns
    -------
    dict[str, float]
        ``purity``; ``pnmi``, the mutual information as a share of the phones' entropy; ``frames`` that were measured.

    Raises
    ------
    UsageError
        No frame of them has a phone.
    """
    audio, values, truths, halves = corpus.audio(), [], [], []
    for number in utterances:
        for begin, end in windows(corpus, range(number, number + 1)):
            truth = stream[begin // HOP : end // HOP]
            if (truth == NONE).all():
                continue
            with torch.inference_mode():
                values.append(features(read_window(audio, (begin, end))).float().numpy()[truth != NONE])
            truths.append(truth[truth != NONE])
            halves.append(np.full(len(truths[-1]), number % 2))
    if len(set(map(int, (half[0] for half in halves)))) < 2:
        raise UsageError(
            f"Clusters were to be compared with phones, on {len(utterances)} utterances.",
            "None of them, or one alone, has phones.",
            "Hold more utterances out",
        )
    frames, truth, half = np.concatenate(values), np.concatenate(truths), np.concatenate(halves)
    found = fit_clusters(frames[half == 0], clusters, seed, starts=5).predict(frames[half == 1])
    truth = truth[half == 1].astype(np.int64)
    entropy = mutual_info_score(truth, truth)
    return {
        "purity": purity(found, truth),
        "pnmi": float(mutual_info_score(truth, found) / entropy),
        "frames": len(truth),
    }
