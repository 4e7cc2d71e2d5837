"""Trained models in use: batches change nothing, backbones are read as in training, what does not fit is refused."""

import argparse
import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.adapters.file import read_adapter, save_adapter
from brainplug.backbones import load_backbone
from brainplug.cli import embed, predict
from brainplug.data.audio import read_audio
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip
from brainplug.errors import CheckpointError, ConfigError, DataError, UsageError
from brainplug.inference import Classifier, SpeechRecognizer, load_run
from brainplug.inference.inputs import list_inputs
from brainplug.methods.linear import LinearProbe
from brainplug.methods.prompt import PromptTuning
from brainplug.models.classifier import AudioClassifier
from brainplug.models.ctc import CTCModel
from tests.conftest import TINY_BACKBONES
from tests.made_adapters import describe_classifier, describe_recognizer
from tests.made_corpora import write_noise

LABELS = ["cat", "dog", "fox"]
SECONDS = (0.5, 0.01, 0.9, 0.2, 0.65, 0.33, 0.7)  # the second is shorter than a window


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def make_run(folder: Path, backbone: str, method: object = None, pooling: str = "ALL") -> AudioClassifier:
    """Saves the adapter of a classifier as a run does."""
    loaded = load_backbone(backbone, frames=48, positions="crop")
    model = randomised(AudioClassifier(loaded, method or LinearProbe(), len(LABELS), pooling))
    save_adapter(model, folder, describe_classifier(model, LABELS))
    return model


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    """Clips of several lengths."""
    folder = tmp_path_factory.mktemp("clips")
    for number, seconds in enumerate(SECONDS):
        write_noise(folder / f"{number}.wav", seconds=seconds)
    return [str(folder / f"{number}.wav") for number in range(len(SECONDS))]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_backbones) -> Path:
    """A run whose backbone reads waveforms of any length."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, tiny_backbones["wav2vec2"])
    return folder


@pytest.fixture(scope="module")
def ctc_run(tmp_path_factory, tiny_backbones, clips) -> Path:
    """A run that recognises speech, whose characters are about equally frequent."""
    folder, characters = tmp_path_factory.mktemp("ctc"), Characters(" ab")
    model = randomised(CTCModel(load_backbone(tiny_backbones["hubert"]), LinearProbe(), len(characters)))
    signal = model.backbone.extract(read_audio(Clip("", clips[2], "")))
    with torch.no_grad():
        model.head.bias -= model(signal[None], torch.ones(1))[0].mean((0, 1))
    save_adapter(model, folder, describe_recognizer(model, characters.symbols))
    return folder


# The same in every batch, as in training


@pytest.mark.parametrize("family", TINY_BACKBONES)
def test_every_backbone_is_read_as_in_training(family, clips, tiny_backbones, tmp_path):
    model = make_run(tmp_path, tiny_backbones[family], PromptTuning(prompts=3, deep=False, dropout=0.0), "SPEECH")
    classifier = Classifier.from_run(tmp_path)
    assert classifier.model.backbone.signal_settings == model.backbone.signal_settings
    signals = [model.backbone.extract(read_audio(Clip("", path, ""))) for path in clips]
    with torch.no_grad():
        expected = torch.cat([model(signal[None], torch.ones(1)) for signal in signals]).softmax(1)
    assert (
        expected.max(0).values - expected.min(0).values
    ).max() > 1e-3  # the clips differ by far more than the tolerance
    for batch_size in (1, 3, 16):
        predictions = list(classifier.classify_files(clips, batch_size))
        assert [prediction.path for prediction in predictions] == clips
        actual = torch.tensor([list(prediction.probabilities.values()) for prediction in predictions])
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
        assert [prediction.label for prediction in predictions] == [LABELS[index] for index in expected.argmax(1)]
        assert all(prediction.probability == max(prediction.probabilities.values()) for prediction in predictions)


def test_a_batch_of_waveforms_gives_what_their_files_give(run, clips):
    classifier = Classifier.from_run(run)
    waveforms = [read_audio(Clip("", path, "")) for path in clips]
    lengths = torch.tensor([len(waveform) for waveform in waveforms]) / max(map(len, waveforms))
    probabilities, score, index, labels = classifier.classify_batch(pad_sequence(waveforms, batch_first=True), lengths)
    predictions = list(classifier.classify_files(clips))
    assert labels == [prediction.label for prediction in predictions]
    assert score.tolist() == pytest.approx([prediction.probability for prediction in predictions], abs=1e-6)
    assert [classifier.labels[position] for position in index.tolist()] == labels
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(clips)))
    [alone] = [prediction for prediction in predictions if prediction.path == clips[0]]
    assert classifier.classify_batch(waveforms[0])[1].item() == pytest.approx(alone.probability, abs=1e-6)
    assert classifier.classify_file(clips[0]).probability == pytest.approx(alone.probability, abs=1e-6)
    top = alone.top(2)
    assert top[0] == (alone.label, alone.probability) and top[0][1] >= top[1][1]


@pytest.mark.parametrize(
    ("wavs", "lengths", "words"),
    [
        (torch.zeros(0), None, "There are no samples"),
        (torch.zeros(2, 0), None, "There are no samples"),
        (torch.zeros(1, 1, 800), None, "more than two dimensions"),
        (torch.zeros(800, dtype=torch.int16), None, "The samples are torch.int16"),
        (torch.tensor([0.0, torch.nan]), None, "NaN or infinite"),
        (torch.tensor([0.0, torch.inf]), None, "NaN or infinite"),
        (torch.zeros(2, 800), [1.0], "There are 2 waveforms"),
        (torch.zeros(2, 800), [800.0, 400.0], "A length is"),  # samples instead of shares
        (torch.zeros(2, 800), [1.0, 0.0], "A length is"),
        (torch.zeros(2, 800), [1.0, 1e-6], "A length is"),
        (torch.zeros(2, 800), [1.0, torch.nan], "A length is"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(wavs, lengths, words, run):
    classifier = Classifier.from_run(run)
    for use in (classifier.classify_batch, classifier.embed_batch):
        with pytest.raises(DataError, match=words):
            use(wavs, None if lengths is None else torch.tensor(lengths))


def test_files_are_a_list_and_batches_have_clips(run, clips):
    classifier = Classifier.from_run(run)
    for one in (clips[0], Path(clips[0]), Clip("a", clips[0], "")):
        with pytest.raises(DataError, match="That is one file"):
            list(classifier.classify_files(one))
    with pytest.raises(ConfigError, match="Batches of 0"):
        list(classifier.classify_files(clips, batch_size=0))


def test_vectors_are_what_the_head_reads(run, clips):
    classifier = Classifier.from_run(run)
    vectors = torch.stack([embedding.vector for embedding in classifier.embed_files(clips, batch_size=3)])
    expected = [prediction.probability for prediction in classifier.classify_files(clips)]
    with torch.no_grad():
        actual = classifier.model.head(vectors).softmax(1).max(1).values
    assert actual.tolist() == pytest.approx(expected, abs=1e-5)
    waveform = read_audio(Clip("", clips[0], ""))
    torch.testing.assert_close(classifier.embed_batch(waveform)[0], vectors[0], atol=1e-5, rtol=1e-5)


def test_a_part_of_a_file_is_classified_as_if_it_were_one(run, clips, tmp_path):
    samples, rate = soundfile.read(clips[2], dtype="float32")
    soundfile.write(tmp_path / "part.wav", samples[4000:9600], rate, subtype="FLOAT")
    classifier = Classifier.from_run(run)
    part = classifier.classify_file(Clip("", clips[2], "", start=0.25, stop=0.6))
    assert (part.path, part.start, part.stop) == (clips[2], 0.25, 0.6)
    whole = classifier.classify_file(tmp_path / "part.wav")
    assert part.probabilities == pytest.approx(whole.probabilities, abs=1e-6)


def test_half_precision_is_close(run, clips):
    exact, half = (Classifier.from_run(run, precision=name).classify_file(clips[0]) for name in ("fp32", "bf16"))
    assert half.probabilities != exact.probabilities
    assert half.probabilities == pytest.approx(exact.probabilities, abs=0.05)


def test_long_clips_are_in_smaller_batches(run, tmp_path):
    for number, seconds in enumerate((20, 20, 1, 70)):
        write_noise(tmp_path / f"{number}.wav", seconds=seconds)
    classifier = Classifier.from_run(run)
    batches = classifier.batches([tmp_path / f"{number}.wav" for number in range(4)], batch_size=2)
    assert [len(clips) for clips, _, _ in batches] == [2, 1, 1]


def test_texts_do_not_depend_on_the_batch(ctc_run, clips):
    recognizer = SpeechRecognizer.from_run(ctc_run)
    texts = [recognizer.transcribe_file(path) for path in clips]
    assert len(set(texts)) > 2
    for batch_size in (3, 16):
        assert [(actual.path, actual.text) for actual in recognizer.transcribe_files(clips, batch_size)] == list(
            zip(clips, texts, strict=True)
        )
    assert isinstance(load_run(ctc_run), SpeechRecognizer)


# Bad files


@pytest.fixture
def bad_clips(clips, tmp_path) -> list[str]:
    """The clips, with two among them that cannot be used."""
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    return [clips[0], str(tmp_path / "text.wav"), *clips[1:], str(tmp_path / "nan.wav")]


def test_bad_files_are_left_out_where_that_is_wanted(run, clips, bad_clips):
    classifier, bad = Classifier.from_run(run), []
    predictions = classifier.classify_files(bad_clips, 3, on_error=lambda clip, error: bad.append((clip.path, error)))
    assert [prediction.path for prediction in predictions] == clips
    assert [path for path, _ in bad] == [bad_clips[1], bad_clips[-1]]
    with pytest.raises(UsageError, match="Format not recognised"):
        list(classifier.classify_files(bad_clips))
    with pytest.raises(DataError, match="NaN or infinite"):
        classifier.classify_file(bad_clips[-1])


def test_a_clip_that_is_longer_than_an_echo_reads_is_refused(tiny_backbones, tmp_path):
    make_run(tmp_path, tiny_backbones["echo"])
    write_noise(tmp_path / "long.wav", seconds=4.5)  # 225 tokens; it reads 200
    with pytest.raises(DataError, match="225 tokens, the encoder reads 200"):
        Classifier.from_run(tmp_path).classify_file(tmp_path / "long.wav")


# Runs and backbones that do not fit


def test_the_run_of_another_task_is_refused(run, ctc_run):
    with pytest.raises(CheckpointError, match="is of the task ctc. Name a run of the task classification"):
        Classifier.from_run(ctc_run)
    with pytest.raises(CheckpointError, match="is of the task classification. Name a run of the task ctc or seq2seq"):
        SpeechRecognizer.from_run(run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "gpu"}, "torch cannot use it"),
        ({"device": "cuda:77"}, "torch cannot use it"),
        ({"precision": "fp8"}, "no such precision.*fp32, bf16, fp16"),
        ({"precision": "fp16"}, "needs a GPU"),
    ],
)
def test_a_device_or_precision_that_cannot_be_is_refused(options, words, run):
    with pytest.raises(ConfigError, match=words):
        Classifier.from_run(run, **options)


@pytest.fixture
def copied(tiny_backbones, tmp_path) -> tuple[Path, Path]:
    """A run, and the copy of a backbone that it was made with."""
    shutil.copytree(tiny_backbones["ast"], tmp_path / "here" / "backbone")
    make_run(tmp_path / "run", str(tmp_path / "here" / "backbone"))
    return tmp_path / "run", tmp_path / "here" / "backbone"


def test_a_backbone_that_has_moved_is_named_anew(copied, clips, tmp_path):
    run, backbone = copied
    before = Classifier.from_run(run).classify_file(clips[0])
    shutil.move(backbone, tmp_path / "there")
    with pytest.raises(CheckpointError, match="does not exist here.*backbone=FOLDER"):
        Classifier.from_run(run)
    assert Classifier.from_run(run, backbone=str(tmp_path / "there")).classify_file(clips[0]) == before


def alter_weights(backbone: Path) -> None:
    path = backbone / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))


def cut_weights(backbone: Path) -> None:
    path = backbone / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def change_normalisation(backbone: Path) -> None:
    path = backbone / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mean": 1.5}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (alter_weights, "Its weights were sha256-.*; those here are sha256-"),
        (cut_weights, "cannot be loaded"),
        (change_normalisation, "It read clips with .*4.2.*; the one here reads them with .*1.5"),
    ],
)
def test_an_altered_backbone_is_refused(damage, words, copied):
    run, backbone = copied
    damage(backbone)
    with pytest.raises(CheckpointError, match=words):
        Classifier.from_run(run)


def test_random_weights_are_drawn_again_from_their_seed(tiny_backbones, clips, tmp_path):
    torch.manual_seed(5)
    make_run(tmp_path, f"random:{tiny_backbones['ast']}")
    assert read_adapter(tmp_path).description.backbone_revision == "seed-5"
    torch.manual_seed(6)
    first = Classifier.from_run(tmp_path).classify_file(clips[0])
    assert Classifier.from_run(tmp_path).classify_file(clips[0]) == first


# Inputs


def test_files_folders_and_lists_are_inputs(clips, tmp_path):
    for name in ("b/2.flac", "b/deep/1.wav", "b/.hidden/3.wav", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text(f"start,path,stop\n,b/2.flac,\n0.5,b/2.flac,1\n,{clips[0]},\n,gone.wav,\n")
    listed = list_inputs([clips[0], str(tmp_path / "b"), str(tmp_path / "list.csv")])
    assert [(clip.path, clip.start, clip.stop) for clip in listed] == [
        (clips[0], None, None),
        (f"{tmp_path}/b/2.flac", None, None),
        (f"{tmp_path}/b/deep/1.wav", None, None),
        (f"{tmp_path}/b/2.flac", 0.5, 1.0),
        (f"{tmp_path}/gone.wav", None, None),
    ]


def test_all_inputs_that_name_no_clip_are_listed(tmp_path):
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "notes.txt").touch()
    (tmp_path / "empty.csv").write_text("path\n")
    (tmp_path / "other.csv").write_text("file\na.wav\n")
    (tmp_path / "times.csv").write_text("path,start\na.wav,soon\n")
    names = [str(tmp_path / name) for name in ("silent", "empty.csv", "other.csv", "times.csv", "nowhere")]
    with pytest.raises(DataError) as caught:
        list_inputs(names)
    of_folder, of_rows, of_columns = "silent names no audio", "empty.csv names no audio", "lacks path; it has file"
    for words in (of_folder, of_rows, of_columns, "'soon'", "nowhere does not exist"):
        assert words in str(caught.value)


# Commands


def call(command: ModuleType, *arguments: object) -> int:
    """Runs a command as the dispatcher does, without its process."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize(("right", "is_told"), [(-1.0, True), (0.0, False)])
