"""ESC-50: official layout, folds of the paper, clear refusals."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from brainplug.data.corpora.esc50 import FOLDS, list_clips
from brainplug.data.manifest import label_map
from brainplug.data.protocol.folds import split_of
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import check_splits
from brainplug.errors import UsageError

HEADER = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
ESC10 = Path(__file__).parents[3] / "shared" / "data" / "esc10"


def write_table(folder, rows, header=HEADER):
    (folder / "meta").mkdir(exist_ok=True)
    with open(folder / "meta" / "esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def data_folder(tmp_path):
    """Two clips a class and fold, of one recording; dog is in ESC-10, cow is not."""
    rows = []
    (tmp_path / "audio").mkdir()
    for fold in range(1, 6):
        for target, (category, esc10) in enumerate([("dog", True), ("rain", True), ("cow", False)]):
            source = f"{fold}0{target}"
            for take in "AB":
                name = f"{fold}-{source}-{take}-{target}.wav"
                rows.append([name, fold, target, category, esc10, source, take])
                noise = 0.1 * np.random.default_rng(len(rows)).standard_normal(1600)
                soundfile.write(tmp_path / "audio" / name, noise, 8000)
    write_table(tmp_path, rows)
    return tmp_path


# The paper: train 1-3, valid 4, test 5; train 2-4, valid 5, test 1; and so on.
PROTOCOL = {5: ({1, 2, 3}, 4), 1: ({2, 3, 4}, 5), 2: ({3, 4, 5}, 1), 3: ({4, 5, 1}, 2), 4: ({5, 1, 2}, 3)}


@pytest.mark.parametrize("fold", PROTOCOL)
def test_folds_rotate_as_in_the_paper(fold, data_folder):
    folds = defaultdict(set)
    for clip in list_clips(str(data_folder), fold):
        folds[clip.split].add(clip.fold)
    train, valid = PROTOCOL[fold]
    assert folds == {"train": train, "valid": {valid}, "test": {fold}}


def test_each_fold_is_tested_once_and_validated_once():
    assert [[split_of(fold, test, FOLDS) for test in range(1, 6)].count("test") for fold in range(1, 6)] == [1] * 5
    assert [[split_of(fold, test, FOLDS) for test in range(1, 6)].count("valid") for fold in range(1, 6)] == [1] * 5


def test_a_row_becomes_a_clip(data_folder):
    clip = list_clips(str(data_folder), fold=1)[1]
    assert (clip.id, clip.label, clip.split, clip.fold, clip.group) == ("1-100-B-0", "dog", "test", 1, "100")
    assert clip.path == str(data_folder / "audio" / "1-100-B-0.wav")


def test_paths_do_not_depend_on_the_working_folder(data_folder, monkeypatch):
    monkeypatch.chdir(data_folder.parent)
    relative = list_clips(data_folder.name, fold=1)
    assert relative == list_clips(str(data_folder), fold=1)


@pytest.mark.parametrize(("subset", "labels"), [(None, {"dog", "rain", "cow"}), ("esc10", {"dog", "rain"})])
def test_subset_keeps_the_classes_of_esc10(subset, labels, data_folder):
    assert {clip.label for clip in list_clips(str(data_folder), fold=2, subset=subset)} == labels


@pytest.mark.parametrize("fold", [0, 6, -1, "all", None, 1.5])
def test_a_fold_outside_1_to_5_is_refused(fold, data_folder):
    with pytest.raises(UsageError, match=f"fold {fold!r}.*1 to 5"):
        list_clips(str(data_folder), fold)


def test_an_unknown_subset_is_refused(data_folder):
    with pytest.raises(UsageError, match="'esc-10'.*--subset=esc10"):
        list_clips(str(data_folder), 1, subset="esc-10")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nowhere does not exist.*--data_folder"):
        list_clips(str(tmp_path / "nowhere"), 1)


@pytest.mark.parametrize("part", ["audio", "meta/esc50.csv"])
def test_a_missing_part_of_the_layout_is_named(part, data_folder):
    (data_folder / part).rename(data_folder / "elsewhere")
    with pytest.raises(UsageError, match=f"{part} does not exist"):
        list_clips(str(data_folder), 1)


@pytest.mark.parametrize("column", ["filename", "fold", "category", "esc10", "src_file"])
def test_a_missing_column_is_named(column, data_folder):
    write_table(data_folder, [], header=[name for name in HEADER if name != column])
    with pytest.raises(UsageError, match=f"lacks {column}; it has"):
        list_clips(str(data_folder), 1)


@pytest.mark.parametrize("fold", ["0", "6", "one", ""])
def test_a_fold_that_is_none_of_the_official_is_refused(fold, data_folder):
    write_table(data_folder, [["x.wav", fold, 0, "dog", True, "1", "A"]])
    with pytest.raises(UsageError, match=rf"x\.wav is in fold {fold!r}"):
        list_clips(str(data_folder), 1)


def test_made_tree_prepares(data_folder, tmp_path):
    clips = prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder), fold=3, dataset="esc50")
    assert Counter(clip.split for clip in clips) == {"train": 18, "valid": 6, "test": 6}
    assert {clip.duration for clip in clips} == {0.2}
    assert label_map(clips) == {"cow": 0, "dog": 1, "rain": 2}


@pytest.mark.skipif(not ESC10.is_dir(), reason="the recordings of ESC-10 are not beside the repository")
@pytest.mark.parametrize("fold", range(1, 6))
def test_esc10_has_its_published_size(fold):
    clips = list_clips(str(ESC10), fold, subset="esc10")
    check_splits(clips)  # no recording crosses folds
    assert Counter(clip.split for clip in clips) == {"train": 240, "valid": 80, "test": 80}
    assert set(Counter((clip.label, clip.fold) for clip in clips).values()) == {8}
    assert len(label_map(clips)) == 10


@pytest.mark.skipif(not ESC10.is_dir(), reason="the recordings of ESC-10 are not beside the repository")
def test_esc10_is_sound(tmp_path):
    clips = prepare_manifest(list_clips, str(tmp_path), data_folder=str(ESC10), fold=1)
    assert len(clips) == 400
    assert np.median([clip.duration for clip in clips]) == pytest.approx(5, abs=0.01)
