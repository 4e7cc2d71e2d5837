"""Sound to pre-train on, as files: what is written, what is told of it, and when it is not made again."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="the extra 'demo' is not installed")

from brainplug.errors import UsageError  # noqa: E402
from brainplug.synthetic.sound.clips import make_clip, plan_corpus  # noqa: E402
from brainplug.synthetic.sound.render import WORDS, render  # noqa: E402
from brainplug.synthetic.spoken import TEST_VOICES  # noqa: E402

pytestmark = pytest.mark.slow
RECORDINGS = 9


@pytest.fixture(scope="module", autouse=True)
def few_made_up_words() -> Iterator[None]:
    """Thousands take seconds to make."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainplug.synthetic.sound.clips.MADE_UP", 50)
        yield


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> str:
    """A machine with one package, of whose recordings one cannot be read."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "usr" / "share" / "games" / "pingus"
    folder.mkdir(parents=True)
    for k in range(RECORDINGS - 1):
        soundfile.write(folder / f"splash{k}.wav", 0.1 * np.random.default_rng(k).standard_normal(8000), 8000)
    (folder / "splash8.wav").write_bytes(b"no audio")
    return str(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory, installed) -> Path:
    folder = tmp_path_factory.mktemp("made") / "sound"
    render(str(folder), spoken_clips=6, event_clips=4, recordings_folder=installed, seed=5)
    return folder


def test_each_clip_is_a_flac_file_of_16_khz_and_16_bits_of_its_kind(made):
    files = sorted(made.rglob("*.flac"))
    assert [file.parent.name for file in files] == 4 * ["event"] + (RECORDINGS - 1) * ["file"] + 6 * ["word"]
    for file in files:
        about = soundfile.info(file)
        assert (about.samplerate, about.channels, about.subtype) == (16000, 1, "PCM_16")
        assert 0.05 < about.duration <= 4


def test_what_is_known_of_it_is_told(made):
    printed = json.loads((made / "sound.json").read_text())
    assert printed["clips"] == {"word": 6, "event": 4, "file": RECORDINGS - 1}
    assert printed["left_out"] == 1
    assert printed["packages"] == {"pingus-data": "GPL-2+"}
    assert "klettres-data" in printed["missing_packages"]
    assert set(TEST_VOICES) <= set(printed["voices_not_heard"])
    assert not set(printed["voices"]) & set(printed["voices_not_heard"])
    seconds = sum(soundfile.info(file).duration for file in made.rglob("*.flac"))
    assert printed["hours"] == pytest.approx(seconds / 3600, abs=0.0006)


def test_phones_lie_within_their_clip_in_order_and_words_are_those_of_the_plan(made, installed):
    phones = json.loads((made / "phones.json").read_text())
    assert sorted(phones) == sorted(str(file.relative_to(made)) for file in made.glob("word/*"))
    plans, _ = plan_corpus(6, 4, installed, seed=5, **WORDS)
    for plan, (path, clip) in zip(plans, phones.items(), strict=False):
        assert clip["words"] == list(plan.what)
        starts = [start for start, _ in clip["phones"]]
        assert len(starts) > 3
        assert starts == sorted(starts)
        assert starts[-1] < clip["seconds"] == soundfile.info(made / path).duration
        waveform, _ = soundfile.read(made / path)
        first = next(start for start, name in clip["phones"] if name)
        within = np.abs(waveform[int(first * 16000) :]).mean()
        assert within > 2 * np.abs(waveform[: int(0.9 * first * 16000)]).mean()  # speech is louder than what is before


def test_sound_to_pretrain_on_is_without_noise_and_one_voice_says_several_words(made):
    for path, clip in json.loads((made / "phones.json").read_text()).items():
        assert 5 <= len(clip["words"]) <= 9
        waveform, _ = soundfile.read(made / path)
        first = next(start for start, name in clip["phones"] if name)
        assert (waveform[: int(0.9 * first * 16000)] == 0).all()


def test_clips_are_not_filled_up_with_silence(tmp_path):
    plans, _ = plan_corpus(6, 0, str(tmp_path), seed=5)
    for plan in plans:
        filled, cut = (make_clip(plan, np.random.default_rng(plan.number), share)[0] for share in (1, 0))
        assert len(filled) == 64000 > len(cut)


def test_a_finished_folder_is_not_made_again_and_an_unfinished_one_is(tmp_path, made, installed):
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    render(str(made), spoken_clips=6, event_clips=4, recordings_folder=installed, seed=5)
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before

    broken_off = tmp_path / "again.unfinished" / "word"
    broken_off.mkdir(parents=True)
    (broken_off / "99999.flac").write_bytes(b"")
    render(str(tmp_path / "again"), spoken_clips=6, event_clips=4, recordings_folder=installed, seed=5)
    assert not broken_off.exists()
    again = {file.relative_to(tmp_path / "again"): file.read_bytes() for file in (tmp_path / "again").rglob("*.*")}
    assert again == {file.relative_to(made): file.read_bytes() for file in made.rglob("*.*")}


def test_some_of_the_recordings_are_drawn(installed):
    several, others = (plan_corpus(0, 2, installed, seed, recordings=4)[0][2:] for seed in (1, 2))
    assert len(several) == len({plan.what for plan in several}) == 4
    assert {plan.what for plan in several} != {plan.what for plan in others}
    assert len(plan_corpus(0, 0, installed, seed=1, recordings=100)[0]) == RECORDINGS


def test_another_folder_is_asked_for_where_something_else_is(tmp_path, made, installed):
    with pytest.raises(UsageError, match="other settings"):
        render(str(made), spoken_clips=7, event_clips=4, recordings_folder=installed, seed=5)
    (tmp_path / "own.wav").write_bytes(b"")
    with pytest.raises(UsageError, match="Something else is there"):
        render(str(tmp_path), spoken_clips=1, event_clips=0)
    assert (tmp_path / "own.wav").exists()


def test_nothing_to_make_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="--spoken_clips"):
        render(str(tmp_path / "sound"), 0, 0, str(tmp_path))
