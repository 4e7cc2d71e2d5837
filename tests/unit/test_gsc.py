"""Speech Commands: given lists, the hash rule that made them, the 12-class task, clear refusals."""

import logging
import math
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from brainplug.data.corpora import gsc
from brainplug.data.corpora.gsc import COMMANDS, OTHER_WORDS, list_clips, split_by_hash
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import check_splits
from brainplug.errors import UsageError
from tests.made_corpora import GSC_SPEAKERS, make_gsc, write_noise

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "gsc-sample" / "speech_commands_v0.02"
# Names and splits as the lists of the official release have them.
OFFICIAL = {
    "eight/b0c0197e_nohash_0.wav": "valid",
    "eight/c6ee87a7_nohash_0.wav": "valid",
    "off/0ea9c8ce_nohash_0.wav": "valid",
    "up/f822b9bf_nohash_2.wav": "valid",
    "bed/dce5041a_nohash_1.wav": "train",
    "nine/014f9f65_nohash_2.wav": "train",
    "right/8d8d9855_nohash_0.wav": "train",
}


@pytest.fixture
def data_folder(tmp_path):
    return make_gsc(tmp_path / "speech_commands_v0.02")


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_hash_rule_agrees_with_the_official_lists(name):
    assert split_by_hash(name) == split_by_hash(name.rpartition("/")[2]) == OFFICIAL[name]


@pytest.mark.parametrize(
    ("speaker", "split"),
    # The SHA-1 modulo 2**27 is 9.6, 16.4 and 51.0 % of 2**27 - 1: worked out apart from the code.
    [("00000000", "valid"), ("00000002", "test"), ("00000001", "train")],
)
def test_the_hash_rule_has_three_parts(speaker, split):
    assert split_by_hash(f"yes/{speaker}_nohash_7.wav") == split


def test_the_hash_rule_takes_a_tenth_each():
    counts = Counter(split_by_hash(f"yes/{number:08x}_nohash_0.wav") for number in range(20000))
    assert counts["valid"] / 20000 == pytest.approx(0.1, abs=0.007)
    assert counts["test"] / 20000 == pytest.approx(0.1, abs=0.007)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of Speech Commands is not beside the repository")
def test_the_hash_rule_agrees_with_the_sample():
    clips = list_clips(str(SAMPLE))
    assert Counter(clip.split for clip in clips) == {"train": 10, "valid": 10}
    assert {clip.id: clip.split for clip in clips} == {clip.id: split_by_hash(clip.id) for clip in clips}
    assert all(soundfile.info(clip.path).samplerate == 16000 for clip in clips)


def test_made_tree_prepares(data_folder, tmp_path):
    clips = prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder), classes=35, seed=1)
    assert Counter(clip.split for clip in clips) == {"train": 16, "valid": 8, "test": 8}
    assert {clip.label for clip in clips} == {"bed", "cat", "no", "yes"}
    for split, speakers in GSC_SPEAKERS.items():
        assert {clip.group for clip in clips if clip.split == split} == set(speakers)


def test_without_lists_the_hash_rule_splits(data_folder):
    with_lists = list_clips(str(data_folder))
    for name in ("validation_list.txt", "testing_list.txt"):
        (data_folder / name).unlink()
    assert list_clips(str(data_folder)) == with_lists


def test_the_lists_come_before_the_hash_rule(data_folder):
    moved = "bed/00000001_nohash_0.wav"
    with open(data_folder / "testing_list.txt", "a") as file:
        file.write(f"{moved}\n")
    splits = {f"{clip.id}.wav": clip.split for clip in list_clips(str(data_folder))}
    assert (splits[moved], split_by_hash(moved)) == ("test", "train")


def test_a_byte_order_mark_in_a_list_is_tolerated(data_folder):
    clips = list_clips(str(data_folder))
    for table in ("validation_list.txt", "testing_list.txt"):
        (data_folder / table).write_text((data_folder / table).read_text(), encoding="utf-8-sig")
    assert list_clips(str(data_folder)) == clips


def test_official_lists_that_divide_a_speaker_are_kept(data_folder, caplog):
    with open(data_folder / "testing_list.txt", "a") as file:
        file.write("bed/00000001_nohash_0.wav\n")
    with caplog.at_level(logging.WARNING):
        clips = list_clips(str(data_folder))
    check_splits(clips)
    assert {clip.group for clip in clips if "00000001" in clip.id} == {""}
    assert "divide 1 of 8 speakers or recordings, first '00000001'" in caplog.text


def test_a_listed_recording_that_is_missing_is_quarantined(data_folder, tmp_path):
    (data_folder / "yes" / "00000002_nohash_0.wav").unlink()
    clips = prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder), max_fraction=0.1)
    assert len(clips) == 31
    assert "yes/00000002_nohash_0" in (tmp_path / "out" / "quarantine.csv").read_text()


