"""Manifests: what is written is read, bad clips are set aside, splits that leak are refused."""

import csv
import dataclasses
import json
import logging
import os
import shutil
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from brainplug.data import decoding
from brainplug.data.corpora import own
from brainplug.data.manifest import Clip, label_map, read_manifest, read_table, write_manifest
from brainplug.data.protocol import checks
from brainplug.data.protocol.checks import check_clips
from brainplug.data.protocol.leaks import shared_audio
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import SPLITS, check_splits
from brainplug.errors import UsageError
from brainplug.files import atomic_file

RATE = 8000


def write_noise(path, seconds=0.5, rate=RATE, channels=1, **options):
    """Noise of its own for each path: the same in two splits would be refused."""
    samples = 0.1 * np.random.default_rng(list(os.fsencode(path))).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, **options)
    return str(path)


def cut(path, share):
    """Truncates a file."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return str(path)


# Reading and writing

# NUL aside: csv refuses it before Python 3.11. Lone surrogates stand for bytes of file names that are not UTF-8.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
file_names = st.binary(max_size=20).map(lambda name: os.fsdecode(name.replace(b"\0", b"")))
seconds = st.none() | st.floats(allow_nan=False, allow_infinity=False)
clips_of_any_text = st.builds(
    Clip, text, file_names, text, text, st.none() | st.integers(), text, start=seconds, stop=seconds, duration=seconds
)


@given(clips=st.lists(clips_of_any_text, max_size=5))
def test_manifest_round_trip_is_exact(clips, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("manifest") / "manifest.csv")
    write_manifest(clips, path)
    assert read_manifest(path) == clips


@pytest.mark.parametrize(
    "label", ["dog, barking", 'a "quoted" word', "Größe", "日本語", "two\nlines", " spaces ", "old\rMac", "", ";", "'"]
)
def test_awkward_labels_survive(label, tmp_path):
    path = str(tmp_path / "manifest.csv")
    write_manifest([Clip("a", "a.wav", label)], path)
    assert [clip.label for clip in read_manifest(path)] == [label]


def test_byte_order_mark_and_further_columns_are_tolerated(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text("id,label,path,speaker,start\na,dog,a.wav,Ann,1.5\n", encoding="utf-8-sig")
    assert read_manifest(str(path)) == [Clip("a", "a.wav", "dog", start=1.5)]


def test_missing_column_is_named_with_those_found_and_the_nearest(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text("id,path,labels,fold\na,a.wav,dog,1\n")
    with pytest.raises(UsageError, match=r"lacks label; it has id, path, labels, fold\..*perhaps now: labels"):
        read_manifest(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks id, path, label; it has no columns"),
        ("id,path,label,fold\na,a.wav,dog,one\n", "'a'.*'one'"),
        ("id,path,label,start\na,a.wav,dog,1:30\n", "'a'.*'1:30'"),
        ("id;path;labels\na;a.wav;dog\n", "lacks id, path, label; it has id;path;labels"),
        ("id,path,label,path\na,a.wav,dog,b.wav\n", "has path more than once"),
        ("id,path,label\na,a.wav,dog, barking\n", "Line 2: it has not as many fields"),
        ("id,path,label\na,a.wav\n", "Line 2: it has not as many fields"),
        ('id,path,label\na,a.wav,"dog\nb,b.wav,cat\n', "unexpected end of data"),
        (b"id,path,label\na,a.wav,Stra\xdfe\n", "0xDF is not UTF-8.*'Straße'"),
    ],
)
def test_tables_that_cannot_be_understood_are_refused(content, message, tmp_path):
    path = tmp_path / "clips.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        read_manifest(str(path))


def test_missing_table_is_named(tmp_path):
    with pytest.raises(UsageError, match="none.csv"):
        list(read_table(str(tmp_path / "none.csv"), ["id"]))


def test_atomic_file_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_file(str(path)) as file:
        file.writelines(["ne", None])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_clip_of_a_manifest_takes_less_than_a_kilobyte(tmp_path):
    path = str(tmp_path / "manifest.csv")
    count = 10_000
    clips = (Clip(f"clip-{n}", f"/audio/{n}.wav", "dog", "train", 1, f"{n}", 0.0, 1.0) for n in range(count))
    write_manifest(clips, path)
    tracemalloc.start()
    clips = read_manifest(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(clips) == count
    assert peak < 1000 * count


# Clips


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mono.wav", {}),
        ("seven.wav", {"channels": 7}),
        ("fast.wav", {"rate": 96000}),
        ("eight_bit.wav", {"subtype": "PCM_U8"}),
        ("float.wav", {"subtype": "FLOAT"}),
        ("double.wav", {"subtype": "DOUBLE"}),
        ("vorbis.ogg", {}),
        ("lossless.flac", {}),
        ("flac_inside.wav", {"format": "FLAC"}),
        ("vorbis_inside.wav", {"format": "OGG"}),
        ("vorbis_inside.mp3", {"format": "OGG"}),
    ],
)
def test_unusual_but_sound_clips_are_kept_with_their_duration(name, options, tmp_path):
    path = write_noise(tmp_path / name, seconds=0.5, **options)
    (clip,) = check_clips([Clip("a", path, "dog")], str(tmp_path))
    assert clip == Clip("a", path, "dog", duration=clip.duration)
    assert clip.duration == pytest.approx(0.5)
    assert not (tmp_path / "quarantine.csv").exists()


def truncated(folder, name, share):
    write_noise(folder / name, seconds=2)
    return cut(folder / name, share)


def with_samples(folder, *samples):
    soundfile.write(folder / "a.wav", np.array(samples * 4000), RATE, subtype="FLOAT")
    return str(folder / "a.wav")


def with_text(folder):
    (folder / "a.wav").write_text("not audio " * 100)
    return str(folder / "a.wav")


def with_nothing(folder):
    (folder / "a.wav").touch()
    return str(folder / "a.wav")


def with_flipped_bit(folder, name):
    path = folder / name
    write_noise(path, seconds=2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return str(path)


def with_flipped_rate(folder):
    write_noise(folder / "a.wav")
    content = bytearray((folder / "a.wav").read_bytes())
    content[26] ^= 64  # the third byte of the rate: 4 MHz more
    (folder / "a.wav").write_bytes(content)
    return str(folder / "a.wav")


BAD_FILES = {
    "missing": (lambda folder: str(folder / "none.wav"), "does not exist"),
    "a folder": (str, "does not exist"),
    "zero bytes": (with_nothing, "not recognised"),
    "text": (with_text, "not recognised"),
    "no samples": (lambda folder: write_noise(folder / "a.wav", seconds=0), "no samples"),
    "too short": (lambda folder: write_noise(folder / "a.wav", seconds=0.05), r"lasts 0\.050 s, less than 0\.1 s"),
    "NaN": (lambda folder: with_samples(folder, np.nan), "NaN or infinite"),
    "one infinity": (lambda folder: with_samples(folder, 0.0, 0.5, np.inf), "NaN or infinite"),
    "truncated WAV": (lambda folder: truncated(folder, "a.wav", 0.5), r"truncated: 49\.9\d %"),
    "truncated WAV header": (lambda folder: truncated(folder, "a.wav", 0.001), "data"),
    "truncated AIFF": (lambda folder: truncated(folder, "a.aiff", 0.5), r"truncated: 49\.9\d %"),
    "truncated AU": (lambda folder: truncated(folder, "a.au", 0.5), r"truncated: 49\.9\d %"),
    "truncated FLAC": (lambda folder: truncated(folder, "a.flac", 0.5), "flac"),
    "truncated Vorbis": (lambda folder: truncated(folder, "a.ogg", 0.5), "no samples|truncated"),
    "truncated MP3": (lambda folder: truncated(folder, "a.mp3", 0.5), "truncated"),
    "bit flipped in FLAC": (lambda folder: with_flipped_bit(folder, "a.flac"), "flac"),
    "bit flipped in Vorbis": (lambda folder: with_flipped_bit(folder, "a.ogg"), "damaged|truncated"),
    "absurd samples": (lambda folder: with_samples(folder, 0.1, -1e30), r"samples up to 1e\+30; full scale is 1"),
    "bit flipped in the rate": (lambda folder: with_flipped_rate(folder), "a sample rate of 4202304 Hz"),
    "headerless": (lambda folder: write_noise(folder / "a.raw", format="RAW", subtype="PCM_16"), "samplerate"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_set_aside_with_its_reason(kind, tmp_path):
    make, reason = BAD_FILES[kind]
    folder = tmp_path / "bad"
    folder.mkdir()
    bad = Clip("bad, one", make(folder), "dog")
    good = [Clip(f"good {n}", write_noise(tmp_path / f"{n}.wav"), "dog") for n in range(3)]
    quarantine = tmp_path / "out" / "quarantine.csv"
    remaining = check_clips([*good[:1], bad, *good[1:]], str(quarantine.parent), max_fraction=0.25)
    assert [clip.id for clip in remaining] == ["good 0", "good 1", "good 2"]
    with open(quarantine, newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["path"]) == (bad.id, bad.path)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(row["reason"])


@pytest.mark.parametrize(
    ("start", "stop", "duration"),
    [(None, None, 2.0), (0.5, None, 1.5), (None, 0.5, 0.5), (0.5, 1.25, 0.75), (1.5, 2.05, 0.5)],
)
def test_parts_of_a_file_have_their_own_duration(start, stop, duration, tmp_path):
    path = write_noise(tmp_path / "a.wav", seconds=2)
    (clip,) = check_clips([Clip("a", path, "dog", start=start, stop=stop)], str(tmp_path))
    assert clip.duration == duration


@pytest.mark.parametrize(
    ("start", "stop", "reason"),
    [
        (float("inf"), None, "infinity"),
        (0.0, 1e308, "infinity"),
        (2.0, None, "no samples"),
        (9.0, 10.0, "no samples"),
        (1.0, 1.0, "no samples"),
        (1.0, 0.5, "no samples"),
        (-1.0, 1.0, "no samples"),
        (float("nan"), 1.0, "NaN"),
        (1.0, 1.05, "lasts 0.050 s"),
        (1.0, 3.0, "after the end"),
    ],
)
def test_impossible_parts_are_set_aside(start, stop, reason, tmp_path):
    path = write_noise(tmp_path / "a.wav", seconds=2)
    quarantine = tmp_path / "quarantine.csv"
    assert check_clips([Clip("a", path, "dog", start=start, stop=stop)], str(quarantine.parent), max_fraction=1) == []
    assert reason in quarantine.read_text()


def test_nan_in_the_last_block_of_a_long_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK_FRAMES", 1000)
    samples = np.zeros(10_500)
    samples[-1] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    clip = Clip("a", str(tmp_path / "a.wav"), "dog")
    assert check_clips([clip], str(tmp_path), max_fraction=1) == []


def test_wav_written_to_a_pipe_is_no_truncated_wav(tmp_path):
    path = tmp_path / "a.wav"
    write_noise(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"data") + 4
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(content)
    (clip,) = check_clips([Clip("a", str(path), "dog")], str(tmp_path))
    assert clip.duration == 0.5


@pytest.mark.parametrize(("bad", "refused"), [(0, False), (1, False), (2, True)])
def test_share_of_bad_clips_is_limited(bad, refused, tmp_path):
    good_path = write_noise(tmp_path / "good.wav")
    paths = [str(tmp_path / f"none{n}.wav") for n in range(bad)] + [good_path] * (20 - bad)
    clips = [Clip(f"{n}", path, "dog") for n, path in enumerate(paths)]
    folder = str(tmp_path)
    if refused:
        with pytest.raises(UsageError, match=r"20 clips.*2 of them \(10\.0%.*none0\.wav.*does not exist.*quarantine"):
            check_clips(clips, folder, max_fraction=0.05)
    else:
        assert len(check_clips(clips, folder, max_fraction=0.05)) == 20 - bad
    assert (tmp_path / "quarantine.csv").exists() == bool(bad)


def test_quarantine_list_goes_when_all_is_mended(tmp_path):
    quarantine = tmp_path / "quarantine.csv"
    clip = Clip("a", str(tmp_path / "a.wav"), "dog")
    check_clips([clip], str(quarantine.parent), max_fraction=1)
    assert quarantine.exists()
    write_noise(tmp_path / "a.wav")
    check_clips([clip], str(quarantine.parent))
    assert not quarantine.exists()


# Splits


def sound_splits():
    return [
        Clip(f"{split} {label}", f"{split}_{label}.wav", label, split, group=f"speaker of {split}")
        for split in SPLITS
        for label in ("cat", "dog")
    ]


def altered(index, **changes):
    clips = sound_splits()
    clips[index] = dataclasses.replace(clips[index], **changes)
    return clips


def part(name, split, start=None, stop=None, label="dog"):
    return Clip(name, "long.wav", label, split, start=start, stop=stop)


def test_sound_splits_pass():
    check_splits(sound_splits())
    check_splits([*sound_splits(), part("a", "train", 0.0, 1.0), part("b", "test", 1.0, 2.0)])
    check_splits([*sound_splits(), part("a", "train", 0.0, 2.0), part("b", "train", 1.0, 3.0)])


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "train is empty"),
        (sound_splits()[:4], "test is empty"),
        (sound_splits()[2:], "train is empty"),
        (altered(0, split="training"), "'training'.*Write train"),
        (altered(0, split=""), "1 clips are in ''"),
        ([*sound_splits(), Clip("a", "a.wav", "cow", "train")], "'cow' occurs in train only"),
        ([*sound_splits(), Clip("a", "a.wav", "cow", "test")], "'cow' occurs in test only"),
        (sound_splits()[1:], "'cat' occurs in test and valid only"),
        (altered(0, id="test dog"), "'test dog'"),
        (altered(0, group="speaker of test"), "group 'speaker of test' is in train and test"),
        (altered(0, path="test_dog.wav"), "test_dog.wav is in train and test|test_dog.wav is in test and train"),
        ([*sound_splits(), part("a", "train", 0, 2), part("b", "test", 1, 3)], "long.wav"),
        ([*sound_splits(), part("a", "train", 0, 9), part("b", "train", 1, 2), part("c", "test", 5, 6)], "long.wav"),
        ([*sound_splits(), part("a", "train"), part("b", "valid", 5.0, 6.0)], "long.wav"),
        ([*sound_splits(), part("a", "valid", 5.0), part("b", "test", 7.0, 8.0)], "long.wav"),
    ],
)
def test_splits_that_cannot_be_trusted_are_refused(clips, message):
    with pytest.raises(UsageError, match=message):
        check_splits(clips)


def test_labels_are_those_of_train_in_alphabetical_order():
    clips = [Clip("a", "", "dog", "train"), Clip("b", "", "Zoo", "train"), Clip("c", "", "cat", "test")]
    assert label_map(clips) == {"Zoo": 0, "dog": 1}


# Preparation


@pytest.fixture
def corpus(tmp_path):
    """A corpus with two clips a split; returns the function that lists it."""
    for clip in sound_splits():
        write_noise(tmp_path / clip.path)

    def list_clips(gain=1, **_):
        return [dataclasses.replace(clip, path=str(tmp_path / clip.path)) for clip in sound_splits()]

    return list_clips


@pytest.fixture
def decoded(monkeypatch):
    """The ids of the clips that were decoded."""
    ids = []
    measure = checks._measure
    monkeypatch.setattr(checks, "_measure", lambda clip, channel: ids.append(clip.id) or measure(clip, channel))
    return ids


def test_manifest_is_written_once_and_reused(corpus, decoded, tmp_path, caplog):
    folder = str(tmp_path / "out")
    with caplog.at_level(logging.INFO):
        clips = prepare_manifest(corpus, folder, gain=2)
    assert sorted(decoded) == sorted(clip.id for clip in sound_splits())
    assert [clip.duration for clip in clips] == [0.5] * 6
    assert read_manifest(f"{folder}/manifest.csv") == clips
    assert "quarantined" not in caplog.text
    assert "train        2        2    0.00  dog (1), cat (1)\n" in caplog.text
    decoded.clear()
    assert prepare_manifest(corpus, folder, gain=2) == clips
    assert decoded == []


def touch(folder):
    status = os.stat(folder / "train_dog.wav")
    os.utime(folder / "train_dog.wav", ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def grow(folder):
    status = os.stat(folder / "train_dog.wav")
    with open(folder / "train_dog.wav", "ab") as file:
        file.write(b"\0\0")
    os.utime(folder / "train_dog.wav", ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_manifest(folder):
    with open(folder / "out" / "manifest.csv", "a") as file:
        file.write("x,x.wav,dog,train,,,,,1.0\r\n")


def tear_record(folder):
    path = folder / "out" / "manifest.json"
    path.write_text(path.read_text()[:20])


CHANGES = {
    "file touched": touch,
    "file grown": grow,
    "manifest edited": edit_manifest,
    "manifest lost": lambda folder: os.unlink(folder / "out" / "manifest.csv"),
    "record lost": lambda folder: os.unlink(folder / "out" / "manifest.json"),
    "record torn": tear_record,
}


@pytest.mark.parametrize("change", CHANGES)
def test_manifest_is_remade_after_a_change(change, corpus, decoded, tmp_path):
    clips = prepare_manifest(corpus, str(tmp_path / "out"))
    decoded.clear()
    CHANGES[change](tmp_path)
    assert prepare_manifest(corpus, str(tmp_path / "out")) == clips
    assert len(decoded) == 6


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "manifest edited"])
def test_clips_that_stayed_may_be_tested_after_training(change, corpus, tmp_path):
    clips = prepare_manifest(corpus, str(tmp_path / "out"))
    CHANGES[change](tmp_path)
    assert prepare_manifest(corpus, str(tmp_path / "out"), trained=True) == clips


@pytest.mark.parametrize("other", [{"id": "another"}, {"label": "cat"}, {"split": "test"}])
def test_clips_that_changed_after_training_are_refused(other, corpus, tmp_path):
    folder, more = str(tmp_path / "out"), Clip("more", write_noise(tmp_path / "more.wav"), "dog", "train")
    before = prepare_manifest(lambda: [*corpus(), more], folder)
    with pytest.raises(UsageError, match="after a model was trained on them: 1 are gone or otherwise, 1 are new"):
        prepare_manifest(lambda: [*corpus(), dataclasses.replace(more, **other)], folder, trained=True)
    assert read_manifest(f"{folder}/manifest.csv") == before


def test_a_refused_rerun_leaves_the_drawn_splits_as_they_are(tmp_path):
    data, folder = tmp_path / "data", str(tmp_path / "out")
    for label in ("cat", "dog"):
        (data / label).mkdir(parents=True)
        for number in range(10):
            write_noise(data / label / f"{number}.wav")
    splits = tmp_path / "out" / "splits.csv"
    arguments = {"data_folder": str(data), "splits_file": str(splits), "seed": 0}
    prepare_manifest(own.list_clips, folder, **arguments)
    before = splits.read_bytes()
    (data / "cat" / "0.wav").rename(tmp_path / "away.wav")
    write_noise(data / "cat" / "new.wav")
    with pytest.raises(UsageError, match="1 are gone or otherwise, 1 are new"):
        prepare_manifest(own.list_clips, folder, trained=True, **arguments)
    assert splits.read_bytes() == before
    (tmp_path / "away.wav").rename(data / "cat" / "0.wav")
    (data / "cat" / "new.wav").unlink()
    assert len(prepare_manifest(own.list_clips, folder, trained=True, **arguments)) == 20


@pytest.mark.parametrize("changed", [{"gain": 3}, {"minimum_seconds": 0.2}, {"max_fraction": 0.1}, {"max_shared": 0.1}])
def test_manifest_is_remade_for_other_arguments(changed, corpus, decoded, tmp_path):
    prepare_manifest(corpus, str(tmp_path / "out"), gain=2)
    decoded.clear()
    prepare_manifest(corpus, str(tmp_path / "out"), **{"gain": 2, **changed})
    assert len(decoded) == 6


def test_other_arguments_between_two_equal_runs_do_not_leave_their_manifest(corpus, tmp_path, monkeypatch):
    """The process dies between the two files; the older record must not vouch for the newer manifest."""
    folder = str(tmp_path / "out")
    prepare_manifest(corpus, folder, gain=1)
    record = (tmp_path / "out" / "manifest.json").read_text()
    fewer = [clip for clip in corpus() if clip.id != "train dog"] + [
        Clip("x", write_noise(tmp_path / "x.wav"), "dog", "train")
    ]
    prepare_manifest(lambda gain: fewer, folder, gain=2)
    (tmp_path / "out" / "manifest.json").write_text(record)
    assert [clip.id for clip in prepare_manifest(corpus, folder, gain=1)] == [clip.id for clip in sound_splits()]


def test_quarantined_clips_stay_out_when_the_manifest_is_reused(corpus, tmp_path, caplog):
    extra = [Clip("bad", str(tmp_path / "none.wav"), "dog", "train")]
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            clips = prepare_manifest(lambda: corpus() + extra, str(tmp_path / "out"), max_fraction=0.2)
        assert len(clips) == 6
        assert "1 clip (dog 1) quarantined" in caplog.text
        assert (tmp_path / "out" / "quarantine.csv").exists()


def test_a_split_emptied_by_quarantine_is_refused_and_nothing_written(corpus, tmp_path):
    for label in ("cat", "dog"):
        os.unlink(tmp_path / f"valid_{label}.wav")
    with pytest.raises(UsageError, match="valid is empty"):
        prepare_manifest(corpus, str(tmp_path / "out"), max_fraction=0.5)
    assert os.listdir(tmp_path / "out") == ["quarantine.csv"]


def test_leaks_are_refused_before_anything_is_decoded(decoded, tmp_path):
    with pytest.raises(UsageError, match="group"):
        prepare_manifest(lambda: altered(0, group="speaker of test"), str(tmp_path / "out"))
    assert decoded == []


# The same audio under two names


def copy_of(clip, name, **changes):
    """A clip of a copy of a clip's file."""
    path = os.path.join(os.path.dirname(clip.path), name)
    shutil.copy(clip.path, path)
    return dataclasses.replace(clip, id=name, path=path, group="", **changes)


