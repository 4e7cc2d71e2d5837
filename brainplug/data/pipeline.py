"""From manifest rows to SpeechBrain datasets, which read their clips one at a time, in worker processes."""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from brainplug.data.audio import Channel, read_audio
from brainplug.data.features import FeatureCache
from brainplug.data.manifest import Clip
from brainplug.errors import ConfigError, DataError, nearest

ORDERS = ("random", "ascending", "descending")
BUCKETS = 10  # of similar lengths: tenths of the clips


def make_datasets(
    clips: Iterable[Clip], labels: Mapping[str, float], read: Callable[[Clip], torch.Tensor]
) -> dict[str, DynamicItemDataset]:
    """Makes one dataset for each split. It holds manifest rows only; audio is read when an item is fetched.

    Items are ``id``, ``signal`` (what `read` returns) and ``target`` (the label's number, ``[1]``); a dataset can be
    sorted and filtered by ``duration`` (seconds) and ``label`` too. Where several processes train, one prepares the
    manifest and each makes its datasets from that file.

    Arguments
    ---------
    clips : Iterable[Clip]
        Clips of all splits, with unique ids.
    labels : Mapping[str, float]
        Label to class index, or to the number that it stands for.
    read : Callable[[Clip], torch.Tensor]
        Reads a clip: log-mel features ``[frames, mel_bands]`` or a waveform ``[time]``. It must be picklable where
        workers are not forked.

    Example
    -------
    >>> clips = [Clip("a", "a.wav", "dog", "train"), Clip("b", "b.wav", "cat", "test")]
    >>> datasets = make_datasets(clips, {"cat": 0, "dog": 1}, lambda clip: torch.zeros(3))
    >>> datasets["train"][0]["target"]
    tensor([1])
    """
    of_split: dict[str, list[Clip]] = {}
    for clip in clips:
        of_split.setdefault(clip.split, []).append(clip)
    return {split: _dataset(PackedRows(clips, labels), read) for split, clips in of_split.items()}


class PackedRows(Mapping[str, dict[str, Any]]):
    """The rows of a dataset in one piece of memory.

    A forked worker shares its parent's memory until either writes there, and Python writes to each object that it
    reads, to count its users: each worker would come to copy rows that are separate objects.

    Example
    -------
    >>> rows = PackedRows([Clip("a", "a.wav", "dog", duration=2.0)], {"cat": 0, "dog": 1})
    >>> rows["a"]["duration"], rows["a"]["index"]
    (2.0, 1)
    """

    def __init__(self, clips: Sequence[Clip], labels: Mapping[str, float]):
        rows = [
            pickle.dumps({"clip": astuple(clip), "duration": clip.duration, "index": _class_index(clip, labels)})
            for clip in clips
        ]
        self._packed = b"".join(rows)
        self._ends = np.cumsum([0, *map(len, rows)])
        self._positions = {clip.id: position for position, clip in enumerate(clips)}

    def __getitem__(self, clip_id: str) -> dict[str, Any]:
        position = self._positions[clip_id]
        row = pickle.loads(self._packed[self._ends[position] : self._ends[position + 1]])
        clip = Clip(*row["clip"])
        return {**row, "clip": clip, "label": clip.label}

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


def _class_index(clip: Clip, labels: Mapping[str, float]) -> float:
    if clip.label not in labels:
        raise DataError(
            f"The clip {clip.id!r} of the split {clip.split} was asked for.",
            f"Its label {clip.label!r} is not among the {len(labels)} classes of training.",
            f"Nearest: {nearest(clip.label, labels)}.",
        )
    return labels[clip.label]


def _dataset(rows: PackedRows, read: Callable[[Clip], torch.Tensor]) -> DynamicItemDataset:
    dataset = DynamicItemDataset(rows)
    dataset.add_dynamic_item(read, takes=["clip"], provides="signal")
    dataset.add_dynamic_item(_target, takes=["index"], provides="target")
    dataset.set_output_keys(["id", "signal", "target"])
    return dataset