class TestTwelveClasses:
    def test_made_tree_prepares(self, data_folder, tmp_path):
        clips = prepare_manifest(list_clips, str(tmp_path / "out"), data_folder=str(data_folder), classes=12, seed=1)
        # A tenth of 8 and of 4 commands, rounded up.
        assert Counter((clip.split, clip.label) for clip in clips) == {
            **{("train", word): 4 for word in ("yes", "no")},
            **{(split, word): 2 for split in ("valid", "test") for word in ("yes", "no")},
            **{(split, label): 1 for split in ("train", "valid", "test") for label in ("unknown", "silence")},
        }
        assert {clip.duration for clip in clips if clip.label == "silence"} == {1.0}

    @pytest.fixture
    def large(self, data_folder):
        """As the made tree, with fifty more names of each word in each list; nothing reads them."""
        for split, table in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
            with open(data_folder / table, "a") as file:
                for word in ("yes", "no", "bed", "cat"):
                    file.writelines(f"{word}/{split}{number}_nohash_0.wav\n" for number in range(50))
        return str(data_folder)

    def test_unknown_and_silence_are_a_tenth_of_the_commands_each(self, large):
        clips = list_clips(large, classes=12)
        for split in ("train", "valid", "test"):
            counts = Counter(clip.label for clip in clips if clip.split == split)
            tenth = math.ceil((counts["yes"] + counts["no"]) / 10)
            assert (counts["unknown"], counts["silence"]) == (tenth, tenth)

    def test_unknown_words_are_the_others_of_the_same_split(self, large):
        splits = {clip.id: clip.split for clip in list_clips(large)}
        unknown = [clip for clip in list_clips(large, classes=12) if clip.label == "unknown"]
        assert {clip.id.partition("/")[0] for clip in unknown} == {"bed", "cat"}
        assert all(clip.split == splits[clip.id] for clip in unknown)

    def test_no_split_hears_the_noise_of_another(self, large):
        silence = [clip for clip in list_clips(large, classes=12) if clip.label == "silence"]
        check_splits(list_clips(large, classes=12))
        assert {Path(clip.path).parent.name for clip in silence} == {"_background_noise_"}
        assert {round(clip.stop - clip.start, 9) for clip in silence} == {1.0}
        limits = {"train": (0.0, 12.0), "valid": (12.0, 13.5), "test": (13.5, 15.0)}  # 80, 10 and 10 % of 15 s
        assert all(limits[clip.split][0] <= clip.start <= clip.stop <= limits[clip.split][1] for clip in silence)
        assert len({Path(clip.path).name for clip in silence}) == 2

    @pytest.mark.parametrize("hundredths", [14, 39, 64, 66, 68])
    def test_silence_stops_where_the_next_may_start(self, hundredths, data_folder, monkeypatch):
        monkeypatch.setattr(gsc, "_seconds", lambda path: (hundredths + 100) / 80)  # train ends at this, and 1 s
        noises = data_folder / "_background_noise_"
        stops = {piece["stop"] for piece in gsc._noise_pieces(noises, "train")}
        assert max(stops) == (hundredths + 100) / 100

    def test_draws_come_from_the_seed(self, large):
        drawn = [[clip.id for clip in list_clips(large, classes=12, seed=seed)] for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_the_folder_of_noise_is_needed(self, data_folder):
        (data_folder / "_background_noise_").rename(data_folder / ".elsewhere")
        with pytest.raises(UsageError, match="_background_noise_ does not exist"):
            list_clips(str(data_folder), classes=12)
        assert len(list_clips(str(data_folder))) == 32

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda path: path.write_text("no audio"), "white_noise.wav cannot be read: Format not recognised"),
            (lambda path: write_noise(path, seconds=5.0), "no noise of 10 s or more"),
        ],
    )
    def test_noise_that_cannot_be_used_is_named(self, damage, message, data_folder):
        damage(data_folder / "_background_noise_" / "white_noise.wav")
        (data_folder / "_background_noise_" / "doing_the_dishes.wav").unlink()
        with pytest.raises(UsageError, match=message):
            list_clips(str(data_folder), classes=12)


@pytest.mark.parametrize("classes", [10, 11, 20, "twelve", None])
def test_another_task_is_refused(classes, data_folder):
    with pytest.raises(UsageError, match=f"{classes!r} classes.*--classes=35, or --classes=12"):
        list_clips(str(data_folder), classes=classes)


@pytest.mark.parametrize("name", ["validation_list.txt", "testing_list.txt"])
def test_one_list_alone_is_refused(name, data_folder):
    (data_folder / name).unlink()
    with pytest.raises(UsageError, match=f"{name} does not exist"):
        list_clips(str(data_folder))


def test_a_folder_of_another_word_is_refused(data_folder):
    (data_folder / "yess").mkdir()
    with pytest.raises(UsageError, match="folder 'yess', which is none of its words.*name it yes"):
        list_clips(str(data_folder))


def test_a_folder_without_words_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no folder of a word.*--data_folder"):
        list_clips(str(tmp_path))


def test_there_are_35_words():
    assert len({*COMMANDS, *OTHER_WORDS}) == 35
