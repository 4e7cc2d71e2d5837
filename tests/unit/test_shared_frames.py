"""Frames of overlapping windows: computed once, and the same as those of each window alone."""

import weakref

import numpy as np
import pytest
import soundfile
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from brainplug.backbones import load_backbone
from brainplug.backbones.whisper import Whisper
from brainplug.data.audio import read_audio
from brainplug.data.features import LogMel
from brainplug.data.manifest import Clip
from brainplug.data.shared_frames import SAMPLES_AT_ONCE, SharedFrames
from brainplug.data.windows import Windows
from brainplug.errors import DataError
from brainplug.inference import Classifier
from tests.conftest import WHISPER_CONFIG
from tests.unit.test_inference import make_run

RATE = 16000
LOG_MEL = LogMel(mel_bands=16, frames=60)
WHISPER = Whisper.from_config(WHISPER_CONFIG, frames=60)
FAMILIES = {"ast": LOG_MEL, "whisper": WHISPER}


def windows_of(recording, size, hop):
    """Windows as they are read: every `hop` samples, and the last one at the end."""
    begins = range(0, len(recording) - size + 1, hop)
    last = [len(recording) - size] if begins[-1] < len(recording) - size else []
    return [(Clip("", "a", "", start=begin / RATE), recording[begin : begin + size]) for begin in [*begins, *last]]


# Frames, of whole numbers: equality is exact


@settings(deadline=None, max_examples=60)
@given(
    shift=st.integers(1, 5),
    more=st.integers(0, 9),
    windows=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=1, max_size=12),
    groups=st.integers(1, 5),
    loud=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 60)), max_size=6),
)
def test_frames_are_those_of_the_window_alone(shift, more, windows, groups, loud):
    """Wherever windows begin, however long they are, and if some of them have other samples than the recording."""
    size = shift + more
    recording = torch.arange(200)
    pieces = [(first, recording[first : first + size + length].clone()) for first, length in windows]
    for window, sample in loud:
        if window < len(pieces) and sample < len(pieces[window][1]):
            pieces[window][1][sample] += 1000
    shared = SharedFrames(lambda samples: samples.unfold(0, size, shift), size, shift)
    frames = [own for begin in range(0, len(pieces), groups) for own in shared(pieces[begin : begin + groups])]
    for (_, samples), own in zip(pieces, frames, strict=True):
        assert own.tolist() == samples.unfold(0, size, shift).tolist()


