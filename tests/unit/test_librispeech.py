"""LibriSpeech in its own layout."""

import pytest
import soundfile

from brainplug.data.corpora.librispeech import list_clips
from brainplug.data.protocol.splits import check_splits
from brainplug.errors import UsageError
from tests.made_corpora import make_librispeech


@pytest.fixture
def corpus(tmp_path):
    return make_librispeech(tmp_path / "LibriSpeech")


def test_utterances_have_their_transcripts_and_speakers(corpus):
    clips = list_clips(str(corpus))
    check_splits(clips)
    assert [(clip.id, clip.split, clip.group, clip.text) for clip in clips[:3]] == [
        ("103-1240-0000", "train", "103", "CHAPTER ONE"),
        ("103-1240-0001", "train", "103", "THAT HAD ITS SOURCE AWAY BACK IN THE WOODS"),
        ("1034-121119-0000", "train", "1034", "CHAPTER ONE"),
    ]
    assert [clip.split for clip in clips] == ["train"] * 4 + ["valid"] * 2 + ["test"] * 2
    assert all(soundfile.info(clip.path).samplerate == 16000 for clip in clips)


def test_other_parts_can_be_chosen(corpus):
    clips = list_clips(str(corpus), train=["dev-clean"], valid=["train-clean-100"], test=[])
    assert [clip.split for clip in clips] == ["train"] * 2 + ["valid"] * 4


def test_a_part_that_is_missing_is_named(corpus):
    with pytest.raises(UsageError, match="train-other-500 does not exist.*--data_folder"):
        list_clips(str(corpus), train=["train-other-500"])


def test_a_part_without_transcripts_is_refused(corpus):
    for path in (corpus / "dev-clean").rglob("*.trans.txt"):
        path.unlink()
    with pytest.raises(UsageError, match=r"dev-clean were asked for\. There is no SPEAKER/CHAPTER"):
        list_clips(str(corpus))


def test_a_line_without_a_text_is_named(corpus):
    [path] = (corpus / "test-clean").rglob("*.trans.txt")
    path.write_text("1089-134686-0000 HE HOPED\n1089-134686-0001\n")
    with pytest.raises(UsageError, match="1089-134686.trans.txt were asked for. Line 2 is '1089-134686-0001'"):
        list_clips(str(corpus))
