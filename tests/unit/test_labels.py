"""Labels of a corpus: each frame has its own, on disk, and clusters are compared with phones honestly."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from brainplug.errors import DataError
from brainplug.pretrain import labels as module
from brainplug.pretrain.clustering import fit_clusters, mfcc
from brainplug.pretrain.corpus import FULL_SCALE, HOP, Corpus, frames_in, list_audio, make_corpus
from brainplug.pretrain.labels import (
    NO_LABEL,
    agreement,
    make_labels,
    mfcc_features,
    normalized_mfcc_features,
    phone_stream,
    read_window,
    sample_features,
    windows,
)

SECONDS = (0.7, 1.3, 2.1, 0.9)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "sound"
    folder.mkdir()
    for number, seconds in enumerate(SECONDS):
        samples = np.random.default_rng(number).standard_normal(round(16000 * seconds))
        soundfile.write(folder / f"{number}.wav", 0.1 * samples, 16000)
    return make_corpus(list_audio(str(folder)), str(tmp_path / "corpus"), 0.6, seed=1)


@pytest.mark.parametrize("longest", [0.5, 0.62, 15.6])
def test_windows_have_each_frame_of_an_utterance_once(corpus, monkeypatch, longest):
    monkeypatch.setattr(module, "MAX_WINDOW_SECONDS", longest)
    begun = [hop for begin, end in windows(corpus) for hop in range(begin // HOP, end // HOP)]
    assert begun == [
        start // HOP + frame for start, end in corpus.utterances() for frame in range(frames_in(end - start))
    ]
    audio = corpus.audio()
    for begin, end in windows(corpus):
        assert frames_in(len(read_window(audio, (begin, end)))) == (end - begin) // HOP


def test_windows_do_not_change_the_features_beside_their_edges(corpus, monkeypatch):
    audio, (start, end) = corpus.audio(), next(iter(corpus.utterances()))
    whole = mfcc(torch.from_numpy(audio[start:end].astype(np.float32) / FULL_SCALE))[::2]
    monkeypatch.setattr(module, "MAX_WINDOW_SECONDS", 0.5)
    parts = [mfcc_features(read_window(audio, window)) for window in windows(corpus, range(1))]
    cepstra = torch.cat(parts)[:, :13]  # differences look beyond an edge
    assert torch.allclose(cepstra, whole[: len(cepstra), :13], atol=1e-3)


def test_frame_t_of_the_model_has_label_2t_of_the_mfcc(corpus, tmp_path):
    labels = make_labels(corpus, mfcc_features, {}, str(tmp_path / "labels"), 5, 1, frames=10**6, starts=3)
    sample = sample_features(corpus, mfcc_features, 10**6, 1, tmp_path / "sample.npy")
    fitted, audio = fit_clusters(sample, 5, 1, 3), corpus.audio()
    for start, end in corpus.utterances():
        at_100_hz = fitted.predict(mfcc(torch.from_numpy(audio[start:end].astype(np.float32) / FULL_SCALE)).numpy())
        frames = frames_in(end - start)
        assert labels[start // HOP : start // HOP + frames].tolist() == at_100_hz[: 2 * frames : 2].tolist()
        assert (labels[start // HOP + frames : end // HOP] == NO_LABEL).all()


def test_normalized_mfcc_have_mean_0_and_variance_1_over_the_utterance():
    speech = torch.randn(32000) * torch.linspace(0, 1, 32000)
    features = normalized_mfcc_features(speech)
    assert features.shape == mfcc_features(speech).shape
    torch.testing.assert_close(features.mean(0), torch.zeros(39), rtol=0, atol=1e-4)
    torch.testing.assert_close(features.var(0, unbiased=False), torch.ones(39), rtol=0.05, atol=0)
    assert normalized_mfcc_features(torch.zeros(3200)).abs().max() < 0.1


def test_labels_are_made_once_for_the_same_source(corpus, tmp_path):
    calls = []

    def counted(waveform: torch.Tensor) -> torch.Tensor:
        calls.append(len(waveform))
        return mfcc_features(waveform)

    def make(clusters: int) -> np.ndarray:
        return make_labels(corpus, counted, {"features": "mfcc"}, str(tmp_path / "labels"), clusters, 1, 100, starts=2)

    first, made = make(4).copy(), len(calls)
    assert (make(4) == first).all() and len(calls) == made
    assert make(3).max() == 2 and len(calls) > made
    summary = json.loads((tmp_path / "labels" / "labels.json").read_text())
    assert summary["empty"] == 0 and 1 < summary["perplexity"] <= 3
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["labels.json", "labels.npy"]


def test_no_more_frames_are_gathered_than_asked_for(corpus, tmp_path):
    assert sample_features(corpus, mfcc_features, 37, 1, tmp_path / "sample.npy").shape == (37, 39)


def test_phones_are_those_at_the_centre_of_a_frame(corpus):
    path, start, end = corpus.pieces[1]
    stream, names = phone_stream(corpus, {path: [(0.1, "s"), (0.2, "i:"), (0.4, "")]})
    assert names == ["i:", "s"]
    centres = [(hop * HOP + 200 - start) / 16000 for hop in range(start // HOP, end // HOP)]
    expected = [1 if 0.1 <= at < 0.2 else 0 if 0.2 <= at < 0.4 else NO_LABEL for at in centres]
    assert stream[start // HOP : end // HOP].tolist() == expected
    assert (stream[: start // HOP] == NO_LABEL).all() and (stream[end // HOP :] == NO_LABEL).all()


def test_agreement_is_perfect_for_phones_and_low_for_noise(corpus):
    stream = np.full(corpus.ends[-1] // HOP, NO_LABEL, np.int16)
    audio = corpus.audio()
    for begin, end in windows(corpus):
        stream[begin // HOP : end // HOP] = np.random.default_rng(begin).integers(0, 4, (end - begin) // HOP)

    def phones_in_noise(waveform: torch.Tensor) -> torch.Tensor:
        begin, end = next(w for w in windows(corpus) if torch.equal(read_window(audio, w), waveform))
        phones = torch.from_numpy(stream[begin // HOP : end // HOP].astype(np.int64))
        return torch.nn.functional.one_hot(phones, 4) + 1e-3 * torch.randn(len(phones), 4)

    def noise(waveform: torch.Tensor) -> torch.Tensor:
        return torch.randn(frames_in(len(waveform)), 4, generator=torch.Generator().manual_seed(len(waveform)))

    utterances = range(len(corpus.ends))
    perfect = agreement(corpus, phones_in_noise, stream, utterances, 4, seed=1)
    assert perfect["purity"] == 1 and perfect["pnmi"] == pytest.approx(1)
    guessed = agreement(corpus, noise, stream, utterances, 4, seed=1)
    assert guessed["purity"] < 0.5 and guessed["pnmi"] < 0.3


def test_one_utterance_cannot_be_halved(corpus):
    stream = np.zeros(corpus.ends[-1] // HOP, np.int16)
    with pytest.raises(DataError, match="Hold more utterances out"):
        agreement(corpus, mfcc_features, stream, range(1), 2, seed=1)
