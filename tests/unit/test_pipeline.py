"""From clips to padded batches."""

import pickle
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader

from brainplug.data.audio import read_audio
from brainplug.data.features import FeatureCache, LogMel
from brainplug.data.manifest import Clip
from brainplug.data.pipeline import make_datasets
from brainplug.errors import UsageError

LABELS = {"cat": 0, "dog": 1}


@pytest.fixture
def clips(tmp_path):
    """Four train clips of 0.1, 0.2, 0.3 and 0.4 s, and one clip each to validate and test."""
    made = []
    for number, split in enumerate(["train"] * 4 + ["valid", "test"]):
        path = str(tmp_path / f"{number}.wav")
        seconds = 0.1 * (number % 4 + 1)
        soundfile.write(path, np.full(round(16000 * seconds), 0.1 * (number + 1)), 16000, subtype="FLOAT")
        made.append(Clip(str(number), path, ["cat", "dog"][number % 2], split, duration=seconds))
    return made


def batches(dataset, **options):
    return list(make_dataloader(dataset, batch_size=2, **options))


def test_each_split_holds_its_clips(clips):
    datasets = make_datasets(clips, LABELS, read_audio)
    assert {split: dataset.data_ids for split, dataset in datasets.items()} == {
        "train": ["0", "1", "2", "3"],
        "valid": ["4"],
        "test": ["5"],
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_waveforms_are_padded_with_relative_lengths(num_workers, clips):
    first, second = batches(make_datasets(clips, LABELS, read_audio)["train"], num_workers=num_workers)
    assert first.id == ["0", "1"]
    assert first.signal.data.shape == (2, 3200)
    assert first.signal.lengths.tolist() == [0.5, 1.0]
    assert torch.allclose(first.signal.data[0], torch.tensor([0.1, 0.0]).repeat_interleave(1600))
    assert first.target.data.tolist() == [[0], [1]]
    assert second.signal.lengths.tolist() == [0.75, 1.0]


def test_features_of_fixed_length_are_stacked(clips):
    log_mel = LogMel(mel_bands=8, frames=20)
    train = make_datasets(clips, LABELS, lambda clip: log_mel.extract(read_audio(clip)))["train"]
    batch = PaddedBatch([train[0], train[3]])
    assert batch.signal.data.shape == (2, 20, 8)
    assert batch.signal.lengths.tolist() == [1.0, 1.0]
    assert torch.equal(batch.signal.data[1], log_mel.extract(read_audio(clips[3])))


def test_target_is_an_integer_tensor_that_moves_with_the_batch(clips):
    train = make_datasets(clips, LABELS, read_audio)["train"]
    batch = PaddedBatch([train[0], train[1]]).to(dtype=torch.float64)
    assert train[1]["target"].dtype == torch.int64
    assert batch.target.data.dtype == torch.float64


def test_items_are_read_when_fetched_and_only_then(clips):
    read = []
    train = make_datasets(clips, LABELS, lambda clip: read.append(clip.id) or torch.zeros(1))["train"]
    assert read == []
    assert train[2]["id"] == "2"
    assert read == ["2"]


def test_clips_can_be_sorted_by_duration_without_reading_them(clips):
    def read(clip):
        raise AssertionError

    train = make_datasets(clips, LABELS, read)["train"]
    longest_first = train.filtered_sorted(sort_key="duration", reverse=True, key_min_value={"duration": 0.15})
    assert longest_first.data_ids == ["3", "2", "1"]


def test_second_epoch_does_not_decode_again(clips, tmp_path):
    decoded = []

    def extract(clip):
        decoded.append(clip.id)
        return LogMel(frames=20).extract(read_audio(clip))

    train = make_datasets(clips, LABELS, FeatureCache(str(tmp_path / "cache"), extract, {}))["train"]
    first, second = ([train[n]["signal"] for n in range(4)] for _ in range(2))
    assert decoded == ["0", "1", "2", "3"]
    assert all(torch.equal(made, kept) for made, kept in zip(first, second, strict=True))


def test_datasets_can_be_sent_to_workers_that_are_not_forked(clips):
    train = make_datasets(clips, LABELS, read_audio)["train"]
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy[1]["signal"], train[1]["signal"])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_label_that_training_lacks_is_named(split):
    with pytest.raises(UsageError, match=f"'x' of the split {split}.*'dgo'.*dog"):
        make_datasets([Clip("x", "x.wav", "dgo", split)], LABELS, read_audio)


def test_100000_clips_take_less_than_150_megabytes():
    tracemalloc.start()
    clips = [Clip(f"clip-{n}", f"/data/audio/{n}.wav", "dog", "train", 1, f"{n}", 0.0, 1.0, 1.0) for n in range(10**5)]
    train = make_datasets(clips, LABELS, read_audio)["train"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(train) == 10**5
    assert peak < 150e6