def test_a_clip_that_is_silent_once_it_is_mixed_is_told(right, is_told, run, tmp_path, caplog):
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, right * samples], 1), 16000)
    assert call(predict, run, tmp_path / "a.wav") == 0
    assert ("a.wav is silent, or nearly, as the model reads it (channel: mix)" in caplog.text) == is_told


def test_predictions_are_printed_as_a_table(run, clips, capsys):
    assert call(predict, run, *clips[:2], "--top_k=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines][0] == ["path", "label", "probability", "label_2", "probability_2"]
    assert [line.split()[0] for line in lines[1:]] == clips[:2]
    assert lines[1].index(lines[1].split()[1]) == lines[0].index("label")


def rows_of(path: Path) -> list[dict]:
    """The rows of a file of results; of a CSV the values are text."""
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The files that models read from here on."""
    paths, read = [], Classifier.read
    monkeypatch.setattr(Classifier, "read", lambda self, clip: (paths.append(clip.path), read(self, clip))[1])
    return paths


@pytest.mark.parametrize("form", ["csv", "json"])
def test_predictions_are_written_and_continued(form, run, bad_clips, clips, tmp_path, capsys, computed):
    whole, output = tmp_path / f"whole.{form}", tmp_path / "out" / f"some.{form}"
    options = [run, *bad_clips, "--top_k=3", "--batch_size=3"]
    assert call(predict, *options, f"--output={whole}") == 1
    error = capsys.readouterr().err
    assert "2 of 9 clips cannot be used" in error
    assert bad_clips[1] in error and bad_clips[-1] in error
    rows = rows_of(whole)
    assert [row["path"] for row in rows] == clips
    expected = list(Classifier.from_run(run).classify_files(clips))
    assert [row["label"] for row in rows] == [prediction.label for prediction in expected]
    assert [float(row["probability"]) for row in rows] == pytest.approx([p.probability for p in expected], abs=2e-6)
    sums = [sum(float(row[f"probability{number}"]) for number in ("", "_2", "_3")) for row in rows]
    assert sums == pytest.approx([1] * len(rows), abs=1e-5)

    content = whole.read_bytes()
    output.parent.mkdir()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for end in (0, 7, ends[0], ends[0] + 12, ends[3], ends[4] - 1, len(content)):  # killed behind a row, or within one
        output.write_bytes(content[:end])
        computed.clear()
        assert call(predict, *options, f"--output={output}") == 1
        stay = content[: content[:end].rfind(b"\n") + 1]
        done = stay.count(b"\n") - (form == "csv" and bool(stay))
        assert computed == [path for path in bad_clips if path not in clips[:done]]
        assert output.read_bytes().startswith(stay)
        again = rows_of(output)
        assert [(row["path"], row["label"], row["adapter"]) for row in again] == [
            (row["path"], row["label"], row["adapter"]) for row in rows
        ]
        assert [float(row["probability_2"]) for row in again] == pytest.approx(
            [float(row["probability_2"]) for row in rows], abs=2e-6
        )


def test_transcripts_are_written(ctc_run, clips, tmp_path):
    assert call(predict, ctc_run, *clips, f"--output={tmp_path / 'texts.jsonl'}") == 0
    expected = [actual.text for actual in SpeechRecognizer.from_run(ctc_run).transcribe_files(clips)]
    assert [row["text"] for row in rows_of(tmp_path / "texts.jsonl")] == expected
    with pytest.raises(ConfigError, match="it has no classes"):
        call(predict, ctc_run, *clips, "--top_k=1")
    with pytest.raises(CheckpointError, match="recognises speech"):
        call(embed, ctc_run, *clips, f"--output={tmp_path / 'vectors.npy'}")


def test_vectors_are_written_and_continued(run, bad_clips, clips, tmp_path, computed):
    output, listing = tmp_path / "vectors.npy", tmp_path / "vectors.csv"
    assert call(embed, run, *bad_clips, f"--output={output}") == 1
    vectors, rows = np.load(output, allow_pickle=False), listing.read_bytes()
    expected = torch.stack([actual.vector for actual in Classifier.from_run(run).embed_files(clips)])
    torch.testing.assert_close(torch.from_numpy(vectors), expected, atol=1e-5, rtol=1e-5)
    assert [row["path"] for row in rows_of(listing)] == clips
    content, width = output.read_bytes(), 4 * vectors.shape[1]
    ends = [position + 1 for position, byte in enumerate(rows) if byte == ord("\n")]
    # Killed before the first vector, within one, and between a vector and its row.
    for size, end in ((0, ends[0]), (60, ends[0]), (128 + 2 * width + 5, ends[2]), (128 + 3 * width, ends[2] + 4)):
        output.write_bytes(content[:size] if size < 128 else with_rows(content, size // width)[:size])
        listing.write_bytes(rows[:end])
        computed.clear()
        assert call(embed, run, *bad_clips, f"--output={output}") == 1
        done = rows[:end].count(b"\n") - 1
        assert computed == [path for path in bad_clips if path not in clips[:done]]
        np.testing.assert_allclose(np.load(output, allow_pickle=False), vectors, atol=1e-5, rtol=1e-5)
        assert [row["path"] for row in rows_of(listing)] == clips


def with_rows(content: bytes, count: int) -> bytes:
    """A .npy file whose header says another number of rows."""
    return content.replace(f"({len(SECONDS)},".encode(), f"({min(count, 2)},".encode(), 1)


REFUSED_OUTPUTS = {
    "something else": (lambda path: path.write_text("my notes\n"), DataError, "begins with 'my notes'"),
    "no line": (lambda path: path.write_text("my notes"), DataError, "begins with 'my notes'"),
    "other columns": (lambda path: path.write_text("path,start,stop,label,adapter\n"), DataError, "something else"),
    "a broken row": (lambda path: append(path, "only,two\n"), DataError, "other columns"),
    "a broken quote": (lambda path: append(path, '"a.wav\n'), DataError, "unexpected end"),
    "another model": (
        lambda path: append(path, "a.wav,,,cat,0.5,0123456789ab\n"),
        DataError,
        "another model, 0123456789ab",
    ),
    "a folder": (lambda path: path.mkdir(), DataError, "cannot be written"),
}


def append(path: Path, line: str) -> None:
    path.write_text("path,start,stop,label,probability,adapter\n" + line)


@pytest.mark.parametrize("kind", REFUSED_OUTPUTS)
def test_a_file_of_other_things_is_not_overwritten(kind, run, clips, tmp_path):
    make, error, words = REFUSED_OUTPUTS[kind]
    output = tmp_path / "predictions.csv"
    make(output)
    before = output.is_file() and output.read_bytes()
    with pytest.raises(error, match=words):
        call(predict, run, *clips, f"--output={output}")
    assert (output.is_file() and output.read_bytes()) == before


@pytest.mark.parametrize(
    ("npy", "rows", "words"),
    [
        (b"my notes", None, "without .*vectors.csv"),
        (b"x" * 200, "path,start,stop,adapter\n", "cannot be read"),
        (None, "path,start,stop,adapter\na.wav,,,{adapter}\n", "cannot be read"),
        (None, "path\na.wav\n", "something else"),
    ],
)
def test_vectors_of_other_things_are_not_overwritten(npy, rows, words, run, clips, tmp_path):
    output, listing = tmp_path / "vectors.npy", tmp_path / "vectors.csv"
    adapter = read_adapter(run).description.weights_sha256[:12]
    if npy is not None:
        output.write_bytes(npy)
    if rows is not None:
        listing.write_text(rows.format(adapter=adapter))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=words):
        call(embed, run, *clips, f"--output={output}")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        (predict, ["--batch_size=0"], "--batch_size=0 was asked for"),
        (predict, ["--longest_clip=-1"], "--longest_clip=-1.0 was asked for"),
        (predict, ["--top_k=0"], "The run has 3 classes"),
        (predict, ["--top_k=4"], "The run has 3 classes"),
        (predict, ["--format=table", "--output={folder}/predictions.csv"], "A table in a file"),
        (predict, ["--device=gpu"], "torch cannot use it"),
        (embed, ["--output={folder}/vectors.txt"], r"\.npy"),
    ],
)
def test_options_that_cannot_be_are_refused(command, options, words, run, clips, tmp_path):
    with pytest.raises(ConfigError, match=words):
        call(command, run, clips[0], *(option.format(folder=tmp_path) for option in options))
    assert list(tmp_path.iterdir()) == []
