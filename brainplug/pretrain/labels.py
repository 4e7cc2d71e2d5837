"""HuBERT's labels, a cluster for each 20 ms of a corpus, and their agreement with phones."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import mutual_info_score
from tqdm import tqdm

from brainplug.errors import DataError
from brainplug.files import read_json, replace, write_json
from brainplug.pretrain.clustering import fit_clusters, mfcc, purity
from brainplug.pretrain.corpus import FULL_SCALE, HOP, SAMPLE_RATE, WINDOW, Corpus
from brainplug.pretrain.health import perplexity

logger = logging.getLogger(__name__)

SMALL_STD = 1e-3  # added to the standard deviation of coefficients, which is 0.1 to 10 in speech
NO_LABEL = -1
MAX_WINDOW_SECONDS = 15.6  # computed at once, as HuBERT's longest crops
LABELS_NAME, SUMMARY_NAME = "labels.npy", "labels.json"

Features = Callable[[torch.Tensor], torch.Tensor]  # [samples] -> [frames of 20 ms, dim]


def mfcc_features(waveform: torch.Tensor) -> torch.Tensor:
    """MFCC ``[frames, 39]`` at the model's frame rate: frame t of the model belongs to frame 2 t of `mfcc`."""
    return mfcc(waveform)[::2]


def normalized_mfcc_features(waveform: torch.Tensor) -> torch.Tensor:
    """MFCC ``[frames, 39]``, each coefficient with mean 0 and variance 1 over the utterance.

    This removes what is constant in an utterance, such as its level and much of the voice and the noise, so that
    clusters depend more on what is said.
    """
    features = mfcc_features(waveform)
    return (features - features.mean(0)) / (features.std(0, unbiased=False) + SMALL_STD)


def windows(corpus: Corpus, utterances: range | None = None) -> Iterator[tuple[int, int]]:
    """Splits utterances into windows that are short enough to be computed at once.

    Yields the first sample and the end. Each 320 samples between them begin a frame that lies within the utterance.
    """
    spans, step = list(corpus.utterances()), int(MAX_WINDOW_SECONDS * SAMPLE_RATE) // HOP * HOP
    for number in utterances if utterances is not None else range(len(spans)):
        start, end = spans[number]
        last = end - HOP  # a frame that begins here would end after the utterance
        yield from ((begin, min(begin + step, last)) for begin in range(start, last, step))


def read_window(audio: np.ndarray, window: tuple[int, int]) -> torch.Tensor:
    """The samples of a window of `windows`, full scale 1, with those that its last frame needs beyond it."""
    begin, end = window
    return torch.from_numpy(audio[begin : end + WINDOW - HOP].astype(np.float32) / FULL_SCALE)


