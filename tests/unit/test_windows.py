"""Windows of a recording: the samples that a part of the file has, in flat memory, and all of it."""

import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brainplug.data.audio import read_audio
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows, _cut, read_windows
from brainplug.errors import ConfigError, DataError


@settings(deadline=None)
@given(
    total=st.integers(1, 300),
    size=st.integers(1, 60),
    hop=st.floats(0.5, 60),
    blocks=st.lists(st.integers(1, 80), min_size=1, max_size=300),
)
def test_windows_hold_what_a_slice_holds(total, size, hop, blocks):
    """However the decoder's blocks fall, each window is a slice, and each sample is in one if no hop leaps."""
    samples = np.arange(total)[:, None]
    ends = np.minimum(np.cumsum([*blocks, total]), total)
    pieces = (piece for piece in np.split(samples, ends[:-1]) if len(piece))
    if total < size:
        with pytest.raises(ValueError, match="and a window"):
            list(_cut(pieces, size, hop))
        return
    windows = list(_cut(pieces, size, hop))
    regular = [round(number * hop) for number in range(2 * total + 1) if round(number * hop) + size <= total]
    assert [first for first, _ in windows][: len(regular)] == regular
    for first, window in windows:
        assert window[:, 0].tolist() == list(range(first, first + size))
    assert windows[-1][1][-1, 0] == total - 1
    assert len(windows) <= len(regular) + 1


@pytest.fixture(params=[(16000, "WAV"), (44100, "FLAC"), (22050, "OGG")], ids=["wav", "flac", "ogg"])
def recording(request, tmp_path):
    rate, form = request.param
    path = tmp_path / f"a.{form.lower()}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((round(3.3 * rate), 2)), rate, format=form)
    return str(path)


@pytest.mark.parametrize("part", [{}, {"start": 0.7}, {"start": 0.25, "stop": 2.9}])
@pytest.mark.parametrize("windows", [Windows(1.0, 0.5), Windows(0.4, 0.4), Windows(1.7, 1 / 3)])
def test_a_window_is_read_as_its_part_alone(windows, part, recording):
    clip = Clip("a", recording, "", **part)
    read = list(read_windows(clip, windows))
    for window, samples in read:
        alone = read_audio(window)
        assert len(samples) == len(alone)
        torch.testing.assert_close(samples, alone, atol=2e-3 if recording.endswith("ogg") else 1e-6, rtol=0)
    assert read[0][0].start == pytest.approx(part.get("start", 0.0), abs=1e-4)
    assert read[-1][0].stop == pytest.approx(part.get("stop", 3.3), abs=1e-4)


def test_a_clip_that_is_shorter_than_a_window_is_told(recording):
    with pytest.raises(DataError, match="and a window"):
        list(read_windows(Clip("a", recording, ""), Windows(4.0, 1.0)))


@pytest.mark.parametrize(("length", "hop"), [(0, 1), (1, 0), (-1, -1), (1, 2), (float("inf"), 1), (float("nan"), 1)])
def test_windows_that_end_nowhere_are_refused(length, hop):
    with pytest.raises(ConfigError, match="end nowhere"):
        Windows(length, hop)


def test_memory_does_not_grow_with_the_recording(tmp_path):
    peaks = []
    for minutes in (4, 16):
        path = str(tmp_path / f"{minutes}.wav")
        soundfile.write(path, np.zeros(minutes * 60 * 8000, "float32"), 8000)
        tracemalloc.start()
        for _ in read_windows(Clip("a", path, ""), Windows(10.0, 5.0), sample_rate=8000):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
