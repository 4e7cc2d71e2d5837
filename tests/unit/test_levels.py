"""Clips that are used though they are odd, such as silent ones, and clips that are too long, are counted and named."""

import csv
import logging

import numpy as np
import pytest
import soundfile

from brainplug.data import decoding
from brainplug.data.levels import ABOVE, CANCELS, CONSTANT, SILENT, WEAK
from brainplug.data.manifest import Clip
from brainplug.data.protocol.checks import check_clips
from brainplug.data.protocol.length import limit_length
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import SPLITS
from brainplug.errors import DataError

RATE = 16000
NOISE = 0.2 * np.random.default_rng(0).standard_normal(RATE // 2)
OTHER = 0.2 * np.random.default_rng(1).standard_normal(RATE // 2)
EMPTY = np.zeros_like(NOISE)

# samples [channel][time], channel, what is remarked
SOUNDS = {
    "noise": ([NOISE], "mix", ""),
    "quiet noise": ([1e-3 * NOISE], "mix", ""),
    "digital silence": ([EMPTY], "mix", SILENT),
    "a constant": ([EMPTY + 0.5], "mix", CONSTANT),
    "a constant and next to nothing": ([EMPTY + 0.9 + 1e-6 * NOISE], "mix", CONSTANT),
    "an offset": ([NOISE + 0.5], "mix", ""),
    "16-bit numbers in a float file": ([1e5 * NOISE], "mix", ABOVE),
    "a little above full scale": ([8 * NOISE], "mix", ""),
    "channels that cancel": ([NOISE, -NOISE], "mix", CANCELS),
    "channels that cancel, the first": ([NOISE, -NOISE], "first", ""),
    "channels that cancel, the loudest": ([NOISE, -NOISE], "loudest", ""),
    "an empty first channel": ([EMPTY, NOISE], "first", SILENT),
    "one channel of two": ([EMPTY, NOISE], "mix", ""),
    "one channel of six": ([*[EMPTY] * 5, NOISE], "mix", WEAK),
    "one channel of six, that one": ([*[EMPTY] * 5, NOISE], 6, ""),
    "two unlike channels": ([NOISE, OTHER], "mix", ""),
    "two silent channels": ([EMPTY, EMPTY], "mix", SILENT),
}


def clip_of(folder, name, samples, label="dog", split="", rate=RATE):
    path = folder / f"{name}.wav"
    soundfile.write(path, np.stack(samples, axis=1), rate, subtype="FLOAT")
    return Clip(name, str(path), label, split)


def rows(folder):
    path = folder / "remarks.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("block", [1000, decoding.BLOCK_FRAMES])
@pytest.mark.parametrize("sound", SOUNDS)
def test_what_is_odd_about_a_clip(sound, block, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "BLOCK_FRAMES", block)
    samples, channel, remark = SOUNDS[sound]
    clip = clip_of(tmp_path, "a", samples)
    assert len(check_clips([clip], str(tmp_path), channel=channel)) == 1
    expected = [{"id": "a", "path": clip.path, "label": "dog", "reason": remark}]
    assert rows(tmp_path) == (expected if remark else [])


def corpus(folder, silent_label="cat"):
    """Clips in all splits, none a copy of another one; silence alone is the same everywhere."""
    sounds = {"dog": NOISE, "cat": OTHER, silent_label: EMPTY}
    return [
        clip_of(folder, f"{split}-{label}-{number}", [np.roll(samples, 2 * shift + number)], label, split)
        for shift, split in enumerate(SPLITS)
        for label, samples in sounds.items()
        for number in range(2)
    ]


def test_a_silent_class_is_a_warning_in_a_frame(tmp_path, caplog):
    clips = corpus(tmp_path)
    for _ in range(2):  # checked, and then read from the manifest
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prepare_manifest(lambda: clips, str(tmp_path / "out"))
        assert "6 clips (cat 6) silent; first " in caplog.text
        assert "!!!!\n!! All clips of 1 class are silent: 'cat'.\n" in caplog.text


def test_one_clip_that_can_be_heard_is_enough(tmp_path, caplog):
    clips = [*corpus(tmp_path), clip_of(tmp_path, "one", [NOISE], "cat", "train")]
    with caplog.at_level(logging.WARNING):
        prepare_manifest(lambda: clips, str(tmp_path / "out"))
    assert "6 clips (cat 6) silent" in caplog.text
    assert "All clips" not in caplog.text


def test_what_is_set_aside_is_counted_by_class(tmp_path, caplog):
    nan = NOISE.copy()
    nan[100] = np.nan
    infinite = NOISE.copy()
    infinite[-100] = np.inf
    clips = corpus(tmp_path, silent_label="dog")
    clips += [clip_of(tmp_path, name, [samples], "cat", "train") for name, samples in (("n", nan), ("i", infinite))]
    with caplog.at_level(logging.WARNING):
        prepare_manifest(lambda: clips, str(tmp_path / "out"), max_fraction=0.2)
    assert "2 clips (cat 2) quarantined, first " in caplog.text
    assert "n.wav: NaN or infinite samples" in caplog.text


# Clips that are too long


def lasting(seconds, name="a", start=None):
    return Clip(name, f"{name}.wav", "dog", "train", start=start, duration=seconds)


@pytest.mark.parametrize("long_clips", ["refuse", "cut", "split"])
def test_clips_that_are_not_too_long_stay(long_clips):
    clips = [lasting(1.0), lasting(10.0, "b")]
    assert limit_length(clips, 10.0, long_clips) == clips
    assert limit_length(clips, None, long_clips) == clips


def test_a_clip_that_is_too_long_is_refused_with_a_way_out():
    words = r"at most 60 s.*1 of 2 are longer, .* 1,200\.0 s: b\.wav.*--long_clips=cut or split, or --longest_clip=12"
    with pytest.raises(DataError, match=words):
        limit_length([lasting(1.0), lasting(1200.0, "b")], 60.0, "refuse")


@pytest.mark.parametrize("start", [None, 2.5])
def test_a_clip_that_is_too_long_is_cut(start):
    (clip,) = limit_length([lasting(25.0, start=start)], 10.0, "cut")
    assert (clip.start, clip.stop, clip.duration) == (start, 10.0 + (start or 0.0), 10.0)


@pytest.mark.parametrize("start", [None, 2.5])
@pytest.mark.parametrize("seconds", [10.001, 20.0, 25.0, 1200.0])
def test_a_clip_that_is_too_long_is_split_into_equal_parts(seconds, start):
    parts = limit_length([lasting(seconds, start=start)], 10.0, "split")
    assert len({part.id for part in parts}) == len(parts)
    assert parts[0].start == (start or 0.0)
    assert parts[-1].stop == pytest.approx((start or 0.0) + seconds)
    assert all(one.stop == other.start for one, other in zip(parts, parts[1:], strict=False))
    assert max(part.duration for part in parts) <= 10.0 + 1e-9
    assert sum(part.duration for part in parts) == pytest.approx(seconds)
