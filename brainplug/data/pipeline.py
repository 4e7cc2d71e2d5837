"""From manifest rows to SpeechBrain datasets, which read their clips one at a time, in worker processes."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from brainplug.data.audio import read_audio
from brainplug.data.features import FeatureCache
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError, nearest


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
    rows = {}
    for clip in clips:
        row = {"clip": clip, "duration": clip.duration, "label": clip.label, "index": _class_index(clip, labels)}
        rows.setdefault(clip.split, {})[clip.id] = row
    return {split: _dataset(split_rows, read) for split, split_rows in rows.items()}


def _class_index(clip: Clip, labels: dict[str, int]) -> int:
    if clip.label not in labels:
        raise UsageError(
            f"The clip {clip.id!r} of the split {clip.split} was asked for.",
            f"Its label {clip.label!r} is not among the {len(labels)} classes of training.",
            f"Nearest: {nearest(clip.label, labels)}.",
        )
    return labels[clip.label]


def _dataset(rows: dict[str, dict], read: Callable[[Clip], torch.Tensor]) -> DynamicItemDataset:
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
