"""The spoken corpus: its lists, its sound, and how it is made."""

import csv
import hashlib
import itertools
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from brainplug.errors import UsageError
from brainplug.synthetic import spoken, spoken_phrases

espeakng_loader = pytest.importorskip("espeakng_loader", reason="the corpus is spoken by espeak-ng")

pytestmark = pytest.mark.slow
SMALL = {"train": 2, "valid": 1, "test": 1}
COUNTS = {"train": 1860, "valid": 310, "test": 620}
RELATIVES = {"steph2", "steph3", "mike2", "iven2", "iven3", "iven4", "Gene2"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[spoken.Clip]]:
    """The whole corpus, made where the environment variable says, and its clips."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINPLUG_CACHE", str(cache))
        clips = spoken.list_clips()
    return cache / f"spoken-{spoken.CORPUS_VERSION}", clips


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test reach into the making of a corpus, which happens in a process of its own otherwise."""
    monkeypatch.setattr(spoken, "in_fresh_process", lambda function, *arguments: function(*arguments))


def rows_of(folder: Path) -> list[dict[str, str]]:
    return [row for split in COUNTS for row in csv.DictReader((folder / f"{split}.csv").read_text().splitlines())]


def test_the_31_intents_of_fluent_speech_commands():
    lights = {f"{action} lights {room}" for action in ("activate", "deactivate") for room in spoken_phrases.ROOMS}
    heat = {f"{action} heat {room}" for action in ("increase", "decrease") for room in spoken_phrases.ROOMS}
    switched = {f"{a} {o} none" for a in ("activate", "deactivate") for o in ("lights", "lamp", "music")}
    changed = {f"{action} {object} none" for action in ("increase", "decrease") for object in ("heat", "volume")}
    brought = {f"bring {object} none" for object in ("juice", "newspaper", "shoes", "socks")}
    languages = {f"change language {name}" for name in ("none", "chinese", "english", "german", "korean")}
    assert set(spoken.PHRASES) == lights | heat | switched | changed | brought | languages
    assert len(spoken.PHRASES) == 31


def test_every_intent_has_phrasings_of_its_own():
    assert all(6 <= len(phrases) <= 10 for phrases in spoken.PHRASES.values())
    phrases = list(itertools.chain.from_iterable(spoken.PHRASES.values()))
    assert len({phrase.lower() for phrase in phrases}) == len(phrases)


def test_phrase_words_are_all_words():
    text = " ".join(itertools.chain.from_iterable(spoken.PHRASES.values()))
    assert spoken_phrases.phrase_words() == set(re.findall(r"\w+", text.lower()))


def test_no_voice_and_no_relative_stands_in_two_splits():
    voices = [*spoken.TRAIN_VOICES, *spoken.VALID_VOICES, *spoken.TEST_VOICES]
    assert [len(spoken.VOICES[split]) for split in COUNTS] == [24, 6, 10]
    assert len({voice.lower() for voice in voices}) == len(voices)
    assert not RELATIVES & set(voices)


def test_espeak_has_all_voices_and_accents():
    data = Path(espeakng_loader.get_data_path())
    voices = {path.name for path in (data / "voices" / "!v").iterdir()}
    accents = {path.name.lower() for path in (data / "lang").rglob("en*")}
    assert set(itertools.chain.from_iterable(spoken.VOICES.values())) | RELATIVES <= voices
    assert set(spoken.ACCENTS) <= accents


