"""Fluent Speech Commands: official layout, given lists, clear refusals."""

from collections import Counter

import pytest

from brainplug.data.corpora.fsc import list_clips
from brainplug.data.manifest import label_map
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.errors import UsageError
from tests.made_corpora import FSC_SPEAKERS, make_fsc


@pytest.fixture
def data_folder(tmp_path):
    return make_fsc(tmp_path / "fluent_speech_commands_dataset")


def test_made_tree_prepares(data_folder, tmp_path):
    clips = prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder), fold=None)
    assert Counter(clip.split for clip in clips) == {"train": 8, "valid": 4, "test": 4}
    assert label_map(clips) == {"activate lights none": 0, "increase heat kitchen": 1}
    for split, speakers in FSC_SPEAKERS.items():
        assert {clip.group for clip in clips if clip.split == split} == set(speakers)


def test_a_row_becomes_a_clip(data_folder):
    clip = list_clips(str(data_folder))[1]
    assert (clip.label, clip.split, clip.group) == ("increase heat kitchen", "train", "2BqVo8kVB2Skwgyb")
    assert clip.path == str(data_folder / f"{clip.id}.wav")
    assert clip.id.startswith("wavs/speakers/2BqVo8kVB2Skwgyb/")


@pytest.mark.parametrize("part", ["wavs", "data/train_data.csv", "data/valid_data.csv", "data/test_data.csv"])
def test_a_missing_part_of_the_layout_is_named(part, data_folder):
    (data_folder / part).rename(data_folder / "elsewhere")
    with pytest.raises(UsageError, match=f"{part} does not exist.*--data_folder=DIR"):
        list_clips(str(data_folder))


@pytest.mark.parametrize("column", ["path", "speakerId", "action", "object", "location"])
def test_a_missing_column_is_named(column, data_folder):
    table = data_folder / "data" / "test_data.csv"
    table.write_text(table.read_text().replace(column, "other", 1))
    with pytest.raises(UsageError, match=f"lacks {column}; it has"):
        list_clips(str(data_folder))


def test_an_intent_that_is_not_trained_is_refused(data_folder, tmp_path):
    table = data_folder / "data" / "test_data.csv"
    table.write_text(table.read_text().replace("increase,heat", "increase,heart"))
    with pytest.raises(UsageError, match="class 'increase heart kitchen' occurs in test only"):
        prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder))


def test_a_speaker_in_two_lists_is_refused(data_folder, tmp_path):
    table = data_folder / "data" / "test_data.csv"
    table.write_text(table.read_text().replace(",4aGjX3AG5xcxeL7a,", ",2BqVo8kVB2Skwgyb,"))
    with pytest.raises(UsageError, match="group '2BqVo8kVB2Skwgyb' is in train and test"):
        prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder))