def _target(index: float) -> torch.Tensor:
    return torch.tensor([index])  # [1]: PaddedBatch pads along a dimension, which a scalar lacks


def make_reader(
    extract: Callable[[torch.Tensor], torch.Tensor],
    settings: Mapping[str, Any],
    sample_rate: int,
    cache_folder: str | None,
    channel: Channel = "mix",
) -> FeatureCache:
    """Makes the function from a clip to a signal: decode, resample, `extract`; in `cache_folder`, if it is given.

    Arguments
    ---------
    extract : Callable[[torch.Tensor], torch.Tensor]
        Turns a waveform ``[time]`` into the signal that the backbone takes.
    settings : dict
        All that `extract` depends on.
    sample_rate : int
        Of that waveform, in Hz.
    channel : Channel
        Which channel is read, as `choose_channel` does.

    Example
    -------
    >>> make_reader(torch.abs, {}, 16000, None).folder is None
    True
    """
    read = partial(_read_signal, extract, sample_rate, channel)
    return FeatureCache(cache_folder, read, {**settings, "sample_rate": sample_rate, "channel": channel})


def _read_signal(
    extract: Callable[[torch.Tensor], torch.Tensor], sample_rate: int, channel: Channel, clip: Clip
) -> torch.Tensor:
    return extract(read_audio(clip, sample_rate, channel))


def check_batching(sorting: str, batch_seconds: float | None) -> None:
    """Checks settings of `training_batches`: the order exists, and the seconds are a number above 0."""
    if sorting not in ORDERS:
        raise ConfigError(
            f"The sorting {sorting!r} was asked for.",
            "It does not exist.",
            f"Write one of: {nearest(sorting, ORDERS)}",
        )
    if batch_seconds is not None and (type(batch_seconds) not in (int, float) or not 0 < batch_seconds < math.inf):
        raise ConfigError(
            f"Batches of {batch_seconds!r} seconds were asked for.",
            "It is no number above 0.",
            "Write --batch_seconds=60, for one, or null for --batch_size clips",
        )


def training_batches(
    dataset: DynamicItemDataset, batch_size: int, batch_seconds: float | None, sorting: str, seed: int
) -> tuple[DynamicItemDataset, dict[str, Any]]:
    """Decides which clips are in a batch of training; returns the clips and the arguments of their loader.

    Every epoch has each clip once, and as many batches as every other one.

    Arguments
    ---------
    dataset : DynamicItemDataset
        As `make_datasets` returns it, of clips whose duration is known.
    batch_size : int
        Clips in a batch, where `batch_seconds` is None.
    batch_seconds : float, optional
        The most seconds of audio in a batch of clips of similar length, padding included; a longer clip has a batch of
        its own.
    sorting : str
        ``random``; or by length, ``ascending`` or ``descending``, the same in all epochs.
    seed : int
        Of the order; each epoch has its own.

    Example
    -------
    >>> clips = [Clip(f"{n}", "", "dog", "train", duration=n) for n in (1.0, 3.0, 2.0)]
    >>> train = make_datasets(clips, {"dog": 0}, lambda clip: torch.zeros(3))["train"]
    >>> training_batches(train, 2, None, "descending", seed=1)[0].data_ids
    ['3.0', '2.0', '1.0']
    """
    shuffle = sorting == "random"
    if not shuffle:
        dataset = dataset.filtered_sorted(sort_key="duration", reverse=sorting == "descending")
    if batch_seconds is None:
        return dataset, {"batch_size": batch_size, "shuffle": shuffle}
    durations = [dataset.data[clip_id]["duration"] for clip_id in dataset.data_ids]
    # SpeechBrain's own boundaries follow from the batch's seconds alone: short clips would all be in one bucket.
    boundaries = np.unique(np.quantile(durations, np.arange(1, BUCKETS + 1) / BUCKETS)).tolist()
    sampler = DynamicBatchSampler(
        dataset,
        batch_seconds,
        bucket_boundaries=boundaries,
        shuffle=shuffle,
        batch_ordering=sorting,
        seed=seed,
    )
    return dataset, {"batch_sampler": sampler}
