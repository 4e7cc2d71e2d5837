"""Long recordings: windows are rows, windows of a class are events, in the formats of other programs."""

import csv
import json

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.signal import medfilt

from brainplug.cli import predict
from brainplug.data.manifest import Clip
from brainplug.data.windows import Windows, mean_spectra
from brainplug.errors import ConfigError
from brainplug.inference import Classifier
from brainplug.inference.classifier import Prediction
from brainplug.inference.events import EventSettings, find_events
from tests.unit.test_inference import LABELS, call, make_run, rows_of


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_backbones):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, tiny_backbones["wav2vec2"])
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two recordings, of 2.3 and 1 s, and a file that is cut in the middle."""
    folder, draw = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for name, seconds in (("a", 2.3), ("b", 1.0), ("cut", 2.0)):
        soundfile.write(folder / f"{name}.wav", 0.1 * draw.standard_normal(round(seconds * 16000)), 16000)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    return folder


def test_windows_are_classified_as_parts_of_the_file(run, recordings):
    """Equality with one part at a time, whatever the batch: windows of two files share batches."""
    classifier, paths = Classifier.from_run(run), [str(recordings / "a.wav"), str(recordings / "b.wav")]
    windows = list(classifier.classify_files(paths, 4, windows=Windows(0.5, 0.25)))
    assert [window.path for window in windows] == [paths[0]] * 9 + [paths[1]] * 3
    assert [(window.start, window.stop) for window in windows[-4:]] == [
        (1.8, 2.3),
        (0.0, 0.5),
        (0.25, 0.75),
        (0.5, 1.0),
    ]
    for window in windows:
        alone = classifier.classify_file(Clip("", window.path, "", start=window.start, stop=window.stop))
        assert window.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_rows_of_windows_are_written_and_continued(run, recordings, tmp_path, capsys):
    whole, begun = tmp_path / "whole.csv", tmp_path / "begun.csv"
    options = [run, recordings, "--window=0.5", "--batch_size=2"]
    assert call(predict, *options, f"--output={whole}") == 1
    error = capsys.readouterr().err
    assert "1 of 3 recordings cannot be read to their end, or not at all" in error
    assert "cut.wav cannot be read: truncated" in error
    rows = rows_of(whole)
    assert [row["stop"] for row in rows if row["path"].endswith("cut.wav")] == ["0.5", "0.75"]
    begun.write_text("".join(whole.read_text().splitlines(keepends=True)[:6]))
    assert call(predict, *options, f"--output={begun}") == 1
    assert rows_of(begun) == rows


def test_events_are_those_of_the_rows(run, recordings, tmp_path):
    """Also where the rows are continued, whose events need all windows."""
    options = [run, recordings / "a.wav", recordings / "b.wav", "--window=0.5", "--hop=0.5", "--threshold=0.4"]
    for name in ("first", "again"):
        events = tmp_path / f"{name}.csv"
        assert call(predict, *options, f"--output={tmp_path / 'rows.csv'}", f"--events={events}", "--top_k=3") == 0
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    rows, events = rows_of(tmp_path / "rows.csv"), rows_of(tmp_path / "first.csv")
    assert events
    for row in rows:
        shares = {row[f"label{rank}"]: float(row[f"probability{rank}"]) for rank in ("", "_2", "_3")}
        for label, share in shares.items():
            covering = [
                event
                for event in events
                if (event["path"], event["label"]) == (row["path"], label)
                and float(event["start"]) <= float(row["start"])
                and float(row["stop"]) <= float(event["stop"])
            ]
            assert bool(covering) == (share >= 0.4) or abs(share - 0.4) < 1e-5 or row["stop"] in ("2.3",)


def test_events_of_a_recording_that_is_cut_end_before(run, recordings, tmp_path):
    events = tmp_path / "events.json"
    options = [run, recordings / "a.wav", recordings / "cut.wav", "--window=0.5", "--threshold=0", f"--events={events}"]
    assert call(predict, *options) == 1
    stops = {(event["path"], event["stop"]) for event in json.loads(events.read_text())}
    assert stops == {(str(recordings / "a.wav"), 2.3), (str(recordings / "cut.wav"), 0.75)}


FORMATS = {
    "events.txt": ("\t", None, 3),
    "events.selections.txt": ("\t", "Selection", 7),
    "events.csv": (",", "path", 5),
}


@pytest.mark.parametrize("name", FORMATS)
def test_events_are_written_for_other_programs(name, run, recordings, tmp_path):
    separator, first, columns = FORMATS[name]
    options = ["--window=0.5", "--threshold=0", f"--events={tmp_path / name}"]
    assert call(predict, run, recordings / "b.wav", *options) == 0
    rows = list(csv.reader((tmp_path / name).read_text().splitlines(), delimiter=separator))
    assert {len(row) for row in rows} == {columns}
    assert (rows[0][0] == first) == (first is not None)
    assert sorted(value for row in rows for value in row if value in LABELS) == sorted(LABELS)
    spans = [[float(value) for value in row if value in ("0.000000", "0.0", "1.000000", "1.0")] for row in rows]
    assert [0.0, 1.0] in [span[:2] for span in spans]


@pytest.mark.parametrize("name", ["a", "b", "cut"])
def test_a_picture_is_drawn_of_one_recording(name, run, recordings, tmp_path):
    """Also where the recording breaks off, and beside rows that are continued."""
    for _ in range(2):
        options = [f"--picture={tmp_path / 'a.png'}", f"--output={tmp_path / 'rows.csv'}", "--threshold=0.4"]
        assert call(predict, run, recordings / f"{name}.wav", "--window=0.5", *options) == (name == "cut")
        height, width, _ = imread(tmp_path / "a.png").shape
        assert width > height > 500
        (tmp_path / "a.png").unlink()


def test_spectra_show_where_a_tone_is(tmp_path):
    time = np.arange(32000) / 16000
    tone = np.where(time < 1, np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 5000 * time))
    soundfile.write(tmp_path / "a.wav", 0.1 * tone, 16000)
    spectra = mean_spectra(Clip("a", str(tmp_path / "a.wav"), ""), Windows(0.5, 0.5), 16000, "mix")
    assert spectra.shape == (64, 4)
    assert (spectra.argmax(0) * 125 + 125).tolist() == [1000, 1000, 5000, 5000]  # bands of 125 Hz


REFUSED = {
    "--hop=1": "without --window",
    "--events=a.csv": "without --window",
    "--window=0": "end nowhere",
    "--window=1 --hop=0": "end nowhere",
    "--window=1 --hop=2": "end nowhere",
    "--window=1 --threshold=0.3": "without --events",
    "--window=1 --events=a.csv --threshold=2": "--threshold=2",
    "--window=1 --events=a.csv --median=2": "odd number",
    "--window=1 --events=a.xls": "names no format",
    "--window=1 --events=a.txt": "of one recording, and there are 3",
    "--window=1 --picture=a.png": "there are 3",
    "--picture=a.png": "without --window",
    "--window=5 --longest_clip=2": "takes 2 s at once",
}


@pytest.mark.parametrize("options", REFUSED)
def test_options_that_do_not_go_together_are_refused(options, run, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=REFUSED[options]):
        call(predict, run, recordings, *options.split())
    assert not list(tmp_path.iterdir())


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    threshold=st.floats(0, 1),
    median=st.sampled_from([1, 3, 5]),
    shortest=st.floats(0, 5),
)
def test_events_cover_the_windows_over_the_threshold(shares, threshold, median, shortest):
    """Without overlap, each event is a longest run of windows whose filtered probability reaches the threshold."""
    windows = [Prediction("a", "x", share, {"x": share}, start=n, stop=n + 0.9) for n, share in enumerate(shares)]
    events = find_events(windows, EventSettings(threshold, median, shortest))
    padded = np.pad(shares, median // 2, mode="edge")
    smooth = medfilt(padded, median)[median // 2 : len(padded) - median // 2]
    assert [(event.start, event.stop) for event in events] == [
        (n, n + 0.9) for n, share in enumerate(smooth) if share >= threshold and (n + 0.9) - n >= shortest
    ]
