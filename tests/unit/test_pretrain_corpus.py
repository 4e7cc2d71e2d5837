"""The stream to pre-train on, files that it leaves out, and crops that depend on the seed and a number alone."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel

from brainplug.data.manifest import Clip
from brainplug.errors import ConfigError, DataError
from brainplug.pretrain import corpus as corpus_module
from brainplug.pretrain.corpus import HOP, Corpus, Crops, describe, frames_in, make_corpus

SECONDS = {"a": 3.0, "b": 2.51, "c": 0.4, "d": 0.7, "e": 0.3, "f": 1.013}


def write(path: Path, seconds: float, rate: int = 16000, scale: float = 0.1) -> Clip:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = scale * np.random.default_rng(len(path.name)).standard_normal(round(seconds * rate))
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return Clip(path.stem, str(path), "")


@pytest.fixture
def clips(tmp_path):
    return [write(tmp_path / "sound" / f"{name}.wav", seconds) for name, seconds in SECONDS.items()]


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "corpus")


def utterance_lengths(corpus: Corpus) -> list[int]:
    return [end - start for start, end in corpus.utterances()]


@pytest.mark.parametrize("samples", [*range(0, 1200, 37), 399, 400, 719, 720, 15999, 16000, 16079, 31999, 123457])
def test_frames_are_those_of_the_model(samples):
    model = HubertModel(HubertConfig(num_hidden_layers=0, hidden_size=16, num_attention_heads=2, conv_dim=[8] * 7))
    assert frames_in(samples) == max(0, int(model._get_feat_extract_output_lengths(samples)))


def test_the_stream_holds_every_file_to_half_a_step(clips, folder):
    corpus = make_corpus(clips, folder, 1.0, seed=1)
    assert len(corpus.pieces) + corpus.skipped.get("left over at the end", 0) == len(clips)
    audio = corpus.audio()
    for path, start, end in corpus.pieces:
        samples = soundfile.read(path)[0]
        assert end - start == len(samples) // HOP * HOP
        np.testing.assert_allclose(audio[start:end] / 32767, samples[: end - start], atol=0.501 / 32767)


def test_pieces_and_utterances_follow_without_a_gap(clips, folder):
    corpus = make_corpus(clips, folder, 1.0, seed=1)
    _, starts, ends = zip(*corpus.pieces, strict=True)
    assert starts == (0, *ends[:-1])
    assert set(corpus.ends) <= set(ends) and corpus.ends[-1] == ends[-1] == len(corpus.audio())
    assert all(end % HOP == 0 for end in ends)


@pytest.mark.parametrize("seed", range(4))
def test_short_files_are_joined_to_the_length_of_a_crop(seed, clips, folder):
    corpus = make_corpus(clips, folder, 1.0, seed)
    assert min(utterance_lengths(corpus)) >= 16000
    joined = [sum(start <= piece[1] < end for piece in corpus.pieces) for start, end in corpus.utterances()]
    assert sum(joined) == len(corpus.pieces) and max(joined) > 1


def test_files_are_read_in_an_order_of_the_seed(clips, folder):
    orders = [
        tuple(path for path, _, _ in make_corpus(clips, f"{folder}-{number}", 0.2, seed).pieces)
        for number, seed in enumerate((1, 1, 2))
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(clip.path for clip in clips)


def test_any_rate_and_number_of_channels_becomes_one_stream_at_16_khz(tmp_path, folder):
    time = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), 44100)
    stream = make_corpus([Clip("a", str(tmp_path / "a.wav"), "")], folder, 1.0, seed=1).audio() / 32767
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(stream) == 16000 and np.abs(stream - expected)[200:-200].max() < 0.005


def test_of_a_clip_its_part_is_read(tmp_path, folder):
    whole = write(tmp_path / "a.wav", 3.0)
    corpus = make_corpus([Clip("a", whole.path, "", start=1.0, stop=2.5)], folder, 1.0, seed=1)
    samples = soundfile.read(whole.path)[0][16000:40000]
    np.testing.assert_allclose(corpus.audio() / 32767, samples, atol=0.501 / 32767)


def test_sound_above_full_scale_is_turned_down_whole(tmp_path, folder):
    clip = write(tmp_path / "a.wav", 2.0, scale=3.0)
    samples = soundfile.read(clip.path)[0]
    stream = make_corpus([clip], folder, 1.0, seed=1).audio()
    np.testing.assert_allclose(stream / 32767, samples / np.abs(samples).max(), atol=0.501 / 32767)


def test_what_cannot_be_used_is_left_out_and_counted(clips, tmp_path, folder, caplog):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "text.wav").write_text("no sound")
    soundfile.write(bad / "short.wav", 0.1 * np.ones(399), 16000)
    soundfile.write(bad / "nothing.wav", np.zeros(0), 16000)
    soundfile.write(bad / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(bad / "hiss.wav", np.full(16000, 9e-5), 16000, subtype="FLOAT")
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = np.full(16000, 0.1)
        samples[5000] = value
        soundfile.write(bad / f"{name}.wav", samples, 16000, subtype="FLOAT")
    more = [Clip(path.stem, str(path), "") for path in sorted(bad.iterdir())] + [
        Clip("gone", str(bad / "gone.wav"), "")
    ]
    corpus = make_corpus([*clips, *more], folder, 0.2, seed=1)
    assert corpus.skipped == {"unreadable": 3, "too short": 1, "silent": 2, "not finite": 2}
    assert len(corpus.pieces) == len(clips)
    assert "2 not finite, 2 silent, 1 too short, 3 unreadable" in caplog.text
    assert describe(make_corpus([*clips, *more], folder, 0.2, seed=1))["skipped"] == corpus.skipped


def test_every_file_is_used_or_counted(clips, folder):
    """Also those at the end that do not fill a crop any more."""
    counts = []
    for seed in range(6):
        corpus = make_corpus(clips, folder, 1.0, seed)
        counts.append(corpus.skipped.get("left over at the end", 0))
        assert len(corpus.pieces) + counts[-1] == len(clips)
    assert max(counts) > 0


def test_a_description_counts_hours_and_files(clips, folder):
    description = describe(make_corpus(clips, folder, 0.2, seed=1))
    assert description["files"] == description["utterances"] == len(clips) and description["skipped"] == {}
    assert description["hours"] == pytest.approx(sum(SECONDS.values()) / 3600, abs=0.02 * len(clips) / 3600)


def test_no_audio_is_refused(folder):
    with pytest.raises(DataError, match="There is none.*folder with audio"):
        make_corpus([], folder, 1.0, seed=1)
    assert not os.path.exists(folder)


def test_silence_alone_is_refused(tmp_path, folder):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(32000), 16000)
    silent = [Clip(name, str(tmp_path / f"{name}.wav"), "") for name in "ab"]
    with pytest.raises(DataError, match="2 files.*left out: 2 silent"):
        make_corpus(silent, folder, 1.0, seed=1)
    assert not os.path.exists(folder)


def test_less_sound_than_a_crop_is_refused(clips, folder):
    with pytest.raises(DataError, match="No crop of 60 s.*6 left over.*crop_seconds"):
        make_corpus(clips, folder, 60.0, seed=1)
    assert not os.path.exists(folder)


def test_a_second_call_reads_the_disk(clips, folder, monkeypatch):
    first = make_corpus(clips, folder, 1.0, seed=1)
    monkeypatch.setattr(corpus_module, "read_audio", None)
    again = make_corpus(iter(clips), folder, 1.0, seed=1)
    assert again == first and np.array_equal(again.audio(), first.audio())


def moved(clips: list[Clip]) -> list[Clip]:
    os.rename(clips[0].path, f"{clips[0].path}.wav")
    return [Clip("a", f"{clips[0].path}.wav", ""), *clips[1:]]


def rewritten(clips: list[Clip]) -> list[Clip]:
    write(Path(clips[0].path), 2.2)
    return clips


CHANGES = {
    "a clip less": lambda clips: clips[1:],
    "another path": moved,
    "a part of a clip": lambda clips: [Clip("a", clips[0].path, "", stop=2.0), *clips[1:]],
    "another sound in a file": rewritten,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_clips_make_it_anew(change, clips, folder, tmp_path):
    first = make_corpus(clips, folder, 1.0, seed=1)
    changed = CHANGES[change](clips)
    again = make_corpus(changed, folder, 1.0, seed=1)
    assert again != first
    assert again == make_corpus(changed, folder, 1.0, seed=1)
    assert sorted(os.listdir(tmp_path)) == ["corpus", "sound"]
    assert sorted(os.listdir(folder)) == ["audio.int16", "corpus.json"]


@pytest.mark.parametrize("change", [{"crop_seconds": 1.2}, {"seed": 2}])
def test_changed_settings_make_it_anew(change, clips, folder):
    settings = {"crop_seconds": 1.0, "seed": 1}
    first = make_corpus(clips, folder, **settings)
    assert make_corpus(clips, folder, **{**settings, **change}).pieces != first.pieces


class Killed(BaseException):
    pass


# At which call of what a process dies. Renames: of the list, of an older corpus out of the way, of the new one.
DEATHS = [(corpus_module, "read_audio", 3), (corpus_module, "write_json", 0), (os, "replace", 0), (os, "replace", 1)]


@pytest.mark.parametrize(
    ("older", "module", "name", "call"),
    [*((False, *death) for death in DEATHS), *((True, *death) for death in DEATHS), (True, os, "replace", 2)],
)
def test_a_corpus_killed_half_way_is_made_anew(older, module, name, call, clips, folder, monkeypatch):
    if older:
        old = make_corpus(clips[:2], folder, 1.0, seed=1)
        audio = old.audio().copy()
    function, calls = getattr(module, name), itertools.count()

    def mortal(*arguments: object) -> object:
        if next(calls) == call:
            raise Killed
        return function(*arguments)

    monkeypatch.setattr(module, name, mortal)
    with pytest.raises(Killed):
        make_corpus(clips, folder, 1.0, seed=1)
    if older:  # the older one is as it was
        assert make_corpus(clips[:2], folder, 1.0, seed=1) == old and np.array_equal(old.audio(), audio)
    else:
        assert not os.path.exists(folder)
    whole = make_corpus(clips, folder, 1.0, seed=1)
    assert len(whole.audio()) == whole.ends[-1]
    assert sorted(os.listdir(Path(folder).parent)) == ["corpus", "sound"]


def test_a_folder_with_other_files_is_left_alone(clips, tmp_path):
    with pytest.raises(DataError, match="sound.*Other files are there"):
        make_corpus(clips, str(tmp_path / "sound"), 1.0, seed=1)
    assert len(os.listdir(tmp_path / "sound")) == len(clips)


def stream(folder: str, ends: tuple[int, ...]) -> Corpus:
    """A corpus whose samples count its hops, without files."""
    os.makedirs(folder, exist_ok=True)
    (np.arange(ends[-1]) // HOP).astype(np.int16).tofile(Path(folder, "audio.int16"))
    return Corpus(folder, ends, (), {})


ENDS = (32000, 48000, 51200, 100160)  # one shorter than the crops


@pytest.fixture
def counted(folder):
    return stream(folder, ENDS)


def test_crops_lie_in_one_utterance_and_begin_with_a_frame(counted):
    crops = Crops(counted, batches=200, batch_size=8, crop_seconds=0.9, seed=1)
    starts = np.concatenate([crops.starts(batch) for batch in range(200)])
    assert (starts % HOP == 0).all()
    assert all(any(first <= start and start + 14400 <= end for first, end in counted.utterances()) for start in starts)


def test_every_position_is_equally_likely(folder):
    crops = Crops(stream(folder, (16000, 22400, 38400)), batches=1, batch_size=200_000, crop_seconds=0.9, seed=1)
    positions, counts = np.unique(crops.starts(0), return_counts=True)
    expected = [start + hop * HOP for start in (0, 22400) for hop in range(6)]
    assert positions.tolist() == expected
    assert counts / counts.sum() == pytest.approx(1 / len(expected), rel=0.05)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    crop=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    batch=st.integers(0, 10**6),
)
def test_crops_of_any_corpus_stay_inside(lengths, crop, seed, batch):
    corpus = Corpus("", tuple(HOP * np.cumsum(lengths)), (), {})
    if max(lengths) < crop:
        with pytest.raises(ConfigError, match="longest utterance"):
            Crops(corpus, 1, 5, crop * HOP / 16000, seed)
        return
    for start in Crops(corpus, 1, 5, crop * HOP / 16000, seed).starts(batch):
        assert start % HOP == 0
        assert any(first <= start and start + crop * HOP <= end for first, end in corpus.utterances())


def test_a_batch_depends_on_the_seed_and_its_number_alone(counted):
    crops, again = (Crops(counted, batches=50, batch_size=8, crop_seconds=0.9, seed=1) for _ in range(2))
    expected = [crops[batch]["waveforms"] for batch in range(50)]
    np.random.seed(0)
    torch.manual_seed(0)
    for batch in (17, 3, 49, 17):  # in any order, as after a break
        assert torch.equal(again[batch]["waveforms"], expected[batch])
    assert len({tuple(crops.starts(batch)) for batch in range(50)}) == 50
    assert not np.array_equal(Crops(counted, 50, 8, 0.9, seed=2).starts(0), crops.starts(0))


def test_waveforms_are_the_streams(clips, folder):
    corpus = make_corpus(clips, folder, 1.0, seed=1)
    crops = Crops(corpus, batches=3, batch_size=4, crop_seconds=1.0, seed=1)
    for batch in range(3):
        waveforms = crops[batch]["waveforms"]
        assert waveforms.shape == (4, 16000) and waveforms.dtype == torch.float32
        for waveform, start in zip(waveforms, crops.starts(batch), strict=True):
            np.testing.assert_allclose(waveform, corpus.audio()[start : start + 16000] / 32767, rtol=1e-6)


@pytest.mark.parametrize("crop_seconds", [0.5, 0.9, 1.0, 0.513])
def test_labels_are_those_of_the_crops_frames(crop_seconds, counted):
    """Labels count the hops, as the samples do: a frame's label is the number in its first sample."""
    labels = np.arange(ENDS[-1] // HOP, dtype=np.int16)
    crops = Crops(counted, batches=20, batch_size=8, crop_seconds=crop_seconds, seed=1, labels=labels)
    for batch in range(20):
        items = crops[batch]
        frames = frames_in(int(crop_seconds * 16000))
        assert items["labels"].shape == (8, frames) and items["labels"].dtype == torch.int64
        first_samples = (items["waveforms"] * 32767).round().long()[:, ::HOP][:, :frames]
        assert torch.equal(items["labels"], first_samples)


def test_a_run_over_the_crops_ends(counted):
    crops = Crops(counted, batches=3, batch_size=2, crop_seconds=0.9, seed=1)
    with pytest.raises(IndexError, match="3 of 3"):
        crops[3]
    assert len(crops) == len(list(torch.utils.data.DataLoader(crops, batch_size=None))) == 3


@pytest.mark.parametrize("labels", [0, 312, 314, 50])
def test_labels_of_another_stream_are_refused(labels, counted):
    with pytest.raises(DataError, match=f"^{labels} labels.* 313 frames"):
        Crops(counted, 1, 1, 0.9, seed=1, labels=np.zeros(labels, dtype=np.int64))


def test_crops_longer_than_every_utterance_are_refused(counted):
    with pytest.raises(ConfigError, match=r"Crops of 4 s.*3\.06 s.*crop_seconds"):
        Crops(counted, 1, 1, 4.0, seed=1)


def test_files_of_exactly_a_crop_are_all_used(tmp_path, folder):
    """After a file that is no whole number of frames long they once began between two frames, and had no room."""
    odd = write(tmp_path / "odd.wav", 1.005)
    clips = [odd, *(write(tmp_path / f"{'x' * number}.wav", 1.0) for number in range(1, 8))]
    crops = Crops(make_corpus(clips, folder, 1.0, seed=1), batches=1, batch_size=500, crop_seconds=1.0, seed=1)
    assert len(set(crops.starts(0))) == len(clips)


def test_a_corpus_is_not_loaded_into_memory(folder):
    """A gigabyte that takes no room on disk: a crop touches its own pages only."""
    ends = tuple(range(16000, 2**29, 16000))
    os.makedirs(folder)
    with open(Path(folder, "audio.int16"), "wb") as file:
        file.truncate(2 * ends[-1])
    crops = Crops(Corpus(folder, ends, (), {}), batches=5, batch_size=4, crop_seconds=1.0, seed=1)
    assert isinstance(crops.audio, np.memmap) and crops.audio.mode == "r"
    resident = Path("/proc/self/status")
    if not resident.exists():
        pytest.skip("this system does not report the memory of a process")

    def megabytes() -> int:
        line = next(line for line in resident.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) // 1024

    before = megabytes()
    for batch in range(5):
        assert crops[batch]["waveforms"].eq(0).all()
    assert megabytes() - before < 100
