"""From clips to padded batches."""

import pickle

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset

from benchmarks.data import FEW, memory_of_an_epoch
from brainplug.data.audio import read_audio
from brainplug.data.features import FeatureCache, LogMel
from brainplug.data.manifest import Clip
from brainplug.data.pipeline import ORDERS, check_batching, make_datasets, training_batches
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
    assert all(torch.equal(made, remaining) for made, remaining in zip(first, second, strict=True))


def test_datasets_can_be_sent_to_workers_that_are_not_forked(clips):
    train = make_datasets(clips, LABELS, read_audio)["train"]
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy[1]["signal"], train[1]["signal"])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_label_that_training_lacks_is_named(split):
    with pytest.raises(UsageError, match=f"'x' of the split {split}.*'dgo'.*dog"):
        make_datasets([Clip("x", "x.wav", "dgo", split)], LABELS, read_audio)


@pytest.mark.slow
def test_100000_clips_take_less_than_300_megabytes_more_than_none():
    empty = memory_of_an_epoch(FEW)
    assert empty > 50e6  # torch alone
    assert memory_of_an_epoch(10**5) - empty < 300e6


def dataset_of(durations) -> DynamicItemDataset:
    clips = [Clip(f"{n}", "", "dog", "train", duration=float(seconds)) for n, seconds in enumerate(durations)]
    return make_datasets(clips, LABELS, lambda clip: torch.zeros(round(100 * clip.duration)))["train"]


DURATIONS = np.random.default_rng(0).lognormal(0.5, 0.8, 300).round(2)


def epochs_of(dataset, number: int = 3, **options) -> list[list[list[str]]]:
    """The ids in each batch of each epoch, as SpeechBrain's loop goes through them."""
    dataset, loader_options = training_batches(
        dataset, **{"batch_size": 8, "batch_seconds": None, "seed": 1, **options}
    )
    loader = make_dataloader(dataset, **loader_options)
    sampler, epochs = loader_options.get("batch_sampler"), []
    for epoch in range(1, number + 1):
        if sampler is not None:
            sampler.set_epoch(epoch)
        expected = len(loader)
        epochs.append([batch.id for batch in loader])
        assert len(epochs[-1]) == expected
    return epochs


@pytest.mark.parametrize("sorting", ORDERS)
@pytest.mark.parametrize("batch_seconds", [None, 1.0, 7, 30.0, 10_000.0])
class TestTrainingBatches:
    def test_every_epoch_has_every_clip_once_in_as_many_batches(self, sorting, batch_seconds):
        epochs = epochs_of(dataset_of(DURATIONS), batch_seconds=batch_seconds, sorting=sorting)
        assert len({len(batches) for batches in epochs}) == 1
        for batches in epochs:
            assert sorted(sum(batches, [])) == sorted(map(str, range(300)))
        if sorting == "random":
            assert batch_seconds is None or epochs[0] != epochs[1]
        else:
            assert epochs[0] == epochs[1]

    def test_no_batch_is_longer_than_asked(self, sorting, batch_seconds):
        [batches] = epochs_of(dataset_of(DURATIONS), 1, batch_seconds=batch_seconds, sorting=sorting)
        for batch in batches:
            longest = max(DURATIONS[int(clip_id)] for clip_id in batch)
            if batch_seconds is None:
                assert len(batch) <= 8
            else:
                assert len(batch) * longest <= batch_seconds or len(batch) == 1

    def test_another_seed_has_another_order(self, sorting, batch_seconds):
        if batch_seconds is None:
            pytest.skip("SpeechBrain draws it from the seed of the process")
        first, other = (
            epochs_of(dataset_of(DURATIONS), batch_seconds=batch_seconds, sorting=sorting, seed=seed) for seed in (1, 2)
        )
        assert (first != other) == (sorting == "random")


def padding_share(batches: list[list[str]]) -> float:
    lengths = [[DURATIONS[int(clip_id)] for clip_id in batch] for batch in batches]
    return 1 - DURATIONS.sum() / sum(len(batch) * max(batch) for batch in lengths)


@pytest.mark.parametrize("options", [{"sorting": "ascending"}, {"sorting": "random", "batch_seconds": 30.0}], ids=str)
def test_clips_of_a_batch_have_similar_lengths(options):
    [mixed] = epochs_of(dataset_of(DURATIONS), 1, sorting="random")
    [similar] = epochs_of(dataset_of(DURATIONS), 1, **options)
    assert padding_share(similar) < padding_share(mixed) / 2


@pytest.mark.parametrize("sorting", ["ascending", "descending"])
@pytest.mark.parametrize("batch_seconds", [None, 30.0])
def test_sorted_batches_stand_in_order_of_length(sorting, batch_seconds):
    [batches] = epochs_of(dataset_of(DURATIONS), 1, sorting=sorting, batch_seconds=batch_seconds)
    longest = [max(DURATIONS[int(clip_id)] for clip_id in batch) for batch in batches]
    assert longest == sorted(longest, reverse=sorting == "descending")


def test_clips_of_one_length_fill_their_batches():
    [batches] = epochs_of(dataset_of([2.0] * 20), 1, sorting="random", batch_seconds=10)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("sorting", "seconds", "message"),
    [
        ("ascendign", None, "'ascendign' was asked for.*ascending"),
        (None, None, "random"),
        ("random", 0, "0 seconds.*no number above 0"),
        ("random", -1.0, "no number above 0"),
        ("random", "ten", "no number above 0"),
        ("random", True, "no number above 0"),
        ("random", float("nan"), "no number above 0"),
        ("random", float("inf"), "no number above 0"),
    ],
)
def test_batches_that_cannot_be_are_refused(sorting, seconds, message):
    with pytest.raises(UsageError, match=message):
        check_batching(sorting, seconds)