@torch.inference_mode()
def sample_features(corpus: Corpus, features: Features, frames: int, seed: int, path: Path) -> np.ndarray:
    """Computes features of random windows, ``[frames, dim]``, mapped from a file since memory may be too small."""
    audio, spans = corpus.audio(), list(windows(corpus))
    order = np.random.default_rng(seed).permutation(len(spans))
    frames = min(frames, sum((end - begin) // HOP for begin, end in spans))
    sampled, filled = np.empty((0, 0), np.float32), 0
    for number in tqdm(order, desc="Features", unit="utterance", mininterval=1):
        if filled == frames:
            break
        values = features(read_window(audio, spans[number])).float().numpy()[: frames - filled]
        if not filled:
            sampled = np.lib.format.open_memmap(path, "w+", np.float32, (frames, values.shape[1]))
        sampled[filled : filled + len(values)] = values
        filled += len(values)
    return sampled


def make_labels(
    corpus: Corpus,
    features: Features,
    source: dict[str, Any],
    folder: str,
    clusters: int,
    seed: int,
    frames: int,
    starts: int,
) -> np.ndarray:
    """Clusters a corpus, or reads the labels from disk where they were made of the same source with these settings.

    Arguments
    ---------
    source : dict[str, Any]
        Identifies the features; JSON values.
    folder : str
        Where ``labels.npy`` and ``labels.json`` go. It appears only when it is complete.
    frames, starts : int
        At most so many frames are clustered, from so many initialisations of k-means.

    Returns
    -------
    np.ndarray
        A label for each 320 samples of the stream, ``[time // 320]``, -1 where no frame begins; mapped from disk.
    """
    settings = {**source, "clusters": clusters, "seed": seed, "frames": frames, "starts": starts}
    settings["samples"] = corpus.ends[-1]
    summary_path = Path(folder, SUMMARY_NAME)
    if not summary_path.exists() or read_json(summary_path, ["source"])["source"] != settings:
        unfinished = Path(f"{folder}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        summary = _write_labels(corpus, features, clusters, seed, frames, starts, unfinished / LABELS_NAME)
        write_json({"source": settings, **summary}, unfinished / SUMMARY_NAME)
        shutil.rmtree(folder, ignore_errors=True)
        replace(unfinished, folder)
        if summary["empty"] or summary["perplexity"] < clusters / 2:
            logger.warning(
                "%s: %d of %d clusters are empty; the perplexity of the labels is %.1f",
                folder, summary["empty"], clusters, summary["perplexity"],
            )  # fmt: skip
    return np.load(Path(folder, LABELS_NAME), mmap_mode="r")


def _write_labels(
    corpus: Corpus, features: Features, clusters: int, seed: int, frames: int, starts: int, path: Path
) -> dict[str, float]:
    sample_path = path.with_name("sample.npy")
    model = fit_clusters(sample_features(corpus, features, frames, seed, sample_path), clusters, seed, starts)
    sample_path.unlink()
    labels = np.lib.format.open_memmap(path, "w+", np.int16, (corpus.ends[-1] // HOP,))
    labels[:] = NO_LABEL
    audio, counts = corpus.audio(), np.zeros(clusters, np.int64)
    for begin, end in tqdm(list(windows(corpus)), desc="Labels", unit="utterance", mininterval=1):
        with torch.inference_mode():
            predicted = model.predict(features(read_window(audio, (begin, end))).float().numpy())
        labels[begin // HOP : end // HOP] = predicted
        counts += np.bincount(predicted, minlength=clusters)
    labels.flush()
    return {
        "inertia_per_frame": float(model.inertia_) / len(model.labels_),
        "empty": int((counts == 0).sum()),
        "perplexity": perplexity(torch.from_numpy(counts)).item(),
    }


def phone_stream(corpus: Corpus, phones: Mapping[str, Sequence[tuple[float, str]]]) -> tuple[np.ndarray, list[str]]:
    """The phone at the centre of each frame of a corpus.

    Arguments
    ---------
    phones : Mapping[str, Sequence[tuple[float, str]]]
        Path of a file -> the start of each phone in seconds, and its name; a pause has an empty name.

    Returns
    -------
    tuple[np.ndarray, list[str]]
        A phone's number for each 320 samples, ``[time // 320]``, -1 in pauses and where no phones are given; the names.
    """
    names = sorted({name for spoken in phones.values() for _, name in spoken} - {""})
    numbers = {name: number for number, name in enumerate(names)}
    stream = np.full(corpus.ends[-1] // HOP, NO_LABEL, np.int16)
    for path, start, end in corpus.pieces:
        spoken = phones.get(path)
        if not spoken:
            continue
        hops = np.arange(start // HOP, end // HOP)
        centres = (hops * HOP + WINDOW / 2 - start) / SAMPLE_RATE  # seconds
        current = np.searchsorted([begin for begin, _ in spoken], centres, side="right") - 1
        spoken_numbers = np.array([numbers.get(name, NO_LABEL) for _, name in spoken], np.int16)
        stream[hops] = np.where(current >= 0, spoken_numbers[np.maximum(current, 0)], NO_LABEL)
    return stream, names


def agreement(
    corpus: Corpus, features: Features, stream: np.ndarray, utterances: range, clusters: int, seed: int
) -> dict[str, float]:
    """Measures how well clusters of features agree with phones, on utterances that were not trained on.

    K-means is fitted to every second utterance and measured on the others. Purity grows with the number of clusters:
    compare values for the same number. The stream of phones is that of `phone_stream`.

    Returns
    -------
    dict[str, float]
        ``purity``; ``pnmi``, the mutual information divided by the entropy of the phones; the number of ``frames``.
    """
    audio, values, phones, halves = corpus.audio(), [], [], []
    for number in utterances:
        for begin, end in windows(corpus, range(number, number + 1)):
            window_phones = stream[begin // HOP : end // HOP]
            spoken = window_phones != NO_LABEL
            if not spoken.any():
                continue
            with torch.inference_mode():
                values.append(features(read_window(audio, (begin, end))).float().numpy()[spoken])
            phones.append(window_phones[spoken])
            halves.append(np.full(len(phones[-1]), number % 2))
    if len({int(half[0]) for half in halves}) < 2:
        raise DataError(
            f"Clusters were to be compared with phones, on {len(utterances)} utterances.",
            "One half of them has no phones.",
            "Hold more utterances out: write a larger valid_fraction",
        )
    frames, truth, half = np.concatenate(values), np.concatenate(phones), np.concatenate(halves)
    predicted = fit_clusters(frames[half == 0], clusters, seed, starts=5).predict(frames[half == 1])
    truth = truth[half == 1].astype(np.int64)
    return {
        "purity": purity(predicted, truth),
        "pnmi": float(mutual_info_score(truth, predicted) / mutual_info_score(truth, truth)),
        "frames": len(truth),
    }