def test_copies_of_files_in_two_splits_are_refused_beyond_a_share(corpus, tmp_path):
    copies = [copy_of(clip, f"copy {clip.id}.wav", split="test") for clip in corpus() if clip.split == "train"]
    with pytest.raises(UsageError) as error:
        prepare_manifest(lambda: [*corpus(), *copies], str(tmp_path / "out"))
    for text in (
        "at most 1.0%",
        "2 clips of valid and test (33.3%)",
        f"'{copies[0].path}' (test)",
        "--prepare='{max_shared: 0.34}'",
    ):
        assert text in str(error.value)
    assert len(prepare_manifest(lambda: [*corpus(), *copies], str(tmp_path / "out"), max_shared=0.34)) == 8


def test_few_copies_are_warned_of_where_the_manifest_is_made(corpus, tmp_path, caplog):
    copy = copy_of(corpus()[-1], "copy.wav", split="valid")
    for warned in (True, False):
        caplog.clear()
        prepare_manifest(lambda: [*corpus(), copy], str(tmp_path / "out"), max_shared=0.5)
        assert ("2 clips of valid and test (40.0%) are in another split too" in caplog.text) == warned
        assert (f"{copy.path!r} (valid)" in caplog.text) == warned


@pytest.mark.parametrize(("start", "leak"), [(0.1, True), (0.25, False)])
def test_parts_of_copies_leak_where_they_overlap(start, leak, corpus):
    first = dataclasses.replace(corpus()[0], stop=0.25)
    same = [first, copy_of(first, "copy.wav", split="test", start=start, stop=None)]
    assert shared_audio([*corpus()[1:], *same]) == ([same] if leak else [])


