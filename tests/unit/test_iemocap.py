"""IEMOCAP: official layout, ten folds by session and speaker, four emotions, clear refusals."""

from collections import Counter

import pytest

from brainplug.data.corpora.iemocap import list_clips
from brainplug.data.manifest import label_map
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import check_splits
from brainplug.errors import UsageError
from tests.made_corpora import make_iemocap


@pytest.fixture
def data_folder(tmp_path):
    return make_iemocap(tmp_path / "IEMOCAP_full_release")


def test_made_tree_prepares(data_folder, tmp_path):
    clips = prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder), fold=7)
    assert Counter(clip.split for clip in clips) == {"train": 32, "valid": 4, "test": 4}
    assert label_map(clips) == {"angry": 0, "happy": 1, "neutral": 2, "sad": 3}


def test_a_line_becomes_a_clip(data_folder):
    clip = list_clips(str(data_folder), fold=1)[0]
    assert (clip.id, clip.label, clip.split) == ("Ses01F_script01_1b_F000", "angry", "test")
    assert clip.path == str(data_folder / "Session1/sentences/wav/Ses01F_script01_1b/Ses01F_script01_1b_F000.wav")


# Session and speaker that test; the other one of the session validates.
TESTED = {1: "1F", 2: "1M", 3: "2F", 4: "2M", 5: "3F", 6: "3M", 7: "4F", 8: "4M", 9: "5F", 10: "5M"}


@pytest.mark.parametrize("fold", TESTED)
def test_folds_go_by_session_and_speaker(fold, data_folder):
    clips = list_clips(str(data_folder), fold)
    check_splits(clips)
    speakers = {
        split: {clip.id[4] + clip.id[-4] for clip in clips if clip.split == split} for split in ("test", "valid")
    }
    session, speaker = TESTED[fold]
    assert speakers == {"test": {session + speaker}, "valid": {session + {"F": "M", "M": "F"}[speaker]}}
    trained = {clip.id[4] for clip in clips if clip.split == "train"}
    assert trained == set("12345") - {session}
    assert {clip.fold for clip in clips if clip.split == "test"} == {fold}


def test_the_speaker_of_a_turn_is_not_the_one_whose_face_was_recorded(data_folder):
    """Ses01F_..._M000 is said by the man; the F in front says who wore the markers."""
    groups = {clip.id: clip.group for clip in list_clips(str(data_folder), fold=1)}
    assert groups["Ses01F_script01_1b_M000"] != groups["Ses01F_script01_1b_F000"]
    assert len(set(groups.values())) == 10


def test_excited_turns_are_happy_only_if_asked(data_folder):
    without, included = (list_clips(str(data_folder), 1, excited=asked) for asked in (False, True))
    assert Counter(clip.label for clip in without) == dict.fromkeys(("angry", "happy", "neutral", "sad"), 10)
    assert Counter(clip.label for clip in included) == {"angry": 10, "happy": 20, "neutral": 10, "sad": 10}


@pytest.mark.parametrize("fold", [0, 11, "all", None, 1.5])
def test_a_fold_outside_1_to_10_is_refused(fold, data_folder):
    with pytest.raises(UsageError, match=f"fold {fold!r}.*1 to 10.*--fold=1"):
        list_clips(str(data_folder), fold)


@pytest.mark.parametrize("part", ["Session3", "Session1/dialog/EmoEvaluation", "Session5/sentences/wav"])
def test_a_missing_part_of_the_layout_is_named(part, data_folder):
    (data_folder / part).rename(data_folder / "elsewhere")
    with pytest.raises(UsageError, match=f"{part}.* does not exist"):
        list_clips(str(data_folder), 1)


def test_an_unknown_emotion_is_refused(data_folder):
    path = data_folder / "Session2/dialog/EmoEvaluation/Ses02M_impro01.txt"
    path.write_text(path.read_text().replace("\tneu\t", "\tneut\t"))
    with pytest.raises(UsageError, match="Ses02M_impro01_F002 has 'neut'.*which has neu"):
        list_clips(str(data_folder), 1)
