"""Files are read as a whole or refused with the reason: none is read in part without a word."""

import builtins
import contextlib
import importlib.util

import av
import numpy as np
import pytest
import soundfile

from brainplug.data.audio import read_audio
from brainplug.data.decoding import READ_ERRORS, open_clip, why_unreadable
from brainplug.data.manifest import Clip
from brainplug.data.stored_length import stored_length
from brainplug.errors import UsageError

RATES = {"OPUS": 48000, "MPEG_LAYER_III": 44100, "VORBIS": 44100}


def noise(seconds, rate=44100, seed=0):
    return 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * rate)).astype("float32")


def write(path, seconds, form, subtype, seed=0):
    soundfile.write(path, noise(seconds, RATES[subtype], seed), RATES[subtype], format=form, subtype=subtype)
    return path.read_bytes()


def seconds_of(path, **part):
    with open_clip(Clip("a", str(path), "noise", **part)) as decoder:
        return sum(map(len, decoder.blocks)) / decoder.sample_rate


def variable_mp3(path):
    """Noise, then silence, which takes few bits: the first frames say little of the length."""
    samples = np.concatenate([noise(4), np.zeros(4 * 44100, "float32")])
    with soundfile.SoundFile(
        path, "w", 44100, 1, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(samples)
    return path.read_bytes()


def encode(path, codec, rate, form, seconds=3.0):
    """Writes noise by FFmpeg."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout, stream.bit_rate = "mono", 32000
        resampler = av.AudioResampler(stream.format, stream.layout, rate)
        samples = noise(seconds, rate)
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            for piece in resampler.resample(frame):
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


PHONES = {
    "a.m4a": ("aac", 44100, "ipod"),
    "a.mp4": ("aac", 44100, "mp4"),
    "a.aac": ("aac", 44100, "adts"),
    "a.webm": ("libopus", 48000, "webm"),
    "a.amr": ("libopencore_amrnb", 8000, "amr"),
    "a.wma": ("wmav2", 44100, "asf"),
}


@pytest.fixture(params=PHONES)
def phone_recording(request, tmp_path):
    path = tmp_path / request.param
    try:
        encode(path, *PHONES[request.param])
    except av.FFmpegError as error:
        pytest.skip(f"FFmpeg does not write it here: {error}")
    return path


@pytest.fixture
def without_pyav(monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "av":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("brainplug.data.decoding.find_spec", lambda name: None if name == "av" else find_spec(name))


# MP3 and Ogg


def test_variable_mp3_without_its_header_is_read_to_the_end(tmp_path):
    content = variable_mp3(tmp_path / "a.mp3")
    (tmp_path / "b.mp3").write_bytes(content.replace(b"Xing", bytes(4), 1))
    assert soundfile.info(tmp_path / "b.mp3").duration < 6  # what libsndfile believes
    assert seconds_of(tmp_path / "b.mp3") == pytest.approx(8, abs=0.1)


@pytest.mark.parametrize(("form", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS")])
def test_concatenated_files_are_read_to_the_end(form, subtype, tmp_path):
    first, second = (write(tmp_path / "a", seconds, form, subtype, seed) for seed, seconds in enumerate((2.0, 3.0)))
    (tmp_path / "a").write_bytes(first + second)
    assert soundfile.info(tmp_path / "a").duration == pytest.approx(2, abs=0.1)
    assert seconds_of(tmp_path / "a") == pytest.approx(5, abs=0.1)
    assert seconds_of(tmp_path / "a", start=1.5, stop=2.5) == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize(("form", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS")])
def test_a_part_of_concatenated_files_is_where_it_was_recorded(form, subtype, tmp_path):
    first, second = (write(tmp_path / "a", 2.0, form, subtype, seed) for seed in (0, 1))
    (tmp_path / "a").write_bytes(first + second)
    rate = RATES[subtype]
    part = read_audio(Clip("a", str(tmp_path / "a"), "noise", start=2.5, stop=3.5), rate).numpy()
    expected = noise(2.0, rate, seed=1)[round(0.5 * rate) :][: len(part)]
    similarity = np.correlate(part, expected[3000:-3000], "valid")  # at all shifts of up to 3,000 samples
    assert similarity.max() > 0.5 * np.square(expected[3000:-3000]).sum()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.995, -1, -3, -50])  # or bytes from the end
@pytest.mark.parametrize(
    ("name", "form", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("a.wav", "WAV", "FLOAT"),
        ("a.w64", "W64", "PCM_16"),
        ("a.wav", "RF64", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
        ("a.au", "AU", "PCM_16"),
        ("a.sph", "NIST", "PCM_16"),
        ("a.iff", "SVX", "PCM_16"),
        ("a.voc", "VOC", "PCM_16"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.opus", "OGG", "OPUS"),
        ("a.mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
def test_a_file_that_is_cut_is_refused(name, form, subtype, share, tmp_path):
    rate = RATES.get(subtype, 16000)
    soundfile.write(tmp_path / name, noise(6, rate), rate, format=form, subtype=subtype)
    assert seconds_of(tmp_path / name) == pytest.approx(6)
    content = (tmp_path / name).read_bytes()
    if (form, share) == ("VOC", -1):
        return  # the last byte only says that nothing follows
    (tmp_path / name).write_bytes(content[: share if share < 0 else round(share * len(content))])
    with pytest.raises(READ_ERRORS) as fault:
        seconds_of(tmp_path / name)
    assert why_unreadable(fault.value)


@pytest.mark.parametrize("more", [8, 36, 44])
def test_a_wav_file_whose_writer_counts_headers_as_audio_is_read(more, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1, 16000), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    size = content.find(b"data") + 4
    content[size : size + 4] = (2 * 16000 + more).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert seconds_of(tmp_path / "a.wav") == 1


def test_ogg_that_ends_between_pages_is_refused(tmp_path):
    content = write(tmp_path / "a.ogg", 6, "OGG", "VORBIS")
    (tmp_path / "a.ogg").write_bytes(content[: content.rindex(b"OggS")])
    with pytest.raises(ValueError, match="truncated: the Ogg stream has no last page"):
        seconds_of(tmp_path / "a.ogg")


@pytest.mark.parametrize("seconds", [0.2, 1.0, 7.3])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
def test_frames_of_mp3_are_counted_as_they_were_written(mode, rate, seconds, tmp_path):
    with soundfile.SoundFile(
        tmp_path / "a.mp3", "w", rate, 1, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode
    ) as file:
        file.write(noise(seconds, rate))
    stored = stored_length(str(tmp_path / "a.mp3"), "MP3")
    assert not stored.cut
    assert seconds <= stored.seconds < seconds + 4 * 1152 / rate
    assert seconds_of(tmp_path / "a.mp3") == pytest.approx(seconds, abs=1e-4)


def test_a_tag_with_a_picture_is_no_audio(tmp_path):
    content = write(tmp_path / "a.mp3", 2, "MP3", "MPEG_LAYER_III")
    picture = content[:4] * 2000  # 8,000 bytes that look like the beginnings of frames
    size = bytes((len(picture) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    (tmp_path / "b.mp3").write_bytes(b"ID3\x03\x00\x00" + size + picture + content + b"TAG" + bytes(125))
    assert seconds_of(tmp_path / "b.mp3") == pytest.approx(2)


# WAV and FLAC whose headers do not say how long they are


@pytest.fixture
def wav(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(3, 16000), 16000)
    return tmp_path / "a.wav"


def with_sizes(path, riff, data):
    content = bytearray(path.read_bytes())
    content[4:8] = riff.to_bytes(4, "little")
    start = content.index(b"data") + 4
    content[start : start + 4] = data.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("riff", [0, 36])
def test_a_recording_that_was_not_finished_says_how_to_mend_it(riff, wav):
    with_sizes(wav, riff, 0)
    with pytest.raises(UsageError, match=r"announces no audio, but 96,000 bytes follow.*ffmpeg -ignore_length 1 -i"):
        read_audio(Clip("a", str(wav), "noise"))


@pytest.mark.parametrize("riff", [0xFFFFFFFF, 0, 0x7FFFFFFF])
def test_a_wav_stream_is_read_to_its_end(riff, wav):
    with_sizes(wav, riff, 0xFFFFFFFF)
    assert seconds_of(wav) == 3


def test_a_flac_stream_is_read_to_its_end(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(3, 16000), 16000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36  # STREAMINFO, whose last 36 bits count the samples
    content[18:26] = fields.to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(content)
    assert seconds_of(tmp_path / "a.flac") == 3


# What FFmpeg reads


def test_what_phones_record_is_read(phone_recording):
    assert seconds_of(phone_recording) == pytest.approx(3, abs=0.1)
    whole = read_audio(Clip("a", str(phone_recording), "noise"))
    part = read_audio(Clip("a", str(phone_recording), "noise", start=1.0, stop=2.0))
    assert len(part) == 16000
    assert np.abs((whole[16000:32000] - part).numpy()[200:-200]).max() < 1e-3


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_what_phones_record_is_refused_where_it_is_cut(share, phone_recording):
    content = phone_recording.read_bytes()
    phone_recording.write_bytes(content[: round(share * len(content))])
    if phone_recording.suffix in (".aac", ".amr") and seconds_is_short(phone_recording, share):
        return  # its frames stand alone: a cut between two of them leaves no trace
    with pytest.raises(ValueError, match="truncated|cut short|damaged"):
        seconds_of(phone_recording)


def test_an_encoding_that_nobody_knows_is_refused(tmp_path):
    encode(tmp_path / "a.webm", "libopus", 48000, "webm", seconds=0.5)
    content = (tmp_path / "a.webm").read_bytes()
    (tmp_path / "b.webm").write_bytes(content.replace(b"A_OPUS", b"A_NONE"))
    with pytest.raises(ValueError, match="does not know how its audio is encoded"):
        seconds_of(tmp_path / "b.webm")


def seconds_is_short(path, share):
    try:
        return seconds_of(path) < 3 * share + 0.1
    except ValueError:
        return False


def test_without_pyav_the_extra_is_named(phone_recording, without_pyav):
    with pytest.raises(UsageError, match=r"the extra audio reads it: pip install 'brainplug\[audio\]'"):
        read_audio(Clip("a", str(phone_recording), "noise"))


def test_without_pyav_an_mp3_that_would_be_read_in_part_is_refused(tmp_path, without_pyav):
    content = write(tmp_path / "a.mp3", 2, "MP3", "MPEG_LAYER_III")
    (tmp_path / "a.mp3").write_bytes(2 * content)
    with pytest.raises(UsageError, match=r"would read 2\.00 of 4\.\d+ s; the extra audio reads it"):
        read_audio(Clip("a", str(tmp_path / "a.mp3"), "noise"))


@pytest.mark.parametrize("name", ["a.wav", "a.m4a", "a.txt"])
@pytest.mark.parametrize(
    "content", ["#EXTM3U\n#EXTINF:3,\n{}\n", "ffconcat version 1.0\nfile {}\n", "text " * 100, "", "\x00" * 5000]
)
def test_a_file_that_names_other_files_reads_none(name, content, wav):
    (wav.parent / name).write_text(content.format(wav))
    with pytest.raises(READ_ERRORS):
        seconds_of(wav.parent / name)


# Channels


@pytest.mark.parametrize(
    ("channel", "expected"), [("mix", (0.0, 2 / 3)), ("first", (1.0, 0.0)), ("loudest", (0.0, 3.0)), (1, (1.0, 0.0))]
)
def test_a_channel_is_chosen(channel, expected, tmp_path):
    samples = np.zeros((1000, 3), "float32")
    samples[:500, 0], samples[:500, 1], samples[500:, 2] = 0.1, -0.1, 0.2
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    waveform = read_audio(Clip("a", str(tmp_path / "a.wav"), "noise"), channel=channel).numpy()
    means = (waveform[:500].mean() / 0.1, waveform[500:].mean() / 0.1)
    assert np.allclose(means, np.array(expected) * (1, 1 if channel == "mix" else 2 / 3), atol=1e-5)


def test_a_channel_that_is_not_there_is_refused(wav):
    with pytest.raises(UsageError, match="channel 2 was asked for, and it has 1"):
        read_audio(Clip("a", str(wav), "noise"), channel=2)


@pytest.mark.parametrize("form", ["FLAC", "MP3", "OGG", "WAV"])
def test_damaged_files_print_no_traceback(form, tmp_path, capfd):
    """Errors are told where they are caught; PyAV would print others and go on."""
    path = tmp_path / f"a.{form.lower()}"
    soundfile.write(path, noise(0.6), 44100, format=form)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for start in [*range(0, 120, 5), *random.integers(0, len(whole), 20)]:
        for damaged in (whole[:start], whole[start:], whole[:start] + random.bytes(40) + whole[start + 40 :]):
            path.write_bytes(damaged)
            with contextlib.suppress(*READ_ERRORS):
                seconds_of(path)
    assert "Traceback" not in capfd.readouterr().err
