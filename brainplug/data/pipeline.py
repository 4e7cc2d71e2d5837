"""From manifest rows to SpeechBrain datasets, which read their clips one at a time, in worker processes."""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import partial

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler

from brainplug.data.audio import read_audio
from brainplug.data.features import FeatureCache
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError, nearest

ORDERS = ("random", "ascending", "descending")
BUCKETS = 10  # of similar lengths: tenths of the clips


def make_datasets(
    clips: Iterable[Clip], labels: dict[str, int], read: Callable[[Clip], torch.Tensor]
) -> dict[str, DynamicItemDataset]:
    """Makes one dataset a split.

    A dataset holds manifest rows only; audio is read when an item is fetched. Its items are ``id``, ``signal`` (what
    `read` returns) and ``target`` (the class index, ``[1]``); it can be sorted and filtered by ``duration`` (seconds)
    and ``label`` too.

    Where several processes train, one prepares the manifest and every one makes its datasets from that file.

    Arguments
    ---------
    clips : Iterable[Clip]
        Clips of all splits, with unique ids.
    labels : dict[str, int]
        Label to class index.
    read : Callable[[Clip], torch.Tensor]
        Reads a clip: log-mel features ``[frames, mel_bands]`` or a waveform ``[time]``. Where workers are not forked
        it must be picklable.

    Returns
    -------
    dict[str, DynamicItemDataset]
        A dataset for each split that occurs.

    Raises
    ------
    UsageError
        A clip's label is not among the labels.

    Example
    -------
    >>> clips = [Clip("a", "a.wav", "dog", "train"), Clip("b", "b.wav", "cat", "test")]
    >>> datasets = make_datasets(clips, {"cat": 0, "dog": 1}, lambda clip: torch.zeros(3))
    >>> datasets["train"][0]["target"]
    tensor([1])
    """
    of_split = {}
    for clip in clips:
        of_split.setdefault(clip.split, []).append(clip)
    return {split: _dataset(PackedRows(some, labels), read) for split, some in of_split.items()}


class PackedRows(Mapping[str, dict]):
    """The rows of a dataset in one piece of memory.

    A worker process shares the memory of the one it was forked from until either writes there, and Python writes to
    each object that it looks at, to count who uses it: rows of separate objects would come to be copied by each worker.

    Arguments
    ---------
    clips : Sequence[Clip]
        With unique ids.
    labels : dict[str, int]
        Label to class index.

    Example
    -------
    >>> rows = PackedRows([Clip("a", "a.wav", "dog", duration=2.0)], {"cat": 0, "dog": 1})
    >>> rows["a"]["duration"], rows["a"]["index"]
    (2.0, 1)
    """

    def __init__(self, clips: Sequence[Clip], labels: dict[str, int]):
        rows = [
            pickle.dumps({"clip": astuple(clip), "duration": clip.duration, "index": _class_index(clip, labels)})
            for clip in clips
        ]
        self._packed = b"".join(rows)
        self._ends = np.cumsum([0, *map(len, rows)])
        self._places = {clip.id: place for place, clip in enumerate(clips)}

    def __getitem__(self, clip_id: str) -> dict:
        place = self._places[clip_id]
        row = pickle.loads(self._packed[self._ends[place] : self._ends[place + 1]])
        clip = Clip(*row["clip"])
        return {**row, "clip": clip, "label": clip.label}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _class_index(clip: Clip, labels: dict[str, int]) -> int:
    if clip.label not in labels:
        raise UsageError(
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


def _target(index: int) -> torch.Tensor:
    return torch.tensor([index])  # [1]: PaddedBatch pads along a dimension, which a scalar lacks


def make_reader(
    extract: Callable[[torch.Tensor], torch.Tensor], settings: dict, sample_rate: int, cache_folder: str | None
) -> FeatureCache:
    """Makes the function that turns a clip into a signal: decode, mix, resample, extract; kept on disk if asked.

    Arguments
    ---------
    extract : Callable[[torch.Tensor], torch.Tensor]
        Turns a waveform ``[time]`` into the signal that the backbone takes.
    settings : dict
        All that `extract` depends on.
    sample_rate : int
        Of the waveform that it takes, in Hz.
    cache_folder : str, optional
        Where signals are kept; None keeps nothing.

    Returns
    -------
    FeatureCache
        Called with a clip, it returns the signal.

    Example
    -------
    >>> make_reader(torch.abs, {}, 16000, None).folder is None
    True
    """
    return FeatureCache(
        cache_folder, partial(_read_signal, extract, sample_rate), {**settings, "sample_rate": sample_rate}
    )


def _read_signal(extract: Callable[[torch.Tensor], torch.Tensor], sample_rate: int, clip: Clip) -> torch.Tensor:
    return extract(read_audio(clip, sample_rate))


def check_batching(sorting: str, batch_seconds: float | None) -> None:
    """Makes sure that batches can be made in this way.

    Arguments
    ---------
    sorting, batch_seconds : str, float
        As in `training_batches`.

    Raises
    ------
    UsageError
        There is no such order, or the seconds are no number above 0.

    Example
    -------
    >>> check_batching("random", None)
    """
    if sorting not in ORDERS:
        raise UsageError(
            f"The sorting {sorting!r} was asked for.",
            "It does not exist.",
            f"Write one of: {nearest(sorting, ORDERS)}",
        )
    if batch_seconds is not None and (type(batch_seconds) not in (int, float) or not 0 < batch_seconds < math.inf):
        raise UsageError(
            f"Batches of {batch_seconds!r} seconds were asked for.",
            "It is no number above 0.",
            "Write --batch_seconds=60, for one, or null for --batch_size clips",
        )


def training_batches(
    dataset: DynamicItemDataset, batch_size: int, batch_seconds: float | None, sorting: str, seed: int
) -> tuple[DynamicItemDataset, dict]:
    """Decides which clips stand together in a batch of training.

    Every epoch has each clip once, and as many batches as every other one.

    Arguments
    ---------
    dataset : DynamicItemDataset
        As `make_datasets` returns it, of clips whose duration is known.
    batch_size : int
        Clips in a batch, where `batch_seconds` is None.
    batch_seconds : float, optional
        The most seconds of audio in a batch, padding included; a longer clip has a batch of its own. A batch holds
        clips of similar length.
    sorting : str
        ``random``; or by length, ``ascending`` or ``descending``, the same in all epochs.
    seed : int
        Of the order; each epoch has its own.

    Returns
    -------
    tuple[DynamicItemDataset, dict]
        The clips, and the arguments of their loader.

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
