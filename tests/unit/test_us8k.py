"""UrbanSound8K: official folds, a validation part of whole recordings, clear refusals."""

import csv
import logging
from collections import Counter, defaultdict

import pytest

from brainplug.data.corpora.us8k import list_clips
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import check_splits
from brainplug.errors import UsageError
from tests.made_corpora import make_us8k


@pytest.fixture
def data_folder(tmp_path):
    return make_us8k(tmp_path / "UrbanSound8K")


def change_table(folder, change):
    """Applies a function to each row of the table, a dictionary, in place."""
    path = folder / "metadata" / "UrbanSound8K.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_made_tree_prepares(data_folder, tmp_path):
    clips = prepare_manifest(
        list_clips, str(tmp_path / "out"), data_folder=str(data_folder), fold=3, seed=1, minimum_seconds=0.03
    )
    assert len(clips) == 60
    assert {clip.label for clip in clips} == {"dog_bark", "siren"}


@pytest.mark.parametrize("fold", range(1, 11))
def test_the_fold_tests_whole_and_alone(fold, data_folder):
    clips = list_clips(str(data_folder), fold)
    assert {clip.id for clip in clips if clip.split == "test"} == {clip.id for clip in clips if clip.fold == fold}
    assert {clip.fold for clip in clips if clip.split != "test"} == set(range(1, 11)) - {fold}


def test_a_row_becomes_a_clip(data_folder):
    clip = list_clips(str(data_folder), fold=1)[1]
    assert (clip.id, clip.label, clip.split, clip.fold) == ("100132-3-0-1", "dog_bark", "test", 1)
    assert (clip.group, clip.path) == ("100132", str(data_folder / "audio" / "fold1" / "100132-3-0-1.wav"))


def shares(clips, split):
    counts = Counter(clip.label for clip in clips if clip.split == split)
    return {label: count / counts.total() for label, count in counts.items()}


@pytest.mark.parametrize("seed", range(5))
def test_validation_is_a_stratified_ninth_of_whole_recordings(seed, data_folder):
    clips = list_clips(str(data_folder), fold=10, seed=seed)
    check_splits(clips)
    splits = defaultdict(set)
    for clip in clips:
        splits[clip.group].add(clip.split)
    assert {len(actual) for actual in splits.values()} == {1}
    counts = Counter(clip.split for clip in clips)
    assert counts["test"] == 6
    assert 4 <= counts["valid"] <= 8  # 54 / 9, as far as recordings of one and two clips allow
    assert shares(clips, "valid")["siren"] == pytest.approx(0.5, abs=0.2)


def test_the_draw_comes_from_the_seed(data_folder):
    drawn = [
        {clip.id for clip in list_clips(str(data_folder), 1, seed=seed) if clip.split == "valid"} for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_with_paper_code_all_but_the_smallest_recordings_train(data_folder):
    clips = list_clips(str(data_folder), fold=4, paper_code=True)
    check_splits(clips)
    valid = [clip for clip in clips if clip.split == "valid"]
    assert sorted(clip.label for clip in valid) == ["dog_bark", "siren"]
    sizes = Counter(clip.group for clip in clips)
    assert {sizes[clip.group] for clip in valid} == {1}
    assert Counter(clip.split for clip in clips) == {"train": 52, "valid": 2, "test": 6}


@pytest.mark.parametrize("paper_code", [False, True])
def test_official_folds_that_divide_a_recording_are_kept(paper_code, data_folder, caplog):
    def divide(row):
        row["fsID"] = {"100232": "100132"}.get(row["fsID"], row["fsID"])

    change_table(data_folder, divide)
    with caplog.at_level(logging.WARNING):
        clips = list_clips(str(data_folder), fold=1, paper_code=paper_code)
    check_splits(clips)
    assert "divide 1 of" in caplog.text
    assert "'100132'" in caplog.text
    assert {clip.fold for clip in clips if clip.split == "test"} == {1}


@pytest.mark.parametrize("fold", [0, 11, "all", None, 1.5])
def test_a_fold_outside_1_to_10_is_refused(fold, data_folder):
    with pytest.raises(UsageError, match=f"fold {fold!r}.*1 to 10.*--fold=1"):
        list_clips(str(data_folder), fold)


@pytest.mark.parametrize("part", ["audio", "metadata/UrbanSound8K.csv"])
def test_a_missing_part_of_the_layout_is_named(part, data_folder):
    (data_folder / part).rename(data_folder / "elsewhere")
    with pytest.raises(UsageError, match=f"{part} does not exist"):
        list_clips(str(data_folder), 1)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("fold", "11", r"-0-0\.wav is in fold '11'.*metadata/UrbanSound8K.csv"),
        ("class", "dogbark", r"-0-0\.wav is of the class 'dogbark'.*Write dog_bark"),
    ],
)
def test_a_row_outside_the_official_is_refused(column, value, message, data_folder):
    change_table(data_folder, lambda row: row.update({column: value}))
    with pytest.raises(UsageError, match=message):
        list_clips(str(data_folder), 1)
