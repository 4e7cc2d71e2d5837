"""Reading clips: the right stretch, in mono, at the right rate."""

import resource

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
import torchaudio

from brainplug.data.audio import read_audio
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError


def tone(rate, seconds=1.0, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def clip_of(path, samples, rate, **options):
    soundfile.write(path, samples, rate, **options)
    return Clip("a", str(path), "tone")


def test_samples_at_the_wanted_rate_are_those_of_the_file(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 1000).astype("float32")
    waveform = read_audio(clip_of(tmp_path / "a.wav", samples, 16000, subtype="FLOAT"))
    assert waveform.dtype == torch.float32
    assert np.array_equal(waveform.numpy(), samples)


@pytest.mark.parametrize("rate", [8000, 11025, 11127, 22050, 44056, 44100, 48000, 96000])
def test_a_tone_stays_the_tone_at_another_rate(rate, tmp_path):
    waveform = read_audio(clip_of(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT"))
    assert len(waveform) == 16000
    # Away from the ends, where the kernel reaches into silence.
    assert np.abs(waveform.numpy() - tone(16000))[500:-500].max() < 2e-3


@pytest.mark.parametrize("rate", [11127, 15999, 16001, 44101, 399989])
def test_odd_rates_of_damaged_headers_take_little_memory(rate, tmp_path):
    taken = peak_memory()
    waveform = read_audio(clip_of(tmp_path / "a.wav", tone(rate), rate, subtype="FLOAT"))
    assert len(waveform) == pytest.approx(16000, rel=1e-3)
    assert peak_memory() - taken < 1e9


def peak_memory():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_what_lies_above_half_the_rate_is_removed(tmp_path):
    waveform = read_audio(clip_of(tmp_path / "a.wav", tone(44100, hertz=12000), 44100, subtype="FLOAT"))
    assert waveform[500:-500].abs().max() < 1e-2


@pytest.mark.parametrize(("rate", "sample_rate"), [(44100, 16000), (96000, 16000), (22050, 8000), (8000, 16000)])
def test_resampling_equals_the_function_without_kept_kernel(rate, sample_rate, tmp_path):
    samples = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, rate)).float()
    clip = clip_of(tmp_path / "a.wav", samples.numpy(), rate, subtype="FLOAT")
    for _ in range(2):  # with a new kernel, then with the kept one
        expected = torchaudio.functional.resample(samples, rate, sample_rate)
        assert torch.allclose(read_audio(clip, sample_rate), expected, atol=2e-4)


def test_resampling_agrees_with_another_implementation(tmp_path):
    noise = np.random.default_rng(0).standard_normal(48000)
    smooth = scipy.signal.sosfilt(scipy.signal.butter(8, 2000, fs=48000, output="sos"), noise) * 0.1
    waveform = read_audio(clip_of(tmp_path / "a.wav", smooth, 48000, subtype="DOUBLE"))
    assert np.abs(waveform.numpy() - scipy.signal.resample_poly(smooth, 1, 3))[200:-200].max() < 1e-3


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_channels_are_averaged(channels, tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, (1000, channels)).astype("float32")
    waveform = read_audio(clip_of(tmp_path / "a.wav", samples, 16000, subtype="FLOAT"))
    assert np.allclose(waveform.numpy(), samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("subtype", "tolerance"), [("PCM_U8", 1e-2), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("FLOAT", 1e-7), ("DOUBLE", 1e-7)]
)
def test_sample_formats_give_the_same_samples(subtype, tolerance, tmp_path):
    waveform = read_audio(clip_of(tmp_path / "a.wav", tone(16000), 16000, subtype=subtype))
    assert np.abs(waveform.numpy() - tone(16000)).max() < tolerance


@pytest.mark.parametrize("form", ["FLAC", "OGG", "AIFF"])
def test_content_counts_and_not_the_extension(form, tmp_path):
    waveform = read_audio(clip_of(tmp_path / "a.wav", tone(16000), 16000, format=form))
    assert np.abs(waveform.numpy() - tone(16000))[1000:-1000].max() < 0.02


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@pytest.mark.parametrize(
    ("start", "stop", "first", "last"),
    [
        (None, None, 0, 16000),
        (0.25, None, 4000, 16000),
        (None, 0.25, 0, 4000),
        (0.25, 0.5, 4000, 8000),
        (0.5, 9, 8000, 16000),
    ],
)
def test_start_and_stop_choose_the_stretch(name, start, stop, first, last, tmp_path):
    samples = np.arange(16000, dtype="int16")
    soundfile.write(tmp_path / name, samples, 16000)
    waveform = read_audio(Clip("a", str(tmp_path / name), "tone", start=start, stop=stop))
    assert np.array_equal(waveform.numpy() * 2**15, samples[first:last])


def write_missing(path):
    pass


def write_text(path):
    path.write_text("not audio " * 100)


def write_empty(path):
    soundfile.write(path, np.zeros(0), 16000)


def write_broken_flac(path):
    soundfile.write(path, tone(16000), 16000, format="FLAC")
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_missing, "the file does not exist"),
        (write_text, "Format not recognised"),
        (write_empty, "no samples from 0 to 0; the file has 0"),
        (write_broken_flac, ".*flac.*"),
    ],
)
def test_what_cannot_be_read_is_named(write, reason, tmp_path):
    path = tmp_path / "broken.wav"
    write(path)
    with pytest.raises(UsageError, match=rf"'the clip'.*broken\.wav cannot be read: {reason}\. Mend"):
        read_audio(Clip("the clip", str(path), "tone"))


def test_a_stretch_beyond_the_end_is_named(tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, tone(16000), 16000)
    with pytest.raises(UsageError, match=r"short\.wav.*no samples"):
        read_audio(Clip("a", str(path), "tone", start=1.0))