def test_copies_in_one_split_are_no_leak(corpus):
    assert shared_audio([*corpus(), copy_of(corpus()[0], "copy.wav")]) == []


def test_many_parts_of_copies_are_compared_in_time(corpus):
    """A comparison of each with each would take minutes."""
    first = corpus()[0]
    other = copy_of(first, "copy.wav", split="test")
    parts = [
        dataclasses.replace(clip, id=f"{clip.id} {n}", start=n / 100, stop=(n + 1) / 100)
        for clip in (first, other)
        for n in range(20_000)
    ]
    [same] = shared_audio([*parts[:20_010], *parts[20_011:]])
    assert len(same) == 2 * 19_999


def test_links_to_one_file_in_two_splits_are_refused(tmp_path):
    clips = [dataclasses.replace(clip, path=str(tmp_path / clip.path)) for clip in sound_splits()]
    write_noise(clips[0].path)
    os.symlink(clips[0].path, clips[-1].path)
    with pytest.raises(UsageError, match="The same audio of .* is in"):
        check_splits(clips)


def test_record_is_readable_json(corpus, tmp_path):
    prepare_manifest(corpus, str(tmp_path / "out"), gain=2, folder=tmp_path)
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert record["arguments"] == {"gain": 2, "folder": str(tmp_path)}
    assert record["listed"] == 6