@pytest.mark.parametrize(("hop", "edge", "most"), [(4, 0, 4), (4, 3, 10), (10, 2, 11), (5, 0, 50)])
def test_frames_of_equal_samples_are_computed_once(hop, edge, most):
    """Apart from those at the edges, which are others where windows were resampled, and two at each end of a piece."""
    counts = []

    def compute(samples):
        counts.append((len(samples) - 5) // 2 + 1)
        return samples.unfold(0, 5, 2)

    shared = SharedFrames(compute, 5, 2)
    for first in range(0, 1000, hop):
        samples = torch.arange(first, first + 99)
        samples[:edge] = samples[99 - edge :] = -1
        assert len(next(shared([(first, samples)]))) == 48
    assert max(counts[1:]) <= most + 4


# Signals


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=25)
@given(
    seconds=st.floats(0.1, 1.5),
    size=st.integers(1, 16000),
    shifts=st.integers(1, 60),
    off=st.sampled_from([0, 0, 0, 1, 80]),
    seed=st.integers(0, 9),
)
def test_signals_are_those_of_the_window_alone(family, seconds, size, shifts, off, seed):
    """Also of windows that are longer than the signal or shorter than a frame, and do not begin on a shift."""
    recording = 0.1 * torch.randn(max(size, int(seconds * RATE)), generator=torch.Generator().manual_seed(seed))
    recording[len(recording) // 3 : len(recording) // 2] = 0  # silence too
    windows = windows_of(recording, size, min(size, 160 * shifts + off))[-10:]
    signals = list(FAMILIES[family].extract_windows(iter(windows)))
    assert [clip for clip, _ in signals] == [clip for clip, _ in windows]
    for (_, samples), (_, signal) in zip(windows, signals, strict=True):
        torch.testing.assert_close(signal, FAMILIES[family].extract(samples), atol=1e-6, rtol=0)


def test_a_family_that_normalises_waveforms_extracts_each_window(tiny_backbones):
    backbone = load_backbone(tiny_backbones["hubert"])
    windows = windows_of(torch.randn(4000), 1600, 160)
    for (_, samples), (_, signal) in zip(windows, backbone.extract_windows(windows), strict=True):
        assert torch.equal(signal, backbone.extract(samples))


def test_dither_is_drawn_for_each_window():
    extractor = transformers.WhisperFeatureExtractor(32, dither=1.0)
    backbone = Whisper.from_config(WHISPER_CONFIG, extractor=extractor, frames=60)
    windows = windows_of(torch.zeros(3200), 1600, 160)
    torch.manual_seed(0)
    expected = [backbone.extract(samples) for _, samples in windows]
    torch.manual_seed(0)
    signals = [signal for _, signal in backbone.extract_windows(windows)]
    assert all(map(torch.equal, signals, expected))
    assert not torch.equal(signals[1][:-1], signals[0][1:])


def test_memory_does_not_grow_with_the_recording():
    """Of all windows before, only those that are computed together are held, and the one before them."""
    held = weakref.WeakSet()

    def read():
        for second in range(100):
            samples = torch.zeros(4 * RATE)
            held.add(samples)
            yield Clip("", "a", "", start=float(second)), samples
            del samples
            assert len(held) <= SAMPLES_AT_ONCE // (4 * RATE) + 3

    assert len([clip for clip, _ in LOG_MEL.extract_windows(read())]) == 100


def test_windows_before_an_error_are_yielded():
    windows = windows_of(torch.randn(3200), 1600, 160)

    def read():
        yield from windows
        raise DataError("The clip a was asked for.", "It is cut.", "Mend it")

    extracted = LOG_MEL.extract_windows(read())
    assert [next(extracted)[0] for _ in windows] == [clip for clip, _ in windows]
    with pytest.raises(DataError, match="It is cut"):
        next(extracted)


# Recordings


@pytest.fixture(scope="module", params=["ast", "whisper"])
def classifier(request, tmp_path_factory, tiny_backbones):
    folder = tmp_path_factory.mktemp(request.param)
    make_run(folder, tiny_backbones[request.param])
    return Classifier.from_run(folder)


@pytest.fixture(scope="module", params=[(16000, "wav"), (44100, "flac"), (22050, "wav"), (11025, "flac")], ids=str)
def recording(request, tmp_path_factory):
    """A second and a bit in stereo, whose channels are the loudest in turn."""
    rate, form = request.param
    path = tmp_path_factory.mktemp("recordings") / f"a.{form}"
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(1.313 * rate), 2))
    samples[: rate // 2, 0] *= 0.1
    samples[rate // 2 : rate, 1] *= 0.1
    soundfile.write(path, samples, rate)
    return str(path)


@pytest.mark.parametrize(
    ("channel", "part", "windows"),
    [
        ("mix", {}, Windows(0.5, 0.1)),
        ("loudest", {"start": 0.13, "stop": 1.205}, Windows(0.36, 0.05)),
        (2, {"start": 0.1}, Windows(0.7, 1 / 7)),
    ],
    ids=str,
)
def test_windows_of_a_file_are_classified_as_alone(channel, part, windows, recording, classifier, monkeypatch):
    """Whatever their rate, channel and part, to 1e-6 in signals and 1e-5 in probabilities."""
    monkeypatch.setattr(classifier, "description", classifier.description.model_copy(update={"channel": channel}))
    clip = Clip("a", recording, "", **part)
    read = list(classifier.read_windows(clip, windows))
    for window, signal in read:
        alone = classifier.model.backbone.extract(read_audio(window, RATE, channel))
        torch.testing.assert_close(signal, alone, atol=1e-6, rtol=0)
    for (window, _), prediction in zip(read, classifier.classify_files([clip], windows=windows), strict=True):
        alone = classifier.classify_file(window).probabilities
        assert prediction.probabilities == pytest.approx(alone, abs=1e-5)


def test_most_frames_of_a_file_are_computed_once(recording, classifier, monkeypatch):
    """Also of one that is resampled: without this, no window would share a frame and all tests would pass."""
    computed = []
    compute = SharedFrames._computed

    def counted(shared, pieces):
        for frames in compute(shared, pieces):
            computed.append(len(frames))
            yield frames

    monkeypatch.setattr(SharedFrames, "_computed", counted)
    read = list(classifier.read_windows(Clip("a", recording, ""), Windows(0.48, 0.04)))
    assert sum(computed) < len(read) * 48 / 3


def test_a_nan_stops_a_recording_after_the_windows_before_it(tmp_path, classifier):
    samples = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    samples[RATE] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    errors = []
    windows = Windows(0.4, 0.1)
    windows_before = classifier.classify_files(
        [str(tmp_path / "a.wav")], windows=windows, on_error=lambda clip, error: errors.append(str(error))
    )
    assert [window.stop for window in windows_before] == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert "NaN" in errors[0]


def test_a_file_that_is_shorter_than_a_window_is_told(recording, classifier):
    with pytest.raises(DataError, match="and a window"):
        list(classifier.read_windows(Clip("a", recording, ""), Windows(4.0, 1.0)))
