"""Sound to pre-train on: nothing of the spoken corpus's phrases and held-out voices, and events that are sound."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the extra 'demo' is not installed")

from brainplug.synthetic import spoken, spoken_phrases  # noqa: E402
from brainplug.synthetic.sound import clips, events, recordings, words  # noqa: E402


def test_no_word_and_no_held_out_voice_of_the_spoken_corpus_is_heard():
    assert len(words.vocabulary()) > 400
    assert not set(words.vocabulary()) & spoken_phrases.phrase_words()
    assert len(words.voices()) > 30
    assert not set(words.voices()) & {*spoken.TEST_VOICES, *spoken.VALID_VOICES}


def test_no_made_up_word_is_spelled_or_sounds_like_one_of_the_spoken_corpus(monkeypatch):
    # Syllables that make "lamp" ("lampe" sounds the same) and "glamp".
    monkeypatch.setattr(words, "ONSETS", ["l", "gl"])
    monkeypatch.setattr(words, "NUCLEI", ["a"])
    monkeypatch.setattr(words, "CODAS", ["mp", "mpe"])
    made_up = words.made_up_words(50, np.random.default_rng(0))
    assert "glamp" in made_up
    assert not {"lamp", "lampe"} & set(made_up)


def test_phones_are_told_in_the_time_of_the_sound_that_is_played():
    plan = clips.Plan(0, "word", ("apple", "river"), ("word apple", "word river"))
    for seed in range(8):
        waveform, phones = clips._say(plan.what, np.random.default_rng(seed))
        spoken_until = np.flatnonzero(np.abs(waveform) > 0.01)[-1] / events.SAMPLE_RATE
        last_phone = max(start for start, name in phones if name)
        assert last_phone < spoken_until < last_phone + 0.5


@pytest.mark.parametrize("name", events.EVENTS)
def test_events_are_sound_and_differ_from_draw_to_draw(name):
    first, again, other = (events.draw_event(name, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.isfinite(first).all()
    assert 0.9 < np.abs(first).max() <= 1
    assert len(first) <= 4 * events.SAMPLE_RATE
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or not np.array_equal(first, other)


def test_clips_are_the_same_for_the_same_seed():
    plan = clips.Plan(5, "event", ("rain", "bell"), ("event rain", "event bell"))
    first, again, other = (clips.make_clip(plan, np.random.default_rng([seed, 5]))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ("/usr/share/klettres/pt_BR/alpha/a.ogg", {"speech", "language pt"}),
        ("/usr/share/asterisk/sounds/fr_CA_f_June/digits/1.wav", {"speech", "language fr"}),
        ("/usr/share/tuxpaint/stamps/animals/dog_desc_de.ogg", {"speech", "language de"}),
        ("/usr/share/tuxpaint/stamps/animals/dog_desc.ogg", {"speech", "language en"}),
        ("/usr/share/tuxpaint/stamps/animals/dog.ogg", {"tuxpaint", "stamps", "animals", "dog"}),
    ],
)
def test_labels_come_from_the_path(path, labels):
    assert recordings.path_words(Path(path)) == labels


def test_recordings_of_test_sets_are_left_out(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in ("fire_small.ogg", "fire_large.ogg", "notes.txt"):
        (folder / name).write_bytes(b"")
    packages = {"game": {"folder": "sounds", "leave_out": ["fire_small.ogg"]}, "other": {"folder": "nowhere"}}
    files, missing = recordings.find_recordings(str(tmp_path), packages)
    assert [path.name for path in files] == ["fire_large.ogg"]
    assert missing == ["other"]


def test_an_unreadable_recording_is_silence(tmp_path):
    path = tmp_path / "bad.ogg"
    path.write_bytes(b"no audio")
    waveform, _ = clips.make_clip(clips.Plan(0, "file", (str(path),), ("bad",)), np.random.default_rng(0))
    assert len(waveform) == 0