def test_sizes_speakers_and_intents_of_the_splits(corpus):
    folder, clips = corpus
    assert Counter(clip.split for clip in clips) == COUNTS == json.loads((folder / "corpus.json").read_text())["clips"]
    assert len({clip.id for clip in clips}) == len({clip.path for clip in clips}) == len(clips)
    for split, count in COUNTS.items():
        labels = Counter(clip.label for clip in clips if clip.split == split)
        assert labels == dict.fromkeys(spoken.PHRASES, count // 31)
        assert {clip.group for clip in clips if clip.split == split} == set(spoken.VOICES[split])


def test_every_phrasing_stands_in_every_split(corpus):
    for split in COUNTS:
        spoken_here = {(row["intent"], row["text"]) for row in rows_of(corpus[0]) if row["split"] == split}
        assert spoken_here == {(intent, text) for intent, texts in spoken.PHRASES.items() for text in texts}


def test_draws_stay_in_their_ranges_and_fill_them(corpus):
    rows = rows_of(corpus[0])
    assert {row["accent"] for row in rows} == set(spoken.ACCENTS)
    assert {int(row["rate"]) for row in rows} == set(range(140, 211))
    assert {int(row["pitch"]) for row in rows} == set(range(30, 71))


def test_files_are_what_the_lists_say(corpus):
    for clip in corpus[1]:
        info = soundfile.info(clip.path)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_16", 16000, 1)
        assert 0.3 < clip.duration <= 3.0
        assert info.frames == round(clip.duration * 16000)


def test_clips_are_audible_and_not_clipped(corpus):
    peaks = np.array([np.abs(soundfile.read(clip.path)[0]).max() for clip in corpus[1][::10]])
    decibels = 20 * np.log10(peaks)
    assert -18.1 < decibels.min() < -15
    assert -4 < decibels.max() < -0.9


def test_corpus_json_hashes_all_samples(corpus):
    samples = b"".join(soundfile.read(clip.path, dtype="int16")[0].tobytes() for clip in corpus[1])
    description = json.loads((corpus[0] / "corpus.json").read_text())
    assert description["sha256_of_samples"] == hashlib.sha256(samples).hexdigest()
    assert re.match(r"\d+\.\d+", description["espeak_ng"])


def test_a_corpus_that_exists_is_not_made_again(corpus, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("made again")

    monkeypatch.setattr(spoken, "in_fresh_process", refuse)
    assert spoken.list_clips(str(corpus[0]), fold=1) == corpus[1]


def test_two_makes_are_equal_bit_for_bit(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    spoken._make(first, SMALL)
    spoken._make(second, SMALL)
    files = sorted(path.relative_to(first) for path in first.rglob("*.*"))
    assert len(files) == 31 * 4 + 4  # the clips, three lists and corpus.json
    assert [path for path in files if (first / path).read_bytes() != (second / path).read_bytes()] == []
    breathy = {"f2", "f3", "f5", "victor"}  # espeak-ng draws their breath at random
    assert breathy & {row["speaker"] for row in rows_of(first)}


def test_an_interrupted_make_leaves_nothing(tmp_path, monkeypatch, in_this_process):
    written = []

    def write(path, *arguments, **options):
        written.append(path)
        if len(written) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(soundfile, "write", write)
        with pytest.raises(KeyboardInterrupt):
            spoken.list_clips(str(tmp_path / "corpus"))
    assert len(written) == 5
    assert list(tmp_path.iterdir()) == []
    spoken._make(tmp_path / "corpus", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert len(list((tmp_path / "corpus").rglob("*.wav"))) == 31 * 4


def test_of_two_makers_the_first_wins(tmp_path, monkeypatch):
    def make_while_another_finishes(function, made, counts):
        function(made, counts)
        shutil.copytree(made, tmp_path / "corpus")
        (tmp_path / "corpus" / "winner").touch()

    monkeypatch.setattr(spoken, "in_fresh_process", make_while_another_finishes)
    spoken._make(tmp_path / "corpus", SMALL)
    assert (tmp_path / "corpus" / "winner").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_an_empty_folder_is_filled(tmp_path, in_this_process):
    spoken._make(tmp_path, SMALL)
    assert (tmp_path / "corpus.json").exists()


def test_without_espeakng_loader_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    message = r"asked for\. .*espeakng-loader.* not installed\. Write: pip install 'brainplug\[demo\]'"
    with pytest.raises(UsageError, match=message):
        spoken.list_clips(str(tmp_path / "corpus"))
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for position in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(UsageError, match="Something else is there.*Write --data_folder="):
            spoken.list_clips(str(position))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made there.*file.*Write --data_folder="):
        spoken.list_clips(str(tmp_path / "file" / "corpus"))


def test_a_corpus_of_another_version_is_refused(tmp_path):
    (tmp_path / "corpus.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(UsageError, match=rf"version {spoken.CORPUS_VERSION}, was asked for\. .* holds version 0\."):
        spoken.list_clips(str(tmp_path))


def test_a_clip_that_is_too_long_stops_the_making(tmp_path, monkeypatch, in_this_process):
    monkeypatch.setattr(spoken, "MAX_SECONDS", 0.4)
    with pytest.raises(ValueError, match=r"lasts .* s, longer than 0\.4 s"):
        spoken._make(tmp_path / "corpus", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_noise_lies_10_to_30_decibels_below_speech():
    generator = np.random.default_rng(0)
    noises = [spoken._noise(20000, 0.1, generator) for _ in range(200)]
    ratios = np.array([20 * np.log10(0.1 / np.sqrt(np.mean(noise**2))) for noise in noises])
    assert 9.99 < ratios.min() < 12
    assert 28 < ratios.max() < 30.01
    spectra = [np.abs(np.fft.rfft(noise)) ** 2 for noise in noises]
    slopes = np.array([np.mean(power[100:1000]) / np.mean(power[-1000:]) for power in spectra])
    assert (
        0.4 < np.mean(slopes > 5) < 0.6
    )  # about half is pink: its power falls as 1 / frequency, that of white is flat


def test_the_draws_belong_to_the_version():
    """Fails after a change to phrasings, voices or draws: raise CORPUS_VERSION, then write the new digest here."""
    generator = np.random.default_rng(spoken.CORPUS_VERSION)
    commands = spoken._draw_commands(spoken.CLIPS_PER_INTENT, generator)
    digest = hashlib.sha256(repr(commands).encode()).hexdigest()[:16]
    assert {spoken.CORPUS_VERSION: digest} == {2: "cac72378395a1f83"}
